/* Scaled forward-backward of many sequences side by side, one in each lane of NV vectors, under one constant matrix.
 *
 * K and NV are compile-time constants wherever these functions are inlined with them, so that small chains live in
 * registers. Row t of `lik` and `alpha` holds K states x NV vectors. A lane whose sequence has ended goes on with
 * likelihoods of 1 and is ignored. A lane in which some state loses its mass is reported and left to dense_one.h. */
#ifndef HIERMM_DENSE_LANES_H
#define HIERMM_DENSE_LANES_H

#include "dense.h"

enum { MAX_NV = 2, MAX_LANES = MAX_NV * VL, BLOCK = 16 };
#define TILE (VL == 8 ? 12 : 6) /* states whose sums stay in registers */

typedef struct {
    const Chain *c;
    int lanes;                     /* sequences, longest first */
    int64_t T[MAX_LANES];          /* their lengths; 0 in lanes without one */
    const double *ll[MAX_LANES];   /* (T, N) each */
    double *gamma[MAX_LANES];      /* (T, N) each, or NULL */
    double loglik[MAX_LANES];      /* OUT */
    int doubtful[MAX_LANES];       /* OUT: to be done by other means; nothing was written or counted */
    const double *apart;           /* (apart_rows, K): 1 where step t cannot be in state j, whatever the data */
    int64_t apart_rows;            /* the last row serves all later steps; 0 when all states are open */
    vd *lik, *alpha, *work;        /* scratch: T x K x NV vectors twice (or 2 * BLOCK rows), see lanes_scratch */
    vd *counts;                    /* (K, K) sums over lanes, or NULL */
    double *spare;                 /* MAX_LANES x BLOCK x K doubles, for lanes that end inside a block */
} Group;

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

/* y[j] = sum_i M[i, j] x[i] for `width` states j; x and y have NV vectors a state. */
INLINE void lane_tile(const int width, const int NV, int64_t K, const double *M, int64_t ld, const vd *x, vd *y) {
    vd acc[TILE * MAX_NV];
    for (int a = 0; a < width * NV; a++) acc[a] = (vd){};
    for (int64_t i = 0; i < K; i++)
        for (int j = 0; j < width; j++)
            for (int v = 0; v < NV; v++) acc[j * NV + v] += vset(M[i * ld + j]) * x[i * NV + v];
    for (int a = 0; a < width * NV; a++) y[a] = acc[a];
}

#define TILES(W) \
    case W: lane_tile(W, NV, K, M + j, ld, x, y + j * NV); break;
/* y = x M with M (K, ld), in tiles of nearly equal width. */
INLINE void lane_tiles(int64_t K, const int NV, const double *M, int64_t ld, const vd *x, vd *y) {
    int64_t tiles = (K + TILE - 1) / TILE, width = (K + tiles - 1) / tiles;
    for (int64_t j = 0; j < K; j += width) {
        switch (K - j < width ? K - j : width) {
            TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if VL == 8
            TILES(7) TILES(8) TILES(9) TILES(10) TILES(11) TILES(12)
#endif
        }
    }
}
static void lane_tiles_1(int64_t K, const double *M, int64_t ld, const vd *x, vd *y) { lane_tiles(K, 1, M, ld, x, y); }
static void lane_tiles_2(int64_t K, const double *M, int64_t ld, const vd *x, vd *y) { lane_tiles(K, 2, M, ld, x, y); }

/* The same, without a loop over tiles where K is a small constant. */
INLINE void lane_product(const int64_t K, const int NV, const double *M, int64_t ld, const vd *x, vd *y) {
    const int half = (int)K / 2;
    if (__builtin_constant_p(K) && K <= TILE) {
        lane_tile((int)K, NV, K, M, ld, x, y);
    } else if (__builtin_constant_p(K) && K <= 2 * TILE) {
        lane_tile(half, NV, K, M, ld, x, y);
        lane_tile((int)K - half, NV, K, M + half, ld, x, y + half * NV);
    } else {
        (NV == 1 ? lane_tiles_1 : lane_tiles_2)(K, M, ld, x, y);
    }
}

/* Sum over the states of NV vectors each. */
INLINE vd state_sum(const int64_t K, const int NV, const vd *x, int v) {
    vd even = x[v], odd = {};
    int64_t k = 1;
    for (; k + 1 < K; k += 2) {
        odd += x[k * NV + v];
        even += x[(k + 1) * NV + v];
    }
    if (k < K) odd += x[k * NV + v];
    return even + odd;
}

/* Log-likelihoods (K, NV) turn into likelihoods relative to the largest, which is added to `shift`. */
INLINE void lane_likelihoods(const int64_t K, const int NV, vd *x, vd *shift) {
    for (int v = 0; v < NV; v++) {
        vd top = vset(-1e300); /* all -inf: likelihoods of 0, which the sum will show */
        for (int64_t k = 0; k < K; k++) top = vmax(top, x[k * NV + v]);
        shift[v] += top;
        for (int64_t k = 0; k < K; k++) x[k * NV + v] = vexp_low(x[k * NV + v] - top);
    }
}

/* One step of the forward pass with likelihoods b; `least` collects the smallest predicted mass. */
INLINE void lane_step(const int64_t K, const int NV, const Chain *c, const double *apart, const vd *before, vd *b,
                      const vd *scale, vd *a, vd *least) {
    lane_product(K, NV, c->rows, c->NP, before, a);
    if (!c->positive) {
        for (int64_t k = 0; k < K; k++) {
            vd closed = vset(apart ? apart[k] : 0.0);
            for (int v = 0; v < NV; v++) {
                least[v] = vmin(least[v], a[k * NV + v] * scale[v] + closed);
                b[k * NV + v] *= vset(1.0) - closed;
            }
        }
    }
    for (int64_t k = 0; k < K; k++)
        for (int v = 0; v < NV; v++) a[k * NV + v] *= b[k * NV + v] * scale[v];
}

/* Forward pass. keep: all rows stay in lik and alpha; otherwise only what the next step needs. */
INLINE void lanes_forward(const int64_t K, const int NV, Group *g, int keep) {
    const Chain *c = g->c;
    const int64_t W = K * NV;
    vd shift[MAX_NV], exponent[MAX_NV], scale[MAX_NV], total[MAX_NV], least[MAX_NV], smallest[MAX_NV];
    int ending = g->lanes - 1;
    for (int v = 0; v < NV; v++) {
        shift[v] = exponent[v] = (vd){};
        scale[v] = least[v] = smallest[v] = vset(1.0);
    }
    for (int64_t t0 = 0; t0 < g->T[0]; t0 += BLOCK) {
        int64_t rows = g->T[0] - t0 < BLOCK ? g->T[0] - t0 : BLOCK;
        vd *block = g->lik + (keep ? t0 * W : 0), *alpha = g->alpha + (keep ? t0 * W : 0);
        gather(K, NV, g, t0, block);
        for (int64_t r = 0; r < rows; r++) {
            int64_t t = t0 + r;
            vd *b = block + r * W, *a = alpha + r * W, *before = keep || r ? a - W : alpha + (BLOCK - 1) * W;
            lane_likelihoods(K, NV, b, shift);
            if (t) {
                const double *apart = g->apart_rows ? g->apart + (t < g->apart_rows ? t : g->apart_rows - 1) * K : NULL;
                lane_step(K, NV, c, apart, before, b, scale, a, least);
            } else {
                for (int64_t k = 0; k < K; k++)
                    for (int v = 0; v < NV; v++) a[k * NV + v] = vset(c->initial[k]) * b[k * NV + v];
            }
            for (int v = 0; v < NV; v++) {
                total[v] = state_sum(K, NV, a, v);
                smallest[v] = vmin(smallest[v], total[v]);
            }
            for (; ending >= 0 && g->T[ending] == t + 1; ending--) {
                int v = ending / VL, l = ending % VL;
                g->loglik[ending] = shift[v][l] + exponent[v][l] * LOG2 + log(total[v][l]);
                g->doubtful[ending] = !(smallest[v][l] >= RANGE) || !(least[v][l] >= RANGE);
            }
            for (int v = 0; v < NV; v++) scale[v] = vscale(total[v], &exponent[v]);
        }
    }
}

/* counts[i, j] += sum over `rows` rows of alpha_i w_j for a tile of height x width states. */
INLINE void counts_tile(const int height, const int width, const int NV, int64_t K, int64_t rows, const vd *alpha,
                        const vd *w, vd *counts) {
    vd acc[16];
    for (int q = 0; q < height * width; q++) acc[q] = (vd){};
    for (int64_t r = 0; r < rows; r++, alpha += K * NV, w += K * NV)
        for (int v = 0; v < NV; v++)
            for (int q = 0; q < height * width; q++) acc[q] += alpha[q / width * NV + v] * w[q % width * NV + v];
    for (int q = 0; q < height * width; q++) counts[q / width * K + q % width] += acc[q];
}

#define COUNTS(H, W) \
    case 4 * H + W: counts_tile(H, W, NV, K, rows, alpha + i * NV, w + j * NV, counts + i * K + j); break;
#define COUNTS_ROW(H) COUNTS(H, 1) COUNTS(H, 2) COUNTS(H, 3) COUNTS(H, 4)
/* The same for all pairs of states, in tiles of at most 4 x 4, as square as can be. */
INLINE void lane_counts(const int NV, int64_t K, int64_t rows, const vd *alpha, const vd *w, vd *counts) {
    int64_t tiles = (K + 3) / 4, side = (K + tiles - 1) / tiles;
    for (int64_t i = 0; i < K; i += side) {
        for (int64_t j = 0; j < K; j += side) {
            switch (4 * (K - i < side ? K - i : side) + (K - j < side ? K - j : side)) {
                COUNTS_ROW(1) COUNTS_ROW(2) COUNTS_ROW(3) COUNTS_ROW(4)
            }
        }
    }
}
static void lane_counts_1(int64_t K, int64_t rows, const vd *alpha, const vd *w, vd *counts) {
    lane_counts(1, K, rows, alpha, w, counts);
}
static void lane_counts_2(int64_t K, int64_t rows, const vd *alpha, const vd *w, vd *counts) {
    lane_counts(2, K, rows, alpha, w, counts);
}

/* Backward pass over what lanes_forward kept: rows of gamma to the caller, expected moves (before the factor A) to
 * counts. `w` holds likelihood x message of the step after, scaled by 2^e so that its sum lies in [1, 2). */
INLINE void lanes_backward(const int64_t K, const int NV, Group *g) {
    const Chain *c = g->c;
    const int64_t W = K * NV, T = g->T[0];
    vd *beta = g->work, *w = beta + W, *moves = w + W, scale[MAX_NV], last[MAX_NV], ignored = {};
    double shortest = HUGE_VAL;
    for (int l = 0; l < NV * VL; l++) { /* the step that has no step after it; none counts in a doubtful lane */
        double end = g->doubtful[l] ? -1.0 : (double)(g->T[l] - 1);
        last[l / VL][l % VL] = end;
        shortest = end < shortest ? end : shortest;
    }
    for (int v = 0; v < NV; v++) scale[v] = vset(1.0);
    for (int64_t q = 0; q < W; q++) w[q] = (vd){};
    for (int64_t t0 = (T - 1) / BLOCK * BLOCK; t0 >= 0; t0 -= BLOCK) {
        int64_t rows = T - t0 < BLOCK ? T - t0 : BLOCK;
        vd *block = g->lik + t0 * W, *alpha = g->alpha + t0 * W;
        for (int64_t r = rows - 1; r >= 0; r--) {
            int64_t t = t0 + r;
            vd *b = block + r * W, *a = alpha + r * W;
            lane_product(K, NV, c->cols, c->NP, w, beta);
            int edge = (double)t >= shortest;
            for (int v = 0; v < NV; v++) {
                vi inside = vset((double)t) < last[v];
                vd evidence = {}, sum = {};
                for (int64_t k = 0; k < K; k++) {
                    vd x = beta[k * NV + v] * scale[v];
                    if (edge) x = vselect(inside, x, vset(1.0));
                    vd joint = a[k * NV + v] * x, next = b[k * NV + v] * x;
                    beta[k * NV + v] = next;
                    b[k * NV + v] = joint;
                    evidence += joint;
                    sum += next;
                }
                vd norm = vset(1.0) / evidence;
                vd weight = (vd)((vi)(norm * scale[v]) & inside);
                for (int64_t k = 0; k < K; k++) {
                    b[k * NV + v] *= norm;
                    if (g->counts) moves[r * W + k * NV + v] = w[k * NV + v] * weight;
                    w[k * NV + v] = beta[k * NV + v];
                }
                scale[v] = vscale(sum, &ignored);
            }
        }
        scatter(K, NV, g, t0, block);
        if (g->counts) (NV == 1 ? lane_counts_1 : lane_counts_2)(K, rows, alpha, moves, g->counts);
    }
}

/* Filtered rows, each divided by its sum, to the caller; uses the room of the likelihoods. */
static void lanes_filtered(int64_t K, int NV, Group *g) {
    for (int64_t t0 = 0; t0 < g->T[0]; t0 += BLOCK) {
        vd *a = g->alpha + t0 * K * NV, *out = g->lik + t0 * K * NV;
        int64_t rows = g->T[0] - t0 < BLOCK ? g->T[0] - t0 : BLOCK;
        for (int64_t r = 0; r < rows; r++) {
            for (int v = 0; v < NV; v++) {
                vd norm = vset(1.0) / state_sum(K, NV, a + r * K * NV, v);
                for (int64_t q = r * K * NV + v; q < (r + 1) * K * NV; q += NV) out[q] = a[q] * norm;
            }
        }
        scatter(K, NV, g, t0, g->lik + t0 * K * NV);
    }
}

/* Scratch of a group whose longest sequence has T steps, in vectors. */
static int64_t lanes_scratch(int64_t K, int NV, int64_t T, int keep) {
    int64_t rows = keep ? (T + BLOCK - 1) / BLOCK * BLOCK : BLOCK;
    return (2 * rows + BLOCK + 2) * K * NV + MAX_LANES * BLOCK * K / VL;
}

INLINE void lanes_run(const int64_t K, const int NV, Group *g, int smooth, int keep) {
    lanes_forward(K, NV, g, keep);
    if (smooth) lanes_backward(K, NV, g);
    else if (keep) lanes_filtered(K, NV, g);
}

#define LANES_OF(K) \
    case K: \
        if (NV == 1) lanes_run(K, 1, g, smooth, keep); \
        else lanes_run(K, 2, g, smooth, keep); \
        break;
/* A group with NV vectors of lanes; keep: the forward rows are needed, for the way back or for the caller. */
static void lanes_group(int NV, Group *g, int smooth, int keep) {
    switch (g->c->N) {
        LANES_OF(2) LANES_OF(3) LANES_OF(4) LANES_OF(5) LANES_OF(6) LANES_OF(8)
        default:
            if (NV == 1) lanes_run(g->c->N, 1, g, smooth, keep);
            else lanes_run(g->c->N, 2, g, smooth, keep);
    }
}

#endif
