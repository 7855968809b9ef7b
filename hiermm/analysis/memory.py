"""How long a difference in context survives: contraction coefficients and half-life."""

import warnings

import numpy as np
from scipy.spatial.distance import pdist

from hiermm.analysis._named import NotHalvedWarning
from hiermm.analysis.products import (
    Walk,
    WholeWalk,
    as_operators,
    check_lags,
    longest_run,
    over_starts,
    zero_sum_basis,
)
from hiermm.analysis.structure import forgets

LOG2 = np.log(2.0)
FARTHEST = 2**44  # steps over which rounding may not halve what is constant


def contraction(ops, lags, *, log=False, n_starts=None):
    """How much of a difference in context is left after `lags` steps, at worst.

    For a chain the Dobrushin coefficient of the product: the largest total-variation distance that is left between
    two initial distributions. For Jacobians the spectral norm: the largest factor by which a small change of the
    state arrives. The geometric mean over start times.

    Parameters
    ----------
    ops : Operators or a model
    lags : int or array-like of int
    log : bool
        Give natural logarithms, which do not underflow; -inf where nothing is left at one of the start times.
    n_starts : int, optional
        Start times at most, see `start_times`.

    Returns
    -------
    ndarray of shape (n_lags,)
        In [0, 1] for a chain.

    Raises
    ------
    ValueError
        If a lag is longer than every run.

    Notes
    -----
    tau_1(A) = 1/2 max_{i,j} sum_k |a_ik - a_jk| for row-stochastic A; tau_1(A B) <= tau_1(A) tau_1(B); 0 iff all rows
    are equal. It is the norm of the action on vectors that sum to zero, and is computed there, so that values far
    below 1e-16 are right. O(lag n^3) a start time, O(n^3 log lag) for a matrix that repeats for ever.

    References
    ----------
    Dobrushin (1956); Seneta, "Non-negative matrices and Markov chains" (1981), ch. 4; Bengio & Frasconi, "Diffusion of
    context and credit information in Markovian models", JAIR 3 (1995).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import contraction
    >>> ops = Operators.from_arrays(np.array([[0.9, 0.2], [0.1, 0.8]]))
    >>> print(contraction(ops, [0, 1, 2, 3]).round(6))
    [1.    0.7   0.49  0.343]
    """
    ops = as_operators(ops)
    logs = _log_contractions(ops, check_lags(lags), n_starts).mean(axis=0)
    return logs if log else np.exp(logs)


def _log_contractions(ops, lags, n_starts):
    """Logs by start time and lag."""
    if ops.kind == "jacobian":
        return np.array(over_starts(ops, lags, n_starts, _log_norm, Walk))
    basis = zero_sum_basis(ops.n_states)

    def log_dobrushin(walk):
        largest = pdist((basis @ walk.matrix @ basis.T).T, "cityblock").max() / 2 if basis.size else 0.0
        return min(_log(largest) + walk.exponent * LOG2, 0.0)

    return np.array(over_starts(ops, lags, n_starts, log_dobrushin, Walk, zero_sum=True))


def _log_norm(walk):
    return _log(np.linalg.norm(walk.matrix, 2)) + walk.exponent * LOG2


def _log(x):
    return np.log(x) if x > 0 else -np.inf


def birkhoff(ops, lags, *, log=False, n_starts=None):
    """Birkhoff's contraction coefficient of the products over `lags` steps; chains only.

    Parameters
    ----------
    ops, lags, log, n_starts
        As in `contraction`.

    Returns
    -------
    ndarray of shape (n_lags,)
        In [0, 1]; 1 as long as some state can be reached from one state but not from another.

    Raises
    ------
    ValueError
        For Jacobians, which are not non-negative, or a lag longer than every run.

    Notes
    -----
    tau_B(A) = tanh(Delta / 4) with Delta = max_{i,j} [max_k log(a_ik / a_jk) - min_k log(a_ik / a_jk)], the diameter of
    the image of A in Hilbert's projective metric; sub-multiplicative, 0 iff all rows are equal. Ratios near one are
    taken from the differences of columns, so that small values are right. O(lag n^3) a start time.

    References
    ----------
    Birkhoff, "Extensions of Jentzsch's theorem", Trans. AMS 85 (1957); Seneta (1981), ch. 3.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import birkhoff
    >>> print(birkhoff(Operators.from_arrays(np.array([[0.9, 0.1], [0.1, 0.9]])), [1]).round(6))
    [0.8]
    """
    ops, lags = as_operators(ops), check_lags(lags)
    if ops.kind != "stochastic":
        raise ValueError("birkhoff is defined for stochastic operators; these are Jacobians.")
    logs = np.array(over_starts(ops, lags, n_starts, _log_birkhoff, WholeWalk)).mean(axis=0)
    return logs if log else np.exp(logs)


def _log_birkhoff(whole):
    columns, (spread, exponent) = whole.full.matrix, whole.deviations()
    live = (columns > 0).any(axis=1)
    if not (columns[live] > 0).all():
        return 0.0
    columns, spread, widest = columns[live], spread[live], -np.inf
    for j in range(columns.shape[1]):
        ratios, scale = _log_ratios(columns, spread - spread[:, j : j + 1], columns[:, j : j + 1], exponent)
        widest = max(widest, _log(np.ptp(ratios, axis=0).max()) + scale * LOG2)
    return _log(np.tanh(np.exp(widest) / 4)) if widest > -20 else widest - np.log(4)


def _log_ratios(columns, differences, reference, exponent):
    """log(columns / reference) over 2**scale, and the scale; differences (over 2**exponent) are exact where small."""
    relative = differences / reference
    if exponent < -60:  # the logarithm is straight
        return relative, exponent
    relative = np.ldexp(relative, exponent)
    near = np.abs(relative) < 0.5
    return np.where(near, np.log1p(np.where(near, relative, 0.0)), np.log(columns / reference)), 0


def half_life(ops, *, n_starts=None):
    """Steps until the contraction has halved.

    Parameters
    ----------
    ops : Operators or a model
    n_starts : int, optional
        Start times at most, see `start_times`.

    Returns
    -------
    float
        In steps, interpolated between whole steps in the logarithm; below 1 if one step halves it (0 if one step
        leaves nothing); inf if it never halves.

    Warns
    -----
    ReducibleWarning, PeriodicWarning
        The answer is inf because of the chain's structure.
    NotHalvedWarning
        The answer is inf because the runs are too short to see it (the message says how much is left), or because
        directions grow or stay.

    Raises
    ------
    ValueError
        If there is no step.

    Notes
    -----
    The lag is doubled until the contraction is at most 1/2, then bisected: O(half-life n^3) a start time and
    O(n^3 log^2 half-life) where a matrix repeats for ever. Where the norm of a network's product rises and falls, this
    finds one crossing of 1/2. Maps that repeat for ever are followed for 2^44 steps at most.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import half_life
    >>> print(round(half_life(Operators.from_arrays(np.array([[0.9, 0.1], [0.1, 0.9]]))), 6))
    3.106284
    """
    ops = as_operators(ops)
    if not forgets(ops):
        return np.inf
    longest = FARTHEST if ops.forever else longest_run(ops)
    if longest == 0:
        raise ValueError("the operators hold no step: every run is empty.")

    def left(lag):
        return _log_contractions(ops, np.array([lag]), n_starts).mean()

    low, high, at_low, at_high = 0, 1, 0.0, left(1)
    while at_high > -LOG2:
        if high == longest:
            warnings.warn(
                f"a share of {np.exp(min(at_high, 700.0)):.3g} of a difference is left after {longest} steps, the "
                "longest at hand; its half-life was not seen and is given as inf.",
                NotHalvedWarning,
                stacklevel=2,
            )
            return np.inf
        low, at_low, high = high, at_high, min(2 * high, longest)
        at_high = left(high)
    while high - low > 1:
        middle = (low + high) // 2
        at_middle = left(middle)
        low, at_low, high, at_high = (
            (middle, at_middle, high, at_high) if at_middle > -LOG2 else (low, at_low, middle, at_middle)
        )
    return float(low + (at_low + LOG2) / (at_low - at_high) * (high - low))
