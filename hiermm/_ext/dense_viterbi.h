/* Most likely path of one sequence, states in the lanes. Only the scores are kept; the way back recomputes the choice
 * at each step of the path, which costs N operations a step instead of storing N. */
#ifndef HIERMM_DENSE_VITERBI_H
#define HIERMM_DENSE_VITERBI_H

#include "dense.h"

/* y[0 : V vectors] = max_i (x[i] + M[i]), `width` of the last vector's lanes in use when M is not padded. */
INLINE void best_tile(const int V, const int S, int64_t N, const double *x, const double *M, int64_t ld, double *y) {
    vd acc[8];
    int64_t i = 0;
    for (int a = 0; a < V * S; a++) acc[a] = vset(-HUGE_VAL);
    for (; i + S <= N; i += S)
        for (int s = 0; s < S; s++)
            for (int v = 0; v < V; v++)
                acc[s * V + v] = vmax(acc[s * V + v], vset(x[i + s]) + vload(M + (i + s) * ld + v * VL));
    for (; i < N; i++)
        for (int v = 0; v < V; v++) acc[v] = vmax(acc[v], vset(x[i]) + vload(M + i * ld + v * VL));
    for (int v = 0; v < V; v++) {
        vd best = acc[v];
        for (int s = 1; s < S; s++) best = vmax(best, acc[s * V + v]);
        vstore(y + v * VL, best);
    }
}

/* y (NP,) = max_i (x[i] + M[i, :]) for a padded M. */
static void best_moves(int64_t N, int64_t NP, const double *x, const double *M, double *y) {
    for (int64_t j = 0; j < NP;) {
        int64_t left = (NP - j) / VL;
        if (left >= 8) {
            best_tile(8, 1, N, x, M + j, NP, y + j);
            j += 8 * VL;
        } else if (left >= 2) {
            best_tile(2, 4, N, x, M + j, NP, y + j);
            j += 2 * VL;
        } else {
            best_tile(1, 8, N, x, M + j, NP, y + j);
            j += VL;
        }
    }
}

/* Padded copy (N, NP) of a matrix of log-probabilities, -inf behind N; `held` says which one is there. */
static const double *padded_moves(const Chain *c, int64_t k, int64_t *held, double *out) {
    int64_t which = matrix_of(c, k), N = c->N;
    if (which == *held) return out;
    *held = which;
    for (int64_t i = 0; i < N; i++) memcpy(out + i * c->NP, c->A + (which * N + i) * N, (size_t)N * sizeof(double));
    return out;
}

/* First state with the largest x[i] + column[i * stride]; -1 when all are -inf. */
static int64_t best_source(int64_t N, const double *x, const double *column, int64_t stride) {
    double best = -HUGE_VAL;
    int64_t from = -1;
    for (int64_t i = 0; i < N; i++) {
        double score = x[i] + column[i * stride];
        if (score > best) {
            best = score;
            from = i;
        }
    }
    return from;
}

/* The same for a padded row of the transposed matrix. */
static int64_t best_source_padded(int64_t NP, const double *x, const double *column) {
    vd top = vload(x) + vload(column);
    for (int64_t i = VL; i < NP; i += VL) top = vmax(top, vload(x + i) + vload(column + i));
    vd best = vset(hmax(top));
    if (!(best[0] > -HUGE_VAL)) return -1;
    for (int64_t i = 0; i < NP; i += VL) {
        int lane = vfirst(vload(x + i) + vload(column + i) == best);
        if (lane < VL) return i + lane;
    }
    return -1;
}

/* Scores of steps t0 .. t1 - 1 into rows 1, 2, ...; row 0 holds those of the step before. */
static void viterbi_scores(const Chain *c, int64_t start, int64_t t0, int64_t t1, const double *ll, double *rows,
                           double *moves) {
    int64_t N = c->N, NP = c->NP, held = -1;
    for (int64_t q = 0; q < N * NP; q++) moves[q] = -HUGE_VAL;
    for (int64_t t = t0; t < t1; t++) {
        double *s = rows + (t - t0 + 1) * NP;
        if (t) {
            best_moves(N, NP, s - NP, padded_moves(c, start + t, &held, moves), s);
            for (int64_t j = 0; j < N; j++) s[j] += ll[t * N + j];
        } else {
            for (int64_t j = 0; j < NP; j++) s[j] = j < N ? c->initial[j] + ll[j] : -HUGE_VAL;
        }
    }
}

/* Steps whose scores are kept at a time: all of them, or what stays in the cache; then the scores of a block are
 * computed again, from a checkpoint, for the way back. */
static int64_t viterbi_rows(const Chain *c, int64_t T) {
    int64_t row = c->NP * (int64_t)sizeof(double), block = (256 << 10) / row;
    return T * row <= 1 << 20 ? T : block > 16 ? block : 16;
}

/* Doubles of scratch for sequences of up to T steps. */
static int64_t viterbi_scratch(const Chain *c, int64_t T) {
    int64_t S = viterbi_rows(c, T);
    return (c->N + (T > S ? S : T) + 1 + T / S + 1) * c->NP + T;
}

/* State with the largest of N scores, or -1 when all are -inf. */
static int64_t best_state(int64_t N, const double *score, double *best) {
    int64_t state = -1;
    *best = -HUGE_VAL;
    for (int64_t j = 0; j < N; j++) {
        if (score[j] > *best) {
            *best = score[j];
            state = j;
        }
    }
    return state;
}

static double viterbi_wide(const Chain *c, int64_t start, int64_t T, const double *ll, int64_t *path, double *scratch) {
    int64_t N = c->N, NP = c->NP, S = viterbi_rows(c, T), n = (T + S - 1) / S, state = -1;
    double *moves = scratch, *rows = moves + N * NP, *marks = rows + (S + 1) * NP, best = -HUGE_VAL;
    for (int64_t q = 0; q < 2 * n - 1; q++) {
        int64_t block = q < n ? q : 2 * n - 2 - q, t0 = block * S, t1 = T - t0 < S ? T : t0 + S;
        double *mark = marks + block * NP;
        if (q && q < n) memcpy(mark, rows + S * NP, (size_t)NP * sizeof(double));
        if (t0) memcpy(rows, mark, (size_t)NP * sizeof(double));
        viterbi_scores(c, start, t0, t1, ll, rows, moves);
        if (q == n - 1) state = best_state(N, rows + (t1 - t0) * NP, &best);
        for (int64_t t = t1 - 1; q >= n - 1 && t >= t0; t--) {
            path[t] = state;
            if (!t || state < 0) continue;
            const double *x = rows + (t - t0) * NP;
            if (c->constant) state = best_source_padded(NP, x, c->cols + state * NP);
            else state = best_source(N, x, step_matrix(c, start + t) + state, N);
        }
    }
    return best;
}

/* A constant matrix of N <= VL states, N a constant: matrix and scores stay in registers, and every state's choice is
 * stored, one byte each. */
INLINE double viterbi_narrow(const int N, const Chain *c, int64_t T, const double *ll, int64_t *path, uint8_t *from) {
    vd x = vload_part(c->initial, N, -HUGE_VAL) + vload_part(ll, N, 0.0), moves[VL];
    double last[VL], best;
    for (int i = 0; i < N; i++) moves[i] = vload_part(c->A + i * N, N, -HUGE_VAL);
    for (int64_t t = 1; t < T; t++) {
        vd score[VL], tops[4], top;
        vi choice = {};
        for (int i = 0; i < N; i++) {
            score[i] = vlane(x, i) + moves[i];
            tops[i % 4] = i < 4 ? score[i] : vmax(tops[i % 4], score[i]);
        }
        top = vmax(tops[0], tops[1]);
        if (N > 2) top = vmax(top, N > 3 ? vmax(tops[2], tops[3]) : tops[2]);
        for (int i = N - 1; i > 0; i--) choice = (choice & ~(score[i] == top)) | ((score[i] == top) & (int64_t)i);
        choice &= ~(score[0] == top);
        x = top + vload_part(ll + t * N, N, 0.0);
        vstore_bytes(from + t * VL, choice);
    }
    vstore(last, x);
    int64_t state = best_state(N, last, &best);
    for (int64_t t = T - 1; t >= 0; t--) {
        path[t] = state;
        if (state >= 0) state = from[t * VL + state];
    }
    return best;
}

#define VITERBI_OF(n) \
    case n: return viterbi_narrow(n, c, T, ll, path, (uint8_t *)scratch);
/* One sequence; c->A, c->initial and the padded c->cols (-inf behind N) hold logarithms. Returns the log-probability;
 * where that is -inf, the path is -1. */
static double one_viterbi(const Chain *c, int64_t start, int64_t T, const double *ll, int64_t *path, double *scratch) {
    switch (c->constant ? c->N : 0) {
        VITERBI_OF(2)
#if VL >= 4
        VITERBI_OF(3) VITERBI_OF(4)
#endif
#if VL == 8
        VITERBI_OF(5) VITERBI_OF(6) VITERBI_OF(7) VITERBI_OF(8)
#endif
        default: return viterbi_wide(c, start, T, ll, path, scratch);
    }
}

#endif
