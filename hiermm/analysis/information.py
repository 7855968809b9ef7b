"""Mutual information between hidden states some steps apart."""

import numpy as np
from scipy.special import logsumexp

from hiermm.analysis.products import Walk, WholeWalk, as_operators, check_lags, start_times
from hiermm.analysis.structure import forgets, structure
from hiermm.operators import Operators


def mutual_information(model, lags, X=None, *, lengths=None, initial=None, n_starts=None):
    """Mutual information I(x_tau; x_{tau + lag}) between hidden states, in nats; chains only.

    Parameters
    ----------
    model : a Markov model, an hmmlearn model or stochastic Operators
    lags : int or array-like of int
    X, lengths
        Inputs for models that are driven by them.
    initial : array-like of shape (n,), optional
        Distribution of the state at the first step of every run. None: the stationary distribution of maps that
        repeat for ever, so that the answer does not depend on tau; else `model.initial_distribution()` where the model
        has it, else uniform.
    n_starts : int, optional
        Start times at most; the (arithmetic) mean over them is returned.

    Returns
    -------
    ndarray of shape (n_lags,)
        Between 0 and log n. At lag 0 the entropy of the state.

    Warns
    -----
    ReducibleWarning
        The stationary distribution is not unique; the limit from the uniform one is taken.

    Notes
    -----
    sum_i p_i sum_j q_j phi(P_ij / q_j) with phi(r) = r log r - r + 1 >= 0, q = p P: the usual sum, arranged so that it
    cannot be negative and small values are right. O(lag n^3) a start time.

    References
    ----------
    Cover & Thomas, "Elements of information theory", ch. 2 (data processing inequality: it never grows with the lag).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import mutual_information
    >>> ops = Operators.from_arrays(np.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> print(mutual_information(ops, [0, 1, 10]).round(6))
    [0.693147 0.368064 0.005776]
    """
    ops, lags = as_operators(model, X, lengths=lengths), check_lags(lags)
    if ops.kind != "stochastic":
        raise ValueError("mutual_information is defined for stochastic operators; these are Jacobians.")
    first = _first_distribution(model, ops, initial)
    totals = []
    for start in start_times(ops, int(lags.max()), n_starts):
        origin = (
            0 if ops.forever else max(begin for begin, stop in ops.runs() if begin <= start < stop or begin == start)
        )
        before = Walk(ops, origin)
        before.go(int(start) - origin)
        p = before.matrix @ first
        whole, done = WholeWalk(ops, int(start)), 0
        values = np.empty(len(lags))
        for place in np.argsort(lags, kind="stable"):
            whole.go(int(lags[place]) - done)
            done = int(lags[place])
            values[place] = _information(whole, p)
        totals.append(values)
    return np.mean(totals, axis=0)


def _information(whole, p):
    """I between a state with distribution p and the state that the product leads to."""
    q = whole.full.matrix @ p
    spread, exponent = whole.deviations(p)
    live = q > 0
    if exponent > -60:
        excess = np.maximum(np.ldexp(spread[live] / q[live, None], exponent), -1.0)  # P_ij / q_j - 1
        reached = whole.full.matrix[live] > 0
        bent = (1 + excess) * np.log1p(np.where(reached, excess, 0.0)) - excess
        small = np.abs(excess) < 1e-4
        least = np.where(small, excess, 0.0)
        phi = np.where(small, least**2 * (0.5 - least / 6 + least**2 / 12), np.where(reached, bent, 1.0))
        return float(q[live] @ phi @ p)
    root = spread[live] * np.sqrt(p) / np.sqrt(q[live, None])  # of q p excess^2, whose factors may overflow
    return float(np.ldexp((root**2).sum() / 2, max(2 * exponent, -2000)))


def _first_distribution(model, ops, initial):
    n = ops.n_states
    if initial is None and not ops.forever:
        initial = model.initial_distribution() if hasattr(model, "initial_distribution") else np.full(n, 1.0 / n)
    if initial is None:
        return _stationary(ops)
    initial = np.asarray(initial, dtype=np.float64)
    if initial.shape != (n,) or not (initial >= 0).all() or abs(initial.sum() - 1) > 1e-8:
        raise ValueError(f"initial must be a distribution over {n} states.")
    return initial


def _stationary(ops):
    """Stationary distribution of one period of maps; of several closed classes, weighted as the uniform start is."""
    forgets(ops, stacklevel=5)
    lap = Walk(ops, 0)
    lap.go(len(ops.matrices))
    n, found = ops.n_states, structure(Operators(lap.matrix[None]))
    with np.errstate(divide="ignore"):
        moves = np.log(lap.matrix.T)
    mass, rest = np.full(n, -np.log(n)), np.arange(n)
    for state in np.setdiff1d(rest, np.concatenate(found.classes)):
        rest = rest[rest != state]
        onward = _leave_out(moves, state, rest)
        mass[rest] = np.logaddexp(mass[rest], mass[state] + onward)
    for members in found.classes:
        mass[members] = logsumexp(mass[members]) + _stationary_of_class(moves[np.ix_(members, members)])
    result = np.zeros(n)
    result[rest] = np.exp(mass[rest])
    return result


def _leave_out(moves, state, rest):
    """Make of a chain (logs of its rows, changed in place) what is seen of it in the states `rest` alone.

    Returns the logs of where it goes from `state`. Nothing is subtracted, so that a chance of 1e-300 of leaving a state
    counts beside one of staying (Grassmann, Taksar & Heyman, Operations Research 33, 1985).
    """
    onward = moves[state, rest] - logsumexp(moves[state, rest])
    block = np.ix_(rest, rest)
    moves[block] = np.logaddexp(moves[block], moves[rest, state][:, None] + onward)
    return onward


def _stationary_of_class(moves):
    """Logs of the stationary distribution of an irreducible chain from those of its rows, which are overwritten."""
    for state in range(len(moves) - 1, 0, -1):
        leaving = logsumexp(moves[state, :state])
        _leave_out(moves, state, np.arange(state))
        moves[:state, state] -= leaving
    result = np.zeros(len(moves))
    for state in range(1, len(moves)):
        result[state] = logsumexp(result[:state] + moves[:state, state])
    return result - logsumexp(result)
