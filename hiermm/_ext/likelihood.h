/* Steps of a scaled forward-backward that touch every state once: likelihoods, scaling, posteriors.
 * All arrays of states have `n` entries, a multiple of LANES; entries of padding are 0. */
#ifndef HIERMM_LIKELIHOOD_H
#define HIERMM_LIKELIHOOD_H

#include <math.h>
#include "levels.h"

INLINE double sum_lanes(vec a) {
    double sum = 0.0;
    for (int l = 0; l < LANES; l++) sum += a[l];
    return sum;
}

INLINE double min_lanes(vec a) {
    double low = a[0];
    for (int l = 1; l < LANES; l++) low = a[l] < low ? a[l] : low;
    return low;
}

INLINE vec splat(double x) { return x - (vec){0}; }

INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

/* out = exp(ll - top) and top = max(ll), row by row. A row of -inf alone gives zeros. */
static void likelihood_rows(const double *ll, ptrdiff_t rows, ptrdiff_t M, double *top, double *out, ptrdiff_t stride) {
    for (ptrdiff_t k = 0; k < rows; k++, ll += M, out += stride) {
        double m = ll[0];
        for (ptrdiff_t c = 1; c < M; c++) m = ll[c] > m ? ll[c] : m;
        top[k] = m;
        for (ptrdiff_t c = 0; c < M; c++) out[c] = m == -INFINITY ? 0.0 : exp(ll[c] - m);
    }
}

/* out[p] = x[column[p]] */
static void expand(const double *x, const int64_t *column, ptrdiff_t n, double *out) {
    for (ptrdiff_t p = 0; p < n; p++) out[p] = x[column[p]];
}

/* 2^-exponent(x), exact; the exponent is added to *sum. x must be positive and normal. */
INLINE double power_of_two(double x, int64_t *sum) {
    int64_t bits;
    memcpy(&bits, &x, 8);
    const int64_t e = (bits >> 52 & 2047) - 1023;
    *sum += e;
    bits = (1023 - e) << 52;
    memcpy(&x, &bits, 8);
    return x;
}

/* out = predicted * scale * b; returns its sum, and in *low the least predicted * scale (+ lift, 1 at padding). */
static double absorb(ptrdiff_t n, const double *predicted, double scale, const double *b, const double *lift,
                     double *out, double *low) {
    vec sum = {0}, least = splat(1.0);
    const vec s = splat(scale);
    for (ptrdiff_t p = 0; p < n; p += LANES) {
        const vec y = LOAD(predicted + p) * s, a = y * LOAD(b + p), mark = y + LOAD(lift + p);
        least = choose(mark < least, mark, least);
        sum += a;
        STORE(out + p, a);
    }
    *low = min_lanes(least);
    return sum_lanes(sum);
}

/* gamma = alpha * beta and w = b * beta where alpha > 0 (a message about impossible states must not drown the others),
 * with their sums. gamma may be alpha. */
static void combine(ptrdiff_t n, const double *alpha, const double *beta, const double *b, double *gamma, double *w,
                    double *gamma_sum, double *w_sum) {
    vec z = {0}, q = {0};
    for (ptrdiff_t p = 0; p < n; p += LANES) {
        const vec a = LOAD(alpha + p), be = LOAD(beta + p), g = a * be;
        const vec m = choose(a > (vec){0}, LOAD(b + p) * be, (vec){0});
        z += g, q += m;
        STORE(gamma + p, g);
        STORE(w + p, m);
    }
    *gamma_sum = sum_lanes(z), *w_sum = sum_lanes(q);
}

static void scale_to(ptrdiff_t n, const double *x, double factor, double *out) {
    const vec f = splat(factor);
    for (ptrdiff_t p = 0; p < n; p += LANES) STORE(out + p, LOAD(x + p) * f);
}

/* out = x * exp(ll[column]) for the states with mass, divided by the largest, through logarithms: for steps whose
 * product would leave the range of doubles. Returns the logarithm of that largest, -inf if there is none. */
static double weigh_in_logs(ptrdiff_t n, const double *x, const double *alive, const double *ll, const int64_t *column,
                            ptrdiff_t M, double *out) {
    double top = -INFINITY;
    for (ptrdiff_t p = 0; p < n; p++) {
        const double value = column[p] < M && x[p] > 0.0 && alive[p] > 0.0 ? log(x[p]) + ll[column[p]] : -INFINITY;
        out[p] = value;
        top = value > top ? value : top;
    }
    for (ptrdiff_t p = 0; p < n; p++) out[p] = top == -INFINITY ? 0.0 : exp(out[p] - top);
    return top;
}

#endif
