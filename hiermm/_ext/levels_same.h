/* Whole rows of the scaled recursions, for small chains under the coupling "slower": what levels.h and likelihood.h do
 * one after the other through memory, with all sizes known to the compiler, so that a row stays in registers from one
 * level to the next and the likelihoods of a row are made while the row before is still on its way. Only rows in range
 * are made here; a row that needs care is left to the recursions of multiscale_scaled.pxi. */
#ifndef HIERMM_LEVELS_SAME_H
#define HIERMM_LEVELS_SAME_H

#include "likelihood.h"

enum { SAME_VECTORS = 256 / VL }; /* the most that these chains have */

/* What all rows share. A row is in range if no state is predicted with less than `faint`, and products sum to at least
 * `weak`. */
typedef struct {
    const Level *levels;
    const Shape *shapes;
    int clocked; /* some level does not move into every step */
    const double *lift;
    const Packing *packing;
    ptrdiff_t states;
    double faint, weak;
} Frame;

/* Where a recursion has come to: the sum of the last row, the power of two that brings it into range (the next row is
 * multiplied by it), the sum of all exponents, and what the log-likelihoods were shifted by in all. */
typedef struct {
    double total, power, exponent, shift;
} Scale;

/* A chain of up to four levels of 2 to 4 values is known by its sizes as digits, slowest first: 34 is a level of 3
 * values over one of 4. Below, `sizes` and `s` are constants, and the geometry needs no loops, so that the compiler has
 * it before it unrolls any. */
INLINE int same_levels(const int sizes) { return sizes < 10 ? 1 : sizes < 100 ? 2 : sizes < 1000 ? 3 : 4; }

/* The number of values of level s, 1 without one. */
INLINE int same_size(const int sizes, const int s) {
    const int above = same_levels(sizes) - 1 - s;
    if (above < 0 || above > 3) return 1;
    return (above == 0 ? sizes : above == 1 ? sizes / 10 : above == 2 ? sizes / 100 : sizes / 1000) % 10;
}
INLINE ptrdiff_t same_padded(const int K, const ptrdiff_t tail) { return tail % VL == 0 ? K : K == 3 ? 4 : K; }

/* Positions of all levels behind level s. */
INLINE ptrdiff_t same_tail(const int sizes, const int s) {
    const int S = same_levels(sizes);
    const ptrdiff_t one = same_padded(same_size(sizes, S - 1), 1);
    const ptrdiff_t two = one * same_padded(same_size(sizes, S - 2), one);
    const ptrdiff_t three = two * same_padded(same_size(sizes, S - 3), two);
    const ptrdiff_t four = three * same_padded(same_size(sizes, S - 4), three);
    const int behind = S - 1 - s;
    return behind < 1 ? 1 : behind < 2 ? one : behind < 3 ? two : behind < 4 ? three : four;
}

INLINE int same_vectors(const int sizes) {
    const ptrdiff_t positions = same_tail(sizes, -1);
    return (int)(positions < VL ? 1 : positions / VL);
}

INLINE int same_natural(const int sizes) {
    return same_vectors(sizes) * VL ==
           same_size(sizes, 0) * same_size(sizes, 1) * same_size(sizes, 2) * same_size(sizes, 3);
}

/* Level s with the geometry of levels_init, as constants. */
INLINE Level same_level(const Level *levels, const int sizes, const int s) {
    Level out = levels[s];
    const int K = same_size(sizes, s), parent = s ? same_size(sizes, s - 1) : 1;
    const ptrdiff_t tail = same_tail(sizes, s), positions = same_vectors(sizes) * VL;
    out.size = K, out.tail = tail, out.padded = same_padded(K, tail), out.block = out.padded * tail;
    out.wide = tail % VL == 0, out.parent_slower = s > 0;
    if (out.wide) {
        out.groups = parent, out.vectors = tail / VL, out.blocks = positions / out.block;
    } else {
        const ptrdiff_t parents = s ? same_padded(parent, out.block) : 1;
        out.vectors = out.block < VL ? 1 : out.block / VL;
        out.blocks = positions / (out.vectors * VL);
        out.groups = !s ? 1 : out.block >= VL ? parents : parents * out.block >= VL ? parents * out.block / VL : 1;
    }
    return out;
}

/* x moved by level g, in place; x stays in registers where it fits. */
INLINE void same_move(const Level *g, const double *c, vd *x) {
    const int K = (int)g->size;
    const int tail = (int)(g->tail / VL), V = (int)g->vectors, groups = (int)g->groups, blocks = (int)g->blocks;
    if (g->wide) {
        const int sets = g->parent_slower ? blocks : 1;
#pragma GCC unroll 8
        for (int b = 0; b < sets; b++)
#pragma GCC unroll 8
            for (int v = 0; v < tail; v++) {
                const double *m = c + b % groups * K * K * VL;
                vd in[4], *at = x + b * K * tail + v;
#pragma GCC unroll 4
                for (int i = 0; i < K; i++) in[i] = at[i * tail];
#pragma GCC unroll 4
                for (int j = 0; j < K; j++) {
                    vd sum = in[0] * vload(m + j * VL);
#pragma GCC unroll 4
                    for (int i = 1; i < K; i++) sum += in[i] * vload(m + (i * K + j) * VL);
                    at[j * tail] = sum;
                }
            }
    } else {
        vi lanes[4];
#pragma GCC unroll 4
        for (int k = 0; k < K; k++) lanes[k] = lanes_of(g->spread, k);
#pragma GCC unroll 8
        for (int b = 0; b < blocks; b++) {
            const double *m = c + b % groups * K * V * VL;
            vd in[2], *at = x + b * V;
#pragma GCC unroll 2
            for (int h = 0; h < V; h++) in[h] = at[h];
#pragma GCC unroll 2
            for (int h = 0; h < V; h++) {
                at[h] = other_end(K, V, in, lanes, 0, h) * vload(m + h * VL);
#pragma GCC unroll 4
                for (int k = 1; k < K; k++) at[h] += other_end(K, V, in, lanes, k, h) * vload(m + (k * V + h) * VL);
            }
        }
    }
}

/* products += x[from] y[to] of level g. */
INLINE void same_products(const Level *g, const vd *x, const vd *y) {
    const int K = (int)g->size;
    const int tail = (int)(g->tail / VL), V = (int)g->vectors, groups = (int)g->groups, blocks = (int)g->blocks;
    if (g->wide) {
#pragma GCC unroll 4
        for (int j = 0; j < K; j++)
#pragma GCC unroll 4
            for (int i = 0; i < K; i++)
#pragma GCC unroll 4
                for (int t = 0; t < groups; t++) {
                    double *sum = g->products + ((t * K + j) * K + i) * VL;
                    vd total = vload(sum);
#pragma GCC unroll 8
                    for (int b = t; b < blocks; b += groups)
#pragma GCC unroll 8
                        for (int v = 0; v < tail; v++)
                            total += x[(b * K + i) * tail + v] * y[(b * K + j) * tail + v];
                    vstore(sum, total);
                }
    } else {
        vi lanes[4];
#pragma GCC unroll 4
        for (int k = 0; k < K; k++) lanes[k] = lanes_of(g->spread, k);
#pragma GCC unroll 4
        for (int t = 0; t < groups; t++) {
            vd sum[8];
            double *c = g->products + t * K * V * VL;
#pragma GCC unroll 8
            for (int e = 0; e < K * V; e++) sum[e] = vload(c + e * VL);
#pragma GCC unroll 8
            for (int b = t; b < blocks; b += groups)
#pragma GCC unroll 4
                for (int k = 0; k < K; k++)
#pragma GCC unroll 2
                    for (int h = 0; h < V; h++) sum[k * V + h] += x[b * V + h] * other_end(K, V, y + b * V, lanes, k, h);
#pragma GCC unroll 8
            for (int e = 0; e < K * V; e++) vstore(c + e * VL, sum[e]);
        }
    }
}

/* Whether level s moves into step t. */
INLINE int same_moves(const Frame *f, const int sizes, const int s, ptrdiff_t t) {
    return s < same_levels(sizes) && (!f->clocked || t % f->shapes[s].period == 0);
}

/* Level s moves x into step t; its products of x with the message before its move; its copy of that message. */
#define MOVE(s, table, x)                                       \
    if (same_moves(f, sizes, s, t)) {                           \
        const Level level = same_level(f->levels, sizes, s);    \
        same_move(&level, level.table.coefficients, x);         \
    }
#define COUNT(s, x)                                             \
    if (same_moves(f, sizes, s, t)) {                           \
        const Level level = same_level(f->levels, sizes, s);    \
        same_products(&level, x, partial[s]);                   \
    }
#define KEEP(s, x)                                              \
    if (counting && s < same_levels(sizes))                     \
        for (int v = 0; v < n; v++) partial[s][v] = x[v];

/* Forward: up to `rows` rows from step t, the one after alpha, on: out = (alpha moved) * power * b. With `ll` the
 * likelihoods b are made from its rows, else they are there; either way `stride` doubles lie between them. Returns the
 * number of rows. */
INLINE ptrdiff_t same_filter(const int sizes, const Frame *f, ptrdiff_t t, ptrdiff_t rows, const double *alpha,
                             const double *ll, double *b, ptrdiff_t stride, double *out, Scale *scale) {
    const int n = same_vectors(sizes), natural = same_natural(sizes);
    const Packing *packing = natural ? NULL : f->packing;
    Scale now = *scale;
    vd x[SAME_VECTORS];
    ptrdiff_t k = 0;
    double top = ll && rows ? row_top(n, ll, packing) : 0.0, next = 0.0; /* `next` ahead: exponentials wait for it */
#pragma GCC unroll 8
    for (int v = 0; v < n; v++) x[v] = vload(alpha + v * VL);
    for (; k < rows; k++, t++, b += stride, out += n * VL, top = next) {
        if (ll) {
            const double *row = ll + k * f->states;
            ask_for(row + 8 * f->states, f->states);
            if (k + 1 < rows) next = row_top(n, row + f->states, packing);
            row_likelihood(n, row, packing, top, b);
        }
        MOVE(3, to, x)
        MOVE(2, to, x)
        MOVE(1, to, x)
        MOVE(0, to, x)
        vd sum[2] = {}, low = vset(1.0);
        const vd power = vset(now.power);
#pragma GCC unroll 8
        for (int v = 0; v < n; v++) {
            const vd lift = natural ? (vd){} : vload(f->lift + v * VL);
            low = vmin(low, x[v] + lift);
            x[v] *= vload(b + v * VL) * power;
            sum[v % 2] += x[v];
            vstore(out + v * VL, x[v]);
        }
        const double total = hsum(sum[0] + sum[1]);
        if (any_below(low * power, f->faint) || !(total >= f->weak)) break;
        now.total = total, now.shift += top;
        now.power = scale1(total, &now.exponent);
    }
    *scale = now;
    return k;
}

/* Backward: up to `rows` rows down from that of alpha and b; w is the message of the row behind, step t; `soon` will be
 * read later, a row at a time. Writes the posteriors over natural rows, or without packing over padded ones, and adds
 * to the products of the levels if `counting`. Returns the number of rows; w is the message of the last one. */
INLINE ptrdiff_t same_smooth(const int sizes, const int counting, const Frame *f, ptrdiff_t t, ptrdiff_t rows,
                             const double *alpha, const double *b, const double *soon, double *w, double *posterior,
                             const Packing *packing, Scale *scale) {
    const int n = same_vectors(sizes);
    const ptrdiff_t width = packing ? f->states : n * VL;
    double power = scale->power, ignored = 0.0;
    vd partial[4][SAME_VECTORS], x[SAME_VECTORS], share[SAME_VECTORS];
    ptrdiff_t k = 0;
#pragma GCC unroll 8
    for (int v = 0; v < n; v++) x[v] = vload(w + v * VL);
    for (; k < rows; k++, t--, alpha -= n * VL, b -= n * VL, posterior -= width) {
        ask_for(alpha - AHEAD * n * VL, n * VL);
        ask_for(soon - k * n * VL, n * VL);
        KEEP(0, x)
        MOVE(0, from, x)
        KEEP(1, x)
        MOVE(1, from, x)
        KEEP(2, x)
        MOVE(2, from, x)
        KEEP(3, x)
        MOVE(3, from, x)
        vd z[2] = {}, sum[2] = {}, joint[SAME_VECTORS];
        const vd up = vset(power);
#pragma GCC unroll 8
        for (int v = 0; v < n; v++) {
            const vd a = vload(alpha + v * VL);
            joint[v] = a * x[v];
            z[v % 2] += joint[v];
            x[v] = (vd)((vi)(vload(b + v * VL) * up * x[v]) & (vi)(a > (vd){}));
            sum[v % 2] += x[v];
        }
        const double evidence = hsum(z[0] + z[1]), total = hsum(sum[0] + sum[1]);
        if (!(evidence > 0.0) || !(total >= f->weak)) break;
        const vd factor = vset(1.0 / evidence);
        if (counting) {
#pragma GCC unroll 8
            for (int v = 0; v < n; v++) share[v] = vload(alpha + v * VL) * factor;
            COUNT(3, share)
            MOVE(3, to, share)
            COUNT(2, share)
            MOVE(2, to, share)
            COUNT(1, share)
            MOVE(1, to, share)
            COUNT(0, share)
        }
#pragma GCC unroll 8
        for (int v = 0; v < n; v++) {
            states_store(posterior, packing, v, joint[v] * factor);
            vstore(w + v * VL, x[v]);
        }
        power = scale1(total, &ignored);
    }
    scale->power = power;
    return k;
}

/* The sizes that have such loops, as digits; else 0. */
static int same_kind(const Level *levels, ptrdiff_t S, int parent) {
    int kind = 0;
    if (parent >= 0 || S > 4) return 0;
    for (ptrdiff_t s = 0; s < S; s++) {
        if (levels[s].size < 2 || levels[s].size > 4) return 0;
        kind = 10 * kind + (int)levels[s].size;
    }
    return S <= 2 || kind == 222 || kind == 333 || kind == 444 || kind == 4444 ? kind : 0;
}

#define SAME_KINDS(CALL)                                            \
    switch (kind) {                                                 \
    case 2: CALL(2) case 3: CALL(3) case 4: CALL(4)                 \
    case 22: CALL(22) case 23: CALL(23) case 24: CALL(24)           \
    case 32: CALL(32) case 33: CALL(33) case 34: CALL(34)           \
    case 42: CALL(42) case 43: CALL(43) case 44: CALL(44)           \
    case 222: CALL(222) case 333: CALL(333) case 444: CALL(444)     \
    default: CALL(4444)                                             \
    }

static ptrdiff_t kind_filter(int kind, const Frame *f, ptrdiff_t t, ptrdiff_t rows, const double *alpha,
                             const double *ll, double *b, ptrdiff_t stride, double *out, Scale *scale) {
#define CALL(sizes) return same_filter(sizes, f, t, rows, alpha, ll, b, stride, out, scale);
    SAME_KINDS(CALL)
#undef CALL
}

static ptrdiff_t kind_smooth(int kind, const Frame *f, ptrdiff_t t, ptrdiff_t rows, const double *alpha,
                             const double *b, const double *soon, double *w, double *posterior,
                             const Packing *packing, Scale *scale) {
#define CALL(sizes) return same_smooth(sizes, 0, f, t, rows, alpha, b, soon, w, posterior, packing, scale);
    SAME_KINDS(CALL)
#undef CALL
}

static ptrdiff_t kind_smooth_counting(int kind, const Frame *f, ptrdiff_t t, ptrdiff_t rows, const double *alpha,
                                      const double *b, const double *soon, double *w,
                                      double *posterior, const Packing *packing, Scale *scale) {
#define CALL(sizes) return same_smooth(sizes, 1, f, t, rows, alpha, b, soon, w, posterior, packing, scale);
    SAME_KINDS(CALL)
#undef CALL
}

#endif
