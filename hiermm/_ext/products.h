/* Products of small dense matrices: the inner loop of every spectrum.
 *
 * Arrays P and out are (inner, ld) and (rows, ld), row-major, with ld a multiple of PRODUCT_WIDTH; the columns beyond
 * the true ones are padding that holds zeros and stays zero. M is (rows, inner) and is read one number at a time, so
 * it needs neither padding nor alignment.
 */
#ifndef HIERMM_PRODUCTS_H
#define HIERMM_PRODUCTS_H

#include <math.h>
#include <stddef.h>

#include "simd.h"

enum { PRODUCT_WIDTH = 8, VECTORS = VL == 8 ? 1 : 2 };

/* out[i : i + R] = M[i : i + R] P over one strip of columns: R * VECTORS running sums stay in registers and hide the
 * latency of the multiply-add. R is a constant at every call. */
INLINE void multiply_rows(const int R, const double *M, ptrdiff_t inner, const double *P, double *out, ptrdiff_t ld) {
    vd sum[4][2] = {{{0}}};
    for (ptrdiff_t k = 0; k < inner; k++)
        for (int v = 0; v < VECTORS; v++) {
            vd p = vload(P + k * ld + v * VL);
            for (int r = 0; r < R; r++) sum[r][v] += M[r * inner + k] * p;
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < VECTORS; v++) vstore(out + r * ld + v * VL, sum[r][v]);
}

/* out = M P. */
static inline void multiply(const double *M, ptrdiff_t rows, ptrdiff_t inner, const double *P, double *out, ptrdiff_t ld) {
    for (ptrdiff_t j = 0; j < ld; j += VECTORS * VL) {
        ptrdiff_t i = 0;
        for (; i + 4 <= rows; i += 4) multiply_rows(4, M + i * inner, inner, P + j, out + i * ld + j, ld);
        for (; i < rows; i++) multiply_rows(1, M + i * inner, inner, P + j, out + i * ld + j, ld);
    }
}

/* y += a * x over n entries. */
static inline void add_multiple(double *restrict y, const double *restrict x, double a, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) y[i] += a * x[i];
}

static inline double dot(const double *x, const double *y, ptrdiff_t n) {
    double sum = 0.0;
    for (ptrdiff_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* out (n-1, n-1) = B' M B for the Helmert basis B of the vectors that sum to zero; line (n,) is scratch. n^2 additions,
 * begun with differences of columns, so that equal columns cancel exactly. */
static inline void restrict_map(const double *M, ptrdiff_t n, double *out, double *line) {
    for (ptrdiff_t k = 0; k < n; k++) line[k] = 0.0; /* sums over the rows above, column by column */
    for (ptrdiff_t i = 0; i < n; i++) {
        double running = 0.0;
        for (ptrdiff_t k = 1; k < n; k++) {
            double difference = M[i * n + k] - M[i * n];
            double value = (running - k * difference) / sqrt((double)k * (k + 1)); /* (M B)[i, k] */
            running += difference;
            if (i > 0) out[(i - 1) * (n - 1) + k - 1] = (line[k] - i * value) / sqrt((double)i * (i + 1));
            line[k] += value;
        }
    }
}

/* Divide by a power of two where the largest entry is far from one, and return its exponent. */
static inline int rescale(double *P, ptrdiff_t size) {
    int exponent = 0;
    double top;
    ptrdiff_t done = 0;
    vd tops = vset(0.0);
    for (; done + VL <= size; done += VL) tops = vmax(tops, vmax(vload(P + done), -vload(P + done)));
    top = hmax(tops);
    for (; done < size; done++) top = fabs(P[done]) > top ? fabs(P[done]) : top;
    if (top == 0.0) return 0;
    frexp(top, &exponent);
    if (-30 <= exponent && exponent <= 30) return 0;
    if (exponent < -1000) { /* 2**-exponent would overflow */
        for (ptrdiff_t i = 0; i < size; i++) P[i] = ldexp(P[i], -exponent);
        return exponent;
    }
    double factor = ldexp(1.0, -exponent);
    for (ptrdiff_t i = 0; i < size; i++) P[i] *= factor;
    return exponent;
}

#endif
