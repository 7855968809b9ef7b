"""Emission kernels: Gaussian log-likelihoods and moments (constant or linear means), categorical gather and scatter.

Outputs are (n, D) with NaN for entries not observed, inputs (n, P), gamma (n, N). Everything is one pass over the
steps for each tile of states; nothing of size (n, N, D) exists.
"""

from libc.math cimport M_PI, log
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef extern from "emission.h" nogil:
    const int MAX_M
    const int VL
    long tile_width(long left)
    bint any_nan(const double *y, long size)
    void tile_loglik(long width, int missing, long n, long D, long P, const double *y, const double *u,
                     const double *tile, double *out, long stride)
    void tile_moments(long width, int pair, int missing, long n, long D, const double *y, const double *tile,
                      const double *gamma, long stride, double *sums)
    void tile_regression(long width, int gram, long n, long D, long P, const double *y, const double *u,
                         const double *slopes, const double *gamma, long stride, double *sums)
    long tile_gather(long width, long n, long n_symbols, const double *y, const double *table, double *out,
                     long stride)
    long tile_scatter(long width, long n, long n_symbols, const double *y, const double *gamma, double *sums,
                      long stride)


cdef void pack_means(
    const double[:, :, ::1] coef,             # IN  (N, D, P)
    const double[:, ::1] intercept,           # IN  (N, D)
    long start,
    long W,
    double *tile,                             # OUT rows of W: 1 (left alone), then 3 + P for each output
) noexcept nogil:
    """Lay out means and slopes of states start .. start + W - 1 as emission_tile.h wants them."""
    cdef long D = intercept.shape[1], P = coef.shape[2], d, p, w
    cdef double *q
    for d in range(D):
        q = tile + W + d * (3 + P) * W
        for w in range(W):
            q[w] = intercept[start + w, d]
            for p in range(P):
                q[(3 + p) * W + w] = coef[start + w, d, p]


cdef void pack_variances(
    const double[:, ::1] variances,           # IN  (N, D)
    long P,
    long start,
    long W,
    double *tile,                             # OUT as pack_means
) noexcept nogil:
    """Add what the densities need of the variances."""
    cdef long D = variances.shape[1], d, w
    cdef double *q
    memset(tile, 0, W * sizeof(double))
    for d in range(D):
        q = tile + W + d * (3 + P) * W
        for w in range(W):
            q[W + w] = -0.5 / variances[start + w, d]
            q[2 * W + w] = -0.5 * log(2.0 * M_PI * variances[start + w, d])
            tile[w] += q[2 * W + w]


cdef int check_linear(
    const double[:, ::1] outputs,
    const double[:, ::1] inputs,
    const double[:, ::1] by_state,            # the (n, N) array
    const double[:, :, ::1] coef,
    const double[:, ::1] intercept,
) except -1:
    cdef long n = outputs.shape[0], D = outputs.shape[1], N = by_state.shape[1], P = inputs.shape[1]
    if inputs.shape[0] != n or by_state.shape[0] != n:
        raise ValueError("outputs, inputs and the (n, N) array must have equally many rows")
    if coef.shape[0] != N or coef.shape[1] != D or coef.shape[2] != P:
        raise ValueError(f"coef must have shape {(N, D, P)}")
    if intercept.shape[0] != N or intercept.shape[1] != D:
        raise ValueError(f"intercept must have shape {(N, D)}")
    return 0


def linear_loglik(
    const double[:, ::1] outputs,             # IN  (n, D)
    const double[:, ::1] inputs,              # IN  (n, P)
    const double[:, :, ::1] coef,             # IN  (N, D, P)
    const double[:, ::1] intercept,           # IN  (N, D)
    const double[:, ::1] variances,           # IN  (N, D)
    double[:, ::1] out,                       # OUT (n, N)
):
    """out[t, k] = sum over observed d of log Normal(y_td; intercept_kd + coef_kd . u_t, variance_kd)."""
    cdef long n = outputs.shape[0], D = outputs.shape[1], P = inputs.shape[1], N = out.shape[1]
    cdef long start = 0, W
    cdef int missing
    cdef double *tile
    check_linear(outputs, inputs, out, coef, intercept)
    if variances.shape[0] != N or variances.shape[1] != D:
        raise ValueError("variances must have the shape of intercept")
    if n == 0:
        return
    tile = <double *> malloc(MAX_M * VL * (1 + D * (3 + P)) * sizeof(double))
    if tile == NULL:
        raise MemoryError()
    with nogil:
        missing = any_nan(&outputs[0, 0], n * D)
        while start < N:
            W = tile_width(N - start)
            pack_means(coef, intercept, start, W, tile)
            pack_variances(variances, P, start, W, tile)
            tile_loglik(W, missing, n, D, P, &outputs[0, 0], &inputs[0, 0] if P else NULL, tile, &out[0, start], N)
            start += W
        free(tile)


cdef void add_moments(
    const double *sums,                       # IN  [pair][weight, first, second][W]
    long start,
    long W,
    long d,
    long pair,
    double[:, :, :, ::1] gram,                # OUT (N, D, 1, 1) added
    double[:, :, ::1] cross,                  # OUT (N, D, 1) added
    double[:, ::1] scatter,                   # OUT (N, D) added
) noexcept nogil:
    cdef long e, w
    for e in range(pair):
        for w in range(W):
            gram[start + w, d + e, 0, 0] += sums[(3 * e) * W + w]
            cross[start + w, d + e, 0] += sums[(3 * e + 1) * W + w]
            scatter[start + w, d + e] += sums[(3 * e + 2) * W + w]


cdef void add_regression(
    const double *sums,                       # IN  rows of W: 1 scatter, F cross, then F (F + 1) / 2 gram
    const double *triangle,                   # IN  the gram rows (of this output or a common one)
    long start,
    long W,
    long d,
    double[:, :, :, ::1] gram,                # OUT (N, D, F, F) added
    double[:, :, ::1] cross,                  # OUT (N, D, F) added
    double[:, ::1] scatter,                   # OUT (N, D) added
) noexcept nogil:
    cdef long F = cross.shape[2], w, i, j, row
    for w in range(W):
        scatter[start + w, d] += sums[w]
        row = 0
        for i in range(F):
            cross[start + w, d, i] += sums[(1 + i) * W + w]
            for j in range(i + 1):
                gram[start + w, d, i, j] += triangle[row * W + w]
                if j < i:
                    gram[start + w, d, j, i] += triangle[row * W + w]
                row += 1


def linear_moments(
    const double[:, ::1] outputs,             # IN  (n, D)
    const double[:, ::1] inputs,              # IN  (n, P)
    const double[:, ::1] gamma,               # IN  (n, N)
    const double[:, :, ::1] coef,             # IN  (N, D, P)
    const double[:, ::1] intercept,           # IN  (N, D)
    double[:, :, :, ::1] gram,                # OUT (N, D, P+1, P+1) added: sum gamma x x'
    double[:, :, ::1] cross,                  # OUT (N, D, P+1) added: sum gamma x r
    double[:, ::1] scatter,                   # OUT (N, D) added: sum gamma r^2
):
    """Sums over the steps where y_td is observed, with x = [1, u_t] and r = y_td - intercept_kd - coef_kd . u_t."""
    cdef long n = outputs.shape[0], D = outputs.shape[1], P = inputs.shape[1], N = gamma.shape[1]
    cdef long start = 0, F = P + 1, W, d, rows = 1 + F + F * (F + 1) // 2, pair
    cdef int missing
    cdef double *tile
    cdef double *sums
    cdef double *triangle
    check_linear(outputs, inputs, gamma, coef, intercept)
    if gram.shape[0] != N or gram.shape[1] != D or gram.shape[2] != F or gram.shape[3] != F:
        raise ValueError(f"gram must have shape {(N, D, F, F)}")
    if cross.shape[0] != N or cross.shape[1] != D or cross.shape[2] != F:
        raise ValueError(f"cross must have shape {(N, D, F)}")
    if scatter.shape[0] != N or scatter.shape[1] != D:
        raise ValueError(f"scatter must have shape {(N, D)}")
    if n == 0:
        return
    tile = <double *> malloc(MAX_M * VL * (1 + D * (3 + P) + 2 * rows + 3) * sizeof(double))
    if tile == NULL:
        raise MemoryError()
    with nogil:
        missing = any_nan(&outputs[0, 0], n * D)
        while start < N:
            W = tile_width(N - start)
            pack_means(coef, intercept, start, W, tile)
            sums = tile + W * (1 + D * (3 + P))
            triangle = sums + W * (1 + F)
            d = 0
            while d < D:
                pair = 2 if P == 0 and not missing and d + 2 <= D else 1
                if P == 0:
                    tile_moments(W, pair, missing, n, D, &outputs[0, d], tile + d * 3 * W, &gamma[0, start], N, sums)
                    add_moments(sums, start, W, d, pair, gram, cross, scatter)
                else:
                    # Without missing entries all outputs share the first one's gram.
                    memset(sums, 0, W * (rows if missing or d == 0 else 1 + F) * sizeof(double))
                    tile_regression(W, missing or d == 0, n, D, P, &outputs[0, d], &inputs[0, 0],
                                    tile + W + d * (3 + P) * W, &gamma[0, start], N, sums)
                    add_regression(sums, triangle, start, W, d, gram, cross, scatter)
                d += pair
            start += W
        free(tile)


def gather(
    const double[:, ::1] symbols,             # IN  (n, 1), whole numbers 0 .. M-1 or NaN
    const double[:, ::1] table,               # IN  (M, N)
    double[:, ::1] out,                       # OUT (n, N)
):
    """out[t] = table[symbols[t]]; 0 where the symbol is missing."""
    cdef long n = symbols.shape[0], N = out.shape[1], start = 0, W, bad = -1
    if symbols.shape[1] != 1 or out.shape[0] != n or table.shape[1] != N:
        raise ValueError("symbols must be (n, 1), table (M, N) and out (n, N)")
    if n == 0:
        return
    with nogil:
        while start < N and bad < 0:
            W = tile_width(N - start)
            bad = tile_gather(W, n, table.shape[0], &symbols[0, 0], &table[0, start], &out[0, start], N)
            start += W
    if bad >= 0:
        raise ValueError(f"row {bad}: symbol {symbols[bad, 0]:g} is not among 0..{table.shape[0] - 1}")


def scatter(
    const double[:, ::1] symbols,             # IN  (n, 1), whole numbers 0 .. M-1 or NaN
    const double[:, ::1] gamma,               # IN  (n, N)
    double[:, ::1] sums,                      # OUT (M, N) added
):
    """sums[symbols[t]] += gamma[t]; missing symbols count nowhere."""
    cdef long n = symbols.shape[0], N = gamma.shape[1], start = 0, W, bad = -1
    if symbols.shape[1] != 1 or gamma.shape[0] != n or sums.shape[1] != N:
        raise ValueError("symbols must be (n, 1), gamma (n, N) and sums (M, N)")
    if n == 0:
        return
    with nogil:
        while start < N and bad < 0:
            W = tile_width(N - start)
            bad = tile_scatter(W, n, sums.shape[0], &symbols[0, 0], &gamma[0, start], &sums[0, start], N)
            start += W
    if bad >= 0:
        raise ValueError(f"row {bad}: symbol {symbols[bad, 0]:g} is not among 0..{sums.shape[0] - 1}")
