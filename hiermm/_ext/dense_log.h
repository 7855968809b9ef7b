/* Forward-backward of one run in log space: slow, and exact whatever the range of the numbers. */
#ifndef HIERMM_DENSE_LOG_H
#define HIERMM_DENSE_LOG_H

#include "dense.h"

/* log sum_i exp(x[i] + y[i]) of `count` numbers; y may be NULL. */
static double log_sum(const double *x, const double *y, int64_t count) {
    vd best = vset(-HUGE_VAL), total = {};
    for (int64_t i = 0; i < count; i += VL) {
        int64_t width = count - i < VL ? count - i : VL;
        best = vmax(best, vload_part(x + i, width, -HUGE_VAL) + (y ? vload_part(y + i, width, 0.0) : (vd){}));
    }
    double top = hmax(best);
    if (!(top > -HUGE_VAL)) return -HUGE_VAL;
    for (int64_t i = 0; i < count; i += VL) {
        int64_t width = count - i < VL ? count - i : VL;
        vd z = vload_part(x + i, width, -HUGE_VAL) + (y ? vload_part(y + i, width, 0.0) : (vd){});
        total += vexp_low(z - vset(top));
    }
    return top + log(hsum(total));
}

/* log A of packed step k, or its transpose, kept in `out` while the matrix stays the same. */
static const double *log_matrix(const Chain *c, int64_t k, int64_t *held, int transposed, double *out) {
    int64_t which = matrix_of(c, k), N = c->N;
    if (which != *held) {
        const double *A = c->A + which * N * N;
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < N; j++) out[transposed ? j * N + i : i * N + j] = log(A[i * N + j]);
        *held = which;
    }
    return out;
}

/* Log-filtered distributions la (T, N), each with log-sum 0. Returns the step that is impossible, or T. */
static int64_t log_forward(const Chain *c, Run *r, double *la, double *logA, double *first) {
    int64_t N = c->N, held = -1;
    r->loglik = 0;
    for (int64_t i = 0; r->alpha_in && i < N; i++) first[i] = log(r->alpha_in[i]);
    for (int64_t t = 0; t < r->T; t++) {
        double *a = la + t * N;
        if (!t && !r->alpha_in) {
            for (int64_t j = 0; j < N; j++) a[j] = log(c->initial[j]);
        } else {
            const double *M = log_matrix(c, r->start + t, &held, 1, logA);
            for (int64_t j = 0; j < N; j++) a[j] = log_sum(t ? a - N : first, M + j * N, N);
        }
        for (int64_t j = 0; j < N; j++) a[j] += r->ll[t * N + j];
        double total = log_sum(a, NULL, N);
        if (!(total > -HUGE_VAL)) {
            r->loglik = -HUGE_VAL;
            return t;
        }
        for (int64_t j = 0; j < N; j++) a[j] -= total;
        r->loglik += total;
    }
    return r->T;
}

/* Expected transitions into packed step k: joint (N, N) = exp(la_i + log A_ij + w_j - norm), into xi and xi_steps. */
static void log_counts(const Chain *c, Run *r, int64_t t, const double *la, const double *M, const double *w, double norm) {
    int64_t N = c->N;
    double *sum = r->xi ? r->xi + matrix_of(c, r->start + t) * N * N : NULL;
    double *step = r->xi_steps ? r->xi_steps + t * N * N : NULL;
    for (int64_t i = 0; i < N; i++) {
        for (int64_t j = 0; j < N; j += VL) {
            int64_t width = N - j < VL ? N - j : VL, q = i * N + j;
            vd joint = vload_part(M + q, width, -HUGE_VAL) + vload_part(w + j, width, -HUGE_VAL);
            joint = vexp_low(joint + vset(la[i] - norm));
            if (sum) vstore_part(sum + q, width, vload_part(sum + q, width, 0.0) + joint);
            if (step) vstore_part(step + q, width, joint);
        }
    }
}

/* Backward pass over the rows that log_forward left; returns 0 if what follows the run is impossible. */
static int log_backward(const Chain *c, Run *r, const double *la, double *logA, double *terms, double *w) {
    int64_t N = c->N, held = -1;
    double *lb = terms + N;
    for (int64_t j = 0; j < N; j++) lb[j] = r->beta_in ? log(r->beta_in[j]) : 0.0;
    for (int64_t t = r->T - 1; t >= 0; t--) {
        const double *a = la + t * N;
        for (int64_t j = 0; j < N; j++) terms[j] = a[j] + lb[j];
        double norm = log_sum(terms, NULL, N);
        if (!(norm > -HUGE_VAL)) return 0;
        for (int64_t j = 0; j < N; j++) w[j] = r->ll[t * N + j] + lb[j];
        for (int64_t j = 0; j < N; j++) r->gamma[t * N + j] = exp(terms[j] - norm);
        if (!t && !r->alpha_in) break;
        const double *M = log_matrix(c, r->start + t, &held, 0, logA);
        for (int64_t i = 0; i < N; i++) lb[i] = log_sum(M + i * N, w, N);
        double *before = terms + 2 * N;
        for (int64_t i = 0; i < N; i++) before[i] = t ? a[i - N] : log(r->alpha_in[i]);
        for (int64_t i = 0; i < N; i++) terms[i] = before[i] + lb[i];
        norm = log_sum(terms, NULL, N);
        if (!(norm > -HUGE_VAL)) return 0;
        log_counts(c, r, t, before, M, w, norm);
        double top = log_sum(lb, NULL, N);
        for (int64_t i = 0; i < N; i++) lb[i] -= top;
    }
    if (r->beta_out)
        for (int64_t i = 0; i < N; i++) r->beta_out[i] = exp(lb[i]);
    return 1;
}

/* Nothing can be said of an impossible run: its rows are zero. Returns the status of step t. */
static int64_t impossible(const Chain *c, Run *r, int64_t t) {
    int64_t N = c->N;
    if (r->gamma) memset(r->gamma, 0, (size_t)(r->T * N) * sizeof(double));
    if (r->xi_steps) memset(r->xi_steps, 0, (size_t)(r->T * N * N) * sizeof(double));
    if (r->beta_out) memset(r->beta_out, 0, (size_t)N * sizeof(double));
    r->loglik = -HUGE_VAL;
    return -1 - t;
}

/* The whole run: forward only (smooth = 0: gamma receives the filtered rows) or forward and backward. */
static int64_t log_run(const Chain *c, Run *r, int smooth) {
    int64_t N = c->N;
    double *la = (double *)malloc((size_t)(r->T * N + N * N + 4 * N) * sizeof(double));
    if (!la) return NO_MEMORY;
    double *logA = la + r->T * N, *terms = logA + N * N, *w = terms + 3 * N;
    int64_t stopped = log_forward(c, r, la, logA, terms), status = REDONE;
    if (stopped < r->T) {
        status = impossible(c, r, stopped);
    } else if (smooth) {
        if (!log_backward(c, r, la, logA, terms, w)) status = impossible(c, r, r->T);
    } else {
        for (int64_t q = 0; r->gamma && q < r->T * N; q++) r->gamma[q] = exp(la[q]);
        char *alive = (char *)w;
        for (int64_t j = 0; j < N; j++) {
            alive[j] = la[(r->T - 1) * N + j] > -HUGE_VAL;
            terms[j] = exp(la[(r->T - 1) * N + j]);
        }
        if (cannot_continue(c, alive, terms)) status |= CANNOT_CONTINUE;
    }
    free(la);
    return status;
}

#endif
