/* Emission log-likelihoods and their sufficient statistics, one pass over the data for a tile of states.

   States lie along the SIMD lanes. A tile is as wide as two registers where there are states enough, and the rest is
   cut into halves down to one lane, so that no lane is idle and nothing is read or written past the last state.
   Generic vectors (GCC, Clang) serve AVX-512, AVX2, SSE2 and NEON alike. */

#ifndef HIERMM_EMISSION_H
#define HIERMM_EMISSION_H

#include "simd.h"

#define MAX_M 2 /* registers a tile is wide */

typedef double lanes1;
typedef double lanes2 __attribute__((vector_size(16), aligned(8), may_alias));
typedef double lanes4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef double lanes8 __attribute__((vector_size(64), aligned(8), may_alias));

#define LANES 1
#include "emission_tile.h"
#define LANES 2
#include "emission_tile.h"
#if VL >= 4
#define LANES 4
#include "emission_tile.h"
#endif
#if VL >= 8
#define LANES 8
#include "emission_tile.h"
#endif

/* Call `kernel(lanes, M)` for a tile of the given width. */
#if VL == 8
#define BY_WIDTH(width, kernel)                                                                                        \
    switch (width) {                                                                                                   \
    case 16: kernel(8, 2); break;                                                                                      \
    case 8: kernel(8, 1); break;                                                                                       \
    case 4: kernel(4, 1); break;                                                                                       \
    case 2: kernel(2, 1); break;                                                                                       \
    default: kernel(1, 1);                                                                                             \
    }
#elif VL == 4
#define BY_WIDTH(width, kernel)                                                                                        \
    switch (width) {                                                                                                   \
    case 8: kernel(4, 2); break;                                                                                       \
    case 4: kernel(4, 1); break;                                                                                       \
    case 2: kernel(2, 1); break;                                                                                       \
    default: kernel(1, 1);                                                                                             \
    }
#else
#define BY_WIDTH(width, kernel)                                                                                        \
    switch (width) {                                                                                                   \
    case 4: kernel(2, 2); break;                                                                                       \
    case 2: kernel(2, 1); break;                                                                                       \
    default: kernel(1, 1);                                                                                             \
    }
#endif

/* Width of the tile that starts where `left` states remain. */
static long tile_width(long left)
{
    long width = MAX_M * VL;
    while (width > left) width /= 2;
    return width;
}

static int any_nan(const double *y, long size)
{
    int found = 0;
    for (long i = 0; i < size; i++) found |= y[i] != y[i];
    return found;
}

static void tile_loglik(long width, int missing, long n, long D, long P, const double *y, const double *u,
                        const double *tile, double *out, long stride)
{
#define CALL(lanes, M)                                                                                                 \
    if (missing) loglik_##lanes(M, 0, 1, 1, n, D, P, y, u, tile, out, stride);                                         \
    else if (P == 0 && D == 1) loglik_##lanes(M, 1, 0, 0, n, D, P, y, u, tile, out, stride);                           \
    else if (P == 0 && D == 2) loglik_##lanes(M, 2, 0, 0, n, D, P, y, u, tile, out, stride);                           \
    else if (P == 0) loglik_##lanes(M, 0, 0, 0, n, D, P, y, u, tile, out, stride);                                     \
    else if (D == 1) loglik_##lanes(M, 1, 1, 0, n, D, P, y, u, tile, out, stride);                                     \
    else loglik_##lanes(M, 0, 1, 0, n, D, P, y, u, tile, out, stride)
    BY_WIDTH(width, CALL)
#undef CALL
}

/* Moments of `pair` (1 or 2) outputs; y and tile point at the first of them. */
static void tile_moments(long width, int pair, int missing, long n, long D, const double *y, const double *tile,
                         const double *gamma, long stride, double *sums)
{
#define CALL(lanes, M)                                                                                                 \
    if (missing) moments_##lanes(M, 1, 1, n, D, y, tile, gamma, stride, sums);                                         \
    else if (pair == 2) moments_##lanes(M, 2, 0, n, D, y, tile, gamma, stride, sums);                                  \
    else moments_##lanes(M, 1, 0, n, D, y, tile, gamma, stride, sums)
    BY_WIDTH(width, CALL)
#undef CALL
}

/* Regression sums of one output; y and slopes point at it. */
static void tile_regression(long width, int gram, long n, long D, long P, const double *y, const double *u,
                            const double *slopes, const double *gamma, long stride, double *sums)
{
#define CALL(lanes, M)                                                                                                 \
    if (P == 1) regression_##lanes(M, 2, gram, n, D, P, y, u, slopes, gamma, stride, sums);                            \
    else if (P == 2) regression_##lanes(M, 3, gram, n, D, P, y, u, slopes, gamma, stride, sums);                       \
    else if (P == 3) regression_##lanes(M, 4, gram, n, D, P, y, u, slopes, gamma, stride, sums);                       \
    else regression_##lanes(M, 0, gram, n, D, P, y, u, slopes, gamma, stride, sums)
    BY_WIDTH(width, CALL)
#undef CALL
}

static long tile_gather(long width, long n, long n_symbols, const double *y, const double *table, double *out,
                        long stride)
{
    long bad = -1;
#define CALL(lanes, M) bad = gather_##lanes(M, n, n_symbols, y, table, out, stride)
    BY_WIDTH(width, CALL)
#undef CALL
    return bad;
}

static long tile_scatter(long width, long n, long n_symbols, const double *y, const double *gamma, double *sums,
                         long stride)
{
    long bad = -1;
#define CALL(lanes, M) bad = scatter_##lanes(M, n, n_symbols, y, gamma, sums, stride)
    BY_WIDTH(width, CALL)
#undef CALL
    return bad;
}

#endif
