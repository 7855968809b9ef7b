"""Long products of one-step maps as Q diag(exp(d)) T: Q orthogonal, the logs d on any scale, T well conditioned.

Every direction keeps its relative accuracy, however far below the largest it lies (the "UDT" form of Bai, Lee, Li & Xu,
Linear Algebra Appl. 435, 2011). Map k of a product is `matrices[k % L]`; `zero_sum` as in `products`.
"""

from libc.float cimport DBL_EPSILON
from libc.math cimport INFINITY, copysign, exp, fabs, log, sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from "products.h" nogil:
    Py_ssize_t PRODUCT_WIDTH
    int rescale(double *P, Py_ssize_t size)
    void restrict_map(const double *M, Py_ssize_t n, double *out, double *line)
    void multiply(const double *M, Py_ssize_t rows, Py_ssize_t inner, const double *P, double *out, Py_ssize_t ld)
    void add_multiple(double *y, const double *x, double a, Py_ssize_t n)

cdef enum:
    LONGEST_BLOCK = 16      # factors multiplied between two orthogonalisations, at most

cdef double SAFE = 1e-4     # a block whose weakest direction keeps this share has lost at most four digits


cdef struct Frame:          # the state and scratch of `graded`; arrays (n, ld) unless said otherwise
    Py_ssize_t n
    Py_ssize_t ld
    double *Q
    double *T               # NULL: not wanted
    double *d               # (n,)
    double *Y               # the frame carried over a block, then its triangular factor
    double *Z               # scratch
    double *small           # (n, n): a map restricted to the zero-sum vectors
    double *weight          # (ld,): log scale of each column
    double *residual        # (ld,)
    double *significant     # (ld,)
    double *tau             # (n,): the reflections' factors
    double *row_scale       # (n,): 1 / largest entry of each row
    double *line            # (ld,)
    Py_ssize_t *column      # (n,): which old column stands at place k
    Py_ssize_t *row         # (n,): which old row stands at place k


cdef Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    return (n + PRODUCT_WIDTH - 1) // PRODUCT_WIDTH * PRODUCT_WIDTH


cdef void load(const double[:, ::1] source, double *out, Py_ssize_t n, Py_ssize_t ld) noexcept nogil:
    cdef Py_ssize_t i
    memset(out, 0, n * ld * sizeof(double))
    for i in range(n):
        memcpy(out + i * ld, &source[i, 0], n * sizeof(double))


cdef void store(const double *source, double[:, ::1] out, Py_ssize_t n, Py_ssize_t ld) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(&out[i, 0], source + i * ld, n * sizeof(double))


cdef Py_ssize_t checked_size(
    const double[:, :, ::1] matrices, Py_ssize_t first, Py_ssize_t count, bint zero_sum
) except -1:
    """Size of the maps that are multiplied, after a look at the arguments."""
    if matrices.shape[0] < 1 or matrices.shape[1] != matrices.shape[2] or first < 0 or count < 0:
        raise ValueError("matrices must be (L, n, n) with L >= 1, first and count non-negative.")
    if matrices.shape[1] - zero_sum < 1:
        raise ValueError("one state has no zero-sum direction.")
    return matrices.shape[1] - zero_sum


cdef void normalise_columns(Frame *f) noexcept nogil:
    """Give every live column of Y length one, its log moving into `weight`; note the scale of each row."""
    cdef Py_ssize_t n = f.n, ld = f.ld, i, j
    cdef double top
    memset(f.line, 0, ld * sizeof(double))
    for i in range(n):
        for j in range(ld):
            f.line[j] += f.Y[i * ld + j] * f.Y[i * ld + j]
    for j in range(n):
        f.weight[j] = f.d[j] + log(f.line[j]) / 2 if f.line[j] > 0.0 else -INFINITY
        f.line[j] = 1.0 / sqrt(f.line[j]) if f.weight[j] > -INFINITY else 0.0
        f.column[j] = f.row[j] = j
    for i in range(n):
        top = 0.0
        for j in range(n):
            f.Y[i * ld + j] *= f.line[j]
            top = fabs(f.Y[i * ld + j]) if fabs(f.Y[i * ld + j]) > top else top
        f.row_scale[i] = 1.0 / top if top > 0.0 else 0.0


cdef void swap_columns(Frame *f, Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    cdef Py_ssize_t i
    if a == b:
        return
    for i in range(f.n):
        f.Y[i * f.ld + a], f.Y[i * f.ld + b] = f.Y[i * f.ld + b], f.Y[i * f.ld + a]
    f.weight[a], f.weight[b] = f.weight[b], f.weight[a]
    f.residual[a], f.residual[b] = f.residual[b], f.residual[a]
    f.column[a], f.column[b] = f.column[b], f.column[a]


cdef void swap_rows(Frame *f, Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    cdef Py_ssize_t j
    if a == b:
        return
    for j in range(f.ld):
        f.Y[a * f.ld + j], f.Y[b * f.ld + j] = f.Y[b * f.ld + j], f.Y[a * f.ld + j]
    f.row_scale[a], f.row_scale[b] = f.row_scale[b], f.row_scale[a]
    f.row[a], f.row[b] = f.row[b], f.row[a]


cdef Py_ssize_t choose_column(Frame *f, Py_ssize_t k, double *share) noexcept nogil:
    """The column with the largest remainder (weights included) that is more than rounding; -1 if there is none.

    A remainder counts where it exceeds rounding in at least one row, measured on that row's own scale: a map with
    one row of size 1e-18 (a saturated unit) is not singular. `share` falls to the least such measure chosen.
    """
    cdef Py_ssize_t n = f.n, ld = f.ld, i, j, best = -1
    cdef double y, top = -INFINITY, tolerance = 4 * n * DBL_EPSILON
    memset(f.residual, 0, ld * sizeof(double))
    memset(f.significant, 0, ld * sizeof(double))
    for i in range(k, n):
        for j in range(k, ld):
            y = f.Y[i * ld + j]
            f.residual[j] += y * y
            y = fabs(y) * f.row_scale[i]
            f.significant[j] = y if y > f.significant[j] else f.significant[j]
    for j in range(k, n):
        if f.weight[j] == -INFINITY or f.significant[j] <= tolerance:
            continue
        y = f.weight[j] + log(f.residual[j]) / 2
        if y > top:
            top, best = y, j
    if best >= 0 and f.significant[best] < share[0]:
        share[0] = f.significant[best]
    return best


cdef void reflect(Frame *f, Py_ssize_t k) noexcept nogil:
    """Householder step k on Y: the vector stays below the diagonal (its head is 1), R[k, k] on it."""
    cdef Py_ssize_t n = f.n, ld = f.ld, i, j
    cdef double head = f.Y[k * ld + k], length = sqrt(f.residual[k]), diagonal = -copysign(length, head)
    cdef double scale = 1.0 / (head - diagonal)
    f.tau[k] = (diagonal - head) / diagonal
    for i in range(k + 1, n):
        f.Y[i * ld + k] *= scale
    for j in range(k + 1, ld):
        f.line[j] = f.Y[k * ld + j]
    for i in range(k + 1, n):
        add_multiple(f.line + k + 1, f.Y + i * ld + k + 1, f.Y[i * ld + k], ld - k - 1)
    add_multiple(f.Y + k * ld + k + 1, f.line + k + 1, -f.tau[k], ld - k - 1)
    for i in range(k + 1, n):
        add_multiple(f.Y + i * ld + k + 1, f.line + k + 1, -f.tau[k] * f.Y[i * ld + k], ld - k - 1)
    f.Y[k * ld + k] = diagonal


cdef Py_ssize_t factorise(Frame *f, double *share) noexcept nogil:
    """Y = Q R with weighted column and row exchanges; returns the rank.

    The largest entry of each column goes to the diagonal, which keeps rows of very different size accurate
    (Cox & Higham, Stability of Householder QR factorization for weighted least squares problems, 1998).
    """
    cdef Py_ssize_t k, i, best, top
    normalise_columns(f)
    share[0] = 1.0
    for k in range(f.n):
        best = choose_column(f, k, share)
        if best < 0:
            return k
        swap_columns(f, k, best)
        top = k
        for i in range(k + 1, f.n):
            if fabs(f.Y[i * f.ld + k]) > fabs(f.Y[top * f.ld + k]):
                top = i
        swap_rows(f, k, top)
        reflect(f, k)
    return f.n


cdef void new_frame(Frame *f, Py_ssize_t rank) noexcept nogil:
    """Q from the reflections, rows back at their places; columns past the rank complete the basis."""
    cdef Py_ssize_t n = f.n, ld = f.ld, i, k
    memset(f.Z, 0, n * ld * sizeof(double))
    for i in range(n):
        f.Z[i * ld + i] = 1.0
    for k in range(rank - 1, -1, -1):
        memcpy(f.line, f.Z + k * ld, ld * sizeof(double))
        for i in range(k + 1, n):
            add_multiple(f.line, f.Z + i * ld, f.Y[i * ld + k], ld)
        add_multiple(f.Z + k * ld, f.line, -f.tau[k], ld)
        for i in range(k + 1, n):
            add_multiple(f.Z + i * ld, f.line, -f.tau[k] * f.Y[i * ld + k], ld)
    for i in range(n):
        memcpy(f.Q + f.row[i] * ld, f.Z + i * ld, ld * sizeof(double))


cdef void new_right(Frame *f, Py_ssize_t rank) noexcept nogil:
    """T <- diag(exp(-d)) R diag(exp(weight)) T; the exchanges make every coefficient at most about one."""
    cdef Py_ssize_t n = f.n, ld = f.ld, k, j
    cdef double ratio, gap
    memset(f.Z, 0, n * ld * sizeof(double))
    for k in range(rank):
        for j in range(k, n):
            ratio = f.Y[k * ld + j] / fabs(f.Y[k * ld + k])
            if ratio == 0.0 or f.weight[j] == -INFINITY:
                continue
            gap = f.weight[j] - f.weight[k]
            if gap > 600.0:
                ratio = copysign(exp(gap + log(fabs(ratio))), ratio)
            else:
                ratio *= exp(gap)
            add_multiple(f.Z + k * ld, f.T + f.column[j] * ld, ratio, ld)
    memcpy(f.T, f.Z, n * ld * sizeof(double))


cdef void accept(Frame *f, Py_ssize_t rank, double log_scale) noexcept nogil:
    """Move on to the factorised block: new d, T and Q."""
    cdef Py_ssize_t k
    if f.T != NULL:
        new_right(f, rank)
    for k in range(f.n):
        f.d[k] = f.weight[k] + log(fabs(f.Y[k * f.ld + k])) + log_scale if k < rank else -INFINITY
    new_frame(f, rank)


cdef double carry(
    Frame *f, const double[:, :, ::1] matrices, Py_ssize_t first, Py_ssize_t count, bint zero_sum
) noexcept nogil:
    """Y <- M_last ... M_first Q, scaled; returns the log of the scale."""
    cdef Py_ssize_t L = matrices.shape[0], step
    cdef long long exponent = 0
    cdef const double *M
    cdef const double *source = f.Q
    cdef double *target = f.Y
    cdef double *spare = f.Z
    for step in range(first, first + count):
        M = &matrices[step % L, 0, 0]
        if zero_sum:
            restrict_map(M, f.n + 1, f.small, f.line)
            M = f.small
        multiply(M, f.n, f.n, source, target, f.ld)
        exponent += rescale(target, f.n * f.ld)
        source = target
        target, spare = spare, target
    if source != f.Y:
        f.Y, f.Z = f.Z, f.Y
    return exponent * 0.6931471805599453


cdef void advance(
    Frame *f, const double[:, :, ::1] matrices, Py_ssize_t first, Py_ssize_t count, bint zero_sum
) noexcept nogil:
    """Blocks of several maps while that is harmless; one at a time where directions part quickly."""
    cdef Py_ssize_t done = 0, block = 4, size, rank
    cdef double share, log_scale
    while done < count:
        size = block if block < count - done else count - done
        log_scale = carry(f, matrices, first + done, size, zero_sum)
        rank = factorise(f, &share)
        if size > 1 and (share < SAFE or rank < f.n and f.d[rank] > -INFINITY):
            block = size // 2
            continue
        accept(f, rank, log_scale)
        done += size
        if share > sqrt(SAFE) and block < LONGEST_BLOCK:
            block *= 2


def graded(
    const double[:, :, ::1] matrices,   # IN (L, n, n)
    Py_ssize_t first,
    Py_ssize_t count,
    bint zero_sum,
    double[:, ::1] Q,                   # IN and OUT (k, k) orthogonal, k = n or n - 1
    double[::1] d,                      # IN and OUT (k,) log scales; -inf: a direction that is lost
    T=None,                             # IN and OUT (k, k) or None: not wanted
):
    """Multiply Q diag(exp(d)) T from the left by the maps first .. first + count - 1."""
    cdef Frame f
    cdef double[:, ::1] right = T
    cdef bint wanted = T is not None
    f.n = checked_size(matrices, first, count, zero_sum)
    f.ld = padded(f.n)
    if Q.shape[0] != f.n or Q.shape[1] != f.n or d.shape[0] != f.n:
        raise ValueError(f"Q must be ({f.n}, {f.n}) and d ({f.n},).")
    if wanted and (right.shape[0] != f.n or right.shape[1] != f.n):
        raise ValueError(f"T must be ({f.n}, {f.n}).")
    cdef Py_ssize_t square = f.n * f.ld
    cdef double *memory = <double *>malloc((5 * square + 10 * (f.ld + 8)) * sizeof(double))
    cdef Py_ssize_t *places = <Py_ssize_t *>malloc(2 * f.n * sizeof(Py_ssize_t))
    if memory == NULL or places == NULL:
        free(memory)
        free(places)
        raise MemoryError()
    with nogil:
        memset(memory, 0, (5 * square + 10 * (f.ld + 8)) * sizeof(double))
        f.Q, f.Y, f.Z, f.small = memory, memory + square, memory + 2 * square, memory + 3 * square
        f.T = memory + 4 * square if wanted else NULL
        f.weight = memory + 5 * square
        f.residual = f.weight + f.ld + 8
        f.significant = f.residual + f.ld + 8
        f.tau = f.significant + f.ld + 8
        f.row_scale = f.tau + f.ld + 8
        f.line = f.row_scale + f.ld + 8
        f.d = &d[0]
        f.column, f.row = places, places + f.n
        load(Q, f.Q, f.n, f.ld)
        if wanted:
            load(right, f.T, f.n, f.ld)
        advance(&f, matrices, first, count, zero_sum)
        store(f.Q, Q, f.n, f.ld)
        if wanted:
            store(f.T, right, f.n, f.ld)
        free(memory)
        free(places)
