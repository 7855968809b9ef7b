"""Filter, smooth, decode and sample hidden paths: arrays in, arrays out, for flat and multi-scale chains alike.

`Transitions` says how the state moves along some steps. A chain of one level that moves at every step goes to the
dense kernels at N^2 operations a step, any other to the structured ones at N * sum_s K_s. (`Chain.quickest` makes one
level of several where that pays.)
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hiermm._ext import load

_dense, _multiscale = load("dense"), load("multiscale")
HAS_THREADS = _dense.HAS_THREADS  # for `smooth_normal`
AT_ONCE = 64  # pieces in one call of a kernel with threads of its own: between two of them Ctrl-C is heard
SUMS = 1 << 20  # numbers that the sums of these pieces may take


@dataclass(frozen=True)
class Transitions:
    """The arrays of a chain along n steps.

    Attributes
    ----------
    initial : ndarray of shape (N,)
        Joint distribution of the first state of a sequence.
    rows : ndarray of shape (L, total)
        Transition rows of all levels, level after level, each C-order [parent, from, to].
    index : ndarray of shape (n,), int64, or None
        Which rows serve the move into step k; None: `rows[0]` if L = 1, else `rows[k]`.
    sizes : ndarray of shape (S,), int64
        States of each level, slowest first.
    parent : int
        -1: the parent of level s is s - 1; +1: it is s + 1; 0: no parents.
    periods : ndarray of shape (S,), int64
        Level s moves only into steps t with t % periods[s] == 0.
    emit : ndarray of shape (N,), int64, or None
        Column of the log-likelihoods for each joint state; None: the joint state itself.
    """

    initial: np.ndarray
    rows: np.ndarray
    index: np.ndarray | None
    sizes: np.ndarray
    parent: int
    periods: np.ndarray
    emit: np.ndarray | None = None

    @property
    def n_states(self):
        """Number N of joint states."""
        return len(self.initial)

    @cached_property
    def flat(self):
        """Whether the dense kernels serve: one level, which moves at every step."""
        return len(self.sizes) == 1 and self.periods[0] == 1

    @cached_property
    def columns(self):
        """`emit`, spelt out."""
        return np.arange(self.n_states) if self.emit is None else self.emit

    def spread(self, ll):
        """Return values (n, M) by column of the log-likelihoods as values (n, N) by joint state."""
        return ll if self.emit is None else np.take(ll, self.emit, axis=1, mode="clip")

    def merge(self, gamma, out):
        """Return posteriors (n, N) of joint states as posteriors (n, M) of columns, written into `out`."""
        return out if self.emit is None else np.matmul(gamma, np.eye(out.shape[1])[self.emit], out=out)

    def matrices(self):
        """Return the rows of a flat chain as (L, N, N)."""
        return self.rows.reshape(-1, self.n_states, self.n_states)

    def last(self):
        """Return the transitions of the last step alone."""
        if self.index is None:
            return Transitions(self.initial, self.rows[-1:], None, self.sizes, self.parent, self.periods, self.emit)
        return Transitions(self.initial, self.rows, self.index[-1:], self.sizes, self.parent, self.periods, self.emit)


class Smoothed(NamedTuple):
    """Result of `smooth`.

    gamma (n, N or M) smoothed posteriors, log_likelihood (m,), status (m,), xi expected counts ((L, total) summed, or
    (n, total) a step), first (m, N) posteriors of the first steps, before (N,) the message to the step before.
    """

    gamma: np.ndarray
    log_likelihood: np.ndarray
    status: np.ndarray
    xi: np.ndarray | None
    first: np.ndarray | None
    before: np.ndarray | None


def filter(transitions, ll, offsets, *, start=0, alpha_in=None, keep=True, judged=False):
    """Run the forward recursion over packed sequences.

    Parameters
    ----------
    transitions : Transitions
    ll : ndarray of shape (n, M)
        Log-likelihoods of the emissions.
    offsets : ndarray of shape (m + 1,), int64
    start : int
        Step within its sequence of the first row (only with one sequence).
    alpha_in : ndarray of shape (N,), optional
        Filtered distribution of the step before the first row: the rows continue a sequence.
    keep : bool
        Whether to return the filtered distributions.
    judged : bool
        The same rows will be smoothed afterwards, which finds out whether underflow here took anything that matters.
        One sequence.

    Returns
    -------
    alpha : ndarray of shape (n, N) or None
    log_likelihood : ndarray of shape (m,)
    status : ndarray of shape (m,)
        0: fine; above 0: exact, but the last row of `alpha` may not carry the sequence on, because it was redone in log
        space or has lost a reachable state; -1 - t: the observation at step t is impossible; 4 (with `judged`): fine,
        but whoever smooths from here on is to `judge`.
    """
    m = len(offsets) - 1
    alpha = np.empty((len(ll), transitions.n_states)) if keep else None
    loglik, status = np.empty(m), np.empty(m, dtype=np.int64)
    a = transitions
    if a.flat:
        _dense.forward(a.spread(ll), offsets, a.initial, a.matrices(), a.index, alpha_in, alpha, loglik, status, judged)
    else:
        structure = (a.sizes, a.parent, a.periods, a.columns, start)
        out = (alpha, loglik, status)
        _multiscale.forward(ll, offsets, a.initial, a.rows, a.index, *structure, alpha_in, *out, judged)
    return alpha, loglik, status


def smooth(transitions, ll, offsets, *, start=0, alpha_in=None, beta_in=None, counts=None, merge=False, judge=False):
    """Run the forward and the backward recursion over packed sequences.

    Parameters
    ----------
    transitions, ll, offsets, start, alpha_in
        As for `filter`. `ll` may be overwritten.
    beta_in : ndarray of shape (N,), optional
        Message from the steps after the last row.
    counts : {None, "sum", "steps"}
        Whether to return expected transition counts, summed over steps or one a step.
    merge : bool
        Whether gamma is over the M columns of `ll` instead of the N joint states.
    judge : bool
        Some block before this one had status 4, see `filter`.

    Returns
    -------
    Smoothed
    """
    a, m = transitions, len(offsets) - 1
    loglik, status = np.empty(m), np.empty(m, dtype=np.int64)
    xi = None
    if counts == "sum":
        xi = np.zeros(a.rows.shape)
    elif counts == "steps":
        xi = np.empty((len(ll), a.rows.shape[1]))
    names = {"xi": xi} if counts == "sum" else {"xi_steps": xi}
    before = None if alpha_in is None else np.empty(a.n_states)
    if a.flat:
        shape = (-1, a.n_states, a.n_states)
        names = {name: None if array is None else array.reshape(shape) for name, array in names.items()}
        gamma = a.spread(ll)
        ends = (alpha_in, beta_in)
        _dense.smooth(
            gamma, offsets, a.initial, a.matrices(), a.index, *ends, gamma, loglik, status, beta_out=before, **names
        )
        first = gamma[offsets[:-1]]
        return Smoothed(a.merge(gamma, ll) if merge else gamma, loglik, status, xi, first, before)
    gamma = np.empty(ll.shape if merge else (len(ll), a.n_states))
    first = np.empty((m, a.n_states))
    _multiscale.smooth(
        ll, offsets, a.initial, a.rows, a.index, a.sizes, a.parent, a.periods, a.columns, start, alpha_in, beta_in,
        None if merge else gamma, loglik, status, beta_out=before, gamma_emit=gamma if merge else None,
        gamma_first=first, judge=judge, **names,
    )  # fmt: skip
    return Smoothed(gamma, loglik, status, xi, first, before)


def smooth_symbols(transitions, table, symbols, offsets):
    """Smooth packed sequences of symbols under one table of transitions; nothing of the size of the data is made.

    Parameters
    ----------
    transitions : Transitions
        Of a flat chain with L = 1.
    table : ndarray of shape (n_symbols, M)
        Log-likelihoods of each symbol.
    symbols : ndarray of shape (n,)
        Symbol of each step, 0..n_symbols - 1 as floats, or NaN where nothing was observed.
    offsets : ndarray of shape (m + 1,), int64

    Returns
    -------
    Smoothed
        `gamma` (n_symbols, M) holds the posteriors summed over the steps of each symbol, `xi` the summed counts.
    """
    a, m = transitions, len(offsets) - 1
    gamma, first = np.empty((len(table), a.n_states)), np.empty((m, a.n_states))
    loglik, status, xi = np.empty(m), np.empty(m, dtype=np.int64), np.zeros(a.rows.shape)
    out = (gamma, first, loglik, status, xi.reshape(a.matrices().shape))
    _dense.smooth_symbols(a.spread(table), symbols, offsets, a.initial, a.matrices(), *out)
    return Smoothed(gamma if a.emit is None else a.merge(gamma, np.empty_like(table)), loglik, status, xi, first, None)


class NormalSums(NamedTuple):
    """Result of `smooth_normal`.

    log_likelihood of all sequences; status (m,) as in `Smoothed`; sums over steps: first (N,) posteriors of first
    steps, xi (N, N) expected counts, and those of the emission, gram (N, D, F, F), cross (N, D, F) and scatter (N, D),
    see `NormalEmission.statistics`.
    """

    log_likelihood: float
    status: np.ndarray
    first: np.ndarray
    xi: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    scatter: np.ndarray


def smooth_normal(initial, matrix, normal, outputs, inputs, offsets, bounds, threads=1):
    """Smooth packed sequences of outputs with independent normal noise; all of it is done in one kernel.

    Parameters
    ----------
    initial : ndarray of shape (N,)
    matrix : ndarray of shape (N, N)
    normal : tuple
        Slopes (N, D, P), intercepts (N, D) and variances (N, D).
    outputs : ndarray of shape (n, D)
    inputs : ndarray of shape (n, P or more)
    offsets : ndarray of shape (m + 1,), int64
    bounds : ndarray of shape (p + 1,), int64
        Piece k has the sequences bounds[k], ..., bounds[k + 1] - 1.
    threads : int
        They share the pieces, if `HAS_THREADS`; the result is the same to the last bit.

    Returns
    -------
    NormalSums
    """
    (N, D, P), m = normal[0].shape, len(offsets) - 1
    shapes = (N,), (N, N), (N, D, P + 1, P + 1), (N, D, P + 1), (N, D)
    each, status, sums = np.empty(m), np.empty(m, dtype=np.int64), [np.zeros(shape) for shape in shapes]
    inputs, A = np.ascontiguousarray(inputs[:, :P]), matrix[None]
    at_once, total = max(min(AT_ONCE, SUMS // (N * N)), threads), 0.0
    for k in range(0, len(bounds) - 1, at_once):
        some = bounds[k : k + at_once + 1]
        total += _dense.smooth_normal(outputs, inputs, *normal, offsets, some, initial, A, each, status, *sums, threads)
    return NormalSums(total, status, *sums)


def viterbi(transitions, ll, offsets):
    """Return the most likely paths (n,) of packed sequences and their log-probabilities (m,)."""
    a = transitions
    path, log_prob = np.empty(len(ll), dtype=np.int64), np.empty(len(offsets) - 1)
    with np.errstate(divide="ignore"):
        log_initial, log_rows = np.log(a.initial), np.log(a.rows)
    if a.flat:
        _dense.viterbi(
            a.spread(ll), offsets, log_initial, log_rows.reshape(a.matrices().shape), a.index, path, log_prob
        )
    else:
        structure = (a.sizes, a.parent, a.periods, a.columns)
        _multiscale.viterbi(ll, offsets, log_initial, log_rows, a.index, *structure, path, log_prob)
    return path, log_prob


def sample_paths(transitions, offsets, rng):
    """Draw hidden paths (n,) of packed sequences from the chain.

    Parameters
    ----------
    transitions : Transitions
    offsets : ndarray of shape (m + 1,), int64
    rng : numpy.random.Generator
    """
    a, n = transitions, int(offsets[-1])
    path = np.empty(n, dtype=np.int64)
    if a.flat:
        _dense.sample_path(a.initial, a.matrices(), a.index, offsets, rng.random(n), path)
    else:
        uniforms = rng.random((n, len(a.sizes) + 1))
        _multiscale.sample_path(a.initial, a.rows, a.index, a.sizes, a.parent, a.periods, offsets, uniforms, path)
    return path
