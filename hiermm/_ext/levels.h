/* One level of a product state moves: the linear steps of structured inference.
 *
 * A joint state (x^0, ..., x^{S-1}) is a position in C order, the last level varying fastest. Moving level s with rows
 * A[parent, from, to] is, for every fibre of the array along axis s,  out[to] = sum_from in[from] A[parent, from, to],
 * where the parent is the neighbouring axis on either side (or there is none). The fast axes are padded to powers of
 * two until `tail`, the number of positions per value of a level, fills whole vectors; then two loops serve every level:
 *
 *   wide    tail is a multiple of VL: whole vectors share `from` and `to`; coefficients are vectors of equal entries
 *           (or of entries that follow the parent, where the parent lies within the vector);
 *   narrow  the level lies within the vectors, which permutations bring to those that they are multiplied with: value k
 *           spread over its fibre, or for levels of 2 and 4 values the k-th exchange, own ^ k, which takes fewer.
 *
 * Both read their coefficients from a table in the order of use, filled through a map of indices into the packed rows:
 * the same loops with a table of transposed rows go backward, and sums of products F[from] G[to] land in an array of
 * the table's layout, so that the map leads them back to expected counts.
 */
#ifndef HIERMM_LEVELS_H
#define HIERMM_LEVELS_H

#include "simd.h"

/* out[l] = a[lanes[l]]; `lanes` as `permutation` writes them. */
INLINE vd permute(vd a, vi lanes) {
#if VL == 8
    return (vd)_mm512_permutexvar_pd((__m512i)lanes, (__m512d)a);
#elif VL == 4 && defined(__AVX2__)
    return (vd)_mm256_permutevar8x32_ps((__m256)a, (__m256i)lanes);
#else
    vd out;
    for (int l = 0; l < VL; l++) out[l] = a[lanes[l]];
    return out;
#endif
}
INLINE vi lanes_of(const int64_t *spread, ptrdiff_t i) { return (vi)vload((const double *)spread + i * VL); }

static int64_t permutation(int64_t lane) {
#if VL == 4 && defined(__AVX2__)
    return 2 * lane | (2 * lane + 1) << 32; /* the two halves of a double */
#else
    return lane;
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

enum { WIDE = 100 };

typedef struct {
    ptrdiff_t size, padded, tail, parent_tail, parent_padded;
    int wide;
    int shape;                        /* which of the loops below */
    ptrdiff_t groups;                 /* sets of coefficients */
    ptrdiff_t block, blocks;          /* doubles in a block of all values of the level and its tail; their number */
    ptrdiff_t vectors;                /* narrow: vectors a block; wide: vectors a group within the tail */
    int uniform;                      /* all lanes of a coefficient are the same */
    int parent_slower;                /* wide: a group is a value of the parent in front of (1) or within (0) a block */
    ptrdiff_t entries;                /* doubles in a table */
    Table to, from;                   /* forward and backward */
    double *products;                 /* sums of F[from] G[to], laid out as the backward table */
    int64_t *spread;                  /* narrow: (size, VL) lanes of the other end of a move */
} Level;

/* -------------------------------------------------------------------------------------------------- the two moves
 * K and V are constants wherever the sizes are common, so that coefficients and sums stay in registers. */
INLINE void narrow_move(const ptrdiff_t K, const ptrdiff_t V, const Level *g, const double *c, const double *x,
                        double *out) {
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * V * VL)
        for (ptrdiff_t b = t; b < g->blocks; b += g->groups)
            for (ptrdiff_t h = 0; h < V; h++) {
                const double *in = x + b * V * VL;
                vd even = {}, odd = {};
                for (ptrdiff_t i = 0; i < K; i++) {
                    vd source = permute(vload(in + i * g->tail / VL * VL), lanes_of(g->spread, i));
                    if (i & 1) odd += source * vload(c + (i * V + h) * VL);
                    else even += source * vload(c + (i * V + h) * VL);
                }
                vstore(out + (b * V + h) * VL, even + odd);
            }
}

INLINE void narrow_products(const ptrdiff_t K, const ptrdiff_t V, const Level *g, double *c, const double *F,
                            const double *G) {
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * V * VL)
        for (ptrdiff_t b = t; b < g->blocks; b += g->groups)
            for (ptrdiff_t j = 0; j < K; j++) {
                vd to = permute(vload(G + b * V * VL + j * g->tail / VL * VL), lanes_of(g->spread, j));
                for (ptrdiff_t h = 0; h < V; h++) {
                    double *sum = c + (j * V + h) * VL;
                    vstore(sum, vload(sum) + vload(F + (b * V + h) * VL) * to);
                }
            }
}

/* Whether the other end of a narrow level's moves goes through own ^ k rather than k. */
INLINE int exchanges(ptrdiff_t K) { return K == 2 || K == 4; }

/* What vector h of block x is multiplied with in entries k of a table, for 2 <= K <= 4 (so that V is 1 or 2). */
INLINE vd other_end(const int K, const int V, const vd *x, const vi *lanes, const int k, const int h) {
    const int per = V == 1 ? K : 2;
    if (!exchanges(K)) return permute(x[k / per], lanes[k]);
    return k % per ? permute(x[h ^ k / per], lanes[k]) : x[h ^ k / per];
}

/* The same with a group's table in registers. */
INLINE void narrow_move_held(const int K, const int V, const Level *g, const double *c, const double *x, double *out) {
    const ptrdiff_t step = g->groups * V * VL, end = g->blocks * V * VL;
    vi lanes[4];
    for (int k = 0; k < K; k++) lanes[k] = lanes_of(g->spread, k);
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * V * VL) {
        vd held[8];
        for (int e = 0; e < K * V; e++) held[e] = vload(c + e * VL);
        for (ptrdiff_t at = t * V * VL; at < end; at += step) {
            vd in[2], sum[4] = {};
            for (int h = 0; h < V; h++) in[h] = vload(x + at + h * VL);
            for (int k = 0; k < K; k++)
                for (int h = 0; h < V; h++) sum[k % 2 * V + h] += other_end(K, V, in, lanes, k, h) * held[k * V + h];
            for (int h = 0; h < V; h++) vstore(out + at + h * VL, sum[h] + sum[V + h]);
        }
    }
}

INLINE void narrow_products_held(const int K, const int V, const Level *g, double *c, const double *F,
                                 const double *G) {
    const ptrdiff_t step = g->groups * V * VL, end = g->blocks * V * VL;
    vi lanes[4];
    for (int k = 0; k < K; k++) lanes[k] = lanes_of(g->spread, k);
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * V * VL) {
        vd held[8];
        for (int e = 0; e < K * V; e++) held[e] = vload(c + e * VL);
        for (ptrdiff_t at = t * V * VL; at < end; at += step) {
            vd to[2];
            for (int h = 0; h < V; h++) to[h] = vload(G + at + h * VL);
            for (int k = 0; k < K; k++)
                for (int h = 0; h < V; h++)
                    held[k * V + h] += vload(F + at + h * VL) * other_end(K, V, to, lanes, k, h);
        }
        for (int e = 0; e < K * V; e++) vstore(c + e * VL, held[e]);
    }
}

/* Positions of a wide level's group t: `first` and every `step` doubles after it, `vectors` vectors each. */
INLINE ptrdiff_t wide_first(const Level *g, ptrdiff_t t) {
    return g->parent_slower ? t * g->block : t * g->vectors * VL;
}
INLINE ptrdiff_t wide_step(const Level *g) { return g->parent_slower ? g->groups * g->block : g->block; }

INLINE void wide_move(const ptrdiff_t K, const Level *g, const double *c, const double *x, double *out) {
    const ptrdiff_t step = wide_step(g), end = g->blocks * g->block, tail = g->tail;
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * K * VL)
        for (ptrdiff_t from = wide_first(g, t); from < end; from += step)
            for (ptrdiff_t at = from; at < from + g->vectors * VL; at += VL)
                for (ptrdiff_t j = 0; j < K; j++) {
                    vd sum = {};
                    for (ptrdiff_t i = 0; i < K; i++) sum += vload(x + at + i * tail) * vload(c + (i * K + j) * VL);
                    vstore(out + at + j * tail, sum);
                }
}

INLINE void wide_products(const ptrdiff_t K, const Level *g, double *c, const double *F, const double *G) {
    const ptrdiff_t step = wide_step(g), end = g->blocks * g->block, tail = g->tail;
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * K * VL)
        for (ptrdiff_t from = wide_first(g, t); from < end; from += step)
            for (ptrdiff_t at = from; at < from + g->vectors * VL; at += VL)
                for (ptrdiff_t j = 0; j < K; j++)
                    for (ptrdiff_t i = 0; i < K; i++) {
                        double *sum = c + (j * K + i) * VL;
                        vstore(sum, vload(sum) + vload(F + at + i * tail) * vload(G + at + j * tail));
                    }
}

INLINE void wide_move_held(const int K, const Level *g, const double *c, const double *x, double *out) {
    const ptrdiff_t step = wide_step(g), end = g->blocks * g->block, tail = g->tail;
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * K * VL) {
        vd held[16];
        for (int e = 0; e < K * K; e++) held[e] = vload(c + e * VL);
        for (ptrdiff_t from = wide_first(g, t); from < end; from += step)
            for (ptrdiff_t at = from; at < from + g->vectors * VL; at += VL) {
                vd in[4];
                for (int i = 0; i < K; i++) in[i] = vload(x + at + i * tail);
                for (int j = 0; j < K; j++) {
                    vd sum = in[0] * held[j];
                    for (int i = 1; i < K; i++) sum += in[i] * held[i * K + j];
                    vstore(out + at + j * tail, sum);
                }
            }
    }
}

INLINE void wide_products_held(const int K, const Level *g, double *c, const double *F, const double *G) {
    const ptrdiff_t step = wide_step(g), end = g->blocks * g->block, tail = g->tail;
    for (ptrdiff_t t = 0; t < g->groups; t++, c += K * K * VL) {
        vd held[16];
        for (int e = 0; e < K * K; e++) held[e] = vload(c + e * VL);
        for (ptrdiff_t from = wide_first(g, t); from < end; from += step)
            for (ptrdiff_t at = from; at < from + g->vectors * VL; at += VL) {
                vd in[4];
                for (int i = 0; i < K; i++) in[i] = vload(F + at + i * tail);
                for (int j = 0; j < K; j++) {
                    const vd to = vload(G + at + j * tail);
                    for (int i = 0; i < K; i++) held[j * K + i] += in[i] * to;
                }
            }
        for (int e = 0; e < K * K; e++) vstore(c + e * VL, held[e]);
    }
}

static void table_fill(const Level *g, Table *table, const double *row) {
    double *c = table->coefficients;
    table->row = row;
    if (g->uniform) {
        for (ptrdiff_t e = 0; e < g->entries; e += VL) vstore(c + e, vset(row[table->map[e]]));
        return;
    }
    for (ptrdiff_t e = 0; e < g->entries; e++) c[e] = table->map[e] < 0 ? 0.0 : row[table->map[e]];
}

INLINE void table_load(const Level *g, Table *table, const double *row) {
    if (table->row != row) table_fill(g, table, row);
}

/* out = x moved by the rows in `table`. */
static void level_move(const Level *g, const Table *table, const double *x, double *out) {
    const double *c = table->coefficients;
    switch (g->shape) {
    case WIDE + 1: wide_move_held(1, g, c, x, out); break;
    case WIDE + 2: wide_move_held(2, g, c, x, out); break;
    case WIDE + 3: wide_move_held(3, g, c, x, out); break;
    case WIDE + 4: wide_move_held(4, g, c, x, out); break;
    case WIDE: wide_move(g->size, g, c, x, out); break;
    case 21: narrow_move_held(2, 1, g, c, x, out); break;
    case 31: narrow_move_held(3, 1, g, c, x, out); break;
    case 32: narrow_move_held(3, 2, g, c, x, out); break;
    case 41: narrow_move_held(4, 1, g, c, x, out); break;
    case 42: narrow_move_held(4, 2, g, c, x, out); break;
    default: narrow_move(g->size, g->vectors, g, c, x, out);
    }
}

/* products += F[from] G[to] over the fibres. */
static void level_products(const Level *g, const double *F, const double *G) {
    double *c = g->products;
    switch (g->shape) {
    case WIDE + 1: wide_products_held(1, g, c, F, G); break;
    case WIDE + 2: wide_products_held(2, g, c, F, G); break;
    case WIDE + 3: wide_products_held(3, g, c, F, G); break;
    case WIDE + 4: wide_products_held(4, g, c, F, G); break;
    case WIDE: wide_products(g->size, g, c, F, G); break;
    case 21: narrow_products_held(2, 1, g, c, F, G); break;
    case 31: narrow_products_held(3, 1, g, c, F, G); break;
    case 32: narrow_products_held(3, 2, g, c, F, G); break;
    case 41: narrow_products_held(4, 1, g, c, F, G); break;
    case 42: narrow_products_held(4, 2, g, c, F, G); break;
    default: narrow_products(g->size, g->vectors, g, c, F, G);
    }
}

/* xi += products * A, and the products start again. */
static void level_counts(const Level *g, const double *row, double *xi) {
    const int32_t *map = g->from.map;
    for (ptrdiff_t e = 0; g->uniform && e < g->entries; e += VL) xi[map[e]] += hsum(vload(g->products + e)) * row[map[e]];
    for (ptrdiff_t e = 0; !g->uniform && e < g->entries; e++)
        if (map[e] >= 0) xi[map[e]] += g->products[e] * row[map[e]];
    memset(g->products, 0, (size_t)g->entries * sizeof(double));
}

/* ---------------------------------------------------------------------------------------------------- the geometry */
static ptrdiff_t pad_size(ptrdiff_t size, ptrdiff_t tail) {
    ptrdiff_t need = tail % VL ? VL / tail : 1, padded = 1;
    if (size >= need) return (size + need - 1) / need * need;
    while (padded < size) padded *= 2;
    return padded;
}

/* Entry (group t, k, h, lane): the level's own value comes from the position, the other end of the move is value k, or
 * own ^ k. */
static void fill_maps(Level *g, const Shape *s) {
    const ptrdiff_t V = g->wide ? g->size : g->vectors, K = g->size;
    const int exchanged = !g->wide && exchanges(K);
    for (ptrdiff_t t = 0; t < g->groups; t++)
        for (ptrdiff_t e = 0; e < V * VL; e++) {
            ptrdiff_t at = t * V * VL + e, own = e / VL;
            if (g->wide) at = (g->parent_slower ? t * g->block : t * g->vectors * VL) + e % VL;
            else own = at / g->tail % g->padded;
            const ptrdiff_t parent = at / g->parent_tail % g->parent_padded;
            const int padding = parent >= s->parent_size || own >= K;
            const int32_t first = (int32_t)(s->start + parent * K * K);
            for (int32_t k = 0; k < K; k++) {
                const ptrdiff_t entry = (t * K + k) * V * VL + e;
                const int32_t other = exchanged ? (int32_t)own ^ k : k;
                g->to.map[entry] = padding ? -1 : first + other * (int32_t)K + (int32_t)own;
                g->from.map[entry] = padding ? -1 : first + (int32_t)(own * K) + other;
            }
        }
    for (ptrdiff_t k = 0; k < g->size && !g->wide; k++)
        for (ptrdiff_t l = 0; l < VL; l++) {
            const ptrdiff_t value = g->block < VL ? l / g->block * g->block + k * g->tail : k * g->tail % VL;
            g->spread[k * VL + l] = permutation(exchanged ? l ^ k * g->tail % VL : value + l % g->tail);
        }
}

static int level_alloc(Level *g, const Shape *s) {
    g->to.coefficients = (double *)calloc(3 * g->entries + VL, sizeof(double));
    g->to.map = (int32_t *)malloc(2 * g->entries * sizeof(int32_t));
    g->spread = (int64_t *)calloc(g->size * VL, sizeof(int64_t));
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

/* Lay out the S levels (zeroed by the caller); parent as in the kernels: -1 slower, +1 faster, 0 none. `unit` doubles
 * stand for each joint state: 1, or VL sequences side by side (lanes.h).
 * Returns the number of padded positions, a multiple of VL, or -1 without memory. */
static ptrdiff_t levels_init(Level *levels, const Shape *shapes, ptrdiff_t S, int parent, ptrdiff_t unit) {
    ptrdiff_t total = unit;
    for (ptrdiff_t s = S - 1; s >= 0; s--) {
        Level *g = levels + s;
        g->size = shapes[s].size, g->tail = total, g->padded = pad_size(g->size, total);
        total *= g->padded;
    }
    const ptrdiff_t positions = total < VL ? VL : total;
    for (ptrdiff_t s = 0; s < S; s++) {
        Level *g = levels + s;
        const ptrdiff_t p = s + parent;
        const int has = parent && p >= 0 && p < S;
        g->parent_padded = has ? levels[p].padded : 1;
        g->parent_tail = has ? levels[p].tail : positions;
        g->parent_slower = has && parent < 0;
        g->block = g->padded * g->tail;
        g->wide = g->tail % VL == 0;
        if (g->wide) {
            g->groups = g->parent_padded;
            g->uniform = !(has && parent > 0 && g->parent_tail % VL);
            if (!g->uniform) g->groups = g->tail / VL;
            g->vectors = g->tail / VL / (g->parent_slower ? 1 : g->groups);
            g->blocks = positions / g->block;
            g->entries = g->groups * g->size * g->size * VL;
        } else {
            g->vectors = g->block < VL ? 1 : g->block / VL;
            g->blocks = positions / (g->vectors * VL);
            g->groups = 1;
            if (g->parent_slower) g->groups = g->block < VL ? g->parent_padded * g->block / VL : g->parent_padded;
            if (g->groups < 1) g->groups = 1;
            g->entries = g->groups * g->size * g->vectors * VL;
        }
        g->shape = g->wide ? WIDE : 0;
        if (g->size <= 4) g->shape = (int)(g->wide ? WIDE + g->size : 10 * g->size + g->vectors);
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
