"""Exact inference for product states whose levels move at their own time scales, at N * sum K multiply-adds a step.

The state is (x^0, ..., x^{S-1}), slowest level first; `sizes` (S,) gives their numbers of values, N = prod sizes, and
level s moves by P(x_t^s | x_{t-1}^s, x_{t-1}^parent): `parent` is -1 (the next slower level), +1 (the next faster
one) or 0 (none). Rows A[parent, from, to] of all levels lie one after the other in a packed row of
`total` = sum_s R_s K_s K_s entries, R_s the parent's number of values. `A (L, total)` with `index=None` is one packed
row for all steps (L = 1) or the row of the move into each of the n steps; else step k moves by `A[index[k]]`. Level s
moves only into steps with t % periods[s] == 0, t counted within the sequence from `t0`. Column `emit[j]` of
`ll (n, M)` is the log-likelihood of joint state j. Sequences are the stretches between `offsets`.

A forward step sums out the levels from the leaf of the coupling to its root, since a parent must be summed out after
its child; a backward step goes the other way. Probabilities are scaled by powers of two. The scaled recursion would
be wrong where a state that can be reached loses its mass to underflow; such a sequence is done again in log space
(status 1). Small chains run through several sequences at once, one in each lane of the vectors.
"""

import numpy as np

from libc.math cimport INFINITY, exp, log
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

include "multiscale_chain.pxi"
include "multiscale_scaled.pxi"
include "multiscale_log.pxi"
include "multiscale_lanes.pxi"

cdef enum:
    PENDING = 9  # the status of a sequence that is not done yet


def _by_length(offsets):
    """The sequences from the longest to the shortest; those of equal length in their order."""
    return np.argsort(-np.diff(offsets), kind="stable").astype(np.int64) if len(offsets) > 2 else None


cdef int64_t _forward_one(Chain *c, Py_ssize_t start, Py_ssize_t stop, double *loglik, bint judged) except 9 nogil:
    cdef unsigned int mode = flush_subnormals()
    cdef int64_t status = filter_sequence(c, c.rows, 2, start, stop, loglik, judged)
    restore_subnormals(mode)
    if status == 0:
        return continuation(c, start, stop, judged)
    if status == 1 and c.filtered == NULL:
        simd_free(c.rows)
        _allocate_rows(c, stop - start, 0)
        mode = flush_subnormals()
        status = filter_judged(c, c.rows, start, stop, loglik, False)
        restore_subnormals(mode)
        if status == 0:
            return 0
    if status == 1:
        _allocate_logs(c, 2)
        status = log_filter(c, 2, start, stop, loglik)
        if status == 0:
            return 1 + log_continuation(c, start, stop)
    loglik[0] = -INFINITY
    if c.filtered != NULL:
        memset(c.filtered, 0, (stop - start) * c.N * sizeof(double))
    return status


cdef int64_t _smooth_one(Chain *c, Py_ssize_t start, Py_ssize_t stop, double *loglik, bint judge) except 9 nogil:
    cdef double *rows = c.gamma if c.rows_in_gamma else c.rows
    cdef int64_t status
    cdef unsigned int mode
    cdef Py_ssize_t n = stop - start
    if c.xi_steps != NULL:
        memset(c.xi_steps, 0, n * c.total * sizeof(double))
    mode = flush_subnormals()
    status = filter_judged(c, rows, start, stop, loglik, judge)
    if status == 0 and not message_in_range(c, rows + (n - 1) * c.padded):
        status = 1
    if status == 0:
        smooth_sequence(c, rows, start, stop)
    restore_subnormals(mode)
    if status == 1:
        _allocate_logs(c, n)
        status = log_filter(c, n, start, stop, loglik)
        if status == 0:
            status = log_smooth(c, start, stop)
    if status < 0:
        _impossible(c, n)
        loglik[0] = -INFINITY
    return status


cdef void _impossible(Chain *c, Py_ssize_t n) noexcept nogil:
    if c.gamma != NULL:
        memset(c.gamma, 0, n * c.N * sizeof(double))
    if c.gamma_emit != NULL:
        memset(c.gamma_emit, 0, n * c.M * sizeof(double))
    if c.gamma_first != NULL:
        memset(c.gamma_first, 0, c.N * sizeof(double))
    if c.beta_out != NULL:
        memset(c.beta_out, 0, c.N * sizeof(double))


def forward(
    const double[:, ::1] ll,  # IN (n, M)
    const int64_t[::1] offsets,  # IN (m + 1,)
    const double[::1] initial,  # IN (N,)
    const double[:, ::1] A,  # IN (L, total)
    const int64_t[::1] index,  # IN (n,) or None
    const int64_t[::1] sizes,  # IN (S,)
    int parent,
    const int64_t[::1] periods,  # IN (S,)
    const int64_t[::1] emit,  # IN (N,)
    int64_t t0,
    const double[::1] alpha_in,  # IN (N,) or None: filtered distribution before the first row
    double[:, ::1] alpha,  # OUT (n, N) or None: filtered distributions
    double[::1] loglik,  # OUT (m,)
    int64_t[::1] status,  # OUT (m,)
    bint judged=False,
):
    """Filtered distributions and log-likelihoods (nats).

    `status` is 0, 1 (the sequence was redone in log space) or -1 - t (its row t is impossible: loglik -inf, alpha 0);
    2 is added when the last row of alpha, held as plain numbers, could not carry the sequence on without losing a state
    that can be reached, so that blocks which meet there would not equal the whole. `judged` (one sequence only):
    `smooth` will go over the same rows, so faint states are no reason for log space; status 4 asks it to judge.
    """
    cdef Chain c
    cdef Lanes g
    cdef Py_ssize_t m = offsets.shape[0] - 1, q
    cdef int64_t[::1] order = _by_length(offsets)
    _check_chain(ll.shape[0], ll.shape[1], offsets, initial, A, index, sizes, parent, periods, emit)
    _check_block(m, initial.shape[0], t0, alpha_in, None, None)
    _check_shape("alpha", alpha, ll.shape[0], initial.shape[0])
    _check_results(m, loglik, status)
    memset(&g, 0, sizeof(Lanes))
    status[:] = PENDING
    try:
        _open(&c, ll, initial, A, index, sizes, parent, periods, emit, t0)
        with nogil:
            _allocate_rows(&c, 2, 0)
            _set_before(&c, alpha_in)
            _set_after(&c, None)
            c.filtered = &alpha[0, 0] if alpha is not None and m else NULL
            if m > 1 and c.N <= LANES_STATES:
                run_groups(&c, &g, &offsets[0], &order[0], m, False, &loglik[0], &status[0])
            for q in range(m):
                if status[q] != PENDING:
                    continue
                c.filtered = &alpha[offsets[q], 0] if alpha is not None else NULL
                status[q] = _forward_one(&c, offsets[q], offsets[q + 1], &loglik[q], judged)
    finally:
        _close_lanes(&g)
        _close(&c)


def smooth(
    const double[:, ::1] ll,  # IN (n, M)
    const int64_t[::1] offsets,  # IN (m + 1,)
    const double[::1] initial,  # IN (N,)
    const double[:, ::1] A,  # IN (L, total)
    const int64_t[::1] index,  # IN (n,) or None
    const int64_t[::1] sizes,  # IN (S,)
    int parent,
    const int64_t[::1] periods,  # IN (S,)
    const int64_t[::1] emit,  # IN (N,)
    int64_t t0,
    const double[::1] alpha_in,  # IN (N,) or None
    const double[::1] beta_in,  # IN (N,) or None: message of later rows, any positive scale
    double[:, ::1] gamma,  # OUT (n, N) or None; may be the memory of ll
    double[::1] loglik,  # OUT (m,)
    int64_t[::1] status,  # OUT (m,)
    double[:, ::1] xi=None,  # OUT (L, total), added to: expected counts by packed row
    double[:, ::1] xi_steps=None,  # OUT (n, total): of the move into each row
    double[::1] beta_out=None,  # OUT (N,): message to the state before the first row, sum 1
    double[:, ::1] gamma_emit=None,  # OUT (n, M): posteriors summed over the states of a column
    double[:, ::1] gamma_first=None,  # OUT (m, N): posteriors of the first rows
    bint judge=False,
):
    """Smoothed posteriors, log-likelihoods (nats) and expected counts per level.

    A level has no counts at a step into which it does not move. With `alpha_in` the move into row 0 counts too.
    An impossible sequence (status -1 - t, with t its length where only `beta_in` makes it so) has loglik -inf,
    posteriors 0 and adds nothing to the counts. `judge`: `alpha_in` comes from a `forward` with status 4.
    """
    cdef Chain c
    cdef Lanes g
    cdef int64_t[::1] order = _by_length(offsets)
    cdef Py_ssize_t n = ll.shape[0], M = ll.shape[1], m = offsets.shape[0] - 1, N = initial.shape[0], q, longest = 0
    cdef bint in_place
    _check_chain(n, M, offsets, initial, A, index, sizes, parent, periods, emit)
    _check_block(m, N, t0, alpha_in, beta_in, beta_out)
    _check_shape("gamma", gamma, n, N)
    _check_shape("gamma_emit", gamma_emit, n, M)
    _check_shape("gamma_first", gamma_first, m, N)
    _check_shape("xi", xi, A.shape[0], A.shape[1])
    _check_shape("xi_steps", xi_steps, n, A.shape[1])
    _check_results(m, loglik, status)
    memset(&g, 0, sizeof(Lanes))
    status[:] = PENDING
    try:
        _open(&c, ll, initial, A, index, sizes, parent, periods, emit, t0)
        in_place = gamma is not None and n > 0 and &gamma[0, 0] == &ll[0, 0]
        c.xi = &xi[0, 0] if xi is not None else NULL
        c.rows_in_gamma = gamma is not None and not in_place and c.natural
        with nogil:
            for q in range(m):
                longest = max(longest, offsets[q + 1] - offsets[q])
            _allocate_rows(&c, 0 if c.rows_in_gamma else longest, longest)
            _set_before(&c, alpha_in)
            _set_after(&c, beta_in)
            if m > 1 and c.N <= LANES_STATES:
                c.gamma = &gamma[0, 0] if gamma is not None else NULL
                c.gamma_emit = &gamma_emit[0, 0] if gamma_emit is not None else NULL
                c.gamma_first = &gamma_first[0, 0] if gamma_first is not None else NULL
                c.xi_steps = &xi_steps[0, 0] if xi_steps is not None else NULL
                run_groups(&c, &g, &offsets[0], &order[0], m, True, &loglik[0], &status[0])
            for q in range(m):
                if status[q] != PENDING:
                    continue
                c.gamma = &gamma[offsets[q], 0] if gamma is not None else NULL
                c.gamma_emit = &gamma_emit[offsets[q], 0] if gamma_emit is not None else NULL
                c.gamma_first = &gamma_first[q, 0] if gamma_first is not None else NULL
                c.xi_steps = &xi_steps[offsets[q], 0] if xi_steps is not None else NULL
                c.beta_out = &beta_out[0] if beta_out is not None else NULL
                status[q] = _smooth_one(&c, offsets[q], offsets[q + 1], &loglik[q], judge)
            _flush(&c)
    finally:
        _close_lanes(&g)
        _close(&c)


def viterbi(
    const double[:, ::1] ll,  # IN (n, M)
    const int64_t[::1] offsets,  # IN (m + 1,)
    const double[::1] log_initial,  # IN (N,)
    const double[:, ::1] log_A,  # IN (L, total)
    const int64_t[::1] index,  # IN (n,) or None
    const int64_t[::1] sizes,  # IN (S,)
    int parent,
    const int64_t[::1] periods,  # IN (S,)
    const int64_t[::1] emit,  # IN (N,)
    int64_t[::1] path,  # OUT (n,): joint states
    double[::1] log_prob,  # OUT (m,)
):
    """Most likely joint paths and their log-probabilities (nats); an impossible sequence has -inf and a path of -1."""
    cdef Chain c
    cdef Py_ssize_t m = offsets.shape[0] - 1, q, longest = 0
    _check_chain(ll.shape[0], ll.shape[1], offsets, log_initial, log_A, index, sizes, parent, periods, emit)
    if path.shape[0] != ll.shape[0] or log_prob.shape[0] != m:
        raise ValueError(f"path and log_prob must have {ll.shape[0]} and {m} entries")
    try:
        _open(&c, ll, log_initial, log_A, index, sizes, parent, periods, emit, 0)
        with nogil:
            for q in range(m):
                longest = max(longest, offsets[q + 1] - offsets[q])
            _allocate_best(&c, longest)
            for q in range(m):
                log_prob[q] = best_path(&c, offsets[q], offsets[q + 1], &path[offsets[q]])
    finally:
        _close(&c)


def sample_path(
    const double[::1] initial,  # IN (N,)
    const double[:, ::1] A,  # IN (L, total)
    const int64_t[::1] index,  # IN (n,) or None
    const int64_t[::1] sizes,  # IN (S,)
    int parent,
    const int64_t[::1] periods,  # IN (S,)
    const int64_t[::1] offsets,  # IN (m + 1,)
    const double[:, ::1] uniforms,  # IN (n, S + 1): column 0 draws a first joint state, column 1 + s moves level s
    int64_t[::1] path,  # OUT (n,): joint states
):
    """Sample hidden paths by inverse distribution functions."""
    cdef Chain c
    cdef Py_ssize_t n = path.shape[0], S = sizes.shape[0], q
    cdef int64_t[::1] emit = np.zeros(initial.shape[0], dtype=np.int64)
    cdef double[:, ::1] ll = np.zeros((n, 1))
    _check_chain(n, 1, offsets, initial, A, index, sizes, parent, periods, emit)
    if uniforms.shape[0] != n or uniforms.shape[1] != S + 1:
        raise ValueError(f"uniforms must have shape ({n}, {S + 1})")
    try:
        _open(&c, ll, initial, A, index, sizes, parent, periods, emit, 0)
        with nogil:
            for q in range(offsets.shape[0] - 1):
                sample_sequence(&c, offsets[q], offsets[q + 1], &uniforms[0, 0], &path[0])
    finally:
        _close(&c)
