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

/* First state with the largest x[i] + M[i, to]; -1 when all are -inf. */
static int64_t best_source(const Chain *c, int64_t k, const double *x, int64_t to) {
    const double *M = step_matrix(c, k) + to;
    double best = -HUGE_VAL;
    int64_t from = -1;
    for (int64_t i = 0; i < c->N; i++) {
        double score = x[i] + M[i * c->N];
        if (score > best) {
            best = score;
            from = i;
        }
    }
    return from;
}

/* Scratch: T rows of scores and one padded matrix; c->A and c->initial hold logarithms. Returns the log-probability;
 * where that is -inf, the path is -1. */
static double one_viterbi(const Chain *c, int64_t start, int64_t T, const double *ll, int64_t *path, double *scratch) {
    int64_t N = c->N, NP = c->NP, held = -1, state = -1;
    double *moves = scratch, *score = scratch + N * NP, best = -HUGE_VAL;
    for (int64_t q = 0; q < N * NP; q++) moves[q] = -HUGE_VAL;
    for (int64_t t = 0; t < T; t++) {
        double *s = score + t * NP;
        if (t) {
            best_moves(N, NP, s - NP, padded_moves(c, start + t, &held, moves), s);
            for (int64_t j = 0; j < N; j++) s[j] += ll[t * N + j];
        } else {
            for (int64_t j = 0; j < NP; j++) s[j] = j < N ? c->initial[j] + ll[j] : -HUGE_VAL;
        }
    }
    for (int64_t j = 0; j < N; j++) {
        if (score[(T - 1) * NP + j] > best) {
            best = score[(T - 1) * NP + j];
            state = j;
        }
    }
    for (int64_t t = T - 1; t >= 0; t--) {
        path[t] = state;
        if (t && state >= 0) state = best_source(c, start + t, score + (t - 1) * NP, state);
    }
    return best;
}

#endif
