/* One level of a product state moves: the linear steps of structured inference.
 *
 * A joint state (x^0, ..., x^{S-1}) is a position in C order, the last level varying fastest. Moving level s with rows
 * A[parent, from, to] is, for every fibre of the array along axis s,  out[to] = sum_from in[from] A[parent, from, to],
 * where the parent is the neighbouring axis on either side (or there is none). The fast axes are padded to powers of
 * two until `tail`, the number of positions per value of a level, fills whole vectors; then two loops serve every level:
 *
 *   wide    tail is a multiple of LANES: whole vectors share `from` and `to`; coefficients are vectors of equal entries
 *           (or of entries that follow the parent, where the parent lies within the vector);
 *   narrow  the level lies within the vectors: each source value is spread over its fibre by a permutation.
 *
 * Both read their coefficients from a table in the order of use, filled through a map of indices into the packed rows:
 * the same loops with a table of transposed rows go backward, and sums of products F[from] G[to] land in an array of
 * the table's layout, so that the map leads them back to expected counts.
 */
#ifndef HIERMM_LEVELS_H
#define HIERMM_LEVELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#define LANES 8
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 4
#else
#define LANES 2
#endif
typedef double vec __attribute__((vector_size(LANES * 8), may_alias));
typedef double vec_any __attribute__((vector_size(LANES * 8), may_alias, aligned(8)));
typedef int64_t ivec __attribute__((vector_size(LANES * 8), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec_any *)(p))
#define STORE(p, v) (*(vec_any *)(p) = (v))

INLINE vec permute(vec a, const int64_t *from) {
#if defined(__AVX512F__)
    return (vec)_mm512_permutexvar_pd(_mm512_loadu_si512(from), (__m512d)a);
#else
    vec out;
    for (int l = 0; l < LANES; l++) out[l] = a[from[l]];
    return out;
#endif
}

/* Geometry of the level in the natural layout; everything that does not depend on padding. */
typedef struct {
    ptrdiff_t size, parent_size;      /* K, R */
    ptrdiff_t tail, parent_tail;      /* positions per value of the level, of its parent (without one: the whole, N) */
    ptrdiff_t outer;                  /* N = outer * size * tail */
    ptrdiff_t start;                  /* where its rows begin in a packed row */
    ptrdiff_t period;
} Shape;

typedef struct {
    double *coefficients;
    int32_t *map;                     /* entry -> index into a packed row, -1: padding */
    const double *row;                /* the packed row that the coefficients hold */
} Table;

typedef struct {
    ptrdiff_t size, padded, tail, parent_tail, parent_padded;
    int wide;
    ptrdiff_t groups;                 /* sets of coefficients */
    ptrdiff_t block, blocks;          /* doubles in a block of all values of the level and its tail; their number */
    ptrdiff_t vectors;                /* narrow: vectors a block; wide: vectors a group within the tail */
    int parent_slower;                /* wide: a group is a value of the parent in front of (1) or within (0) a block */
    ptrdiff_t entries;                /* doubles in a table */
    Table to, from;                   /* forward and backward */
    double *products;                 /* sums of F[from] G[to], laid out as the backward table */
    int64_t *spread;                  /* narrow: (size, LANES) lanes of the source */
} Level;

/* -------------------------------------------------------------------------------------------------- the two moves */
INLINE void narrow_move(ptrdiff_t K, ptrdiff_t V, const Level *g, const double *c, const double *x, double *out) {
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * V * LANES)
        for (ptrdiff_t b = t; b < g->blocks; b += g->groups) {
            const double *in = x + b * V * LANES;
            for (ptrdiff_t h = 0; h < V; h++) {
                vec sum = {0};
                for (ptrdiff_t i = 0; i < K; i++) {
                    vec source = permute(LOAD(in + i * g->tail / LANES * LANES), g->spread + i * LANES);
                    sum += source * LOAD(c + (i * V + h) * LANES);
                }
                STORE(out + (b * V + h) * LANES, sum);
            }
        }
}

INLINE void narrow_products(ptrdiff_t K, ptrdiff_t V, const Level *g, double *c, const double *F, const double *G) {
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * V * LANES)
        for (ptrdiff_t b = t; b < g->blocks; b += g->groups)
            for (ptrdiff_t j = 0; j < K; j++) {
                vec to = permute(LOAD(G + b * V * LANES + j * g->tail / LANES * LANES), g->spread + j * LANES);
                for (ptrdiff_t h = 0; h < V; h++) {
                    double *sum = c + (j * V + h) * LANES;
                    STORE(sum, LOAD(sum) + LOAD(F + (b * V + h) * LANES) * to);
                }
            }
}

INLINE void wide_move(ptrdiff_t K, const Level *g, const double *c, const double *x, double *out) {
    const ptrdiff_t step = g->parent_slower ? g->groups : 1;
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * K * LANES) {
        const ptrdiff_t first = g->parent_slower ? 0 : t * g->vectors * LANES;
        for (ptrdiff_t b = g->parent_slower ? t : 0; b < g->blocks; b += step)
            for (ptrdiff_t v = 0; v < g->vectors; v++) {
                const ptrdiff_t at = b * g->block + first + v * LANES;
                for (ptrdiff_t j = 0; j < K; j++) {
                    vec sum = {0};
                    for (ptrdiff_t i = 0; i < K; i++) sum += LOAD(x + at + i * g->tail) * LOAD(c + (i * K + j) * LANES);
                    STORE(out + at + j * g->tail, sum);
                }
            }
    }
}

INLINE void wide_products(ptrdiff_t K, const Level *g, double *c, const double *F, const double *G) {
    const ptrdiff_t step = g->parent_slower ? g->groups : 1;
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * K * LANES) {
        const ptrdiff_t first = g->parent_slower ? 0 : t * g->vectors * LANES;
        for (ptrdiff_t b = g->parent_slower ? t : 0; b < g->blocks; b += step)
            for (ptrdiff_t v = 0; v < g->vectors; v++) {
                const ptrdiff_t at = b * g->block + first + v * LANES;
                for (ptrdiff_t j = 0; j < K; j++)
                    for (ptrdiff_t i = 0; i < K; i++) {
                        double *sum = c + (j * K + i) * LANES;
                        STORE(sum, LOAD(sum) + LOAD(F + at + i * g->tail) * LOAD(G + at + j * g->tail));
                    }
            }
    }
}

static void table_load(const Level *g, Table *table, const double *row) {
    if (table->row == row) return;
    table->row = row;
    for (ptrdiff_t e = 0; e < g->entries; e++) table->coefficients[e] = table->map[e] < 0 ? 0.0 : row[table->map[e]];
}

static void level_move(const Level *g, const Table *table, const double *x, double *out) {
    if (g->wide) wide_move(g->size, g, table->coefficients, x, out);
    else narrow_move(g->size, g->vectors, g, table->coefficients, x, out);
}

/* products += F[from] G[to] over the fibres. */
static void level_products(const Level *g, const double *F, const double *G) {
    if (g->wide) wide_products(g->size, g, g->products, F, G);
    else narrow_products(g->size, g->vectors, g, g->products, F, G);
}

/* xi += products * A, and the products start again. */
static void level_counts(const Level *g, const double *row, double *xi) {
    for (ptrdiff_t e = 0; e < g->entries; e++)
        if (g->from.map[e] >= 0) xi[g->from.map[e]] += g->products[e] * row[g->from.map[e]];
    memset(g->products, 0, g->entries * sizeof(double));
}

/* ---------------------------------------------------------------------------------------------------- the geometry */
static ptrdiff_t pad_size(ptrdiff_t size, ptrdiff_t tail) {
    ptrdiff_t need = tail % LANES ? LANES / tail : 1, padded = 1;
    if (size >= need) return (size + need - 1) / need * need;
    while (padded < size) padded *= 2;
    return padded;
}

static int32_t map_entry(const Level *g, const Shape *s, ptrdiff_t at, ptrdiff_t i, ptrdiff_t j) {
    ptrdiff_t r = at / g->parent_tail % g->parent_padded;
    if (r >= s->parent_size || i >= g->size || j >= g->size) return -1;
    return (int32_t)(s->start + (r * s->size + i) * s->size + j);
}

/* Entry (group t, partner k, h, lane): the level's own value comes from the position, the other end of the move is k. */
static void fill_maps(Level *g, const Shape *s) {
    const ptrdiff_t V = g->wide ? g->size : g->vectors;
    for (ptrdiff_t t = 0, e = 0; t < g->groups; t++)
        for (ptrdiff_t k = 0; k < g->size; k++)
            for (ptrdiff_t h = 0; h < V; h++)
                for (ptrdiff_t l = 0; l < LANES; l++, e++) {
                    ptrdiff_t at, own;
                    if (g->wide) {
                        at = (g->parent_slower ? t * g->block : t * g->vectors * LANES) + l, own = h;
                    } else {
                        at = (t * V + h) * LANES + l, own = at / g->tail % g->padded;
                    }
                    g->to.map[e] = map_entry(g, s, at, k, own);
                    g->from.map[e] = map_entry(g, s, at, own, k);
                }
    for (ptrdiff_t i = 0; i < g->size && !g->wide; i++)
        for (ptrdiff_t l = 0; l < LANES; l++)
            g->spread[i * LANES + l] = g->block < LANES ? l / g->block * g->block + i * g->tail + l % g->tail
                                                        : i * g->tail % LANES + l % g->tail;
}

static int level_alloc(Level *g, const Shape *s) {
    g->to.coefficients = (double *)calloc(3 * g->entries + LANES, sizeof(double));
    g->to.map = (int32_t *)malloc(2 * g->entries * sizeof(int32_t));
    g->spread = (int64_t *)calloc(g->size * LANES, sizeof(int64_t));
    if (!g->to.coefficients || !g->to.map || !g->spread) return -1;
    g->from.coefficients = g->to.coefficients + g->entries;
    g->products = g->from.coefficients + g->entries;
    g->from.map = g->to.map + g->entries;
    fill_maps(g, s);
    return 0;
}

static void levels_free(Level *levels, ptrdiff_t S) {
    for (ptrdiff_t s = 0; s < S; s++) {
        free(levels[s].to.coefficients);
        free(levels[s].to.map);
        free(levels[s].spread);
    }
}

/* Lay out the S levels (zeroed by the caller); parent as in the kernels: -1 slower, +1 faster, 0 none.
 * Returns the number of padded positions, a multiple of LANES, or -1 without memory. */
static ptrdiff_t levels_init(Level *levels, const Shape *shapes, ptrdiff_t S, int parent) {
    ptrdiff_t total = 1;
    for (ptrdiff_t s = S - 1; s >= 0; s--) {
        Level *g = levels + s;
        g->size = shapes[s].size, g->tail = total, g->padded = pad_size(g->size, total);
        total *= g->padded;
    }
    const ptrdiff_t positions = total < LANES ? LANES : total;
    for (ptrdiff_t s = 0; s < S; s++) {
        Level *g = levels + s;
        const ptrdiff_t p = s + parent;
        const int has = parent && p >= 0 && p < S;
        g->parent_padded = has ? levels[p].padded : 1;
        g->parent_tail = has ? levels[p].tail : positions;
        g->parent_slower = has && parent < 0;
        g->block = g->padded * g->tail;
        g->wide = g->tail % LANES == 0;
        if (g->wide) {
            g->groups = g->parent_padded;
            if (has && parent > 0 && g->parent_tail % LANES) g->groups = g->tail / LANES;
            g->vectors = g->tail / LANES / (g->parent_slower ? 1 : g->groups);
            g->blocks = positions / g->block;
            g->entries = g->groups * g->size * g->size * LANES;
        } else {
            g->vectors = g->block < LANES ? 1 : g->block / LANES;
            g->blocks = positions / (g->vectors * LANES);
            g->groups = 1;
            if (g->parent_slower) g->groups = g->block < LANES ? g->parent_padded * g->block / LANES : g->parent_padded;
            if (g->groups < 1) g->groups = 1;
            g->entries = g->groups * g->size * g->vectors * LANES;
        }
        if (level_alloc(g, shapes + s)) return -1;
    }
    return positions;
}

/* Where natural position j lies among the padded ones. */
static ptrdiff_t padded_position(const Level *levels, const Shape *shapes, ptrdiff_t S, ptrdiff_t j) {
    ptrdiff_t p = 0;
    for (ptrdiff_t s = 0; s < S; s++) p += j / shapes[s].tail % shapes[s].size * levels[s].tail;
    return p;
}

#endif
