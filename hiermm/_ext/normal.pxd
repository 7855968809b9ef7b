"""Normal outputs, for the modules that share normal.h."""

from libc.stdint cimport int64_t

cdef extern from "normal.h" nogil:
    ctypedef struct Normal:
        int64_t N
        int64_t D
        int64_t P
        const double *coef
        const double *intercept
        const double *variances

    ctypedef struct NormalSums:
        double *gram
        double *cross
        double *scatter

    bint normal_loglik(const Normal *e, int64_t n, const double *y, const double *u, double *out)
    bint normal_moments(const Normal *e, int64_t n, const double *y, const double *u, const double *gamma,
                        const NormalSums *to)
