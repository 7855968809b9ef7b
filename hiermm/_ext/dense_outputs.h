/* Outputs with independent normal noise, without inputs, side by side in the lanes: their likelihoods are worked out
 * where the recursion wants them, and the sums of the M-step where it gives the posteriors. */
#ifndef HIERMM_DENSE_OUTPUTS_H
#define HIERMM_DENSE_OUTPUTS_H

#include "dense_group.h"
#include "normal.h"

typedef struct Outputs {
    const Normal *e;    /* P = 0 */
    const double *y;    /* (n, D) packed, NaN where not observed */
    double *first;      /* (N,) OUT, added to: posteriors of first steps */
    NormalSums to;      /* OUT, added to */
    double *scratch;    /* of what follows */
    double *half, *norm; /* (N, D) -1 / (2 variance), -log(2 pi variance) / 2 */
    vd *block;          /* (BLOCK, D, NV): outputs of a block, 0 where there is none */
    vi *seen;           /* mask of where there is one; what lanes that do not count hold may be no number */
    vd *sums;           /* of a group, lane by lane: (N, D, 3) of gamma, gamma r and gamma r^2, and (N,) first */
    Group from;         /* `ll` are the outputs of each lane, T is 0 where a lane does not count */
    vd ends[MAX_NV];    /* this T */
    int64_t shortest;   /* the least of it */
} Outputs;

/* Returns 0 without memory. */
static int outputs_prepare(Outputs *o) {
    int64_t size = o->e->N * o->e->D, block = BLOCK * o->e->D * MAX_NV, spare = MAX_LANES * BLOCK * o->e->D;
    o->scratch = simd_alloc((2 * block + 3 * size + o->e->N) * VL + spare + 2 * size);
    if (!o->scratch) return 0;
    o->block = (vd *)o->scratch;
    o->seen = (vi *)(o->block + block);
    o->sums = o->block + 2 * block;
    o->from.spare = (double *)(o->sums + 3 * size + o->e->N);
    o->half = o->from.spare + spare;
    o->norm = o->half + size;
    for (int64_t q = 0; q < size; q++) {
        o->half[q] = -0.5 / o->e->variances[q];
        o->norm[q] = -0.5 * log(2.0 * M_PI * o->e->variances[q]);
    }
    return 1;
}

/* To be said before each pass: which lanes of the group count, up to where. */
static void outputs_ends(int NV, const Group *g) {
    Outputs *o = g->outputs;
    o->shortest = INT64_MAX;
    for (int l = 0; l < NV * VL; l++) {
        int64_t T = o->from.T[l] = g->doubtful[l] ? 0 : g->T[l];
        o->ends[l / VL][l % VL] = (double)T;
        o->shortest = T < o->shortest ? T : o->shortest;
    }
}

/* Steps t0 .. t0 + BLOCK - 1 of the lanes. Returns whether all outputs are there; then `seen` is left alone. */
INLINE int outputs_block(const int NV, Outputs *o, int64_t t0) {
    const int64_t D = o->e->D;
    vi missing = {};
    gather(D, NV, &o->from, t0, o->block);
    for (int64_t q = 0; q < BLOCK * D * NV; q++) missing |= o->block[q] != o->block[q];
    if (t0 + BLOCK <= o->shortest && vfirst(missing) == VL) return 1;
    for (int64_t r = 0, at = 0; r < BLOCK; r++) {
        for (int64_t d = 0; d < D; d++) {
            for (int v = 0; v < NV; v++, at++) {
                vi there = (o->block[at] == o->block[at]) & (vset((double)(t0 + r)) < o->ends[v]);
                o->block[at] = (vd)((vi)o->block[at] & there);
                o->seen[at] = there;
            }
        }
    }
    return 0;
}

/* Log-likelihoods of a block under state k, to its columns of (BLOCK, K, NV). D_ is D if it is known, else 0. */
INLINE void output_logliks(const int NV, const int D_, const int all, const Outputs *o, int64_t k, vd *out) {
    const int64_t K = o->e->N, D = D_ ? D_ : o->e->D;
    const double *mean = o->e->intercept + k * D, *half = o->half + k * D, *norm = o->norm + k * D;
    const vd *y = o->block;
    const vi *seen = o->seen;
    for (int64_t r = 0; r < BLOCK; r++, y += D * NV, seen += D * NV, out += K * NV) {
        for (int v = 0; v < NV; v++) {
            vd total = {};
            for (int64_t d = 0; d < D; d++) {
                vd rest = y[d * NV + v] - vset(mean[d]), ll = vset(norm[d]) + vset(half[d]) * rest * rest;
                total += all ? ll : (vd)((vi)ll & seen[d * NV + v]);
            }
            out[v] = total;
        }
    }
}

/* Log-likelihoods of a block, (BLOCK, K, NV). */
INLINE void gather_outputs(const int NV, const Group *g, int64_t t0, vd *out) {
    Outputs *o = g->outputs;
    int all = outputs_block(NV, o, t0);
    for (int64_t k = 0; k < o->e->N; k++, out += NV) {
        if (!all) output_logliks(NV, 0, 0, o, k, out);
        else if (o->e->D == 1) output_logliks(NV, 1, 1, o, k, out);
        else if (o->e->D == 2) output_logliks(NV, 2, 1, o, k, out);
        else output_logliks(NV, 0, 1, o, k, out);
    }
}

/* The sums of output d under state k from a block of posteriors; q = k D + d. */
INLINE void output_sums(const int NV, const int all, const Outputs *o, int64_t q, int64_t d, const vd *gamma) {
    const int64_t K = o->e->N, D = o->e->D;
    const vd mean = vset(o->e->intercept[q]), *y = o->block + d * NV;
    const vi *seen = o->seen + d * NV;
    vd weight[MAX_NV] = {}, first[MAX_NV] = {}, second[MAX_NV] = {}, *to = o->sums + 3 * q;
    for (int64_t r = 0; r < BLOCK; r++, y += D * NV, seen += D * NV, gamma += K * NV) {
        for (int v = 0; v < NV; v++) {
            vd rest = y[v] - mean, share = all ? gamma[v] : (vd)((vi)gamma[v] & seen[v]), part = share * rest;
            weight[v] += share;
            first[v] += part;
            second[v] += part * rest;
        }
    }
    for (int v = 0; v < NV; v++) {
        to[0] += weight[v];
        to[1] += first[v];
        to[2] += second[v];
    }
}

/* Posteriors of a block, (BLOCK, K, NV), to the sums of the group. */
INLINE void sum_outputs(const int NV, const Group *g, int64_t t0, const vd *gamma) {
    Outputs *o = g->outputs;
    const int64_t K = o->e->N, D = o->e->D;
    vd *first = o->sums + 3 * K * D;
    int all = outputs_block(NV, o, t0);
    for (int64_t k = 0; k < K; k++, gamma += NV) {
        for (int v = 0; !t0 && v < NV; v++) first[k] += (vd)((vi)gamma[v] & (o->ends[v] > (vd){}));
        for (int64_t d = 0; d < D; d++) {
            if (all) output_sums(NV, 1, o, k * D + d, d, gamma);
            else output_sums(NV, 0, o, k * D + d, d, gamma);
        }
    }
}

static void gather_outputs_1(const Group *g, int64_t t0, vd *out) { gather_outputs(1, g, t0, out); }
static void gather_outputs_2(const Group *g, int64_t t0, vd *out) { gather_outputs(2, g, t0, out); }
static void sum_outputs_1(const Group *g, int64_t t0, const vd *gamma) { sum_outputs(1, g, t0, gamma); }
static void sum_outputs_2(const Group *g, int64_t t0, const vd *gamma) { sum_outputs(2, g, t0, gamma); }

/* The sums of a group, to those of all. */
static void clear_outputs(const Outputs *o) {
    memset(o->sums, 0, (size_t)(3 * o->e->N * o->e->D + o->e->N) * sizeof(vd));
}
static void add_outputs(const Outputs *o) {
    int64_t N = o->e->N, size = N * o->e->D;
    for (int64_t q = 0; q < size; q++) {
        o->to.gram[q] += hsum(o->sums[3 * q]);
        o->to.cross[q] += hsum(o->sums[3 * q + 1]);
        o->to.scatter[q] += hsum(o->sums[3 * q + 2]);
    }
    for (int64_t k = 0; k < N; k++) o->first[k] += hsum(o->sums[3 * size + k]);
}

#endif
