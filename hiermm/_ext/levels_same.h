/* Whole rows of the scaled recursions, for chains of S levels of K values each under the coupling "slower": what levels.h
 * and likelihood.h do one after the other through memory, with all sizes known to the compiler, so that a row stays in
 * registers from one level to the next and the likelihoods of a row are made while the row before is still on its way.
 * Only rows in range are made here; a row that needs care is left to the recursions of multiscale_scaled.pxi. */
#ifndef HIERMM_LEVELS_SAME_H
#define HIERMM_LEVELS_SAME_H

#include "likelihood.h"

enum { SAME_VECTORS = 256 / VL }; /* the most that these chains have */

/* What all rows share. A row is in range if no state is predicted with less than `faint`, and products sum to `weak`. */
typedef struct {
    const Level *levels;
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

INLINE ptrdiff_t same_padded(const int K, const ptrdiff_t tail) { return tail % VL == 0 ? K : K == 3 ? 4 : K; }

/* Positions of the `count` <= 4 fastest levels (without a loop, so that the compiler knows them before it unrolls any). */
INLINE ptrdiff_t same_tail(const int K, const int count) {
    const ptrdiff_t one = same_padded(K, 1), two = one * same_padded(K, one), three = two * same_padded(K, two);
    const ptrdiff_t four = three * same_padded(K, three);
    return count < 1 ? 1 : count < 2 ? one : count < 3 ? two : count < 4 ? three : four;
}

INLINE int same_vectors(const int K, const int S) {
    const ptrdiff_t positions = same_tail(K, S);
    return (int)(positions < VL ? 1 : positions / VL);
}

INLINE int same_natural(const int K, const int S) {
    return same_vectors(K, S) * VL == K * K * (S > 2 ? K : 1) * (S > 3 ? K : 1);
}

/* Level s with the geometry of levels_init, as constants. */
INLINE Level same_level(const Level *g, const int K, const int S, const int s) {
    Level out = *g;
    const ptrdiff_t tail = same_tail(K, S - 1 - s), positions = same_vectors(K, S) * VL;
    out.size = K, out.tail = tail, out.padded = same_padded(K, tail), out.block = out.padded * tail;
    out.wide = tail % VL == 0, out.parent_slower = s > 0;
    if (out.wide) {
        out.groups = s ? K : 1, out.vectors = tail / VL, out.blocks = positions / out.block;
    } else {
        const ptrdiff_t parents = s ? same_padded(K, out.block) : 1;
        out.vectors = out.block < VL ? 1 : out.block / VL;
        out.blocks = positions / (out.vectors * VL);
        out.groups = !s ? 1 : out.block >= VL ? parents : parents * out.block >= VL ? parents * out.block / VL : 1;
    }
    return out;
}

/* x moved by level g, in place; x stays in registers where it fits. */
INLINE void same_move(const int K, const Level *g, const double *c, vd *x) {
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
                    vd even = in[0] * vload(m + j * VL), odd = in[1] * vload(m + (K + j) * VL);
                    if (K > 2) even += in[2] * vload(m + (2 * K + j) * VL);
                    if (K > 3) odd += in[3] * vload(m + (3 * K + j) * VL);
                    at[j * tail] = even + odd;
                }
            }
    } else {
        const int per = V == 1 ? K : 2;
        vi lanes[4];
#pragma GCC unroll 4
        for (int i = 0; i < K; i++) lanes[i] = lanes_of(g->spread, i);
#pragma GCC unroll 8
        for (int b = 0; b < blocks; b++) {
            const double *m = c + b % groups * K * V * VL;
            vd in[4], *at = x + b * V;
#pragma GCC unroll 4
            for (int i = 0; i < K; i++) in[i] = permute(at[i / per], lanes[i]);
#pragma GCC unroll 2
            for (int h = 0; h < V; h++) {
                vd even = in[0] * vload(m + h * VL), odd = in[1] * vload(m + (V + h) * VL);
                if (K > 2) even += in[2] * vload(m + (2 * V + h) * VL);
                if (K > 3) odd += in[3] * vload(m + (3 * V + h) * VL);
                at[h] = even + odd;
            }
        }
    }
}

/* products += x[from] y[to] of level g. */
INLINE void same_products(const int K, const Level *g, const vd *x, const vd *y) {
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
        const int per = V == 1 ? K : 2;
        vi lanes[4];
#pragma GCC unroll 4
        for (int j = 0; j < K; j++) lanes[j] = lanes_of(g->spread, j);
#pragma GCC unroll 4
        for (int t = 0; t < groups; t++) {
            vd sum[8];
            double *c = g->products + t * K * V * VL;
#pragma GCC unroll 8
            for (int e = 0; e < K * V; e++) sum[e] = vload(c + e * VL);
#pragma GCC unroll 8
            for (int b = t; b < blocks; b += groups)
#pragma GCC unroll 4
                for (int j = 0; j < K; j++) {
                    const vd to = permute(y[b * V + j / per], lanes[j]);
#pragma GCC unroll 2
                    for (int h = 0; h < V; h++) sum[j * V + h] += x[b * V + h] * to;
                }
#pragma GCC unroll 8
            for (int e = 0; e < K * V; e++) vstore(c + e * VL, sum[e]);
        }
    }
}

/* Level s moves x; its products of x with the message before its move; its copy of that message. */
#define MOVE(s, table, x)                                                    \
    if (s < S) {                                                             \
        const Level level = same_level(f->levels + s, K, S, s);              \
        same_move(K, &level, level.table.coefficients, x);                   \
    }
#define COUNT(s, x)                                                          \
    if (s < S) {                                                             \
        const Level level = same_level(f->levels + s, K, S, s);              \
        same_products(K, &level, x, partial[s]);                               \
    }
#define KEEP(s, x)                                                           \
    if (s < S && counting)                                                   \
        for (int v = 0; v < n; v++) partial[s][v] = x[v];

/* Forward: up to `rows` rows from the one after alpha on, out = (alpha moved) * power * b. With `ll` the likelihoods b are
 * made from its rows, else they are there; either way `stride` doubles lie between them. Returns the number of rows. */
INLINE ptrdiff_t same_filter(const int K, const int S, const Frame *f, ptrdiff_t rows, const double *alpha,
                             const double *ll, double *b, ptrdiff_t stride, double *out, Scale *scale) {
    const int n = same_vectors(K, S), natural = same_natural(K, S);
    const Packing *packing = natural ? NULL : f->packing;
    Scale now = *scale;
    vd x[SAME_VECTORS];
    ptrdiff_t k = 0;
#pragma GCC unroll 8
    for (int v = 0; v < n; v++) x[v] = vload(alpha + v * VL);
    for (; k < rows; k++, b += stride, out += n * VL) {
        double top = 0.0;
        if (ll) {
            ask_for(ll + (k + 8) * f->states, f->states);
            top = row_likelihood(n, ll + k * f->states, packing, b);
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

/* Backward: up to `rows` rows down from that of alpha and b; w is the message of the row behind. Writes the posteriors
 * over natural rows, or through no packing over padded ones, and adds to the products of the levels if `counting`.
 * Returns the number of rows; w is the message of the last one. */
INLINE ptrdiff_t same_smooth(const int K, const int S, const int counting, const Frame *f, ptrdiff_t rows,
                             const double *alpha, const double *b, double *w, double *posterior,
                             const Packing *packing, Scale *scale) {
    const int n = same_vectors(K, S);
    const ptrdiff_t width = packing ? f->states : n * VL;
    double power = scale->power, ignored = 0.0;
    vd partial[4][SAME_VECTORS], x[SAME_VECTORS], share[SAME_VECTORS];
    ptrdiff_t k = 0;
#pragma GCC unroll 8
    for (int v = 0; v < n; v++) x[v] = vload(w + v * VL);
    for (; k < rows; k++, alpha -= n * VL, b -= n * VL, posterior -= width) {
        ask_for(alpha - AHEAD * n * VL, n * VL);
        ask_for(b - AHEAD * n * VL, n * VL);
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

/* The chains that have such loops, as 10 K + S; else 0. */
static int same_kind(const Level *levels, ptrdiff_t S, int parent) {
    const ptrdiff_t K = levels[0].size;
    for (ptrdiff_t s = 0; s < S; s++)
        if (levels[s].size != K) return 0;
    const int kind = (int)(10 * K + S);
    return parent < 0 && (kind == 22 || kind == 23 || kind == 32 || kind == 33 || (kind >= 42 && kind <= 44)) ? kind : 0;
}

#define SAME_KINDS(CALL)      \
    switch (kind) {           \
    case 22: CALL(2, 2)       \
    case 23: CALL(2, 3)       \
    case 32: CALL(3, 2)       \
    case 33: CALL(3, 3)       \
    case 42: CALL(4, 2)       \
    case 43: CALL(4, 3)       \
    default: CALL(4, 4)       \
    }

static ptrdiff_t kind_filter(int kind, const Frame *f, ptrdiff_t rows, const double *alpha, const double *ll, double *b,
                             ptrdiff_t stride, double *out, Scale *scale) {
#define CALL(K, S) return same_filter(K, S, f, rows, alpha, ll, b, stride, out, scale);
    SAME_KINDS(CALL)
#undef CALL
}

static ptrdiff_t kind_smooth(int kind, const Frame *f, ptrdiff_t rows, const double *alpha, const double *b, double *w,
                             double *posterior, const Packing *packing, Scale *scale) {
#define CALL(K, S) return same_smooth(K, S, 0, f, rows, alpha, b, w, posterior, packing, scale);
    SAME_KINDS(CALL)
#undef CALL
}

static ptrdiff_t kind_smooth_counting(int kind, const Frame *f, ptrdiff_t rows, const double *alpha, const double *b,
                                      double *w, double *posterior, const Packing *packing, Scale *scale) {
#define CALL(K, S) return same_smooth(K, S, 1, f, rows, alpha, b, w, posterior, packing, scale);
    SAME_KINDS(CALL)
#undef CALL
}

#endif
