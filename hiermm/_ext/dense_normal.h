/* Smoothing under one matrix of outputs with independent normal noise: likelihoods, recursion and the sums of the M-step
 * in one go, piece of the data by piece. */
#ifndef HIERMM_DENSE_NORMAL_H
#define HIERMM_DENSE_NORMAL_H

#include "dense_plan.h"

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

/* Piece k with inputs, m sequences of n steps from row lo on: likelihoods, recursion and sums one after the other. */
static int regression_piece(const NormalPieces *all, const int64_t *offsets, int64_t m, int64_t lo, int64_t n, Chain *c,
                            const Sums *to, double *loglik, int64_t *status) {
    const Normal *e = &all->e;
    int64_t N = e->N;
    const double *y = all->y + lo * e->D, *u = all->u + lo * e->P;
    double *gamma = simd_alloc(n * N);
    Run r = {.ll = gamma, .gamma = gamma, .xi = to->xi};
    int enough = gamma && normal_loglik(e, n, y, u, gamma) && run_all(c, &r, 1, offsets, m, loglik, status, NULL, NULL);
    for (int64_t i = 0; enough && i < m; i++)
        for (int64_t j = 0; j < N; j++) to->first[j] += gamma[offsets[i] * N + j];
    enough = enough && normal_moments(e, n, y, u, gamma, &to->emission);
    simd_free(gamma);
    return enough;
}

/* The same without inputs, in one. */
static int outputs_piece(const NormalPieces *all, const int64_t *offsets, int64_t m, int64_t lo, Chain *c,
                         const Sums *to, double *loglik, int64_t *status) {
    Outputs o = {.e = &all->e, .y = all->y + lo * all->e.D, .first = to->first, .to = to->emission};
    Run r = {.xi = to->xi};
    int enough = outputs_prepare(&o) && run_all(c, &r, 1, offsets, m, loglik, status, NULL, &o);
    simd_free(o.scratch);
    return enough;
}

/* The work on piece k, which any thread may do; returns 0 without memory. */
static int normal_piece(const NormalPieces *all, int64_t k) {
    const Normal *e = &all->e;
    int64_t s = all->bounds[k], m = all->bounds[k + 1] - s, lo = all->offsets[s];
    double *at = all->sums + k * piece_size(e), *loglik = all->loglik + s;
    int64_t *offsets = (int64_t *)malloc((size_t)(m + 1) * sizeof(int64_t)), *status = all->status + s;
    Sums to = sums_at(e, at);
    Chain c = all->c;
    memset(at, 0, (size_t)piece_size(e) * sizeof(double));
    for (int64_t i = 0; offsets && i <= m; i++) offsets[i] = all->offsets[s + i] - lo;
    int enough = offsets && (e->P ? regression_piece(all, offsets, m, lo, offsets[m], &c, &to, loglik, status)
                                  : outputs_piece(all, offsets, m, lo, &c, &to, loglik, status));
    free(offsets);
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
