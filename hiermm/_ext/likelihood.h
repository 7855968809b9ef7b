/* Steps of a scaled forward-backward that touch every state once: likelihoods, scaling, posteriors.
 * Arrays of states have `n` entries, a multiple of VL; entries of padding are 0. */
#ifndef HIERMM_LIKELIHOOD_H
#define HIERMM_LIKELIHOOD_H

#include "levels.h"

/* Is any lane below x? */
INLINE int any_below(vd a, double x) {
#if VL == 8
    return _mm512_cmp_pd_mask((__m512d)a, _mm512_set1_pd(x), _CMP_LT_OQ) != 0;
#elif VL == 4
    return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, _mm256_set1_pd(x), _CMP_LT_OQ)) != 0;
#else
    return hmin(a) < x;
#endif
}

/* out = exp(x - top), over `count` doubles; x <= top, and -inf gives 0. */
static __attribute__((noinline)) void exp_minus(const double *x, ptrdiff_t count, double top, double *out) {
    ptrdiff_t c = 0;
    for (; c + VL <= count; c += VL) vstore(out + c, vexp_low(vload(x + c) - vset(top)));
    if (c < count) vstore_part(out + c, count - c, vexp_low(vload_part(x + c, count - c, -INFINITY) - vset(top)));
}

static double row_max(const double *x, ptrdiff_t count) {
    ptrdiff_t c = 0;
    vd m = vset(-INFINITY), more = m;
    for (; c + 2 * VL <= count; c += 2 * VL) m = vmax(m, vload(x + c)), more = vmax(more, vload(x + c + VL));
    for (; c + VL <= count; c += VL) m = vmax(m, vload(x + c));
    if (c < count) m = vmax(m, vload_part(x + c, count - c, -INFINITY));
    return hmax(vmax(m, more));
}

/* out (rows, stride) = exp(ll - top) and top = max(ll), row by row. A row of -inf alone gives zeros. */
static void likelihood_rows(const double *ll, ptrdiff_t rows, ptrdiff_t M, double *top, double *out, ptrdiff_t stride) {
    for (ptrdiff_t k = 0; k < rows; k++) {
        const double *x = ll + k * M;
        double *row = out + k * stride, m = x[0];
        if (M >= VL) {
            m = row_max(x, M);
        } else {
            for (ptrdiff_t c = 1; c < M; c++) m = x[c] > m ? x[c] : m;
        }
        top[k] = m;
        m = m == -INFINITY ? 0.0 : m;
        if (M >= VL) {
            exp_minus(x, M, m, row);
            if (stride > M) row[M] = 0.0;
        } else { /* exponentials of short rows together, below */
            for (ptrdiff_t c = 0; c < M; c++) row[c] = x[c] - m;
            if (stride > M) row[M] = -INFINITY;
        }
    }
    if (M < VL) exp_minus(out, rows * stride, 0.0, out);
}

/* Where a vector of padded states lies in a natural row: the lanes in `mask` hold the `count` doubles from `first` on. */
typedef struct {
    ptrdiff_t first;
    int mask, count;
} Packing;

/* Vector v of a row of states; without packing the row is padded already. */
INLINE vd states_load(const double *row, const Packing *packing, ptrdiff_t v, double fill) {
    if (!packing) return vload(row + v * VL);
    const Packing p = packing[v];
#if VL == 8
    const __m512d x = _mm512_maskz_loadu_pd((__mmask8)((1 << p.count) - 1), row + p.first);
    return (vd)_mm512_mask_expand_pd(_mm512_set1_pd(fill), (__mmask8)p.mask, x);
#else
    vd x = vset(fill);
    for (int l = 0, i = 0; l < VL; l++)
        if (p.mask >> l & 1) x[l] = row[p.first + i++];
    return x;
#endif
}
INLINE void states_store(double *row, const Packing *packing, ptrdiff_t v, vd x) {
    if (!packing) {
        vstore(row + v * VL, x);
        return;
    }
    const Packing p = packing[v];
#if VL == 8
    _mm512_mask_storeu_pd(row + p.first, (__mmask8)((1 << p.count) - 1),
                          _mm512_maskz_compress_pd((__mmask8)p.mask, (__m512d)x));
#else
    for (int l = 0, i = 0; l < VL; l++)
        if (p.mask >> l & 1) row[p.first + i++] = x[l];
#endif
}
/* The largest of a row of states in n vectors. */
INLINE double row_top(ptrdiff_t n, const double *ll, const Packing *packing) {
    vd most = states_load(ll, packing, 0, -INFINITY);
#pragma GCC unroll 8
    for (ptrdiff_t v = 1; v < n; v++) most = vmax(most, states_load(ll, packing, v, -INFINITY));
    return hmax(most);
}

/* b = exp(ll - top) for a row of states, n vectors with 0 at padding; `top` is the largest. */
INLINE void row_likelihood(ptrdiff_t n, const double *ll, const Packing *packing, double top, double *b) {
    const vd shift = vset(top == -INFINITY ? 0.0 : top);
#pragma GCC unroll 8
    for (ptrdiff_t v = 0; v < n; v++) vstore(b + v * VL, vexp_low(states_load(ll, packing, v, -INFINITY) - shift));
}

/* The same for rows of N log-likelihoods; out has n doubles a row. */
static void likelihood_states(const double *ll, ptrdiff_t rows, ptrdiff_t N, const Packing *packing, double *top,
                              double *out, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < rows; k++, ll += N) {
        top[k] = row_top(n / VL, ll, packing);
        row_likelihood(n / VL, ll, packing, top[k], out + k * n);
    }
}

/* out[p] = x[column[p]] */
static void expand(const double *x, const int64_t *column, ptrdiff_t n, double *out) {
    for (ptrdiff_t p = 0; p < n; p++) out[p] = x[column[p]];
}

/* out = predicted * scale * b; returns its sum. *faint tells whether some predicted * scale (+ lift, 1 at padding) is
 * below `least`. */
INLINE double absorb(ptrdiff_t n, const double *predicted, double scale, const double *b, const double *lift,
                     double least, double *out, int *faint) {
    vd sum = {}, more = {}, low = vset(1.0);
    const vd s = vset(scale);
    ptrdiff_t p = 0;
    for (; p + 2 * VL <= n; p += 2 * VL) {
        const vd x = vload(predicted + p) * s, y = vload(predicted + p + VL) * s;
        const vd a = x * vload(b + p), c = y * vload(b + p + VL);
        low = vmin(low, vmin(x + vload(lift + p), y + vload(lift + p + VL)));
        sum += a, more += c;
        vstore(out + p, a);
        vstore(out + p + VL, c);
    }
    for (; p < n; p += VL) {
        const vd x = vload(predicted + p) * s, a = x * vload(b + p);
        low = vmin(low, x + vload(lift + p));
        sum += a;
        vstore(out + p, a);
    }
    *faint = any_below(low, least);
    return hsum(sum + more);
}

enum { AHEAD = 4 }; /* rows that a backward recursion asks for in advance */

/* Ask for n doubles that a backward recursion will want soon: the rows lie behind each other in memory, but their use
 * is too far apart for the processor to foresee it. */
INLINE void ask_for(const double *x, ptrdiff_t n) {
    for (ptrdiff_t p = 0; p < n; p += 8) __builtin_prefetch(x + p);
}

/* w = b * beta * scale where alpha > 0: a message about states without mass must not drown the others. Gives the sum
 * of w, and in *evidence that of alpha * beta. */
INLINE double combine(ptrdiff_t n, const double *alpha, const double *beta, const double *b, double scale, double *w,
                      double *evidence) {
    const vd s = vset(scale);
    vd z = {}, y = {}, q = {}, r = {};
    ptrdiff_t p = 0;
    for (; p + 2 * VL <= n; p += 2 * VL) {
        const vd a = vload(alpha + p), be = vload(beta + p), c = vload(alpha + p + VL), de = vload(beta + p + VL);
        const vd m = (vd)((vi)(vload(b + p) * s * be) & (vi)(a > (vd){}));
        const vd o = (vd)((vi)(vload(b + p + VL) * s * de) & (vi)(c > (vd){}));
        z += a * be, y += c * de, q += m, r += o;
        vstore(w + p, m);
        vstore(w + p + VL, o);
    }
    for (; p < n; p += VL) {
        const vd a = vload(alpha + p), be = vload(beta + p);
        const vd m = (vd)((vi)(vload(b + p) * s * be) & (vi)(a > (vd){}));
        z += a * be, q += m;
        vstore(w + p, m);
    }
    *evidence = hsum(z + y);
    return hsum(q + r);
}

/* share = alpha * factor, posterior = share * beta; the posterior may take the place of alpha. */
INLINE void posteriors(ptrdiff_t n, const double *alpha, const double *beta, double factor, double *share,
                       double *posterior) {
    const vd f = vset(factor);
    for (ptrdiff_t p = 0; p < n; p += VL) {
        const vd a = vload(alpha + p) * f;
        vstore(share + p, a);
        vstore(posterior + p, a * vload(beta + p));
    }
}

/* out = x * exp(ll[column]) for the states with mass, divided by the largest, through logarithms: for steps whose
 * product would leave the range of doubles. The n states lie `step` apart. Returns the logarithm of that largest, -inf if
 * there is none. */
static double weigh_in_logs(ptrdiff_t n, ptrdiff_t step, const double *x, const double *alive, const double *ll,
                            const int64_t *column, ptrdiff_t M, double *out) {
    double top = -INFINITY;
    for (ptrdiff_t j = 0; j < n; j++) {
        const ptrdiff_t p = j * step;
        const int weighs = column[j] < M && x[p] > 0.0 && alive[p] > 0.0;
        out[p] = weighs ? log(x[p]) + ll[column[j]] : -INFINITY;
        top = out[p] > top ? out[p] : top;
    }
    for (ptrdiff_t j = 0; j < n; j++) out[j * step] = top == -INFINITY ? 0.0 : exp(out[j * step] - top);
    return top;
}

#endif
