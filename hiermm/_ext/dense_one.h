/* Scaled forward-backward of one run, states in the lanes of vectors: any number of states, any kind of matrices. */
#ifndef HIERMM_DENSE_ONE_H
#define HIERMM_DENSE_ONE_H

#include "dense.h"
#include "dense_log.h"
#include "dense_pair.h"

/* Doubles of scratch for runs of up to T steps: likelihoods, filtered rows (and the row before), messages, and the rows
 * of backward messages or of ll where gamma takes its place. */
static int64_t one_scratch(const Chain *c, int64_t T, int smooth) { return ((smooth ? 3 : 2) * T + 3) * c->NP; }

/* Is state j within reach at packed step k though its predicted mass is 0: has underflow taken it? */
static int within_reach(const Chain *c, int64_t k, const char *alive, int64_t j) {
    const double *A = step_matrix(c, k);
    int found = 0;
    for (int64_t i = 0; i < c->N; i++) found |= alive[i] && above_zero(A[i * c->N + j]);
    return found;
}

/* The states that the data and the chain leave possible at step t, `alive` before it, from the predicted masses p.
 * Likelihoods of the others become 0, so that they do not disturb the way back. Returns whether some mass is below
 * RANGE; with dust none is. */
static int one_reach(const Chain *c, const Run *r, int64_t t, int dust, double *p, double *b, char *alive) {
    int64_t N = c->N;
    int given = !t && !r->alpha_in, small = 0;
    char *next = alive + N;
    for (int64_t j = 0; j < N; j++) {
        int reached = above_zero(p[j]) || (dust && !given && within_reach(c, r->start + t, alive, j));
        if (dust && !given && reached) p[j] += DUST;
        small |= !given && !(p[j] >= RANGE);
        b[j] = reached ? b[j] : 0;
        next[j] = reached && r->ll[t * N + j] > -HUGE_VAL;
    }
    memcpy(alive, next, (size_t)N);
    return small;
}

/* Forward pass: lik and alpha (T, NP) receive the relative likelihoods and the filtered rows, each of these with a sum
 * in [1, 2); row -1 of alpha holds alpha_in. `alive`, room for 2 N, tells which states the last row leaves possible.
 * dust: the way back will judge what is lost. Returns FINE, CANNOT_TELL when masses are small that may be lost ones, or
 * REDO when the range of doubles does not suffice or a step is impossible. */
static int one_forward(const Chain *c, Run *r, double *lik, double *alpha, char *alive, int dust) {
    int64_t N = c->N, NP = c->NP;
    double shift = 0, exponent = 0, total = 0;
    int small = 0;
    for (int64_t i = 0; r->alpha_in && i < N; i++) alive[i] = above_zero(r->alpha_in[i]);
    for (int64_t t = 0; t < r->T; t++) {
        double *p = alpha + t * NP, *b = lik + t * NP;
        double top = relative_likelihoods(N, NP, r->ll + t * N, b);
        if (!(top > -HUGE_VAL)) return REDO;
        shift += top;
        if (!t && !r->alpha_in) memcpy(p, c->initial, (size_t)N * sizeof(double));
        else predict(c, r->start + t, p - NP, p);
        if (!c->positive) small |= one_reach(c, r, t, dust, p, b, alive);
        vd sum = {};
        for (int64_t j = 0; j < NP; j += VL) {
            vd a = vload(p + j) * vload(b + j);
            vstore(p + j, a);
            sum += a;
        }
        total = hsum(sum);
        if (!(total >= RANGE)) return REDO;
        double scale = scale1(total, &exponent);
        for (int64_t j = 0; j < NP; j += VL) vstore(p + j, vload(p + j) * vset(scale));
        total *= scale;
    }
    r->loglik = shift + exponent * LOG2 + log(total);
    return small && !dust ? CANNOT_TELL : FINE;
}

/* Filtered rows, each divided by its sum. */
static void one_filtered(const Chain *c, Run *r, const double *alpha) {
    for (int64_t t = 0; t < r->T; t++) {
        const double *a = alpha + t * c->NP;
        double total = 0;
        for (int64_t j = 0; j < c->N; j++) total += a[j];
        for (int64_t j = 0; j < c->N; j++) r->gamma[t * c->N + j] = a[j] / total;
    }
}

/* Expected transitions of one step: A * (alpha' w), into the sums and the per-step rows. */
static void one_counts(const Chain *c, Run *r, int64_t t, const double *before, const double *w) {
    int64_t N = c->N;
    const double *A = step_matrix(c, r->start + t);
    double *sum = r->xi && !c->constant ? r->xi + matrix_of(c, r->start + t) * N * N : NULL;
    double *step = r->xi_steps ? r->xi_steps + t * N * N : NULL;
    for (int64_t i = 0; i < N; i++) {
        for (int64_t j = 0; j < N; j += VL) {
            int64_t width = N - j < VL ? N - j : VL, q = i * N + j;
            vd joint = vset(before[i]) * vload(w + j);
            if (width == VL) {
                joint *= vload(A + q);
                if (step) vstore(step + q, joint);
                if (sum) vstore(sum + q, vload(sum + q) + joint);
            } else {
                joint *= vload_part(A + q, width, 0.0);
                if (step) vstore_part(step + q, width, joint);
                if (sum) vstore_part(sum + q, width, vload_part(sum + q, width, 0.0) + joint);
            }
        }
    }
}

/* C (N, N) += A * sum_t a_t' w_t over `count` rows of a and w (row length NP), in blocks that stay in the cache. */
static void add_outer(int64_t N, int64_t NP, int64_t count, const double *a, const double *w, const double *A, double *C) {
    enum { BLOCK = 256, HEIGHT = 8 };
    for (int64_t t0 = 0; t0 < count; t0 += BLOCK) {
        int64_t stop = t0 + BLOCK < count ? t0 + BLOCK : count;
        for (int64_t i0 = 0; i0 < N; i0 += HEIGHT) {
            int64_t height = N - i0 < HEIGHT ? N - i0 : HEIGHT;
            for (int64_t j = 0; j < NP; j += VL) {
                vd acc[HEIGHT];
                for (int q = 0; q < HEIGHT; q++) acc[q] = (vd){};
                for (int64_t t = t0; t < stop; t++) {
                    vd x = vload(w + t * NP + j);
                    const double *row = a + t * NP + i0;
                    for (int q = 0; q < HEIGHT; q++) acc[q] += vset(row[q < height ? q : 0]) * x;
                }
                for (int q = 0; q < height; q++)
                    for (int64_t l = j; l < j + VL && l < N; l++)
                        C[(i0 + q) * N + l] += A[(i0 + q) * N + l] * acc[q][l - j];
            }
        }
    }
}

/* Backward pass from the message beta (NP,) at the last row. gamma (unless NULL) receives the smoothed rows; lik turns
 * into the rows w with xi_t = A * (alpha_{t-1}' w_t); beta ends as the message before the first row if the run has such
 * a row. Returns 0 if the evidence leaves the range. */
static int one_backward(const Chain *c, Run *r, double *lik, const double *alpha, double *beta) {
    int64_t N = c->N, NP = c->NP;
    double norm = 0, ignored = 0;
    for (int64_t j = 0; j < N; j++) norm += alpha[(r->T - 1) * NP + j] * beta[j];
    norm = 1 / norm;
    for (int64_t t = r->T - 1; t >= 0; t--) {
        const double *a = alpha + t * NP, *before = a - NP;
        double *w = lik + t * NP;
        vd sum = {};
        for (int64_t j = 0; j < NP; j += VL) {
            vd x = vload(beta + j), gamma = vload(a + j) * x * vset(norm), b = vload(w + j) * x;
            sum += b;
            vstore(w + j, b);
            if (!r->gamma) continue;
            if (j + VL <= N) vstore(r->gamma + t * N + j, gamma);
            else vstore_part(r->gamma + t * N + j, N - j, gamma);
        }
        if (!t && !r->alpha_in) break;
        vd scale = vset(scale1(hsum(sum), &ignored)), evidence = {};
        for (int64_t j = 0; j < NP; j += VL) vstore(w + j, vload(w + j) * scale);
        send_back(c, r->start + t, w, beta);
        for (int64_t j = 0; j < NP; j += VL) evidence += vload(before + j) * vload(beta + j);
        norm = 1 / hsum(evidence);
        if (!(norm <= 1 / RANGE)) return 0;
        if (!r->xi && !r->xi_steps) continue;
        for (int64_t j = 0; j < NP; j += VL) vstore(w + j, vload(w + j) * vset(norm));
    }
    return 1;
}

/* The message at the last row, its largest entry 1. Returns 0 if its evidence leaves the range. */
static int one_message(const Chain *c, const Run *r, const double *alpha, double *beta) {
    double evidence = 0;
    last_message(c, r, beta);
    for (int64_t j = 0; j < c->N; j++) evidence += alpha[j] * beta[j];
    return evidence >= RANGE;
}

/* The counts, from the rows w in lik, and the message before the run, with sum 1. */
static void one_finish(const Chain *c, Run *r, const double *lik, const double *alpha, const double *beta) {
    int64_t N = c->N, NP = c->NP, first = r->alpha_in ? 0 : 1;
    if (r->xi && c->constant) add_outer(N, NP, r->T - first, alpha + (first - 1) * NP, lik + first * NP, c->A, r->xi);
    if (r->xi_steps || (r->xi && !c->constant))
        for (int64_t t = first; t < r->T; t++) one_counts(c, r, t, alpha + (t - 1) * NP, lik + t * NP);
    double total = 0;
    for (int64_t i = 0; r->beta_out && i < N; i++) total += beta[i];
    for (int64_t i = 0; r->beta_out && i < N; i++) r->beta_out[i] = beta[i] / total;
}

/* The states that the last row leaves possible, where every state can be reached from every other. */
static void one_alive(const Chain *c, const Run *r, char *alive) {
    const double *ll = r->ll + (r->T - 1) * c->N;
    int first = r->T == 1 && !r->alpha_in;
    for (int64_t j = 0; j < c->N; j++) alive[j] = ll[j] > -HUGE_VAL && (!first || above_zero(c->initial[j]));
}

/* One run forward only; gamma (if any) receives the filtered rows. Returns its status, or REDO. */
static int64_t one_filter(const Chain *c, Run *r, double *lik, double *alpha, double *beta) {
    char *alive = (char *)beta;
    const double *last = alpha + (r->T - 1) * c->NP;
    int state = one_forward(c, r, lik, alpha, alive, r->dust && !c->positive);
    if (state == CANNOT_TELL && !r->gamma) { /* the likelihood alone: the way back may vouch for it */
        state = one_forward(c, r, lik, alpha, alive, 1);
        memset(beta, 0, (size_t)c->NP * sizeof(double));
        if (state == FINE && one_message(c, r, last, beta) && one_backward(c, r, lik, alpha, beta)) return FINE;
        state = REDO;
    }
    if (state == CANNOT_TELL) {
        int kept = nothing_lost(c, r, alpha, c->NP, 1);
        if (kept < 0) return NO_MEMORY;
        state = kept ? FINE : REDO;
    }
    if (state == REDO) return REDO;
    if (c->positive && !c->constant) one_alive(c, r, alive); /* the matrices of the next block may be others */
    if (r->gamma) one_filtered(c, r, alpha);
    for (int64_t j = 0, k = (r->T - 1) * c->N; r->dust && r->gamma && j < c->N && !(c->positive && c->constant); j++)
        if (alive[j] && r->gamma[k + j] < DUST) r->gamma[k + j] = DUST; /* or the next block would take it for dead */
    return !r->dust && !c->positive && cannot_continue(c, alive, last) ? CANNOT_CONTINUE : FINE;
}

/* One run forward and back. Returns FINE or REDO. */
static int64_t one_smooth(const Chain *c, Run *r, double *lik, double *alpha, double *beta) {
    int64_t N = c->N, NP = c->NP, size = r->T * N;
    double *rows = beta + NP;
    if (c->constant && c->positive && !r->xi_steps && r->T > 1 && pair_run(c, r, lik, alpha, rows, beta)) {
        if (r->beta_out) send_back(c, r->start, beta, rows);
        one_finish(c, r, lik, alpha, rows);
        return FINE;
    }
    if (one_forward(c, r, lik, alpha, (char *)beta, !c->positive) != FINE) return REDO;
    memset(beta, 0, (size_t)NP * sizeof(double));
    if (!one_message(c, r, alpha + (r->T - 1) * NP, beta)) return REDO;
    int in_place = r->gamma == r->ll;
    if (in_place) memcpy(rows, r->ll, (size_t)size * sizeof(double));
    if (!one_backward(c, r, lik, alpha, beta)) {
        if (in_place) memcpy(r->gamma, rows, (size_t)size * sizeof(double));
        return REDO;
    }
    one_finish(c, r, lik, alpha, beta);
    return FINE;
}

/* One run; smooth = 0: forward only. Returns its status. */
static int64_t one_run(const Chain *c, Run *r, int smooth, double *scratch) {
    int64_t N = c->N, NP = c->NP;
    double *lik = scratch, *alpha = lik + (r->T + 1) * NP, *beta = alpha + r->T * NP;
    memset(alpha - NP, 0, (size_t)(2 * NP) * sizeof(double));
    if (r->alpha_in) memcpy(alpha - NP, r->alpha_in, (size_t)N * sizeof(double));
    unsigned mode = flush_subnormals();
    int64_t status = smooth ? one_smooth(c, r, lik, alpha, beta) : one_filter(c, r, lik, alpha, beta);
    restore_subnormals(mode);
    return status == REDO ? log_run(c, r, smooth) : status;
}

#endif
