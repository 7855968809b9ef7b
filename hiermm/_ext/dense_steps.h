/* Scaled smoothing of many sequences side by side, as in dense_lanes.h, where every step has a matrix of its own and
 * the states are few. By default the matrices are transposed from memory into the lanes block by block, and the
 * expected moves of every step out of them; driven.h computes matrices and uses moves right here. */
#ifndef HIERMM_DENSE_STEPS_H
#define HIERMM_DENSE_STEPS_H

#include "dense_lanes.h"

enum { STEPS_MOST = 6 }; /* states up to which this beats one sequence at a time */

typedef struct Steps {
    Group g;                  /* lik and alpha keep all rows; no segments */
    int64_t start[VL];        /* packed row at which each lane begins */
    double *xi, *xi_steps;    /* as in Run, of the packed arrays */
    vd *matrices, *joint;     /* (BLOCK, K, K) each: a block's matrices and its expected moves, 0 where there are none */
    double *rows;             /* (VL, BLOCK, K, K) */
    /* Instead of memory: points `matrices` to those of steps t0 .. t0 + BLOCK - 1 (`again`: on the way back); takes
     * their `joint`. */
    void (*matrices_at)(struct Steps *s, int64_t t0, int again);
    void (*moves_at)(struct Steps *s, int64_t t0);
} Steps;

/* Matrices of steps t0 .. t0 + BLOCK - 1 of every lane, transposed to (BLOCK, K, K); ones behind the end. */
static void gather_matrices(int64_t K, Steps *s, int64_t t0) {
    const Chain *c = s->g.c;
    int64_t size = K * K;
    for (int l = 0; l < VL; l++) {
        double *rows = s->rows + l * BLOCK * size;
        int64_t count = s->g.T[l] - t0;
        for (int64_t r = 0; r < BLOCK; r++) {
            if (r < count && t0 + r) memcpy(rows + r * size, step_matrix(c, s->start[l] + t0 + r), size * sizeof(double));
            else for (int64_t q = 0; q < size; q++) rows[r * size + q] = 1.0;
        }
    }
    for (int64_t q = 0; q < BLOCK * size; q += VL) {
        vd x[VL];
        for (int l = 0; l < VL; l++) x[l] = vload(s->rows + l * BLOCK * size + q);
        vtranspose(x);
        for (int l = 0; l < VL; l++) s->matrices[q + l] = x[l];
    }
}

/* The block's expected moves to the caller: rows of xi_steps, sums by matrix in xi. */
static void scatter_moves(int64_t K, Steps *s, int64_t t0) {
    const Chain *c = s->g.c;
    int64_t size = K * K;
    for (int64_t q = 0; q < BLOCK * size; q += VL) {
        vd x[VL];
        for (int l = 0; l < VL; l++) x[l] = s->joint[q + l];
        vtranspose(x);
        for (int l = 0; l < VL; l++) vstore(s->rows + l * BLOCK * size + q, x[l]);
    }
    for (int l = 0; l < s->g.lanes; l++) {
        int64_t k = s->start[l] + t0, count = s->g.T[l] - t0 < BLOCK ? s->g.T[l] - t0 : BLOCK;
        const double *rows = s->rows + l * BLOCK * size;
        if (s->g.doubtful[l] || count <= 0) continue;
        if (s->xi_steps) memcpy(s->xi_steps + k * size, rows, (size_t)(count * size) * sizeof(double));
        for (int64_t r = 0; s->xi && r < count; r++) {
            double *sum = s->xi + matrix_of(c, k + r) * size;
            for (int64_t q = 0; q < size; q++) sum[q] += rows[r * size + q];
        }
    }
}

INLINE void steps_matrices(int64_t K, Steps *s, int64_t t0, int again) {
    if (s->matrices_at) s->matrices_at(s, t0, again);
    else gather_matrices(K, s, t0);
}

/* Masses of states within reach get dust, and likelihoods of the others become 0. `open` says which states the zeros of
 * the matrices so far leave within reach, whatever the data. It only needs to be asked where some mass is 0. */
INLINE void steps_dust(const int K, const vd *M, vi *open, vd *mass, vd *b) {
    vd least = mass[0];
    vi before[STEPS_MOST];
    for (int j = 1; j < K; j++) least = vmin(least, mass[j]);
    if (vfirst(~(least > vset(0.0))) == VL) {
        for (int j = 0; j < K; j++) {
            open[j] = ~(vi){};
            mass[j] += vset(DUST);
        }
        return;
    }
    for (int i = 0; i < K; i++) before[i] = open[i];
    for (int j = 0; j < K; j++) {
        open[j] = (vi){};
        for (int i = 0; i < K; i++) open[j] |= before[i] & ((vi)M[i * K + j] > 0); /* as above_zero */
        mass[j] += (vd)((vi)vset(DUST) & open[j]);
        b[j] = (vd)((vi)b[j] & open[j]);
    }
}

/* Forward pass; all rows stay in lik and alpha. */
INLINE void steps_forward(const int K, Steps *s, Pass *p) {
    Group *g = &s->g;
    const Chain *c = g->c;
    vd mass[STEPS_MOST];
    vi open[STEPS_MOST];
    for (int j = 0; j < K; j++) open[j] = (vi)vset(c->initial[j]) > 0;
    for (int64_t t = 0; t < g->T[0]; t++) {
        vd *b = g->lik + t * K, *a = g->alpha + t * K, total;
        if (t % BLOCK == 0) {
            gather(K, 1, g, t, b);
            steps_matrices(K, s, t, 0);
        }
        const vd *M = s->matrices + t % BLOCK * K * K;
        lane_likelihoods(K, 1, b, p->shift);
        for (int j = 0; j < K; j++) {
            mass[j] = vset(t ? 0.0 : c->initial[j]);
            for (int i = 0; t && i < K; i++) mass[j] += a[i - K] * M[i * K + j];
            mass[j] *= p->scale[0];
        }
        if (t && !c->positive) steps_dust(K, M, open, mass, b);
        for (int j = 0; j < K; j++) a[j] = mass[j] * b[j];
        total = state_sum(K, 1, a, 0);
        p->smallest[0] = vmin(p->smallest[0], total);
        if (p->ending >= 0 && g->T[p->ending] == t + 1) lanes_end(g, p, t, &total);
        p->scale[0] = vscale(total, &p->exponent[0]);
    }
}

/* Backward pass: expected moves, if wanted, to the caller, and rows of gamma unless a lane is spoilt. */
INLINE void steps_backward(const int K, Steps *s) {
    Group *g = &s->g;
    Back back = back_start(g, 1, K);
    vd beta[STEPS_MOST], w[STEPS_MOST], moved[STEPS_MOST * STEPS_MOST], ignored = {};
    for (int j = 0; j < K; j++) beta[j] = vset(1.0);
    for (int64_t t = g->T[0] - 1; t >= 0; t--) {
        int64_t r = t % BLOCK;
        if (r == BLOCK - 1 || t == g->T[0] - 1) steps_matrices(K, s, t - r, 1);
        const vd *M = s->matrices + r * K * K;
        vd *b = g->lik + t * K, *a = g->alpha + t * K, *joint = s->joint + r * K * K;
        vi inside = vset((double)t) < back.last[0];  /* a step of the same sequence follows */
        vi counted = vset((double)t) <= back.last[0]; /* the lane has a step here, and is not doubtful */
        vd evidence = {}, sum = {};
        for (int j = 0; j < K; j++) {
            vd x = vselect(inside, beta[j], vset(1.0));
            w[j] = b[j] * x;
            b[j] = a[j] * x;
            evidence += b[j];
            sum += w[j];
        }
        if (!g->c->positive) back.least[0] = vmin(back.least[0], vselect(counted, evidence, vset(1.0)));
        vd norm = vset(1.0) / evidence, scale = vscale(sum, &ignored), before = {};
        for (int j = 0; j < K; j++) {
            b[j] *= norm;
            w[j] = (vd)((vi)(w[j] * scale) & counted);
        }
        for (int i = 0; t && i < K; i++) {
            beta[i] = (vd){};
            for (int j = 0; j < K; j++) beta[i] += moved[i * K + j] = M[i * K + j] * w[j];
            before += a[i - K] * beta[i];
        }
        norm = vset(1.0) / before;
        for (int i = 0; t && i < K; i++) {
            const vd share = (vd)((vi)(a[i - K] * norm) & counted);
            for (int j = 0; j < K; j++) joint[i * K + j] = moved[i * K + j] * share;
        }
        if (!t) memset(joint, 0, (size_t)(K * K) * sizeof(vd)); /* no move leads into the first step */
        if (r) continue;
        if (s->moves_at) s->moves_at(s, t);
        else if (s->xi || s->xi_steps) scatter_moves(K, s, t);
    }
    lanes_judge(g, &back);
    for (int64_t t = 0; t < g->T[0] && !g->spoilt; t += BLOCK) scatter(K, 1, g, t, g->lik + t * K);
}

/* Scratch in vectors for sequences of up to T steps. */
static int64_t steps_scratch(int64_t K, int64_t T) {
    int64_t rows = (T + BLOCK - 1) / BLOCK * BLOCK;
    return 2 * rows * K + 3 * BLOCK * K * K + K + MAX_LANES * BLOCK * K / VL;
}

#define STEPS_OF(K) \
    case K: \
        steps_forward(K, s, &pass); \
        steps_backward(K, s); \
        break;
/* A group of up to VL sequences. */
static void steps_group(Steps *s) {
    unsigned mode = flush_subnormals();
    Pass pass = {.ending = s->g.lanes - 1};
    pass.scale[0] = pass.least[0] = pass.smallest[0] = vset(1.0);
    switch (s->g.c->N) { STEPS_OF(2) STEPS_OF(3) STEPS_OF(4) STEPS_OF(5) STEPS_OF(6) }
    restore_subnormals(mode);
}

#endif
