/* Smoothing under one matrix of outputs with independent normal noise: likelihoods, recursion and the sums of the M-step
 * in one go, piece of the data by piece. */
#ifndef HIERMM_DENSE_NORMAL_H
#define HIERMM_DENSE_NORMAL_H

#include "dense_plan.h"
#include "normal.h"

#ifdef _OPENMP
enum { OPENMP = 1 };
#else
enum { OPENMP = 0 };
#endif

typedef struct {
    Chain c;
    Normal e;
    const double *y, *u;    /* packed outputs (n, D) and inputs (n, P) */
    const int64_t *offsets; /* (m + 1,) */
    const int64_t *bounds;  /* (pieces + 1,): piece k are sequences bounds[k] .. bounds[k + 1] - 1 */
    double *loglik;         /* (m,) OUT */
    int64_t *status;        /* (m,) OUT */
    double *first, *xi;     /* (pieces, N) and (pieces, N, N), added to: posteriors of first steps, moves */
    NormalSums sums;        /* of all pieces, one behind the other */
} NormalPieces;

/* The work on piece k, which any thread may do; returns 0 without memory. */
static int normal_piece(const NormalPieces *all, int64_t k) {
    const Normal *e = &all->e;
    int64_t N = e->N, F = e->P + 1, size = N * e->D, s = all->bounds[k], m = all->bounds[k + 1] - s;
    int64_t lo = all->offsets[s], n = all->offsets[s + m] - lo;
    const double *y = all->y + lo * e->D, *u = e->P ? all->u + lo * e->P : NULL;
    double *gamma = simd_alloc(n * N), *first = all->first + k * N;
    int64_t *offsets = (int64_t *)malloc((size_t)(m + 1) * sizeof(int64_t));
    NormalSums to = {all->sums.gram + k * size * F * F, all->sums.cross + k * size * F, all->sums.scatter + k * size};
    Run r = {.ll = gamma, .gamma = gamma, .xi = all->xi + k * N * N};
    Chain c = all->c;
    int enough = gamma && offsets && normal_loglik(e, n, y, u, gamma);
    for (int64_t i = 0; enough && i <= m; i++) offsets[i] = all->offsets[s + i] - lo;
    enough = enough && run_all(&c, &r, 1, offsets, m, all->loglik + s, all->status + s, NULL);
    for (int64_t i = 0; enough && i < m; i++)
        for (int64_t j = 0; j < N; j++) first[j] += gamma[offsets[i] * N + j];
    enough = enough && normal_moments(e, n, y, u, gamma, &to);
    free(offsets);
    simd_free(gamma);
    return enough;
}

#endif
