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

/* Sums over steps: posteriors of first steps (N,), moves (N, N), and those of the emission. */
typedef struct {
    double *first, *xi;
    NormalSums emission;
} Sums;

typedef struct {
    Chain c;
    Normal e;
    const double *y, *u;    /* packed outputs (n, D) and inputs (n, P) */
    const int64_t *offsets; /* (m + 1,) */
    const int64_t *bounds;  /* (pieces + 1,): piece k are sequences bounds[k] .. bounds[k + 1] - 1 */
    double *loglik;         /* (m,) OUT */
    int64_t *status;        /* (m,) OUT */
    double *sums;           /* of all pieces, one behind the other, each `sums_at` */
} NormalPieces;

static int64_t emission_size(const Normal *e) { return e->N * e->D * ((e->P + 1) * (e->P + 1) + e->P + 2); }

static int64_t piece_size(const Normal *e) { return e->N + e->N * e->N + emission_size(e); }

static Sums sums_at(const Normal *e, double *at) {
    int64_t N = e->N, F = e->P + 1, size = N * e->D;
    double *gram = at + N + N * N, *cross = gram + size * F * F;
    return (Sums){at, at + N, {gram, cross, cross + size * F}};
}

/* The work on piece k, which any thread may do; returns 0 without memory. */
static int normal_piece(const NormalPieces *all, int64_t k) {
    const Normal *e = &all->e;
    int64_t N = e->N, s = all->bounds[k], m = all->bounds[k + 1] - s;
    int64_t lo = all->offsets[s], n = all->offsets[s + m] - lo;
    const double *y = all->y + lo * e->D, *u = e->P ? all->u + lo * e->P : NULL;
    double *gamma = simd_alloc(n * N), *at = all->sums + k * piece_size(e);
    int64_t *offsets = (int64_t *)malloc((size_t)(m + 1) * sizeof(int64_t));
    Sums to = sums_at(e, at);
    Run r = {.ll = gamma, .gamma = gamma, .xi = to.xi};
    Chain c = all->c;
    memset(at, 0, (size_t)piece_size(e) * sizeof(double));
    int enough = gamma && offsets && normal_loglik(e, n, y, u, gamma);
    for (int64_t i = 0; enough && i <= m; i++) offsets[i] = all->offsets[s + i] - lo;
    enough = enough && run_all(&c, &r, 1, offsets, m, all->loglik + s, all->status + s, NULL);
    for (int64_t i = 0; enough && i < m; i++)
        for (int64_t j = 0; j < N; j++) to.first[j] += gamma[offsets[i] * N + j];
    enough = enough && normal_moments(e, n, y, u, gamma, &to.emission);
    free(offsets);
    simd_free(gamma);
    return enough;
}

static void add_numbers(int64_t n, const double *from, double *to) {
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* Adds the sums of some pieces, in order, to those of all. */
static void add_pieces(const NormalPieces *all, int64_t pieces, const Sums *to) {
    const Normal *e = &all->e;
    int64_t N = e->N, F = e->P + 1, size = N * e->D;
    for (int64_t k = 0; k < pieces; k++) {
        Sums from = sums_at(e, all->sums + k * piece_size(e));
        add_numbers(N, from.first, to->first);
        add_numbers(N * N, from.xi, to->xi);
        add_numbers(size * F * F, from.emission.gram, to->emission.gram);
        add_numbers(size * F, from.emission.cross, to->emission.cross);
        add_numbers(size, from.emission.scatter, to->emission.scatter);
    }
}

#endif
