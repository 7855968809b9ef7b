/* Outputs with independent normal noise around a mean that is linear in the inputs: log-likelihoods and the sums of the
 * M-step, tile of states by tile. */
#ifndef HIERMM_NORMAL_H
#define HIERMM_NORMAL_H

#include "emission.h"

typedef struct {
    int64_t N, D, P;
    const double *coef;      /* (N, D, P) */
    const double *intercept; /* (N, D) */
    const double *variances; /* (N, D) */
} Normal;

/* Sums over steps, added to: with F = P + 1, x = [1, u] and r = y - intercept - coef u, over the steps where the output
 * is observed. */
typedef struct {
    double *gram;    /* (N, D, F, F) gamma x x' */
    double *cross;   /* (N, D, F) gamma x r */
    double *scatter; /* (N, D) gamma r^2 */
} NormalSums;

/* Means and slopes of states start .. start + W - 1 as emission_tile.h wants them; the first row is left alone. */
static void pack_means(const Normal *e, int64_t start, int64_t W, double *tile) {
    for (int64_t d = 0; d < e->D; d++) {
        double *q = tile + W + d * (3 + e->P) * W;
        for (int64_t w = 0; w < W; w++) {
            const double *slopes = e->coef + ((start + w) * e->D + d) * e->P;
            q[w] = e->intercept[(start + w) * e->D + d];
            for (int64_t p = 0; p < e->P; p++) q[(3 + p) * W + w] = slopes[p];
        }
    }
}

/* Adds what the densities need of the variances. */
static void pack_variances(const Normal *e, int64_t start, int64_t W, double *tile) {
    memset(tile, 0, (size_t)W * sizeof(double));
    for (int64_t d = 0; d < e->D; d++) {
        double *q = tile + W + d * (3 + e->P) * W;
        for (int64_t w = 0; w < W; w++) {
            double variance = e->variances[(start + w) * e->D + d];
            q[W + w] = -0.5 / variance;
            q[2 * W + w] = -0.5 * log(2.0 * M_PI * variance);
            tile[w] += q[2 * W + w];
        }
    }
}

/* out (n, N) = log p(observed entries of y_t | state, u_t); returns 0 without memory. */
static int normal_loglik(const Normal *e, int64_t n, const double *y, const double *u, double *out) {
    int64_t D = e->D, P = e->P;
    double *tile = malloc((size_t)(MAX_M * VL * (1 + D * (3 + P))) * sizeof(double));
    if (!tile) return 0;
    int missing = any_nan(y, n * D);
    for (int64_t start = 0, W; start < e->N; start += W) {
        W = tile_width(e->N - start);
        pack_means(e, start, W, tile);
        pack_variances(e, start, W, tile);
        tile_loglik(W, missing, n, D, P, y, u, tile, out + start, e->N);
    }
    free(tile);
    return 1;
}

/* Without inputs: sums [pair][weight, first, second][W] of a tile's outputs d .. d + pair - 1. */
static void add_pair(const Normal *e, const double *sums, int64_t start, int64_t W, int64_t d, int64_t pair,
                     const NormalSums *to) {
    for (int64_t q = 0; q < pair; q++, sums += 3 * W)
        for (int64_t w = 0; w < W; w++) {
            int64_t at = (start + w) * e->D + d + q;
            to->gram[at] += sums[w];
            to->cross[at] += sums[W + w];
            to->scatter[at] += sums[2 * W + w];
        }
}

/* With inputs: rows of W sums, 1 of scatter, F of cross; those of the gram are in `triangle`, F (F + 1) / 2. */
static void add_regression(const Normal *e, const double *sums, const double *triangle, int64_t start, int64_t W,
                           int64_t d, const NormalSums *to) {
    int64_t F = e->P + 1;
    for (int64_t w = 0; w < W; w++) {
        int64_t at = (start + w) * e->D + d;
        const double *from = triangle + w;
        to->scatter[at] += sums[w];
        for (int64_t i = 0; i < F; i++) {
            to->cross[at * F + i] += sums[(1 + i) * W + w];
            for (int64_t j = 0; j <= i; j++, from += W) {
                to->gram[(at * F + i) * F + j] += *from;
                if (j < i) to->gram[(at * F + j) * F + i] += *from;
            }
        }
    }
}

/* Adds the sums over n steps with posteriors gamma (n, N); returns 0 without memory. */
static int normal_moments(const Normal *e, int64_t n, const double *y, const double *u, const double *gamma,
                          const NormalSums *to) {
    int64_t D = e->D, P = e->P, F = P + 1, rows = 1 + F + F * (F + 1) / 2;
    double *tile = malloc((size_t)(MAX_M * VL * (1 + D * (3 + P) + 2 * rows + 3)) * sizeof(double));
    if (!tile) return 0;
    int missing = any_nan(y, n * D);
    for (int64_t start = 0, W; start < e->N; start += W) {
        W = tile_width(e->N - start);
        double *sums = tile + W * (1 + D * (3 + P)), *triangle = sums + W * (1 + F);
        pack_means(e, start, W, tile);
        for (int64_t d = 0, pair; d < D; d += pair) {
            pair = P == 0 && !missing && d + 2 <= D ? 2 : 1;
            if (P == 0) {
                tile_moments(W, pair, missing, n, D, y + d, tile + d * 3 * W, gamma + start, e->N, sums);
                add_pair(e, sums, start, W, d, pair, to);
                continue;
            }
            /* Without missing entries all outputs share the first one's gram. */
            int gram = missing || d == 0;
            memset(sums, 0, (size_t)(W * (gram ? rows : 1 + F)) * sizeof(double));
            tile_regression(W, gram, n, D, P, y + d, u, tile + W + d * (3 + P) * W, gamma + start, e->N, sums);
            add_regression(e, sums, triangle, start, W, d, to);
        }
    }
    free(tile);
    return 1;
}

#endif
