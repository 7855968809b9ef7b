/* Sequences side by side in the lanes of vectors: who they are, and the way of their rows into the lanes and out. */
#ifndef HIERMM_DENSE_GROUP_H
#define HIERMM_DENSE_GROUP_H

#include "dense.h"

enum { MAX_NV = 2, MAX_LANES = MAX_NV * VL, BLOCK = 16 };

/* Steps whose likelihoods are read from a table: the row of each step's symbol. Row M serves missing symbols, row
 * M + 1 lanes that have ended; both hold ones, and what is summed there is nobody's. */
typedef struct {
    int64_t M, stride;             /* symbols; doubles from row to row of the tables */
    const double *of;              /* (n,) symbol of each packed step, NaN where it is missing */
    double *likelihood, *top;      /* (M + 2, stride) exp(ll - top), (M + 2,) */
    double *sums;                  /* (M + 2, stride) posteriors of a group summed by symbol */
    double *gamma;                 /* (M, N) OUT: those of all */
    double *first;                 /* (m, N) OUT: posteriors of first steps */
    int unknown;                   /* OUT: some symbol is none of 0 .. M - 1 */
} Symbols;

typedef struct {
    const Chain *c;
    int lanes;                     /* sequences, longest first */
    int64_t T[MAX_LANES];          /* their lengths; 0 in lanes without one */
    const double *ll[MAX_LANES];   /* (T, N) each */
    double *gamma[MAX_LANES];      /* (T, N) each, or NULL */
    double loglik[MAX_LANES];      /* OUT */
    int doubtful[MAX_LANES];       /* OUT: to be done by other means; nothing was written or counted */
    int spoilt;                    /* OUT: the way back found lanes doubtful, after it had written and counted */
    const double *apart;           /* (apart_rows, K): 1 where step t cannot be in state j, whatever the data */
    int64_t apart_rows;            /* the last row serves all later steps; 0 when all states are open */
    vd *lik, *alpha, *work, *marks; /* scratch, see lanes_scratch: rows, one step, checkpoints */
    double *counts;                /* expected moves before the factor A, see counts_size; or NULL */
    double *spare;                 /* MAX_LANES x BLOCK x K doubles, for lanes that end inside a block */
    Symbols *symbols;              /* instead of ll and gamma, or NULL */
    const double *of[MAX_LANES];   /* symbols->of and symbols->first of each lane */
    double *first[MAX_LANES];
    vd tops[BLOCK * MAX_NV];       /* symbols->top of the steps of a block */
    struct Outputs *outputs;       /* instead of ll and gamma, see dense_outputs.h; or NULL */
} Group;

/* Moves between up to LANE_COUNTS states are summed lane by lane, (K, K). Sums of more would not stay in the caches, unless
 * the lanes are two: there the lanes are added up block by block, and rows are destinations. */
enum { LANE_COUNTS = VL == 2 ? INT32_MAX : 60, MOVES_HIGH = 2 };
INLINE int64_t counts_size(int64_t K) { return K > LANE_COUNTS ? K * K : K * K * VL; }
INLINE double count_of(int64_t K, const double *counts, int64_t i, int64_t j) {
    return K > LANE_COUNTS ? counts[j * K + i] : hsum(vload(counts + (i * K + j) * VL));
}

/* Where a block's moves to state k in row r are: rows of all states, or of MOVES_HIGH states for sums as above, so that
 * they are read from end to end. */
INLINE int64_t move_at(int64_t K, int NV, int64_t r, int64_t k) {
    return (K > LANE_COUNTS ? (k / MOVES_HIGH * BLOCK + r) * MOVES_HIGH + k % MOVES_HIGH : r * K + k) * NV;
}
INLINE int64_t moves_size(int64_t K, int NV) { return (K + MOVES_HIGH - 1) / MOVES_HIGH * MOVES_HIGH * BLOCK * NV; }

/* Rows t0 .. t0 + BLOCK - 1 of every lane, transposed to (BLOCK, K, NV); zeros behind the end of a sequence. */
static void gather(int64_t K, int NV, const Group *g, int64_t t0, vd *out) {
    const double *from[MAX_LANES];
    for (int l = 0; l < NV * VL; l++) {
        int64_t rows = g->T[l] - t0;
        double *spare = g->spare + l * BLOCK * K;
        from[l] = rows >= BLOCK ? g->ll[l] + t0 * K : spare;
        if (rows >= BLOCK) continue;
        memset(spare, 0, (size_t)(BLOCK * K) * sizeof(double));
        if (rows > 0) memcpy(spare, g->ll[l] + t0 * K, (size_t)(rows * K) * sizeof(double));
    }
    for (int v = 0; v < NV; v++) {
        for (int64_t q = 0; q < BLOCK * K; q += VL) {
            vd r[VL];
            for (int l = 0; l < VL; l++) r[l] = vload(from[v * VL + l] + q);
            vtranspose(r);
            for (int l = 0; l < VL; l++) out[(q + l) * NV + v] = r[l];
        }
    }
}

/* Asks for row t of every lane, which will be wanted a block later: the processor does not foresee so many streams,
 * unless their rows are long. A block goes to the first cache while it is small beside it. A lane that has ended asks
 * for what lies behind it. */
INLINE void ask(int64_t K, int NV, const Group *g, const double *const *rows, int64_t t) {
    if (K > 64 || !rows[0] || t < 0 || t >= g->T[0] || (K < 8 && t % (8 / K))) return;
    for (int l = 0; l < NV * VL; l++) {
        for (int64_t k = 0; k < K; k += 8) {
            if (K * NV <= 16) __builtin_prefetch(rows[l] + t * K + k, 0, 3);
            else __builtin_prefetch(rows[l] + t * K + k, 0, 2);
        }
    }
}

/* The way back: (BLOCK, K, NV) to the rows of gamma, as far as each lane's sequence goes. */
static void scatter(int64_t K, int NV, const Group *g, int64_t t0, const vd *in) {
    double *to[MAX_LANES];
    for (int l = 0; l < NV * VL; l++) {
        int direct = g->gamma[l] && !g->doubtful[l] && g->T[l] - t0 >= BLOCK;
        to[l] = direct ? g->gamma[l] + t0 * K : g->spare + l * BLOCK * K;
    }
    for (int v = 0; v < NV; v++) {
        for (int64_t q = 0; q < BLOCK * K; q += VL) {
            vd r[VL];
            for (int l = 0; l < VL; l++) r[l] = in[(q + l) * NV + v];
            vtranspose(r);
            for (int l = 0; l < VL; l++) vstore(to[v * VL + l] + q, r[l]);
        }
    }
    for (int l = 0; l < g->lanes; l++) {
        int64_t rows = g->T[l] - t0;
        if (rows > 0 && rows < BLOCK && g->gamma[l] && !g->doubtful[l])
            memcpy(g->gamma[l] + t0 * K, g->spare + l * BLOCK * K, (size_t)(rows * K) * sizeof(double));
    }
}

/* The table row of a symbol. */
INLINE int64_t symbol_row(Symbols *s, double symbol) {
    if (symbol >= 0 && symbol < (double)s->M) return (int64_t)symbol;
    if (symbol == symbol) s->unknown = 1;
    return s->M;
}

/* The table rows of steps t0 .. t0 + BLOCK - 1, (NV * VL, BLOCK). The steps `ahead` of them, which are wanted next, are
 * asked for: every lane reads from a place of its own, too many for the processor to foresee. */
static void symbol_rows(int NV, const Group *g, int64_t t0, int64_t ahead, int64_t *row) {
    Symbols *s = g->symbols;
    vi unknown = {}, missing = (vi){} + s->M;
    for (int l = 0; l < NV * VL; l++, row += BLOCK) {
        int64_t rows = g->doubtful[l] ? 0 : g->T[l] - t0, r = 0;
        const double *of = g->of[l] + t0;
        for (; rows >= BLOCK && r < BLOCK; r += VL) {
            vd x = vload(of + r);
            vi known = (x >= vset(0.0)) & (x < vset((double)s->M));
            vi at = (__builtin_convertvector((vd)((vi)x & known), vi) & known) | (missing & ~known);
            unknown |= (x == x) & ~known;
            memcpy(row + r, &at, sizeof at);
        }
        for (; r < BLOCK && r < rows; r++) row[r] = symbol_row(s, of[r]);
        for (; r < BLOCK; r++) row[r] = s->M + 1;
        for (r = 0; rows > 0 && r < BLOCK; r += 8) __builtin_prefetch(of + ahead + r);
    }
    if (vfirst(unknown) < VL) s->unknown = 1;
}

/* Likelihoods of a block (BLOCK, K, NV) and their `tops`, read from the tables. */
static void gather_symbols(int64_t K, int NV, Group *g, int64_t t0, vd *out) {
    const Symbols *s = g->symbols;
    int64_t rows[MAX_LANES * BLOCK];
    symbol_rows(NV, g, t0, 2 * BLOCK, rows);
    for (int64_t r = 0; r < BLOCK; r++, out += K * NV) {
        for (int v = 0; v < NV; v++) {
            const int64_t *row = rows + v * VL * BLOCK + r;
            for (int l = 0; l < VL; l++) g->tops[r * NV + v][l] = s->top[row[l * BLOCK]];
            for (int64_t q = 0; q < K; q += VL) {
                int64_t width = K - q < VL ? K - q : VL;
                vd x[VL];
                for (int l = 0; l < VL; l++) x[l] = vload(s->likelihood + row[l * BLOCK] * s->stride + q);
                vtranspose(x);
                for (int l = 0; l < VL && l < width; l++) out[(q + l) * NV + v] = x[l];
            }
        }
    }
}

/* Posteriors of a block (BLOCK, K, NV) to the sums by symbol, and those of first steps to their place. */
static void sum_symbols(int64_t K, int NV, const Group *g, int64_t t0, const vd *in) {
    const Symbols *s = g->symbols;
    int64_t rows[MAX_LANES * BLOCK];
    symbol_rows(NV, g, t0, -2 * BLOCK, rows);
    for (int l = 0; t0 == 0 && l < g->lanes; l++)
        for (int64_t k = 0; k < K && !g->doubtful[l]; k++) g->first[l][k] = in[k * NV + l / VL][l % VL];
    for (int64_t r = 0; r < BLOCK; r++, in += K * NV) {
        for (int v = 0; v < NV; v++) {
            const int64_t *row = rows + v * VL * BLOCK + r;
            for (int64_t q = 0; q < K; q += VL) {
                int64_t width = K - q < VL ? K - q : VL;
                vd x[VL];
                for (int l = 0; l < VL; l++) x[l] = l < width ? in[(q + l) * NV + v] : vset(0.0);
                vtranspose(x);
                for (int l = 0; l < VL; l++) {
                    double *sum = s->sums + row[l * BLOCK] * s->stride + q;
                    vstore(sum, vload(sum) + x[l]);
                }
            }
        }
    }
}

#endif
