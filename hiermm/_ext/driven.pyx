"""Smoothing of flat chains whose transition rows follow the inputs, fused with the sums that a Newton step needs.

K states, P inputs; the rows are those of softmax.pyx with one group a state: G = M = K. Sequences run side by side in
the lanes of the processor's vectors; driven.h holds the loops.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

import numpy as np

cdef extern from "driven.h" nogil:
    enum:
        STEPS_MOST
        REDO
    ctypedef struct Chain:
        int64_t N
        const double *initial

    ctypedef struct Group:
        const Chain *c

    ctypedef struct Steps:
        Group g

    ctypedef struct Driven:
        Steps s
        int64_t P
        int64_t F
        const double *ll
        const double *inputs
        double *gamma
        double *leaving
        const double *coef
        const double *intercept
        const int64_t *skip
        double mass
        double *gradient
        double *hessian
        double *weight
        double *moments

    int driven_all(Driven *d, const int64_t *offsets, int64_t m, double *loglik, int64_t *status)

MOST_STATES = STEPS_MOST  # states up to which `smooth` serves
LEFT_OUT = REDO  # status of a sequence that `smooth` leaves to other means


cdef check(name, array, shape):
    if array.shape[: len(shape)] != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape[: len(shape)]}")


def smooth(const double[:, ::1] ll,          # IN (n, K)
           const double[:, ::1] inputs,      # IN (n, P)
           const int64_t[::1] offsets,       # IN (m + 1,)
           const double[::1] initial,        # IN (K,)
           coef,                             # IN (K, K, P)
           intercept,                        # IN (K, K)
           double w,                         # IN, < 0: none
           stay,                             # IN (K,) or None
           double[:, ::1] gamma,             # OUT (n, K), may be the same memory as ll
           double[::1] loglik,               # OUT (m,)
           int64_t[::1] status,              # OUT (m,)
           double[:, :, ::1] gradient,       # OUT (K, K, P+1), added to, as the three below: see softmax.newton_sums
           double[:, :, ::1] hessian,        # OUT (K, K*(P+1), K*(P+1))
           double[::1] weight,               # OUT (K,)
           double[:, ::1] moments,           # OUT (P+1, P+1)
           double[:, ::1] leaving=None):     # OUT (n, K): expected moves from each state to free destinations, by step
    """Posteriors, log-likelihoods in nats and Newton sums of all sequences, as `dense.smooth` and `newton_sums` give.

    A sequence of status `LEFT_OUT` is to be done by those: its posteriors may need the logarithmic recursion, or it
    found too little company to fill the lanes. Nothing of it is counted, and its rows of `gamma` are left as they were.
    """
    cdef int64_t n = ll.shape[0], K = ll.shape[1], P = inputs.shape[1], m = offsets.shape[0] - 1, s, size = K * (P + 1)
    cdef Chain c
    cdef Driven d
    cdef int enough
    if not 2 <= K <= STEPS_MOST:
        raise ValueError(f"between 2 and {STEPS_MOST} states, got {K}")
    if m < 1 or offsets[0] != 0 or offsets[m] != n:
        raise ValueError(f"offsets must run from 0 to the number of rows {n}")
    for s in range(m):
        if offsets[s + 1] <= offsets[s]:
            raise ValueError(f"sequence {s} is empty")
    for name, array, shape in (
        ("inputs", inputs, (n,)), ("initial", initial, (K,)), ("coef", coef, (K, K, P)),
        ("intercept", intercept, (K, K)), ("gamma", gamma, (n, K)), ("loglik", loglik, (m,)),
        ("status", status, (m,)), ("gradient", gradient, (K, K, P + 1)), ("hessian", hessian, (K, size, size)),
        ("weight", weight, (K,)), ("moments", moments, (P + 1, P + 1)),
    ):
        check(name, array, shape)
    if leaving is not None:
        check("leaving", leaving, (n, K))
    free_ = np.ones((K, K), bool) if stay is None else np.arange(K) != np.asarray(stay)[:, None]
    cdef int64_t F = K if stay is None else K - 1
    cdef const double[:, :, ::1] W = np.ascontiguousarray(np.asarray(coef)[free_].reshape(K, F, P), float)
    cdef const double[:, ::1] b = np.ascontiguousarray(np.asarray(intercept)[free_].reshape(K, F), float)
    cdef const int64_t[::1] skip = np.full(K, K + 1, np.int64) if stay is None else np.ascontiguousarray(stay, np.int64)
    memset(&c, 0, sizeof(Chain))
    memset(&d, 0, sizeof(Driven))
    c.N = K
    c.initial = &initial[0]
    d.s.g.c = &c
    d.P, d.F = P, F
    d.ll, d.gamma = &ll[0, 0], &gamma[0, 0]
    if P:
        d.inputs, d.coef = &inputs[0, 0], &W[0, 0, 0]
    if leaving is not None:
        d.leaving = &leaving[0, 0]
    d.intercept, d.skip = &b[0, 0], &skip[0]
    d.mass = 1.0 if stay is None else 1.0 - w
    d.gradient, d.hessian = &gradient[0, 0, 0], &hessian[0, 0, 0]
    d.weight, d.moments = &weight[0], &moments[0, 0]
    with nogil:
        enough = driven_all(&d, &offsets[0], m, &loglik[0], &status[0])
    if not enough:
        raise MemoryError("no memory for the scratch of the smoother")
