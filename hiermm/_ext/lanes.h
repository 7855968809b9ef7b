/* VL sequences side by side, one a lane: the state of all is an array (N, VL), to which the levels are axes in front of
 * an axis that never moves. Every operation of levels.h then works on whole vectors, whatever the sizes. */
#ifndef HIERMM_LANES_H
#define HIERMM_LANES_H

#include "likelihood.h"

/* exp(ll - top) of a row of each sequence, out (M, VL). A row of -inf alone gives zeros. */
static void lanes_likelihood(const double *const *row, ptrdiff_t M, double *out, double *top) {
    vd m = vset(-INFINITY);
    for (ptrdiff_t c = 0; c < M; c += VL) {
        const ptrdiff_t width = M - c < VL ? M - c : VL;
        vd r[VL];
        for (int l = 0; l < VL; l++) r[l] = width == VL ? vload(row[l] + c) : vload_part(row[l] + c, width, -INFINITY);
        vtranspose(r);
        for (ptrdiff_t i = 0; i < width; i++) {
            vstore(out + (c + i) * VL, r[i]);
            m = vmax(m, r[i]);
        }
    }
    vstore(top, m);
    m = vselect(m == vset(-INFINITY), vset(0.0), m);
    for (ptrdiff_t c = 0; c < M; c++) vstore(out + c * VL, vexp_low(vload(out + c * VL) - m));
}

/* Row l = column l of x (n, VL), where there is a row. */
static void lanes_scatter(const double *x, ptrdiff_t n, double *const *row) {
    for (ptrdiff_t c = 0; c < n; c += VL) {
        const ptrdiff_t width = n - c < VL ? n - c : VL;
        vd r[VL];
        for (ptrdiff_t i = 0; i < VL; i++) r[i] = i < width ? vload(x + (c + i) * VL) : vset(0.0);
        vtranspose(r);
        for (int l = 0; l < VL; l++)
            if (row[l] && width == VL) vstore(row[l] + c, r[l]);
            else if (row[l]) vstore_part(row[l] + c, width, r[l]);
    }
}

/* out = predicted * scale * b, with its sums; *low is the least predicted * scale of each lane. */
static void lanes_absorb(ptrdiff_t N, const double *predicted, const double *scale, const double *b,
                         const int64_t *emit, double *out, double *sum, double *low) {
    const vd s = vload(scale);
    vd total[2] = {}, least = vset(1.0);
    for (ptrdiff_t j = 0; j < N; j++) {
        const vd y = vload(predicted + j * VL) * s, a = y * vload(b + emit[j] * VL);
        least = vmin(least, y);
        if (j & 1) total[1] += a;
        else total[0] += a;
        vstore(out + j * VL, a);
    }
    vstore(sum, total[0] + total[1]);
    vstore(low, least);
}

/* w = b * beta * scale where alpha > 0, with its sums, and the sums of alpha * beta. */
static void lanes_combine(ptrdiff_t N, const double *alpha, const double *beta, const double *b, const int64_t *emit,
                          const double *scale, double *w, double *sum, double *evidence) {
    const vd s = vload(scale);
    vd z[2] = {}, q[2] = {};
    for (ptrdiff_t j = 0; j < N; j++) {
        const vd a = vload(alpha + j * VL), be = vload(beta + j * VL);
        const vd m = (vd)((vi)(vload(b + emit[j] * VL) * s * be) & (vi)(a > (vd){}));
        if (j & 1) z[1] += a * be, q[1] += m;
        else z[0] += a * be, q[0] += m;
        vstore(w + j * VL, m);
    }
    vstore(evidence, z[0] + z[1]);
    vstore(sum, q[0] + q[1]);
}

/* share = alpha * factor, posterior = share * beta. */
static void lanes_posteriors(ptrdiff_t N, const double *alpha, const double *beta, const double *factor, double *share,
                             double *posterior) {
    const vd f = vload(factor);
    for (ptrdiff_t j = 0; j < N; j++) {
        const vd a = vload(alpha + j * VL) * f;
        vstore(share + j * VL, a);
        vstore(posterior + j * VL, a * vload(beta + j * VL));
    }
}

/* x *= factor, lane by lane. */
static void lanes_scale(ptrdiff_t N, const double *factor, double *x) {
    for (ptrdiff_t j = 0; j < N; j++) vstore(x + j * VL, vload(x + j * VL) * vload(factor));
}

/* x = 1 in the lanes with a mark. */
static void lanes_ones(ptrdiff_t N, const double *marks, double *x) {
    const vi mask = vload(marks) > (vd){};
    for (ptrdiff_t j = 0; j < N; j++) vstore(x + j * VL, vselect(mask, vset(1.0), vload(x + j * VL)));
}

/* out (M, VL) = sums of x (N, VL) over the states of a column. */
static void lanes_columns(ptrdiff_t N, ptrdiff_t M, const double *x, const int64_t *emit, double *out) {
    memset(out, 0, (size_t)(M * VL) * sizeof(double));
    for (ptrdiff_t j = 0; j < N; j++) {
        double *sum = out + emit[j] * VL;
        vstore(sum, vload(sum) + vload(x + j * VL));
    }
}

/* scale = the power of two that brings sum near 1; exponent counts. */
static void lanes_power(const double *sum, double *scale, double *exponent) {
    vd e = vload(exponent);
    vstore(scale, vscale(vload(sum), &e));
    vstore(exponent, e);
}

/* Tables whose lanes hold rows of their own. */
static void lanes_fill(const Level *g, Table *table, const double *const *rows) {
    table->row = rows[0];
    for (ptrdiff_t e = 0; e < g->entries; e += VL)
        for (int l = 0; l < VL; l++) table->coefficients[e + l] = rows[l][table->map[e]];
}

/* xi[l] += products * row l, where there is an xi; the products stay. */
static void lanes_counts(const Level *g, const double *const *rows, double *const *xi) {
    for (ptrdiff_t e = 0; e < g->entries; e += VL)
        for (int l = 0; l < VL; l++)
            if (xi[l]) xi[l][g->from.map[e]] += g->products[e + l] * rows[l][g->from.map[e]];
}

static void products_clear(const Level *g) { memset(g->products, 0, (size_t)g->entries * sizeof(double)); }

#endif
