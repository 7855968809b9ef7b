/* What the flat-chain kernels share: the chain, one run of steps, products of a row with a matrix, the range guard. */
#ifndef HIERMM_DENSE_H
#define HIERMM_DENSE_H

#include "simd.h"

/* How scaled recursions stay exact. Numbers that fall out of the range of doubles beside a sum of 1 are lost.
 *
 * Forward only: three factors of RANGE and the machine precision stay above the smallest normal double, so a pass whose
 * reachable states all keep a predicted mass of RANGE loses nothing that matters. Chains whose entries are all RANGE or
 * more (`positive`) cannot lose anything.
 *
 * Forward and backward: probabilities of EM soon fall far below RANGE, and little of what is lost matters, because the
 * data after it do not favour it by so much. So each predicted mass of a state that is not out of reach is raised by
 * DUST, which is more than all that can be lost there: the forward rows are upper bounds. Where the evidence
 * alpha_t . beta_t, messages with sums of about 1, is at least RANGE at every step, neither the dust nor what underflow
 * took from the messages can have made up more than DUST / RANGE of any posterior. (Rows whose sum is as small as RANGE
 * lose that much more, but then the evidence of the row before, which sees this one, bounds their part all the same.)
 *
 * Nor does it matter then that numbers below the smallest normal double, 2e-308, are 0 in these recursions: see
 * flush_subnormals. A sequence that cannot be done in this way is done in log space, where they are not. */
#define RANGE 1e-95
#define DUST 1e-200
#define LOG2 0.69314718055994530942
enum { FINE = 0, REDONE = 1, CANNOT_CONTINUE = 2, REDO = 4, NO_MEMORY = 8, CANNOT_TELL = 16 };

typedef struct {
    int64_t N, NP;         /* states; the same rounded up to whole vectors */
    int64_t L;             /* distinct matrices */
    int constant;          /* one matrix for ever */
    int positive;          /* every entry of every matrix is at least RANGE: no reachable state can be lost */
    int pace;              /* steps that a positive chain can go without scaling */
    const double *initial; /* (N,) */
    const double *A;       /* (L, N, N) */
    const int64_t *index;  /* matrix of each step, or NULL: matrix k (or the one there is) */
    double *rows, *cols;   /* constant chains: A and its transpose, (N, NP), padded with zeros; else NULL */
    double *tiles;         /* A and its transpose for sequences side by side, see pack_tiles */
    double *panels;        /* the same A for product_both, from PANELS_FROM states on: panel after panel of columns */
} Chain;

/* One sequence, or one block of it: steps start .. start + T - 1 of the packed arrays. Outputs may be NULL. */
typedef struct {
    int64_t start, T;
    const double *ll;                  /* (T, N), may be the same memory as gamma */
    const double *alpha_in, *beta_in;  /* (N,) or NULL */
    double *gamma;                     /* (T, N): smoothed, or filtered when only the forward pass is asked for */
    double *xi, *xi_steps, *beta_out;  /* (L, N, N), (T, N, N), (N,) */
    int dust;                          /* forward only: a smoother will go back over these steps and judge */
    double loglik;
} Run;

INLINE int64_t matrix_of(const Chain *c, int64_t k) { return c->constant ? 0 : c->index ? c->index[k] : k; }
INLINE const double *step_matrix(const Chain *c, int64_t k) { return c->A + matrix_of(c, k) * c->N * c->N; }

/* Smallest of `size` entries; 0 if one is NaN. */
static double smallest_entry(const double *A, int64_t size) {
    int64_t k = 0;
    vd least = vset(HUGE_VAL);
    vi known = ~(vi){};
    for (; k + VL <= size; k += VL) {
        vd x = vload(A + k);
        least = vmin(least, x);
        known &= x == x;
    }
    double smallest = hmin(least);
    for (int l = 0; l < VL; l++) smallest = known[l] ? smallest : 0;
    for (; k < size; k++) smallest = A[k] >= smallest ? smallest : A[k] == A[k] ? A[k] : 0;
    return smallest;
}

enum { PANELS_FROM = 56, WIDEST_PANEL = VL == 8 ? 8 : 4 };
/* Vectors of the panel that begins where `left` of them remain. */
INLINE int panel_width(int64_t left) { return left >= WIDEST_PANEL ? WIDEST_PANEL : left >= 4 ? 4 : 1; }

/* Copies of a constant matrix and its transpose, padded with `fill`; returns 0 without memory. */
static int chain_prepare(Chain *c, double fill) {
    int64_t N = c->N, NP = c->NP = (N + VL - 1) / VL * VL;
    c->rows = c->cols = c->panels = c->tiles = NULL;
    if (!c->constant) return 1;
    c->rows = simd_alloc((N < PANELS_FROM ? 2 : 3) * N * NP);
    if (!c->rows) return 0;
    c->cols = c->rows + N * NP;
    for (int64_t q = 0; q < 2 * N * NP; q++) c->rows[q] = fill;
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < N; j++) c->rows[i * NP + j] = c->cols[j * NP + i] = c->A[i * N + j];
    if (N < PANELS_FROM) return 1;
    double *to = c->panels = c->cols + N * NP;
    for (int64_t j = 0, width; j < NP; j += width) {
        width = panel_width((NP - j) / VL) * VL;
        for (int64_t i = 0; i < N; i++, to += width) memcpy(to, c->rows + i * NP + j, (size_t)width * sizeof(double));
    }
    return 1;
}

/* y = sum_i x[i] M[i, j : j + V vectors], the sum split over S accumulators that hide each other's latency. */
INLINE void product_tile(const int V, const int S, int64_t N, const double *x, const double *M, int64_t ld, double *y) {
    vd acc[8];
    int64_t i = 0;
    for (int a = 0; a < V * S; a++) acc[a] = (vd){};
    for (; i + S <= N; i += S)
        for (int s = 0; s < S; s++)
            for (int v = 0; v < V; v++) acc[s * V + v] += vset(x[i + s]) * vload(M + (i + s) * ld + v * VL);
    for (; i < N; i++)
        for (int v = 0; v < V; v++) acc[v] += vset(x[i]) * vload(M + i * ld + v * VL);
    for (int v = 0; v < V; v++) {
        vd total = acc[v];
        for (int s = 1; s < S; s++) total += acc[s * V + v];
        vstore(y + v * VL, total);
    }
}

/* y (NP,) = x (N,) M for a padded M (N, NP). */
static inline void product_padded(int64_t N, int64_t NP, const double *x, const double *M, double *y) {
    for (int64_t j = 0; j < NP;) {
        int64_t left = (NP - j) / VL;
        if (left >= 8) {
            product_tile(8, 1, N, x, M + j, NP, y + j);
            j += 8 * VL;
        } else if (left >= 4) {
            product_tile(4, 2, N, x, M + j, NP, y + j);
            j += 4 * VL;
        } else if (left >= 2) {
            product_tile(2, 4, N, x, M + j, NP, y + j);
            j += 2 * VL;
        } else {
            product_tile(1, 8, N, x, M + j, NP, y + j);
            j += VL;
        }
    }
}

/* y (NP,) = x (N,) M for a plain M (N, N); y[N:] = 0. */
static inline void product_plain(int64_t N, int64_t NP, const double *x, const double *M, double *y) {
    for (int64_t j = 0; j < NP; j += VL) {
        int64_t width = N - j < VL ? N - j : VL;
        vd a = {}, b = {};
        int64_t i = 0;
        for (; i + 2 <= N; i += 2) {
            a += vset(x[i]) * (width == VL ? vload(M + i * N + j) : vload_part(M + i * N + j, width, 0.0));
            b += vset(x[i + 1]) * (width == VL ? vload(M + i * N + N + j) : vload_part(M + i * N + N + j, width, 0.0));
        }
        if (i < N) a += vset(x[i]) * (width == VL ? vload(M + i * N + j) : vload_part(M + i * N + j, width, 0.0));
        vstore(y + j, a + b);
    }
}

/* y (NP,) = M w, M (N, N) plain and w (NP,) with zeros behind N; y[N:] = 0. */
static inline void product_dot(int64_t N, int64_t NP, const double *M, const double *w, double *y) {
    for (int64_t i0 = 0; i0 < NP; i0 += VL) {
        vd part[VL];
        for (int64_t r = 0; r < VL; r++) {
            vd a = {};
            if (i0 + r < N) {
                const double *row = M + (i0 + r) * N;
                int64_t j = 0;
                for (; j + VL <= N; j += VL) a += vload(row + j) * vload(w + j);
                if (j < N) a += vload_part(row + j, N - j, 0.0) * vload(w + j);
            }
            part[r] = a;
        }
        vstore(y + i0, vsums(part));
    }
}

/* The predicted masses p = alpha_{t-1} A_t, and the backward message A_t w, at packed step k. */
INLINE void predict(const Chain *c, int64_t k, const double *alpha, double *p) {
    if (c->constant) product_padded(c->N, c->NP, alpha, c->rows, p);
    else product_plain(c->N, c->NP, alpha, step_matrix(c, k), p);
}
INLINE void send_back(const Chain *c, int64_t k, const double *w, double *beta) {
    if (c->constant) product_padded(c->N, c->NP, w, c->cols, beta);
    else product_dot(c->N, c->NP, step_matrix(c, k), w, beta);
}

/* Likelihoods relative to the row's largest, exp(ll - max), zeros behind N; returns the maximum. */
INLINE double relative_likelihoods(int64_t N, int64_t NP, const double *ll, double *lik) {
    int64_t j, whole = N / VL * VL;
    vd top = vset(-HUGE_VAL);
    for (j = 0; j < whole; j += VL) top = vmax(top, vload(ll + j));
    vd last = vset(-HUGE_VAL);
    if (j < N) top = vmax(top, last = vload_part(ll + j, N - j, -HUGE_VAL));
    double best = hmax(top);
    if (!(best > -HUGE_VAL)) {
        memset(lik, 0, (size_t)NP * sizeof(double));
        return -HUGE_VAL;
    }
    for (j = 0; j < whole; j += VL) vstore(lik + j, vexp_low(vload(ll + j) - vset(best)));
    if (j < N) vstore(lik + j, vexp_low(last - vset(best)));
    return best;
}

/* Boolean reachability beside a finished forward pass: has a state that some path reaches a predicted mass below
 * RANGE? alpha[t * stride_t + j * stride_j], each row scaled to a sum of order 1. Returns 1 if no mass was lost,
 * 0 if some was, -1 without memory. */
static int nothing_lost(const Chain *c, const Run *r, const double *alpha, int64_t stride_t, int64_t stride_j) {
    int64_t N = c->N;
    char *alive = (char *)malloc((size_t)(2 * N)), *next = alive + N;
    if (!alive) return -1;
    int kept = 1;
    for (int64_t i = 0; i < N; i++) alive[i] = r->alpha_in ? above_zero(r->alpha_in[i]) : 0;
    for (int64_t t = 0; t < r->T && kept; t++) {
        const double *A = step_matrix(c, r->start + t), *ll = r->ll + t * N;
        const double *before = t ? alpha + (t - 1) * stride_t : r->alpha_in;
        int64_t stride = t ? stride_j : 1;
        for (int64_t j = 0; j < N; j++) {
            if (!before) {
                next[j] = above_zero(c->initial[j]);
            } else {
                double mass = 0;
                next[j] = 0;
                for (int64_t i = 0; i < N; i++) {
                    mass += before[i * stride] * A[i * N + j];
                    next[j] |= alive[i] && above_zero(A[i * N + j]);
                }
                if (next[j] && !(mass >= RANGE)) kept = 0;
            }
        }
        for (int64_t j = 0; j < N; j++) alive[j] = next[j] && ll[j] > -HUGE_VAL;
    }
    free(alive);
    return kept;
}

/* Would a chain that goes on from the filtered row `alpha`, held as plain numbers, lose one of the states `alive`?
 * Where the next matrix is not known, any alive state without mass counts. */
static int cannot_continue(const Chain *c, const char *alive, const double *alpha) {
    int64_t N = c->N;
    int tiny = 0;
    for (int64_t i = 0; i < N; i++) tiny |= alive[i] && !(alpha[i] >= RANGE);
    if (c->positive || !tiny) return 0;
    for (int64_t k = 0; c->constant && k < N; k++) {
        double mass = 0;
        int reached = 0;
        for (int64_t i = 0; i < N; i++) {
            reached |= alive[i] && above_zero(c->A[i * N + k]);
            mass += alpha[i] * c->A[i * N + k];
        }
        if (reached && !(mass >= RANGE)) return 1;
    }
    return !c->constant;
}

#endif
