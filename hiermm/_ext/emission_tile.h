/* Loops over steps for a tile of M * LANES states, M known at compile time. Included by emission.h once per LANES.

   Parameters of a tile, packed state-fastest, W = M * LANES: total[W], then for each output d:
   mean[W], half[W] = -1 / (2 variance), norm[W] = -log(2 pi variance) / 2, slope[P][W]; total is the sum of norm. */

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define FN(name) PASTE(name##_, LANES)
#define V PASTE(lanes, LANES)
#define LOAD(p) (*(const V *)(p))
#define STORE(p, v) (*(V *)(p) = (v))
#define ZERO ((V){0})

/* out[t, k] = log p(y_t | state k). `D_` is the number of outputs if it is known at compile time, else 0. */
INLINE void FN(loglik)(const int M, const int D_, const int P_, const int missing, long n, long D, long P,
                       const double *restrict y, const double *restrict u, const double *restrict tile,
                       double *restrict out, long stride)
{
    const long W = M * LANES;
    if (D_) D = D_;
    if (!P_) P = 0;
    for (long t = 0; t < n; t++, y += D, u += P, out += stride) {
        V sum[MAX_M];
        for (int m = 0; m < M; m++) {
            sum[m] = ZERO;
            if (!missing) sum[m] = LOAD(tile + m * LANES);
        }
        for (long d = 0; d < D; d++) {
            const double *q = tile + W + d * (3 + P) * W;
            if (missing && y[d] != y[d]) continue;
            for (int m = 0; m < M; m++) {
                const double *r = q + m * LANES;
                V rest = y[d] - LOAD(r);
                for (long p = 0; p < P; p++) rest -= LOAD(r + (3 + p) * W) * u[p];
                sum[m] += LOAD(r + W) * rest * rest;
                if (missing) sum[m] += LOAD(r + 2 * W);
            }
        }
        for (int m = 0; m < M; m++) STORE(out + m * LANES, sum[m]);
    }
}

/* Without inputs: weight, first and second moments of y - mean for outputs d .. d + E - 1; sums[E][3][W] is written. */
INLINE void FN(moments)(const int M, const int E, const int missing, long n, long D, const double *restrict y,
                        const double *restrict tile, const double *restrict gamma, long stride, double *restrict sums)
{
    const long W = M * LANES;
    V mean[2][MAX_M], weight[2][MAX_M], first[2][MAX_M], second[2][MAX_M];
    for (int e = 0; e < E; e++)
        for (int m = 0; m < M; m++) {
            mean[e][m] = LOAD(tile + W + e * 3 * W + m * LANES);
            weight[e][m] = first[e][m] = second[e][m] = ZERO;
        }
    for (long t = 0; t < n; t++, y += D, gamma += stride)
        for (int e = 0; e < E; e++) {
            if (missing && y[e] != y[e]) continue;
            for (int m = 0; m < M; m++) {
                const V g = LOAD(gamma + m * LANES), rest = y[e] - mean[e][m], part = g * rest;
                if (missing || e == 0) weight[e][m] += g;
                first[e][m] += part;
                second[e][m] += part * rest;
            }
        }
    for (int e = 0; e < E; e++)
        for (int m = 0; m < M; m++) {
            STORE(sums + (3 * e) * W + m * LANES, weight[missing ? e : 0][m]);
            STORE(sums + (3 * e + 1) * W + m * LANES, first[e][m]);
            STORE(sums + (3 * e + 2) * W + m * LANES, second[e][m]);
        }
}

/* With inputs: for one output, with x = [1, u] (F = P + 1) and rest = y - mean - slope u, adds
   sum g rest^2 to sums[W], sum g rest x to the next F rows, and (if `gram`) sum g x x' (lower triangle by rows).
   Where F is known at compile time (F_) the running sums stay in registers. */
INLINE void FN(regression)(const int M, const int F_, const int gram, long n, long D, long P, const double *restrict y,
                           const double *restrict u, const double *restrict slopes, const double *restrict gamma,
                           long stride, double *restrict sums)
{
    const long W = M * LANES, F = F_ ? F_ : P + 1, rows = 1 + F + (gram ? F * (F + 1) / 2 : 0);
    V few[15 * MAX_M], *s = F_ ? few : (V *)sums;
    P = F - 1;
    for (long q = 0; F_ && q < rows * M; q++) s[q] = LOAD(sums + q * LANES);
    for (long t = 0; t < n; t++, y += D, u += P, gamma += stride) {
        if (*y != *y) continue;
        for (int m = 0; m < M; m++) {
            const double *r = slopes + m * LANES;
            const V g = LOAD(gamma + m * LANES);
            V rest = *y - LOAD(r);
            for (long p = 0; p < P; p++) rest -= LOAD(r + (3 + p) * W) * u[p];
            const V part = g * rest;
            long q = m;
            s[q] += part * rest;
            s[q += M] += part;
            for (long p = 0; p < P; p++) s[q += M] += part * u[p];
            if (!gram) continue;
            s[q += M] += g;
            for (long p = 0; p < P; p++) {
                const V scaled = g * u[p];
                s[q += M] += scaled;
                for (long o = 0; o <= p; o++) s[q += M] += scaled * u[o];
            }
        }
    }
    for (long q = 0; F_ && q < rows * M; q++) STORE(sums + q * LANES, s[q]);
}

/* out[t, :] = table[symbol_t, :]; a missing symbol gives 0. Returns the first row whose symbol is none, or -1. */
INLINE long FN(gather)(const int M, long n, long n_symbols, const double *restrict y, const double *restrict table,
                       double *restrict out, long stride)
{
    for (long t = 0; t < n; t++, out += stride) {
        if (y[t] >= 0.0 && y[t] < n_symbols) {
            const double *row = table + (long)y[t] * stride;
            for (int m = 0; m < M; m++) STORE(out + m * LANES, LOAD(row + m * LANES));
        }
        else if (y[t] != y[t])
            for (int m = 0; m < M; m++) STORE(out + m * LANES, ZERO);
        else
            return t;
    }
    return -1;
}

/* sums[symbol_t, :] += gamma[t, :]; missing symbols count nowhere. Returns as gather does. */
INLINE long FN(scatter)(const int M, long n, long n_symbols, const double *restrict y, const double *restrict gamma,
                        double *restrict sums, long stride)
{
    for (long t = 0; t < n; t++, gamma += stride) {
        if (y[t] >= 0.0 && y[t] < n_symbols) {
            double *row = sums + (long)y[t] * stride;
            for (int m = 0; m < M; m++)
                STORE(row + m * LANES, LOAD(row + m * LANES) + LOAD(gamma + m * LANES));
        }
        else if (y[t] == y[t])
            return t;
    }
    return -1;
}

#undef PASTE_
#undef PASTE
#undef FN
#undef V
#undef LOAD
#undef STORE
#undef ZERO
#undef LANES
