"""Spectra of products: singular values, eigenvalues, effective rank, Lyapunov exponents."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from hiermm.analysis._named import DefectiveWarning
from hiermm.analysis.products import GradedWalk, Walk, as_operators, check_count, check_lags, over_starts
from hiermm.analysis.structure import forgets

DECOUPLED = 37.0  # exp(-37) is below the rounding of doubles: directions this far apart do not mix
SINGULAR = 1e8  # condition above which a leading block is not eliminated


def _log_singular_values(ops, lags, keep_trivial, n_starts):
    """Logs of the singular values, list over start times: array (n_starts, n_lags, n or n - 1)."""
    zero_sum = ops.kind == "stochastic" and not keep_trivial
    return np.array(over_starts(ops, lags, n_starts, GradedWalk.log_singular_values, GradedWalk, zero_sum=zero_sum))


def singular_values(ops, lags, *, keep_trivial=True, log=False, n_starts=None):
    """Singular values of the products over `lags` steps, descending; the geometric mean over start times.

    Parameters
    ----------
    ops : Operators or a model
    lags : int or array-like of int
        Numbers of factors.
    keep_trivial : bool
        False: for a chain, only of the action on differences of distributions (vectors that sum to zero), one value
        fewer. The direction left out always survives and says nothing of memory. No effect on Jacobians.
    log : bool
        Give natural logarithms, which do not underflow. Exact zeros are -inf.
    n_starts : int, optional
        Start times at most, see `start_times`.

    Returns
    -------
    ndarray of shape (n_lags, n) or (n_lags, n - 1)

    Raises
    ------
    ValueError
        If a lag is longer than every run.

    Notes
    -----
    The product is kept as Q diag(exp(d)) T, factor by factor, so that each singular value has its own relative
    accuracy however far it lies below the largest; one-sided Jacobi rotations on logarithmic scales finish. A
    direction that a factor maps onto the others to within rounding (4 n eps on the scale of each row) is lost: its
    value is exactly zero. O(lag n^3) a start time.

    References
    ----------
    Bai, Lee, Li & Xu, "Stable solutions of linear systems involving long chain of matrix multiplications", Linear
    Algebra Appl. 435 (2011). Demmel & Veselic, "Jacobi's method is more accurate than QR", SIMAX 13 (1992).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import singular_values
    >>> ops = Operators.from_arrays(np.diag([0.5, 1e-9]), kind="jacobian")
    >>> print((singular_values(ops, [100], log=True) / np.log([0.5, 1e-9])).round(12))
    [[100. 100.]]
    """
    ops = as_operators(ops)
    logs = _log_singular_values(ops, check_lags(lags), keep_trivial, n_starts).mean(axis=0)
    return logs if log else np.exp(logs)


def effective_rank(ops, lags, *, keep_trivial=True, n_starts=None):
    """How many directions a product over `lags` steps still uses: exp(entropy) of its normalised singular values.

    Between 1 (a single direction) and n (all alike); 0 for a product that is exactly zero. The mean over start times.

    Parameters
    ----------
    ops, lags, keep_trivial, n_starts
        As in `singular_values`. With `keep_trivial=False` a chain's ever-present direction is set apart, which is
        what compares with a network; `compare` uses that.

    Returns
    -------
    ndarray of shape (n_lags,)

    Notes
    -----
    exp(-sum_i p_i log p_i), p_i = sigma_i / sum_j sigma_j.

    References
    ----------
    Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import effective_rank
    >>> print(effective_rank(Operators.from_arrays(np.eye(3), kind="jacobian"), [1, 10]).round(6))
    [3. 3.]
    """
    ops = as_operators(ops)
    logs = _log_singular_values(ops, check_lags(lags), keep_trivial, n_starts)
    ranks = np.zeros(logs.shape[:2])
    for place in np.ndindex(ranks.shape):
        live = logs[place][logs[place] > -np.inf]
        if live.size:
            log_p = live - logsumexp(live)
            ranks[place] = np.exp(-(np.exp(log_p) * log_p).sum())
    return ranks.mean(axis=0)


def eigenvalues(ops, lags, *, keep_trivial=True, log=False, n_starts=None):
    """Eigenvalues of the products over `lags` steps, by descending modulus.

    Parameters
    ----------
    ops, lags, keep_trivial, n_starts
        As in `singular_values`.
    log : bool
        Give the natural logarithms of the moduli (float), which do not underflow; exact zeros are -inf.

    Returns
    -------
    ndarray of shape (n_lags, n) or (n_lags, n - 1)
        complex128, or float64 with `log=True`. With more than one start time, the geometric mean of the moduli (a
        phase has no mean) as complex numbers without imaginary part.

    Warns
    -----
    DefectiveWarning
        Where eigenvectors nearly coincide; a k-fold defective eigenvalue has an accuracy of about eps^(1/k).
    ReducibleWarning, PeriodicWarning
        For chains that keep context for ever: more than one eigenvalue of modulus 1.

    Notes
    -----
    A chain's trivial eigenvalue is exactly 1: the others come from its action on vectors that sum to zero. A single
    repeated matrix is decomposed once, its eigenvalues raised to the lag; eigenvalue 0 is told from rounding by the
    rank of the n-th power. Other products use the graded form of `singular_values`, of which well separated parts
    are eliminated one after the other. O(lag n^3) a start time.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import eigenvalues
    >>> ops = Operators.from_arrays(np.array([[0.9, 0.2], [0.1, 0.8]]))
    >>> print(eigenvalues(ops, [1, 2]).real.round(6))
    [[1.   0.7 ]
     [1.   0.49]]
    """
    ops, lags = as_operators(ops), check_lags(lags)
    forgets(ops)
    zero_sum = ops.kind == "stochastic"
    if len(ops.matrices) == 1:
        once = _log_eigenvalues_of(ops, zero_sum)
        found = np.array([[_power(once, lag) for lag in lags]])
    else:
        found = np.array(over_starts(ops, lags, n_starts, _graded_eigenvalues, GradedWalk, zero_sum=zero_sum))
    found = found[0] if len(found) == 1 else found.real.mean(axis=0) + 0j
    if zero_sum and keep_trivial:
        found = np.concatenate([np.zeros((len(lags), 1), complex), found], axis=1)
    found = np.take_along_axis(found, np.argsort(-found.real, axis=1, kind="stable"), axis=1)
    return found.real if log else _exp(found)


def _power(logs, lag):
    """Complex logs of values raised to a lag; the phases of real values stay exactly 0 or pi."""
    result = np.zeros(len(logs), dtype=complex)
    if lag:
        result.real = lag * logs.real
        result.imag = np.pi * (np.remainder(lag * (logs.imag / np.pi) + 1, 2) - 1)
    return result


def _exp(logs):
    """Complex exp that gives 0 for a real part of -inf, and real numbers where the phase is 0 or pi."""
    modulus, phase = np.exp(logs.real), logs.imag
    result = np.zeros(logs.shape, dtype=complex)  # the sum of a real and an imaginary part would be NaN at infinity
    result.real = modulus * np.cos(phase)
    turned = (phase != 0) & (np.abs(phase) != np.pi)
    result.imag[turned] = (modulus * np.sin(np.where(turned, phase, 1.0)))[turned]
    return result


def _complex_log(values):
    with np.errstate(divide="ignore"):
        return np.log(np.abs(values)) + 1j * np.angle(values)


def _log_eigenvalues_of(ops, zero_sum):
    """Complex logs of the eigenvalues of one matrix; those that are zero by rank are exactly -inf."""
    size = ops.n_states - zero_sum
    once = Walk(ops, 0, zero_sum)
    once.go(1)
    values, vectors = np.linalg.eig(np.ldexp(once.matrix, once.exponent))
    if size and not np.linalg.cond(vectors) < SINGULAR:
        _warn_defective()
    walk = GradedWalk(ops, 0, zero_sum)
    walk.go(size)
    n_zero = int(np.isneginf(walk.logs).sum())
    values = values[np.argsort(-np.abs(values), kind="stable")].astype(complex)
    values[size - n_zero :] = 0.0
    return _complex_log(values)


def _warn_defective():
    warnings.warn(
        "eigenvectors nearly coincide (a defective matrix): these eigenvalues have few accurate digits.",
        DefectiveWarning,
        stacklevel=4,
    )


def _graded_eigenvalues(walk):
    """Complex logs of the eigenvalues of left diag(exp(d)) right, that is of diag(exp(d)) right left, descending."""
    d, core = walk.logs.copy(), walk.right @ walk.left
    order = np.argsort(-d, kind="stable")
    d, core = d[order], core[np.ix_(order, order)]
    n_zero = int(np.isneginf(d).sum())
    live = len(d) - n_zero
    d, core, found = d[:live], core[:live, :live], []
    while len(d):
        size = _leading_block(d, core)
        half = np.exp((d[:size] - d[0]) / 2)
        found.append(d[0] + _complex_log(np.linalg.eigvals(half[:, None] * core[:size, :size] * half).astype(complex)))
        core = core[size:, size:] - core[size:, :size] @ np.linalg.solve(core[:size, :size], core[:size, size:])
        d = d[size:]
    found = np.concatenate([*found, np.full(n_zero, complex(-np.inf, 0.0))])
    return found[np.argsort(-found.real, kind="stable")]


def _leading_block(d, core):
    """Size of the first block that the rest cannot reach through rounding and that can be eliminated."""
    gaps = np.flatnonzero(d[:-1] - d[1:] > DECOUPLED) + 1
    for size in gaps:
        if np.linalg.cond(core[:size, :size]) < SINGULAR:
            return int(size)
    if len(gaps):
        _warn_defective()
    return len(d)


@dataclass(frozen=True)
class Lyapunov:
    """Lyapunov exponents of a product.

    Attributes
    ----------
    exponents : ndarray of shape (k,)
        Rates of growth per unit of time, descending; negative ones decay, -inf is lost at once, 0 lives for ever.
        Without the trivial exponent 0 that every chain has.
    stderr : ndarray of shape (k,)
        Standard errors from blocks of steps; 0 for maps that repeat for ever, inf where one block is all there is.
    timescales : ndarray of shape (k,)
        -1 / exponents, in units of time: time in which a direction decays to 1/e. Negative where it grows.
    history : ndarray of shape (n_blocks, k)
        The estimate after each block: the curve of convergence.
    steps : ndarray of shape (n_blocks,)
        Steps that went into each row of the history.
    """

    exponents: np.ndarray
    stderr: np.ndarray
    timescales: np.ndarray
    history: np.ndarray
    steps: np.ndarray


def lyapunov(ops, n_exponents=None, *, n_blocks=32):
    """Lyapunov exponents: the rates at which the directions of a long product grow or decay.

    Parameters
    ----------
    ops : Operators or a model
    n_exponents : int, optional
        How many of the largest to give; None: all (n for Jacobians, n - 1 for a chain).
    n_blocks : int
        Blocks for the standard errors and the history (a run has at least one).

    Returns
    -------
    Lyapunov

    Warns
    -----
    ReducibleWarning, PeriodicWarning
        Where a chain's structure keeps further exponents at 0.

    Raises
    ------
    ValueError
        If there is no step, or a number of exponents or blocks is not a positive integer.

    Notes
    -----
    lambda_i = lim 1/T log sigma_i(M_T ... M_1), by QR with column exchanges; a tenth of each run is left out at its
    beginning while the frame aligns itself. A chain is followed on the vectors that sum to zero. Maps that repeat
    for ever are treated exactly, as log |eigenvalue| of one period. Rates below 16 n eps a step are rounding and
    reported as 0. O(T n^3).

    References
    ----------
    Benettin, Galgani, Giorgilli & Strelcyn, Meccanica 15 (1980). Bougerol & Lacroix, "Products of random matrices
    with applications to Schroedinger operators" (1985).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import lyapunov
    >>> result = lyapunov(Operators.from_arrays(np.array([[0.9, 0.2], [0.1, 0.8]])))
    >>> print(result.exponents.round(6), result.timescales.round(3))
    [-0.356675] [2.804]
    """
    check_count("n_exponents", n_exponents)
    check_count("n_blocks", n_blocks)
    ops = as_operators(ops)
    zero_sum = ops.kind == "stochastic"
    forgets(ops)
    if ops.forever:
        rates, lengths = _exact_rates(ops, zero_sum), np.array([len(ops.matrices)])
    else:
        rates, lengths = _block_rates(ops, zero_sum, n_blocks)
    if not len(lengths):
        raise ValueError("the operators hold no step: every run is empty.")
    steps = np.cumsum(lengths)
    history = np.cumsum(rates * lengths[:, None], axis=0) / steps[:, None]
    exponents = history[-1].copy()
    exponents[np.abs(exponents) < 16 * ops.n_states * np.finfo(float).eps] = 0.0
    stderr = np.zeros_like(exponents) if ops.forever else _stderr(rates, lengths, exponents)
    order = np.argsort(-exponents, kind="stable")[:n_exponents]
    exponents, stderr, history = exponents[order] / ops.dt, stderr[order] / ops.dt, history[:, order] / ops.dt
    timescales = np.full_like(exponents, np.inf)
    np.divide(-1.0, exponents, out=timescales, where=exponents != 0)
    return Lyapunov(exponents, stderr, timescales, history, steps)


def _exact_rates(ops, zero_sum):
    """Log moduli of the eigenvalues of one period, per step: array (1, k)."""
    if len(ops.matrices) == 1:
        return np.sort(_log_eigenvalues_of(ops, zero_sum).real)[None, ::-1]
    walk = GradedWalk(ops, 0, zero_sum)
    walk.go(len(ops.matrices))
    return _graded_eigenvalues(walk).real[None] / len(ops.matrices)


def _block_rates(ops, zero_sum, n_blocks):
    """Growth rates (n_blocks, k) and lengths of consecutive blocks of all runs."""
    rates, lengths = [], []
    per_block = max(1, len(ops) // n_blocks)
    for start, stop in ops.runs():
        if start == stop:
            continue
        warm_up = (stop - start) // 10
        walk = GradedWalk(ops, start, zero_sum, right=False)
        walk.go(warm_up)
        kept = stop - start - warm_up
        edges = np.linspace(0, kept, max(1, kept // per_block) + 1).round().astype(np.int64)
        before = np.sort(walk.logs)[::-1]
        for size in np.diff(edges):
            walk.go(int(size))
            after = np.sort(walk.logs)[::-1]
            dead = np.isneginf(after)
            rates.append(np.where(dead, -np.inf, after - np.where(dead, 0.0, before)) / size)
            lengths.append(size)
            before = after
    return np.array(rates), np.array(lengths, dtype=np.int64)


def _stderr(rates, lengths, exponents):
    """Standard error of the weighted mean of block rates; 0 for exponents that are exactly -inf."""
    if len(lengths) == 1:
        return np.where(np.isneginf(exponents), 0.0, np.inf)
    weight = lengths / lengths.sum()
    finite = np.where(np.isneginf(rates), 0.0, rates)
    spread = (weight[:, None] ** 2 * (finite - (weight[:, None] * finite).sum(axis=0)) ** 2).sum(axis=0)
    spread = np.sqrt(spread * len(lengths) / (len(lengths) - 1))
    return np.where(np.isneginf(exponents), 0.0, spread)
