/* Smoothing of a flat chain whose rows follow the inputs, many sequences side by side. The matrices of a step are
 * computed in the lanes and its expected moves go straight into the sums of a Newton step, so that neither is ever
 * written out: nothing of size (n, K, K) exists. */
#ifndef HIERMM_DRIVEN_H
#define HIERMM_DRIVEN_H

#include "dense_plan.h"
#include "softmax.h"

typedef struct {
    Steps s;                    /* first: the hooks of dense_steps.h are handed a pointer to it */
    int64_t P, F;               /* inputs; free destinations of a row */
    const double *ll, *inputs;  /* packed (n, K) and (n, P) */
    double *gamma, *leaving;    /* packed (n, K); leaving may be NULL */
    const double *coef;         /* (K, F, P) */
    const double *intercept;    /* (K, F) */
    const int64_t *skip;        /* (K,) destination that is not free, beyond K if there is none */
    double mass;                /* of the free destinations */
    double *gradient, *hessian; /* (K, K, P + 1) and (K, K (P + 1), K (P + 1)), added to, as all that follow */
    double *weight, *moments;   /* (K,) and (P + 1, P + 1) */
    Group u, out;               /* inputs and leaving counts of the lanes, in place of log-likelihoods and posteriors */
    vd *kept;                   /* (T, K, K): matrices of all steps */
    vd *features, *products;    /* (BLOCK, P) and those of softmax.h */
    vd *totals;                 /* (BLOCK, K) */
    vd *weights, *sums;         /* of add_sums, for one group and for all */
    double *before;             /* the sums before a group */
} Driven;

/* The matrices of a block, or where they are kept. Subnormal probabilities stay: a zero puts a state out of reach. */
static void driven_matrices(Steps *s, int64_t t0, int again) {
    Driven *d = (Driven *)s;
    int64_t K = s->g.c->N, F = d->F, P = d->P;
    s->matrices = d->kept + t0 * K * K;
    if (again) return;
    unsigned mode = keep_subnormals();
    gather(P, 1, &d->u, t0, d->features);
    for (int64_t i = 0; i < K; i++)
        group_probabilities(F, BLOCK, d->features, P, d->coef + i * F * P, d->intercept + i * F, d->mass, NULL,
                            d->skip[i], s->matrices + i * K, K * K);
    restore_subnormals(mode);
}

/* Adds a block's moves to the sums. Lanes without a step there have moves and inputs of zero. */
static void driven_moves(Steps *s, int64_t t0) {
    Driven *d = (Driven *)s;
    int64_t K = s->g.c->N, P = d->P, size = sums_size(d->F, P);
    for (int l = 0; l < VL; l++)
        if (s->g.doubtful[l]) d->u.T[l] = d->out.T[l] = 0;
    gather(P, 1, &d->u, t0, d->features);
    for (int64_t r = 0; r < BLOCK; r += BLOCK_CHUNKS) {
        int64_t steps = 0;
        for (int l = 0; l < VL; l++) {
            int64_t left = d->u.T[l] - t0 - r;
            steps += left < 0 ? 0 : left < BLOCK_CHUNKS ? left : BLOCK_CHUNKS;
        }
        feature_products(BLOCK_CHUNKS, d->features + r * P, P, d->products);
        add_moments(BLOCK_CHUNKS, steps, P, d->products, d->moments);
        for (int64_t i = 0; i < K; i++)
            add_sums(d->F, P, BLOCK_CHUNKS, s->matrices + r * K * K + i * K, s->joint + r * K * K + i * K, K * K,
                     d->skip[i], 1.0 / d->mass, d->products, d->weights, d->totals + r * K + i, K, d->sums + i * size);
    }
    if (d->leaving) scatter(K, 1, &d->out, t0, d->totals);
}

/* Room for sequences of up to T steps; returns what to free, NULL without memory. */
static double *driven_scratch(Driven *d, int64_t T) {
    Steps *s = &d->s;
    int64_t K = s->g.c->N, P = d->P, rows = (T + BLOCK - 1) / BLOCK * BLOCK, size = sums_size(d->F, P);
    int64_t spare = MAX_LANES * BLOCK * (K > P ? K : P) / VL;
    int64_t vectors = rows * (K * K + 2 * K) + BLOCK * (K * K + P + K) + BLOCK_CHUNKS * (P + 1) * (P + 2) / 2 +
                      weights_size(d->F) + K * size + K + spare;
    double *room = simd_alloc((vectors + K * size) * VL + (P + 1) * (P + 1));
    if (!room) return NULL;
    d->kept = (vd *)room;
    s->g.lik = d->kept + rows * K * K;
    s->g.alpha = s->g.lik + rows * K;
    s->joint = s->g.alpha + rows * K;
    d->features = s->joint + BLOCK * K * K;
    d->totals = d->features + BLOCK * P;
    d->products = d->totals + BLOCK * K;
    d->weights = d->products + BLOCK_CHUNKS * (P + 1) * (P + 2) / 2;
    d->sums = d->weights + weights_size(d->F);
    s->g.work = d->sums + K * size;
    s->g.spare = d->u.spare = d->out.spare = (double *)(s->g.work + K);
    d->before = room + vectors * VL;
    clear(K * size, d->sums);
    return room;
}

/* A copy of all sums, or the way back. */
static void driven_keep(Driven *d, int back) {
    int64_t size = d->s.g.c->N * sums_size(d->F, d->P) * VL;
    keep(d->moments, (d->P + 1) * (d->P + 1), keep((double *)d->sums, size, d->before, back), back);
}

/* Sequences e[0 .. count) into the lanes of one of the groups, with rows of `width` numbers. */
static void driven_lanes(Group *g, const Entry *e, int64_t count, const int64_t *offsets, int64_t width,
                         const double *in, double *out) {
    g->lanes = (int)count;
    for (int l = 0; l < MAX_LANES; l++) {
        int64_t start = l < count ? offsets[e[l].s] * width : 0;
        g->T[l] = l < count ? e[l].T : 0;
        g->ll[l] = in ? in + start : NULL;
        g->gamma[l] = out ? out + start : NULL;
        g->doubtful[l] = l >= count;
    }
}

/* All sequences; those with status REDO were left out of everything, because what underflow took may matter there or
 * because they are too few to fill the lanes. Returns 0 without memory. */
static int driven_all(Driven *d, const int64_t *offsets, int64_t m, double *loglik, int64_t *status) {
    Steps *s = &d->s;
    const Chain *c = s->g.c;
    Entry *e = (Entry *)malloc((size_t)m * sizeof(Entry));
    if (!e) return 0;
    for (int64_t k = 0; k < m; k++) e[k] = (Entry){offsets[k + 1] - offsets[k], k};
    qsort(e, (size_t)m, sizeof(Entry), longer_first);
    double *room = driven_scratch(d, e[0].T);
    s->matrices_at = driven_matrices;
    s->moves_at = driven_moves;
    for (int64_t k = 0, count; room && k < m; k += count) {
        count = m - k < VL ? m - k : VL;
        if (!worth_lanes(c, e + k, count, 1)) {
            status[e[k].s] = REDO;
            count = 1;
            continue;
        }
        driven_lanes(&s->g, e + k, count, offsets, c->N, d->ll, d->gamma);
        driven_lanes(&d->u, e + k, count, offsets, d->P, d->inputs, NULL);
        driven_lanes(&d->out, e + k, count, offsets, c->N, NULL, d->leaving);
        driven_keep(d, 0);
        for (s->g.spoilt = 1; s->g.spoilt;) {
            clear(BLOCK * c->N * c->N, s->joint);
            steps_group(s);
            if (s->g.spoilt) driven_keep(d, 1);
        }
        for (int l = 0; l < count; l++) {
            loglik[e[k + l].s] = s->g.loglik[l];
            status[e[k + l].s] = s->g.doubtful[l] ? REDO : FINE;
        }
    }
    int64_t K = c->N, size = K * (d->P + 1);
    for (int64_t i = 0; room && i < K; i++)
        d->weight[i] += spread(d->F, K, d->P, d->skip[i], d->sums + i * sums_size(d->F, d->P),
                               d->gradient + i * size, d->hessian + i * size * size);
    simd_free(room);
    free(e);
    return room != NULL;
}

#endif
