"""Credit over time, and the paths it can take through the levels."""

import math

import numpy as np

from hiermm._ext import load
from hiermm.analysis.products import as_operators, check_count, check_lags
from hiermm.sequences import form_of

_kernels = load("products")


def credit(model, X, y=None, lags=(0, 1, 2, 4, 8, 16, 32, 64), *, lengths=None, log=False, n_ends=None):
    """How strongly the cost at t depends on the state at t - lag: the norm of dC_t/dx_tau.

    Parameters
    ----------
    model : object with `operators(X)` and `credit_sources(X, y)`
        `credit_sources(X, y=None, *, lengths=None)` returns an array (T, n): row t is dC_t/dx_t, the gradient of the
        cost (or log-likelihood) of the output at step t with respect to the state at step t that the operators act
        on. Rows follow one another as the steps of the sequences do; a row of zeros is a step without a cost. For a
        network it is the gradient of the read-out's loss; for a chain that of log sum_j p_t(j) b_t(j) with respect to
        the predicted distribution p_t, that is b_t(j) / sum_i p_t(i) b_t(i).
    X, y, lengths
        As in the model's `score`.
    lags : int or array-like of int
    log : bool
        Give natural logarithms, which do not underflow.
    n_ends : int, optional
        Steps t to average over, at most; None: 256. They are spread evenly over those that have a cost and `max(lags)`
        steps before them in their sequence.

    Returns
    -------
    ndarray of shape (n_lags,)
        Geometric mean over t of |dC_t/dx_{t - lag}| (Euclidean norm; for chains of the part that acts on vectors of sum
        zero, as a distribution cannot change in any other way).

    Raises
    ------
    TypeError
        If the model has no `credit_sources`.
    ValueError
        If the gradients do not fit the operators, or no step with a cost has that many steps before it.

    Notes
    -----
    dC_t/dx_tau = (M_t ... M_{tau+1})' dC_t/dx_t, the middle factor of eq. 2 of El Hihi & Bengio (1995), carried back
    one step at a time: O(lag n^2) an end time.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import credit
    >>> class Leaky:
    ...     def operators(self, X):
    ...         return Operators.from_arrays(np.full((len(X) - 1, 1, 1), 0.5), kind="jacobian")
    ...     def credit_sources(self, X, y=None, *, lengths=None):
    ...         return np.ones((len(X), 1))
    >>> print(credit(Leaky(), np.zeros((20, 1)), None, [0, 1, 3]))
    [1.    0.5   0.125]
    """
    lags = check_lags(lags)
    check_count("n_ends", n_ends)
    if not hasattr(model, "credit_sources"):
        raise TypeError(f"{type(model).__name__} has no credit_sources(X, y): it cannot say what its cost depends on.")
    logs = _log_credit(*_sources(model, X, y, lengths), lags, n_ends)
    return logs if log else np.exp(logs)


def relative_credit(model, X, y, lags, *, lengths=None, n_ends=None):
    """Credit at the lags divided by credit at lag 0, as a list; None where no sequence reaches back so far.

    Parameters as in `credit`. All None without data, or for a model that has no `credit_sources`.
    """
    missing = [None] * len(lags)
    if X is None or not hasattr(model, "credit_sources"):
        return missing
    ops, sources, firsts = _sources(model, X, y, lengths)
    live = (sources != 0).any(axis=1)
    age = np.arange(len(sources)) - np.repeat(firsts[:-1], np.diff(firsts))
    reach = age[live].max(initial=-1)
    usable = [lag for lag in lags if lag <= reach]
    if not usable:
        return missing
    logs = _log_credit(ops, sources, firsts, np.array([0, *usable]), n_ends)
    known = dict(zip(usable, np.exp(logs[1:] - logs[0])))
    return [known.get(lag) for lag in lags]


def _sources(model, X, y, lengths):
    """Operators, gradients (zero-sum part for chains) and the first rows of the sequences."""
    ops = as_operators(model, X, lengths=lengths)
    sources = np.array(
        model.credit_sources(X, y) if lengths is None else model.credit_sources(X, y, lengths=lengths), dtype=np.float64
    )
    if sources.ndim != 2 or sources.shape[1] != ops.n_states:
        raise ValueError(f"credit_sources gave shape {sources.shape}, the operators act on {ops.n_states} components.")
    if ops.kind == "stochastic":
        sources -= sources[:, :1]
        sources -= sources.mean(axis=1, keepdims=True)
    return ops, sources, _first_steps(ops, len(sources), X, lengths)


def _log_credit(ops, sources, firsts, lags, n_ends):
    ends = _end_times(sources, firsts, int(lags.max()), 256 if n_ends is None else n_ends)
    zero_sum = ops.kind == "stochastic"
    return np.mean([_carry_back(ops, sources[t], row, t, lags, zero_sum) for t, row in ends], axis=0)


def _first_steps(ops, n_steps, X, lengths):
    """Row at which every sequence begins, and one end: array (n_sequences + 1,)."""
    if ops.forever:
        if lengths is None:
            lengths = [n_steps] if form_of(X) == "array" else [len(one) for one in X]
    else:
        lengths = [stop - start + 1 for start, stop in ops.runs()]
    firsts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if firsts[-1] != n_steps:
        raise ValueError(f"credit_sources gave {n_steps} steps, the sequences have {firsts[-1]}.")
    return firsts


def _end_times(sources, firsts, lag, n_ends):
    """Steps that have a cost and `lag` steps before them, each with its sequence's number."""
    steps = np.arange(len(sources))
    row = np.searchsorted(firsts, steps, side="right") - 1
    fit = np.flatnonzero((steps - firsts[row] >= lag) & (sources != 0).any(axis=1))
    if not len(fit):
        raise ValueError(f"no step with a cost has {lag} steps before it in its sequence.")
    chosen = fit[np.unique(np.linspace(0, len(fit) - 1, min(n_ends, len(fit))).round().astype(np.int64))]
    return [(int(t), int(row[t])) for t in chosen]


def _carry_back(ops, source, row, t, lags, zero_sum):
    """Log norms at all lags of the gradient that leaves at step t of sequence `row`."""
    gradient, exponent, done = source.copy(), 0, 0
    logs = np.empty(len(lags))
    for place in np.argsort(lags, kind="stable"):
        count = int(lags[place]) - done
        # within sequence r the map into row t has number t - 1 - r: every sequence has one map less than steps
        last = t - done - (0 if ops.forever else row)
        if ops.forever:
            last %= len(ops.matrices)
            last += len(ops.matrices) * (count // len(ops.matrices) + 1)
        exponent += _kernels.backward(ops.matrices, last - count, count, zero_sum, gradient)
        done += count
        norm = np.linalg.norm(gradient)
        logs[place] = np.log(norm) + exponent * np.log(2.0) if norm > 0 else -np.inf
    return logs


def path_lengths(model, lags):
    """Fewest transformations between the state at tau and the state at tau + lag, over all paths through the levels.

    This is the quantity that the paper's remedy shortens: a slow level offers a path with few transformations.

    Parameters
    ----------
    model : object
        Looked at for the plain parameters `timescales` (n_s, slowest first; None: 1), `clock` ("periodic", "sticky"
        or "leaky"), `coupling` ("slower", "faster", "none" or "full"), `delays` and `emission_levels`; of a fitted
        model as it was fitted (`structure_` or `network_`). A model without them counts as one level that moves
        at every step, as in an HMM.
    lags : int or array-like of int

    Returns
    -------
    ndarray of shape (n_lags,)
        The mean over start times within one period of the clocks (64 of them at most).

    Notes
    -----
    A level that holds its value transforms nothing. A level that moves transforms once what it takes from its own last
    value, from a level it is coupled to, or (with `delays`) from d steps ago. A periodic level s moves at times
    divisible by n_s. A sticky level moves with probability 1/n_s, a leaky unit replaces the share 1/n_s of its value:
    staying on such a level counts 1/n_s a step, its mean number of moves. A path may begin at any level, because inputs
    and context reach all of them, and may end at any level that the output looks at.
    O(period * max(lags) * S^2 * n_delays).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from hiermm.analysis import path_lengths
    >>> model = SimpleNamespace(timescales=(16, 1), clock="periodic", coupling="full", delays=(1,))
    >>> print(path_lengths(model, [1, 16, 160]))
    [ 0.0625  1.     10.    ]
    """
    lags = check_lags(lags)
    model = getattr(model, "structure_", getattr(model, "network_", model))
    scales = getattr(model, "timescales", None)
    scales = np.asarray((1,) if scales is None else scales, dtype=np.int64)
    periodic = getattr(model, "clock", "sticky") == "periodic"
    delays = getattr(model, "delays", None) or (1,)
    ends = getattr(model, "emission_levels", None)
    ends = np.arange(len(scales)) if ends is None else np.asarray(ends, dtype=np.int64)
    feeds = _feeds(len(scales), getattr(model, "coupling", "none"))
    period = min(math.lcm(*scales.tolist()), 2**53) if periodic else 1
    phases = np.unique(np.linspace(0, period - 1, min(period, 64)).round().astype(np.int64))
    # cost[k][phase, level]: fewest transformations to that level, k steps after the start
    cost = {0: np.zeros((len(phases), len(scales)))}
    lengths = np.empty(len(lags))
    for step in range(int(lags.max()) + 1):
        if step:
            moves = ((phases[:, None] + step) % scales == 0) if periodic else np.ones((len(phases), len(scales)), bool)
            stay = cost[step - 1] + (0.0 if periodic else np.where(scales > 1, 1.0 / scales, np.inf))
            moved = np.full_like(stay, np.inf)
            for delay in (d for d in delays if d <= step):
                through = cost[step - delay][:, :, None] + np.where(feeds, 1.0, np.inf)
                moved = np.minimum(moved, through.min(axis=1))
            held = ~moves if periodic else moves
            cost[step] = np.minimum(np.where(held, stay, np.inf), np.where(moves, moved, np.inf))
            cost.pop(step - max(delays), None)
        lengths[lags == step] = cost[step][:, ends].min(axis=1).mean()
    return lengths


def _feeds(n_levels, coupling):
    """feeds[a, b]: level b looks at level a (slowest first)."""
    level = np.arange(n_levels)
    gap = level[None, :] - level[:, None]
    known = {
        "none": gap == 0,
        "slower": (gap == 0) | (gap == 1),
        "faster": (gap == 0) | (gap == -1),
        "full": gap < n_levels,
    }
    if coupling not in known:
        raise ValueError(f"coupling must be one of {tuple(known)}, got {coupling!r}.")
    return known[coupling]
