"""M-steps in closed form, for arrays so small that a NumPy call for each operation would cost more than all of them."""


def proportions(
    const double[:, :] counts,                # IN  (n, K)
    const double[:, :] before,                # IN  (n, K), rows that sum to 1
    free,                                     # IN  (n, K) bool, or None: the entries above 0 before
    double least,                             # IN
    double[:, ::1] out,                       # OUT (n, K)
):
    """The free entries of a row share, in proportion to their counts, what the others, which stay, leave of 1.

    Rows whose free entries do not count more than `least` stay as they were before.
    """
    cdef Py_ssize_t n = counts.shape[0], K = counts.shape[1], r, k
    cdef const unsigned char[:, ::1] mask = None if free is None else free.view("u1")
    cdef bint masked = free is not None
    cdef double total, share
    if before.shape[0] != n or before.shape[1] != K or out.shape[0] != n or out.shape[1] != K:
        raise ValueError(f"before and out must have the shape of counts, {(n, K)}")
    if masked and (mask.shape[0] != n or mask.shape[1] != K):
        raise ValueError(f"free must have the shape of counts, {(n, K)}")
    with nogil:
        for r in range(n):
            total, share = 0, 1
            for k in range(K):
                if (mask[r, k] > 0) if masked else (before[r, k] > 0):
                    total += counts[r, k]
                else:
                    share -= before[r, k]
            for k in range(K):
                out[r, k] = before[r, k]
                if total > least and ((mask[r, k] > 0) if masked else (before[r, k] > 0)):
                    out[r, k] = counts[r, k] * share / total


def normal(
    const double[:, :, :, ::1] gram,          # IN  (N, D, F, F)
    const double[:, :, ::1] cross,            # IN  (N, D, F)
    const double[:, ::1] scatter,             # IN  (N, D)
    const double[:, :] weight,                # IN  (N, D)
    double pseudo,                            # IN
    const double[:] prior,                    # IN  (D,)
    const double[::1] floor,                  # IN  (V,) with V = D, or 1: the outputs of a state share a variance
    double least,                             # IN
    double[:, :, ::1] change,                 # IN  (N, D, F), solves gram change = cross; OUT if F = 1
    double[:, :, ::1] theta,                  # IN and OUT (N, D, F)
    double[:, ::1] variances,                 # IN and OUT (N, V)
    double[::1] most,                         # OUT (N,)
):
    """Coefficients `theta` and variances of independent outputs; see `NormalEmission.statistics` for the sums.

    The sum of squared residuals at the new coefficients is scatter - change (2 cross - gram change); the variance is
    that of `weight` observations of these residuals and `pseudo` of variance `prior`, and no less than `floor`. Where
    `weight` is below `least`, coefficients stay as they are, and where both together are, variances. `most` is the
    largest weight of an output of each state, NaN if one is.
    """
    cdef Py_ssize_t N = cross.shape[0], D = cross.shape[1], F = cross.shape[2], V = variances.shape[1], k, d, f, g, v
    cdef double rest, count, left, pulled
    if gram.shape[0] != N or gram.shape[1] != D or gram.shape[2] != F or gram.shape[3] != F:
        raise ValueError(f"gram must have shape {(N, D, F, F)}")
    if change.shape[0] != N or change.shape[1] != D or change.shape[2] != F:
        raise ValueError(f"change must have shape {(N, D, F)}")
    if theta.shape[0] != N or theta.shape[1] != D or theta.shape[2] != F:
        raise ValueError(f"theta must have shape {(N, D, F)}")
    if scatter.shape[0] != N or scatter.shape[1] != D or prior.shape[0] != D:
        raise ValueError(f"scatter must have shape {(N, D)} and prior that of a row")
    if weight.shape[0] != N or weight.shape[1] != D or most.shape[0] != N:
        raise ValueError(f"weight must have shape {(N, D)} and most that of a column")
    if variances.shape[0] != N or (V != D and V != 1) or floor.shape[0] != V:
        raise ValueError(f"variances must have shape {(N, D)} or {(N, 1)}, and floor that of a row")
    with nogil:
        for k in range(N):
            most[k] = weight[k, 0]
            for d in range(1, D):
                if weight[k, d] > most[k] or weight[k, d] != weight[k, d]:
                    most[k] = weight[k, d]
            for v in range(V):
                rest = count = 0
                for d in range(v, v + 1 if V == D else D):
                    left = scatter[k, d]
                    if F == 1:
                        change[k, d, 0] = cross[k, d, 0] / gram[k, d, 0, 0] if gram[k, d, 0, 0] > 0 else 0
                    for f in range(F):
                        pulled = 0
                        for g in range(F):
                            pulled = pulled + gram[k, d, f, g] * change[k, d, g]
                        left = left - change[k, d, f] * (2 * cross[k, d, f] - pulled)
                        if weight[k, d] >= least:
                            theta[k, d, f] += change[k, d, f]
                    rest = rest + (0 if left < 0 else left) + pseudo * prior[d]
                    count = count + weight[k, d] + pseudo
                if count >= least:
                    variances[k, v] = floor[v] if rest / count < floor[v] else rest / count
