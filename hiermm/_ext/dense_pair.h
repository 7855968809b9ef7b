/* Scaled smoothing of one run under a constant matrix of positive entries: the forward and the backward recursion go
 * through the run at the same time from its two ends, so that each hides the other's latency and large matrices are
 * read once for both. Positive entries need no guard between the ends: no mass can be lost. */
#ifndef HIERMM_DENSE_PAIR_H
#define HIERMM_DENSE_PAIR_H

#include "dense.h"

/* A panel M (N, wide vectors) of columns: p = x M there, and y gains (or, first, becomes) its part of M w. */
INLINE void panel_both(const int wide, int64_t N, int64_t NP, const double *M, const double *x, const double *w,
                       double *p, double *y, int first) {
    vd sum[8], right[8];
#pragma GCC unroll 8
    for (int v = 0; v < wide; v++) {
        sum[v] = (vd){};
        right[v] = vload(w + v * VL);
    }
    for (int64_t i = 0; i < NP; i += VL) {
        vd part[VL];
#pragma GCC unroll 8
        for (int r = 0; r < VL; r++) {
            const double *row = M + (i + r < N ? i + r : 0) * wide * VL; /* x is 0 behind N, and nobody reads y there */
            vd left = vset(x[i + r]), dot = {};
#pragma GCC unroll 8
            for (int v = 0; v < wide; v++) {
                vd m = vload(row + v * VL);
                sum[v] += left * m;
                dot += right[v] * m;
            }
            part[r] = dot;
        }
        vd total = vsums(part);
        vstore(y + i, first ? total : (vd)(vload(y + i) + total));
    }
#pragma GCC unroll 8
    for (int v = 0; v < wide; v++) vstore(p + v * VL, sum[v]);
}

/* p = x M and y = M w (NP,) for a padded M (N, NP). A small M goes by its rows and its columns; a large one, whose reading
 * is what takes the time, in one sweep over both. */
static void product_both(const Chain *c, const double *x, const double *w, double *p, double *y) {
    int64_t N = c->N, NP = c->NP;
    if (!c->panels) {
        product_padded(N, NP, x, c->rows, p);
        product_padded(N, NP, w, c->cols, y);
        return;
    }
    for (int64_t j = 0, width; j < NP; j += width * VL) {
        const double *M = c->panels + j * N;
        width = panel_width((NP - j) / VL);
        if (width == WIDEST_PANEL) panel_both(WIDEST_PANEL, N, NP, M, x, w + j, p + j, y, !j);
        else if (width == 4) panel_both(4, N, NP, M, x, w + j, p + j, y, !j);
        else panel_both(1, N, NP, M, x, w + j, p + j, y, !j);
    }
}

/* One step of both recursions: a = (before A) l, b = A w, and the next w = b k. Rows of V vectors, or of any number
 * when V = 0. */
INLINE void pair_step(const int V, const Chain *c, const double *before, const double *l, const double *k, double *a,
                      double *b, double *w) {
    if (V) {
        vd p[V ? V : 1], y[V ? V : 1];
        product_tile(V, 2, c->N, before, c->rows, V * VL, (double *)p);
        product_tile(V, 2, c->N, w, c->cols, V * VL, (double *)y);
        for (int v = 0; v < V; v++) {
            vstore(a + v * VL, p[v] * vload(l + v * VL));
            vstore(b + v * VL, y[v]);
            vstore(w + v * VL, y[v] * vload(k + v * VL));
        }
    } else {
        product_both(c, before, w, a, b);
        for (int64_t j = 0; j < c->NP; j += VL) {
            vstore(a + j, vload(a + j) * vload(l + j));
            vstore(w + j, vload(b + j) * vload(k + j));
        }
    }
}

/* Posterior row t from alpha_t and beta_t. For counts lik_t turns into the row w with xi_t = A * (alpha_{t-1}' w). */
INLINE void pair_row(const int V, const Chain *c, Run *r, int64_t t, double *l, const double *a, const double *b) {
    const int64_t N = c->N, NP = V ? V * VL : c->NP;
    double *gamma = r->gamma + t * N;
    vd evidence = {};
    for (int64_t j = 0; j < NP; j += VL) evidence += vload(a + j) * vload(b + j);
    vd norm = vset(1 / hsum(evidence));
    for (int64_t j = 0; j < NP; j += VL) {
        vd x = vload(b + j) * norm, y = vload(a + j) * x;
        if (r->xi) vstore(l + j, vload(l + j) * x);
        if (j + VL <= N) vstore(gamma + j, y);
        else vstore_part(gamma + j, N - j, y);
    }
}

/* Relative likelihoods of a row; their maximum is added to `shift`. */
INLINE void pair_likelihood(const Chain *c, const Run *r, int64_t t, double *lik, double *shift) {
    *shift += relative_likelihoods(c->N, c->NP, r->ll + t * c->N, lik + t * c->NP);
}

/* The recursions. lik (T, NP) receives relative likelihoods, alpha and beta (T, NP) the rows, alpha_t being
 * proportional to the filtered and beta_t to the message at t; lik_0, lik_{T-1}, alpha_0 and beta_{T-1} are there. Every
 * `pace` steps both are scaled by a power of two, alpha through lik, so that alpha_t = (alpha_{t-1} A) lik_t holds
 * exactly. w (NP,) ends as lik_0 beta_0.
 *
 * In the second half of the steps each row gets its posteriors at once, and unless counts are wanted the rows of alpha
 * and beta take two places in turn there: what is not written does not pass through the caches. Adds to r->loglik what
 * is not in lik_0 and lik_{T-1}; returns 0, with nothing written to gamma, if a step is impossible. */
INLINE int pair_wide(const int V, const Chain *c, Run *r, double *lik, double *alpha, double *beta, double *w) {
    const int64_t NP = V ? V * VL : c->NP, T = r->T, half = r->xi ? T : T / 2;
    double *a = alpha, shift = 0, taken = 0, ignored = 0;
    int left = c->pace;
    for (int64_t j = 0; j < NP; j++) w[j] = lik[(T - 1) * NP + j] * beta[(T - 1) * NP + j];
    for (int64_t t = 1, u = T - 2; t < T; t++, u--) {
        int64_t place = t < half ? t : half + ((t - half) & 1);
        double *before = a, *b = beta + (T - 1 - place) * NP, *l = lik + t * NP, *k = lik + u * NP;
        a = alpha + place * NP;
        if (t <= u) {
            pair_likelihood(c, r, t, lik, &shift);
            if (t < u) pair_likelihood(c, r, u, lik, &shift);
            if (!(shift > -HUGE_VAL)) return 0;
        }
        if (!--left) {
            vd sum = {}, back = {};
            for (int64_t j = 0; j < NP; j += VL) {
                sum += vload(before + j);
                back += vload(w + j);
            }
            vd up = vset(scale1(hsum(sum), &taken)), down = vset(scale1(hsum(back), &ignored));
            for (int64_t j = 0; j < NP; j += VL) {
                vstore(l + j, vload(l + j) * up);
                vstore(w + j, vload(w + j) * down);
            }
            left = c->pace;
        }
        pair_step(V, c, before, l, k, a, b, w);
        if (t < u) continue;
        pair_row(V, c, r, t, l, a, t > u ? beta + t * NP : b);
        if (t > u) pair_row(V, c, r, u, k, alpha + u * NP, b);
    }
    double total = 0;
    for (int64_t j = 0; j < c->N; j++) total += a[j];
    r->loglik += shift + taken * LOG2 + log(total);
    return 1;
}

/* sum_i x[i] M[i] for N <= VL rows held in registers. */
INLINE vd narrow_product(const int N, vd x, const vd *M) {
    vd acc[4] = {};
    for (int i = 0; i < N; i++) acc[i % 4] += vlane(x, i) * M[i];
    return N > 2 ? (acc[0] + acc[1]) + (acc[2] + acc[3]) : acc[0] + acc[1];
}

/* Relative likelihoods of all steps but the first and the last of narrow rows, VL at a time, one a lane, so that no
 * exponential is spent on padding. Returns the sum of the maxima, -inf if a step is impossible. */
static double narrow_likelihoods(const Chain *c, const Run *r, double *lik) {
    int64_t N = c->N, t = 1;
    double shift = 0;
    vd tops = {}, least = {};
    for (; N < VL && t + VL < r->T; t += VL) {
        vd x[VL], top;
        for (int q = 0; q < VL; q++) x[q] = vload_part(r->ll + (t + q) * N, N, 0.0);
        vtranspose(x);
        top = x[0];
        for (int j = 1; j < N; j++) top = vmax(top, x[j]);
        tops += top;
        least = vmin(least, top);
        for (int j = 0; j < N; j++) x[j] = vexp_low(x[j] - top);
        vtranspose(x);
        for (int q = 0; q < VL; q++) vstore(lik + (t + q) * VL, x[q]);
    }
    if (!(hmin(least) > -HUGE_VAL)) return -HUGE_VAL;
    for (; t < r->T - 1 && shift > -HUGE_VAL; t++) pair_likelihood(c, r, t, lik, &shift);
    return shift + hsum(tops);
}

/* pair_wide for N <= VL states, N a constant: matrices and rows stay in registers, and all rows in the caches. */
INLINE int pair_narrow(const int N, const Chain *c, Run *r, double *lik, double *alpha, double *beta, double *w) {
    const int64_t T = r->T;
    vd rows[VL], cols[VL], x = vload(alpha), y = vload(beta + (T - 1) * VL) * vload(lik + (T - 1) * VL);
    double shift = narrow_likelihoods(c, r, lik), taken = 0, ignored = 0;
    int left = c->pace;
    if (!(shift > -HUGE_VAL)) return 0;
    for (int i = 0; i < N; i++) {
        rows[i] = vload(c->rows + i * VL);
        cols[i] = vload(c->cols + i * VL);
    }
    for (int64_t t = 1, u = T - 2; t < T; t++, u--) {
        vd l = vload(lik + t * VL), k = vload(lik + u * VL);
        if (!--left) {
            l *= vset(scale1(hsum(x), &taken));
            k *= vset(scale1(hsum(y), &ignored));
            vstore(lik + t * VL, l);
            left = c->pace;
        }
        vd b = narrow_product(N, y, cols);
        x = narrow_product(N, x, rows) * l;
        y = b * k;
        vstore(alpha + t * VL, x);
        vstore(beta + u * VL, b);
    }
    vstore(w, y);
    for (int64_t t = 0; t < T; t++) pair_row(1, c, r, t, lik + t * VL, alpha + t * VL, beta + t * VL);
    r->loglik += shift + taken * LOG2 + log(hsum(x));
    return 1;
}

/* The message (N,) at the last row, its largest entry 1; beta_in may be of any scale. */
static void last_message(const Chain *c, const Run *r, double *beta) {
    unsigned mode = keep_subnormals();
    double top = 0;
    for (int64_t j = 0; j < c->N; j++) {
        beta[j] = r->beta_in ? r->beta_in[j] : 1;
        top = beta[j] > top ? beta[j] : top;
    }
    for (int64_t j = 0; j < c->N; j++) beta[j] /= top;
    restore_subnormals(mode);
}

/* The likelihoods of the first and the last step, the message beta_{T-1} and the row alpha_0; returns 0 if they leave
 * the range. */
static int pair_ends(const Chain *c, const Run *r, double *lik, double *alpha, double *beta, double *shift) {
    int64_t N = c->N, NP = c->NP, last = (r->T - 1) * NP;
    double first = 0, evidence = 0;
    pair_likelihood(c, r, 0, lik, shift);
    pair_likelihood(c, r, r->T - 1, lik, shift);
    if (!(*shift > -HUGE_VAL)) return 0;
    memset(beta + last, 0, (size_t)NP * sizeof(double));
    last_message(c, r, beta + last);
    if (r->alpha_in) predict(c, r->start, alpha - NP, alpha);
    else memcpy(alpha, c->initial, (size_t)N * sizeof(double));
    for (int64_t j = 0; j < N; j++) {
        evidence += beta[last + j] * lik[last + j];
        alpha[j] *= lik[j];
        first += alpha[j];
    }
    return first >= RANGE && evidence >= RANGE;
}

#define PAIR_OF(n) \
    case n: return pair_narrow(n, c, r, lik, alpha, beta, w);
/* Smooth a run of at least two steps; scratch as one_run lays it out, and T more rows for beta. alpha_in stands in the
 * row before alpha. Returns 0, with nothing written or counted, if the run needs more than this. */
static int pair_run(const Chain *c, Run *r, double *lik, double *alpha, double *beta, double *w) {
    r->loglik = 0;
    if (!pair_ends(c, r, lik, alpha, beta, &r->loglik)) return 0;
    switch (c->N) {
        PAIR_OF(2)
#if VL >= 4
        PAIR_OF(3) PAIR_OF(4)
#endif
#if VL == 8
        PAIR_OF(5) PAIR_OF(6) PAIR_OF(7) PAIR_OF(8)
#endif
        default:
            if (c->NP == 2 * VL) return pair_wide(2, c, r, lik, alpha, beta, w);
            if (c->NP == 4 * VL) return pair_wide(4, c, r, lik, alpha, beta, w);
            return pair_wide(0, c, r, lik, alpha, beta, w);
    }
}

#endif
