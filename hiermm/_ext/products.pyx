"""Long products of one-step maps as a matrix and a power of two, and gradients carried back over them.

Map k of a product is `matrices[k % L]`. With `zero_sum` the maps are column-stochastic and only their action on vectors
that sum to zero is followed, in the orthonormal basis of Helmert (k ones, then -k, scaled).
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
    double dot(const double *x, const double *y, Py_ssize_t n)


cdef Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    return (n + PRODUCT_WIDTH - 1) // PRODUCT_WIDTH * PRODUCT_WIDTH


cdef void unit_columns(double *P, Py_ssize_t n, Py_ssize_t ld, double *line) noexcept nogil:
    """Make every column sum to one again; each was one up to rounding."""
    cdef Py_ssize_t i, j
    memset(line, 0, ld * sizeof(double))
    for i in range(n):
        add_multiple(line, P + i * ld, 1.0, ld)
    for j in range(n):
        line[j] = 1.0 / line[j]
    for i in range(n):
        for j in range(n):
            P[i * ld + j] *= line[j]


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


def chain(
    const double[:, :, ::1] matrices,   # IN (L, n, n)
    Py_ssize_t first,
    Py_ssize_t count,
    bint zero_sum,
    bint stochastic,
    double[:, ::1] product,             # IN and OUT (k, k), k = n or n - 1: multiplied from the left by `count` maps
):
    """Multiply `product` by the maps first .. first + count - 1; return the power of two taken out of it.

    `stochastic` keeps the sums of the columns at one (for whole column-stochastic products).
    """
    cdef Py_ssize_t k = checked_size(matrices, first, count, zero_sum)
    cdef Py_ssize_t n = matrices.shape[1], L = matrices.shape[0], ld = padded(k), step
    cdef long long exponent = 0
    cdef double *P
    cdef double *Z
    cdef double *small
    cdef double *line
    cdef double *swap
    cdef const double *M
    if product.shape[0] != k or product.shape[1] != k:
        raise ValueError(f"product must be ({k}, {k}).")
    cdef double *memory = <double *>malloc((2 * k * ld + n * n + padded(n)) * sizeof(double))
    if memory == NULL:
        raise MemoryError()
    with nogil:
        P, Z, small = memory, memory + k * ld, memory + 2 * k * ld
        line = small + n * n
        load(product, P, k, ld)
        for step in range(first, first + count):
            M = &matrices[step % L, 0, 0]
            if zero_sum:
                restrict_map(M, n, small, line)
                M = small
            multiply(M, k, k, P, Z, ld)
            swap = P
            P = Z
            Z = swap
            if stochastic:
                unit_columns(P, k, ld, line)
            else:
                exponent += rescale(P, k * ld)
        store(P, product, k, ld)
        free(memory)
    return exponent


def backward(
    const double[:, :, ::1] matrices,   # IN (L, n, n)
    Py_ssize_t first,
    Py_ssize_t count,
    bint zero_sum,
    double[::1] gradient,               # IN and OUT (n,): becomes M_first' ... M_last' gradient, scaled
):
    """Carry a gradient back over the maps first .. first + count - 1; return the power of two taken out of it.

    `zero_sum` keeps the part that acts on vectors of sum zero: the mean is taken off at every step.
    """
    cdef Py_ssize_t n = matrices.shape[1], L = matrices.shape[0], step, i
    cdef long long exponent = 0
    cdef const double *M
    cdef double *g
    cdef double *h
    cdef double *swap
    cdef double mean
    checked_size(matrices, first, count, False)
    if gradient.shape[0] != n:
        raise ValueError(f"gradient must be ({n},).")
    cdef double *memory = <double *>malloc(2 * n * sizeof(double))
    if memory == NULL:
        raise MemoryError()
    with nogil:
        g, h = memory, memory + n
        memcpy(g, &gradient[0], n * sizeof(double))
        for step in range(first + count - 1, first - 1, -1):
            M = &matrices[step % L, 0, 0]
            memset(h, 0, n * sizeof(double))
            for i in range(n):
                if g[i] != 0.0:
                    add_multiple(h, M + i * n, g[i], n)
            if zero_sum:
                mean = 0.0
                for i in range(n):
                    mean += h[i] - h[0]         # differences first: equal entries leave exactly nothing
                mean /= n
                for i in range(n - 1, -1, -1):
                    h[i] = h[i] - h[0] - mean
            exponent += rescale(h, n)
            swap = g
            g = h
            h = swap
        memcpy(&gradient[0], g, n * sizeof(double))
        free(memory)
    return exponent


cdef bint rotate(double *x, double *y, double gap, Py_ssize_t n) noexcept nogil:
    """Make rows x and exp(gap) y orthogonal, gap <= 0, without ever forming exp(gap) y; False if they were."""
    cdef double xx = dot(x, x, n), yy = dot(y, y, n), xy = dot(x, y, n)
    cdef double rho = exp(gap), z, t, c, old
    cdef Py_ssize_t i
    if fabs(xy) <= n * DBL_EPSILON * sqrt(xx) * sqrt(yy):
        return False
    z = (rho * rho * yy - xx) / (2 * xy)
    t = copysign(1.0, z) / (fabs(z) + sqrt(rho * rho + z * z))      # the tangent over rho
    c = 1.0 / sqrt(1.0 + rho * t * rho * t)
    for i in range(n):
        old = x[i]
        x[i] = c * (old - rho * rho * t * y[i])
        y[i] = c * (t * old + y[i])
    return True


def log_singular_values(
    const double[::1] d,                # IN (n,) log scales, -inf allowed
    double[:, ::1] T,                   # IN (n, n); overwritten
    double[::1] out,                    # OUT (n,) logs, in no particular order
):
    """Log singular values of diag(exp(d)) T on any scale: one-sided Jacobi rotations of rows that carry log scales.

    After Demmel & Veselic, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 13 (1992). Returns
    the number of sweeps.
    """
    cdef Py_ssize_t n = d.shape[0], i, j, sweep = 0
    cdef double length
    cdef bint moved = True
    if T.shape[0] != n or T.shape[1] != n or out.shape[0] != n:
        raise ValueError("d, T and out must be (n,), (n, n) and (n,).")
    with nogil:
        for i in range(n):
            length = sqrt(dot(&T[i, 0], &T[i, 0], n))
            out[i] = d[i] + log(length) if length > 0.0 else -INFINITY
            for j in range(n):
                T[i, j] = T[i, j] / length if out[i] > -INFINITY else 0.0
        while moved and sweep < 60:
            moved = False
            for i in range(n):
                for j in range(i + 1, n):
                    if out[i] == -INFINITY or out[j] == -INFINITY:
                        continue
                    if out[i] >= out[j]:
                        moved |= rotate(&T[i, 0], &T[j, 0], out[j] - out[i], n)
                    else:
                        moved |= rotate(&T[j, 0], &T[i, 0], out[i] - out[j], n)
            sweep += 1
        for i in range(n):
            length = dot(&T[i, 0], &T[i, 0], n)
            out[i] = out[i] + log(length) / 2 if length > 0.0 else -INFINITY
    return sweep
