"""Emission kernels: Gaussian log-likelihoods and moments (constant or linear means), categorical gather and scatter.

Outputs are (n, D) with NaN for entries not observed, inputs (n, P), gamma (n, N). Everything is one pass over the
steps for each tile of states; nothing of size (n, N, D) exists.
"""

from hiermm._ext.normal cimport Normal, NormalSums, normal_loglik, normal_moments

cdef extern from "emission.h" nogil:
    long tile_width(long left)
    long tile_gather(long width, long n, long n_symbols, const double *y, const double *table, double *out,
                     long stride)
    long tile_scatter(long width, long n, long n_symbols, const double *y, const double *gamma, double *sums,
                      long stride)


cdef Normal normal(
    const double[:, ::1] outputs,
    const double[:, ::1] inputs,
    const double[:, ::1] by_state,            # the (n, N) array
    const double[:, :, ::1] coef,
    const double[:, ::1] intercept,
):
    """The means, after a look at the shapes."""
    cdef long n = outputs.shape[0], D = outputs.shape[1], N = by_state.shape[1], P = inputs.shape[1]
    cdef Normal e
    if inputs.shape[0] != n or by_state.shape[0] != n:
        raise ValueError("outputs, inputs and the (n, N) array must have equally many rows")
    if coef.shape[0] != N or coef.shape[1] != D or coef.shape[2] != P:
        raise ValueError(f"coef must have shape {(N, D, P)}")
    if intercept.shape[0] != N or intercept.shape[1] != D:
        raise ValueError(f"intercept must have shape {(N, D)}")
    e.N, e.D, e.P = N, D, P
    e.coef = &coef[0, 0, 0] if P else NULL
    e.intercept = &intercept[0, 0]
    e.variances = NULL
    return e


def linear_loglik(
    const double[:, ::1] outputs,             # IN  (n, D)
    const double[:, ::1] inputs,              # IN  (n, P)
    const double[:, :, ::1] coef,             # IN  (N, D, P)
    const double[:, ::1] intercept,           # IN  (N, D)
    const double[:, ::1] variances,           # IN  (N, D)
    double[:, ::1] out,                       # OUT (n, N)
):
    """out[t, k] = sum over observed d of log Normal(y_td; intercept_kd + coef_kd . u_t, variance_kd)."""
    cdef Normal e = normal(outputs, inputs, out, coef, intercept)
    cdef bint enough
    if variances.shape[0] != e.N or variances.shape[1] != e.D:
        raise ValueError("variances must have the shape of intercept")
    if outputs.shape[0] == 0:
        return
    e.variances = &variances[0, 0]
    with nogil:
        enough = normal_loglik(&e, outputs.shape[0], &outputs[0, 0], &inputs[0, 0] if e.P else NULL, &out[0, 0])
    if not enough:
        raise MemoryError()


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
    cdef Normal e = normal(outputs, inputs, gamma, coef, intercept)
    cdef NormalSums to
    cdef long F = e.P + 1
    cdef bint enough
    if gram.shape[0] != e.N or gram.shape[1] != e.D or gram.shape[2] != F or gram.shape[3] != F:
        raise ValueError(f"gram must have shape {(e.N, e.D, F, F)}")
    if cross.shape[0] != e.N or cross.shape[1] != e.D or cross.shape[2] != F:
        raise ValueError(f"cross must have shape {(e.N, e.D, F)}")
    if scatter.shape[0] != e.N or scatter.shape[1] != e.D:
        raise ValueError(f"scatter must have shape {(e.N, e.D)}")
    if outputs.shape[0] == 0:
        return
    to.gram, to.cross, to.scatter = &gram[0, 0, 0, 0], &cross[0, 0, 0], &scatter[0, 0]
    with nogil:
        enough = normal_moments(&e, outputs.shape[0], &outputs[0, 0], &inputs[0, 0] if e.P else NULL, &gamma[0, 0], &to)
    if not enough:
        raise MemoryError()


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
