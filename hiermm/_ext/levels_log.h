/* The moves of levels.h in log space and for the best path, in the natural layout: careful rather than fast.
 * `log_A` is a packed row of log-probabilities; -inf is legal everywhere. */
#ifndef HIERMM_LEVELS_LOG_H
#define HIERMM_LEVELS_LOG_H

#include <math.h>
#include "levels.h"

/* Rows (from, to) of the level for the parent's value on the fibre that begins at position p. */
INLINE const double *fibre_rows(const Shape *s, const double *log_A, ptrdiff_t p) {
    return log_A + s->start + p / s->parent_tail % s->parent_size * s->size * s->size;
}

static double log_sum(const double *x, ptrdiff_t n, ptrdiff_t stride) {
    double top = -INFINITY, sum = 0.0;
    for (ptrdiff_t i = 0; i < n; i++) top = x[i * stride] > top ? x[i * stride] : top;
    if (top == -INFINITY) return top;
    for (ptrdiff_t i = 0; i < n; i++) sum += exp(x[i * stride] - top);
    return top + log(sum);
}

/* log sum over two factors: a[i * p] + b[i * q]. */
static double log_dot(const double *a, ptrdiff_t p, const double *b, ptrdiff_t q, ptrdiff_t n) {
    double top = -INFINITY, sum = 0.0;
    for (ptrdiff_t i = 0; i < n; i++) top = a[i * p] + b[i * q] > top ? a[i * p] + b[i * q] : top;
    if (top == -INFINITY) return top;
    for (ptrdiff_t i = 0; i < n; i++) sum += exp(a[i * p] + b[i * q] - top);
    return top + log(sum);
}

static void log_move(const Shape *s, const double *log_A, const double *x, double *out, int backward) {
    for (ptrdiff_t o = 0; o < s->outer; o++)
        for (ptrdiff_t q = 0; q < s->tail; q++) {
            const ptrdiff_t p = o * s->size * s->tail + q;
            const double *rows = fibre_rows(s, log_A, p);
            for (ptrdiff_t j = 0; j < s->size; j++)
                out[p + j * s->tail] = backward ? log_dot(x + p, s->tail, rows + j * s->size, 1, s->size)
                                                : log_dot(x + p, s->tail, rows + j, s->size, s->size);
        }
}

/* xi += exp(F[from] + log A + G[to] - evidence) over the fibres. */
static void log_counts(const Shape *s, const double *log_A, const double *F, const double *G, double evidence,
                       double *xi) {
    for (ptrdiff_t o = 0; o < s->outer; o++)
        for (ptrdiff_t q = 0; q < s->tail; q++) {
            const ptrdiff_t p = o * s->size * s->tail + q;
            const double *rows = fibre_rows(s, log_A, p);
            for (ptrdiff_t i = 0; i < s->size; i++)
                for (ptrdiff_t j = 0; j < s->size; j++)
                    xi[rows - log_A + i * s->size + j] +=
                        exp(F[p + i * s->tail] + rows[i * s->size + j] + G[p + j * s->tail] - evidence);
        }
}

/* out = max over `from`; best = the position that attains it, the first one among equals. */
static void max_move(const Shape *s, const double *log_A, const double *x, double *out, int32_t *best) {
    for (ptrdiff_t o = 0; o < s->outer; o++)
        for (ptrdiff_t j = 0; j < s->size; j++)
            for (ptrdiff_t q = 0; q < s->tail; q++) {
                const ptrdiff_t p = o * s->size * s->tail + q, to = p + j * s->tail;
                const double *rows = fibre_rows(s, log_A, p) + j;
                ptrdiff_t from = 0;
                double top = x[p] + rows[0];
                for (ptrdiff_t i = 1; i < s->size; i++) {
                    const double value = x[p + i * s->tail] + rows[i * s->size];
                    if (value > top) top = value, from = i;
                }
                out[to] = top;
                best[to] = (int32_t)(p + from * s->tail);
            }
}

#endif
