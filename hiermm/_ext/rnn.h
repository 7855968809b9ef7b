/* Inner loops of the recurrent network: a batch of sequences lies side by side in the SIMD lanes.

   A "row" is one quantity (a unit, an input, an output) at one step for every sequence of a group: `nv` vectors of VL
   doubles. Matrices of rows are stored row after row. All loops over time, levels and delays are in rnn.pyx. */

#ifndef HIERMM_RNN_H
#define HIERMM_RNN_H

#include "simd.h"

#if VL == 8
#define WIDEST 4 /* vectors in a row at most */
#define OUTER_ROWS 4
#else
#define WIDEST 2
#define OUTER_ROWS 3
#endif
#define TILE_ROWS 8
#define OUTER_COLS 4

INLINE double sum_lanes(const double *row) { return hsum(*(const vd *)row); }

/* One part of a sum over sources: rows j of w.T x, w[i * stride + j], x row i. */
typedef struct {
    const double *w, *x;
    int64_t n, stride;
} segment;

/* What becomes of the sums. LINEAR: out = sum. FORWARD: activity = tanh(sum), out = keep * previous + rate * activity
   (out = activity where previous is NULL). BACKWARD: the sum, plus carry_in if any, is dL/dx; out = dL/dz; carry_out, if
   any, what passes to the state one step earlier. A level that holds has activity NULL and passes everything on. */
enum { LINEAR, FORWARD, BACKWARD };
typedef struct {
    double keep, rate;
    const double *previous, *carry_in;
    double *activity, *carry_out, *out;
} result;

INLINE void finish(const int kind, vd s, const result *to, int64_t k) {
    if (kind == LINEAR) {
        ((vd *)to->out)[k] = s;
    } else if (kind == FORWARD) {
        vd h = vtanh(s);
        if (to->activity) ((vd *)to->activity)[k] = h;
        if (to->previous) h = vset(to->keep) * ((const vd *)to->previous)[k] + vset(to->rate) * h;
        ((vd *)to->out)[k] = h;
    } else {
        if (to->activity) {
            vd h = ((const vd *)to->activity)[k];
            ((vd *)to->out)[k] = vset(to->rate) * s * (vset(1.0) - h * h);
            if (to->carry_out) ((vd *)to->carry_out)[k] = vset(to->keep) * s;
        } else {
            ((vd *)to->carry_out)[k] = s;
        }
    }
}

INLINE void tile(const int kind, const int J, const int NV, int64_t j0, const segment *s, int64_t n, const result *to) {
    vd acc[TILE_ROWS][WIDEST];
    for (int j = 0; j < J; j++)
        for (int v = 0; v < NV; v++)
            acc[j][v] = kind == BACKWARD && to->carry_in ? ((const vd *)to->carry_in)[(j0 + j) * NV + v] : (vd){};
    for (int64_t k = 0; k < n; k++) {
        const double *w = s[k].w + j0;
        const vd *x = (const vd *)s[k].x;
        for (int64_t i = 0; i < s[k].n; i++, w += s[k].stride, x += NV)
            for (int j = 0; j < J; j++) {
                vd wj = vset(w[j]);
                for (int v = 0; v < NV; v++) acc[j][v] += wj * x[v];
            }
    }
    for (int j = 0; j < J; j++)
        for (int v = 0; v < NV; v++) finish(kind, acc[j][v], to, (j0 + j) * NV + v);
}

INLINE void tiles(const int kind, const int NV, int64_t rows, const segment *s, int64_t n, const result *to) {
    const int64_t most = NV == 4 ? 6 : NV == 2 && VL < 8 ? 6 : TILE_ROWS, count = (rows + most - 1) / most;
    for (int64_t k = 0; k < count; k++) {
        int64_t j0 = rows * k / count, j1 = rows * (k + 1) / count;
        switch (j1 - j0) {
        case 1: tile(kind, 1, NV, j0, s, n, to); break;
        case 2: tile(kind, 2, NV, j0, s, n, to); break;
        case 3: tile(kind, 3, NV, j0, s, n, to); break;
        case 4: tile(kind, 4, NV, j0, s, n, to); break;
        case 5: tile(kind, 5, NV, j0, s, n, to); break;
        case 6: tile(kind, 6, NV, j0, s, n, to); break;
        case 7: tile(kind, 7, NV, j0, s, n, to); break;
        default: tile(kind, 8, NV, j0, s, n, to); break;
        }
    }
}

#if WIDEST == 4
#define WIDTHS(kind) \
    if (nv == 4) tiles(kind, 4, rows, s, n, to); \
    else if (nv == 2) tiles(kind, 2, rows, s, n, to); \
    else tiles(kind, 1, rows, s, n, to);
#else
#define WIDTHS(kind) \
    if (nv == 2) tiles(kind, 2, rows, s, n, to); \
    else tiles(kind, 1, rows, s, n, to);
#endif
static void linear_rows(int64_t nv, int64_t rows, const segment *s, int64_t n, const result *to) { WIDTHS(LINEAR) }
static void forward_rows(int64_t nv, int64_t rows, const segment *s, int64_t n, const result *to) { WIDTHS(FORWARD) }
static void backward_rows(int64_t nv, int64_t rows, const segment *s, int64_t n, const result *to) { WIDTHS(BACKWARD) }

/* g[j * stride + i] += sum over steps of a_j * b_i, lane by lane (g holds one vector an entry). */
INLINE void outer_tile(const int J, const int I, int64_t nv, int64_t steps, const double *a, int64_t a_step,
                       const double *b, int64_t b_step, double *g, int64_t stride) {
    vd c[OUTER_ROWS][OUTER_COLS];
    for (int j = 0; j < J; j++)
        for (int i = 0; i < I; i++) c[j][i] = ((vd *)g)[j * stride + i];
    for (int64_t t = 0; t < steps; t++, a += a_step, b += b_step)
        for (int64_t v = 0; v < nv; v++) {
            vd x[OUTER_COLS];
            for (int i = 0; i < I; i++) x[i] = ((const vd *)b)[i * nv + v];
            for (int j = 0; j < J; j++) {
                vd y = ((const vd *)a)[j * nv + v];
                for (int i = 0; i < I; i++) c[j][i] += y * x[i];
            }
        }
    for (int j = 0; j < J; j++)
        for (int i = 0; i < I; i++) ((vd *)g)[j * stride + i] = c[j][i];
}

#define OUTER(J) \
    switch (i1 - i0) { \
    case 1: outer_tile(J, 1, nv, steps, aj, a_step, bi, b_step, gji, stride); break; \
    case 2: outer_tile(J, 2, nv, steps, aj, a_step, bi, b_step, gji, stride); break; \
    case 3: outer_tile(J, 3, nv, steps, aj, a_step, bi, b_step, gji, stride); break; \
    default: outer_tile(J, 4, nv, steps, aj, a_step, bi, b_step, gji, stride); break; \
    }

static void outer_rows(int64_t nv, int64_t rows, int64_t cols, int64_t steps, const double *a, int64_t a_step,
                       const double *b, int64_t b_step, double *g, int64_t stride) {
    int64_t nj = (rows + OUTER_ROWS - 1) / OUTER_ROWS, ni = (cols + OUTER_COLS - 1) / OUTER_COLS;
    for (int64_t jt = 0; jt < nj; jt++)
        for (int64_t it = 0; it < ni; it++) {
            int64_t j0 = rows * jt / nj, j1 = rows * (jt + 1) / nj, i0 = cols * it / ni, i1 = cols * (it + 1) / ni;
            const double *aj = a + j0 * nv * VL, *bi = b + i0 * nv * VL;
            double *gji = g + (j0 * stride + i0) * VL;
            switch (j1 - j0) {
            case 1: OUTER(1) break;
            case 2: OUTER(2) break;
            case 3: OUTER(3) break;
#if OUTER_ROWS == 4
            default: OUTER(4) break;
#endif
            }
        }
}

/* out becomes out - y where y is observed and 0 elsewhere; its squares are added to sums, a row an output. */
static void squared_errors(int64_t nv, int64_t rows, double *out, const double *y, double *sums) {
    for (int64_t k = 0; k < rows * nv; k++) {
        vd target = ((const vd *)y)[k], e = vselect(target == target, ((vd *)out)[k] - target, (vd){});
        ((vd *)out)[k] = e;
        ((vd *)sums)[k] += e * e;
    }
}

/* out becomes softmax(out) - onehot(y) where y is observed and 0 elsewhere. -log p(y) is added to sums (one row), but
   for the logarithm of the normalisers, which are multiplied into `product` (see flush_product). */
static void softmax_errors(int64_t nv, int64_t rows, double *out, const double *y, double *sums, double *product) {
    vd *o = (vd *)out;
    for (int64_t v = 0; v < nv; v++) {
        vd target = ((const vd *)y)[v], top = o[v], total = {}, zero = {};
        vi seen = target == target;
        for (int64_t k = 1; k < rows; k++) top = vmax(o[k * nv + v], top);
        for (int64_t k = 0; k < rows; k++) {
            vd z = o[k * nv + v] - top;
            ((vd *)sums)[v] -= vselect(target == vset((double)k), z, zero);
            o[k * nv + v] = vexp_low(z);
            total += o[k * nv + v];
        }
        vd r = vset(1.0) / total;
        for (int64_t k = 0; k < rows; k++) {
            vd error = o[k * nv + v] * r - vselect(target == vset((double)k), vset(1.0), zero);
            o[k * nv + v] = vselect(seen, error, zero);
        }
        ((vd *)product)[v] *= vselect(seen, total, vset(1.0));
    }
}

/* Move the logarithm of the products into sums: normalisers lie in [1, rows], so 16 of them never overflow. */
static void flush_product(int64_t lanes, double *sums, double *product) {
    for (int64_t l = 0; l < lanes; l++) {
        sums[l] += log(product[l]);
        product[l] = 1.0;
    }
}

/* vtanh over n numbers, for the tests. */
static void tanh_array(int64_t n, const double *x, double *out) {
    for (int64_t k = 0; k < n; k += VL) {
        double part[VL] = {0};
        int64_t m = n - k < VL ? n - k : VL;
        vd v;
        memcpy(part, x + k, m * sizeof(double));
        memcpy(&v, part, sizeof v);
        v = vtanh(v);
        memcpy(part, &v, sizeof v);
        memcpy(out + k, part, m * sizeof(double));
    }
}

#endif
