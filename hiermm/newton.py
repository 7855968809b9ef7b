"""Safe Newton points for weighted multinomial logits (and, through `damped_solve`, other small regressions).

The sums come from the kernels in `_ext/softmax.pyx`; here are only small dense systems, one a group (a row of a
transition matrix, a state of an emission). What makes a point safe:

- The softmax does not change when one constant is added to all its logits. Each group is solved in differences to a
  reference destination, the one of largest curvature, and written back with the sum over destinations equal to zero.
  The L2 penalty on the slopes is expressed exactly in these coordinates.
- The system is scaled to a unit diagonal, so that units of the inputs and rare destinations do not matter, and damped
  by `DAMPING` relative to it (Levenberg and Marquardt): collinear or constant inputs leave it solvable. Damping
  shortens steps and does not move the optimum, where the gradient is zero.
- No logit moves by more than `LONGEST_STEP`, in root mean square over the data: a factor of e^12 in odds a step.
- Groups without counts keep their parameters.
"""

from functools import cache

import numpy as np

DAMPING = 1e-12
LONGEST_STEP = 12.0
SURE_RANGE = 1.79


def empty_sums(n_groups, n_destinations, n_features):
    """Return the zero sums that `_ext.softmax.newton_sums` adds to, by name."""
    size = n_destinations * n_features
    return {
        "gradient": np.zeros((n_groups, n_destinations, n_features)),
        "hessian": np.zeros((n_groups, size, size)),
        "weight": np.zeros(n_groups),
        "moments": np.zeros((n_features, n_features)),
    }


def damped_solve(hessian, gradient, diagonal=None):
    """Solve (H + DAMPING D) x = g for a batch of positive semidefinite H, with D the diagonal of H.

    Parameters
    ----------
    hessian : ndarray (..., d, d)
        Symmetric, positive semidefinite up to rounding.
    gradient : ndarray (..., d, k)
        Right-hand sides.
    diagonal : ndarray (..., d), optional
        D, when it is not the diagonal of `hessian`; zeros count as 1.

    Returns
    -------
    ndarray (..., d, k)
        The solution; zero for members of the batch whose numbers are out of the range of a float.

    Examples
    --------
    >>> import numpy as np
    >>> damped_solve(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([[4.0], [0.0]])).ravel().round(6)
    array([2., 0.])
    """
    diagonal = np.einsum("...ii->...i", hessian) if diagonal is None else diagonal
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        unit = hessian / scale
        unit /= np.swapaxes(scale, -1, -2)
        np.einsum("...ii->...i", unit)[...] += DAMPING
        x = np.linalg.solve(unit, gradient / scale) / scale
    finite = np.isfinite(x)
    return x if finite.all() else np.where(finite.all(axis=(-2, -1), keepdims=True), x, 0.0)


def shorten(step, moments, axis):
    """Scale steps down so that no logit moves by more than LONGEST_STEP, in root mean square over the data.

    Parameters
    ----------
    step : ndarray (..., P+1)
        Changes of the intercept and the slopes of one logit.
    moments : ndarray (P+1, P+1)
        Sum over steps of the products of the features [1, inputs].
    axis : int, tuple of int or None
        Axes of `step[..., 0]` that are shortened by a common factor (None: all).
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of a step beyond the range of a float nothing is left
        square = (step @ (moments / max(moments[0, 0], 1.0)) * step).sum(axis=-1)
    longest = square.max(axis=axis, keepdims=True, initial=LONGEST_STEP**2)
    return step * (LONGEST_STEP / np.sqrt(longest))[..., None]


def surely_rises(intercept, coef, free, low, high):
    """Whether a step towards a Newton point raises the objective for certain, so that no line search is needed.

    Parameters
    ----------
    intercept, coef : ndarray (G, M), (G, M, P)
        Newton point minus start; 0 for destinations that take no part.
    free : ndarray (G, M) of bool
        Destinations that take part.
    low, high : ndarray (P,)
        Smallest and largest value of each input in the data.

    Returns
    -------
    bool
        False means "not known": evaluate the objective.

    Notes
    -----
    Along a line the log-partition function h of a step has |h'''| <= r h'', where r is the range of the logits'
    changes: a third central moment is at most the range times the variance. Hence
    h(1) <= h(0) + h'(0) + h''(0) (e^r - r - 1) / r^2, and because a Newton step s has s'Hs <= g's, the objective cannot
    fall as long as (e^r - r - 1) / r^2 <= 1, which holds for r <= 1.793. Here r is bounded over the box of the inputs.

    References
    ----------
    Bach, "Self-concordant analysis for logistic regression", Electronic Journal of Statistics 4, 2010.
    """
    middle = intercept + coef @ (0.5 * (low + high))
    sides = np.abs(coef[:, :, None] - coef[:, None]) @ (0.5 * (high - low))
    pairs = free[:, :, None] & free[:, None, :]
    ranges = np.abs(middle[:, :, None] - middle[:, None, :]) + sides
    return bool(np.max(ranges, where=pairs, initial=0.0) <= SURE_RANGE)


def centred(values, free):
    """Shift `values` (G, M, ...) so that they sum to zero over the `free` (G, M) destinations; others stay."""
    mask = free.reshape(free.shape + (1,) * (values.ndim - 2))
    mean = np.add.reduce(values, axis=1, keepdims=True, where=mask) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
    return np.subtract(values, mean, out=values.copy(), where=mask)


def softmax_point(coef, intercept, free, stats, alpha):
    """Return the Newton point of G independent multinomial logits with the penalty alpha/2 * sum slopes^2.

    Parameters
    ----------
    coef : ndarray (G, M, P)
        Slopes at which the sums were taken.
    intercept : ndarray (G, M)
        Intercepts.
    free : ndarray (G, M) of bool
        Destinations that take part; parameters of the others are returned as they are.
    stats : dict
        `gradient` (G, M, P+1) and `hessian` (G, M*(P+1), M*(P+1)) of the log-likelihood, the latter negated, features
        in the order [1, inputs]; `weight` (G,) total counts; `moments` (P+1, P+1) of the features.
    alpha : float
        L2 penalty on the slopes, over all destinations alike; intercepts carry none.

    Returns
    -------
    coef, intercept : ndarray
        New parameters; they sum to zero over the free destinations of each group that has counts.
    """
    theta = centred(np.concatenate([intercept[..., None], coef], axis=-1), free)
    gradient = stats["gradient"].copy()
    gradient[..., 1:] -= alpha * theta[..., 1:]
    n_free = free.sum(axis=1) * (stats["weight"] > 0)
    for m in set(n_free.tolist()) - {0, 1}:
        groups = np.flatnonzero(n_free == m)
        destinations = _reference_last(free[groups], stats["hessian"][groups], m)
        step = _differences_step(gradient, stats["hessian"], groups, destinations, alpha)
        step = shorten(step, stats["moments"], axis=1)
        theta[groups[:, None], destinations] += step
    untouched = n_free < 2
    if untouched.any():
        theta[untouched, :, 0], theta[untouched, :, 1:] = intercept[untouched], coef[untouched]
    return theta[..., 1:], theta[..., 0]


def _reference_last(free, hessian, m):
    """Return the `m` free destinations of each group (g, m), the one of largest curvature last."""
    curvature = np.einsum("gii->gi", hessian)[:, :: hessian.shape[-1] // free.shape[1]]
    rank = np.where(free, 0, 2)
    rank[np.arange(len(free)), np.where(free, curvature, -np.inf).argmax(axis=1)] = 1
    return rank.argsort(axis=1, kind="stable")[:, :m]


def _differences_step(gradient, hessian, groups, destinations, alpha):
    """Newton steps (g, m, P+1), summing to zero over m, of groups with m free destinations each."""
    M, n_features = gradient.shape[1:]
    m = destinations.shape[1]
    some = destinations[:, :-1]
    blocks = hessian.reshape(len(hessian), M, n_features, M, n_features)
    blocks = blocks[groups[:, None, None], some[:, :, None], :, some[:, None, :], :].swapaxes(2, 3)
    size = (m - 1) * n_features
    right = gradient[groups[:, None], some].reshape(-1, size, 1)
    solved = damped_solve((blocks + alpha * _slopes_in_differences(m, n_features)).reshape(-1, size, size), right)
    step = np.zeros((len(groups), m, n_features))
    step[:, :-1] = solved.reshape(-1, m - 1, n_features)
    return step - step.sum(axis=1, keepdims=True) / m


@cache
def _slopes_in_differences(m, n_features):
    """Curvature of half the squared slopes of m destinations, which sum to zero, in differences to the last one."""
    slopes = np.diag([0.0] + [1.0] * (n_features - 1))
    return np.einsum("jk,ab->jakb", np.eye(m - 1) - 1.0 / m, slopes)


def shared_softmax_point(slopes, intercept, free, stats, alpha):
    """Return the Newton point of G multinomial logits with intercepts of their own and slopes in common.

    The joint system has an arrow's shape: the intercepts of different groups meet only through the slopes. They are
    eliminated group by group, which leaves one system for the slopes.

    Parameters
    ----------
    slopes : ndarray (M, P)
        Slopes of the destinations, the same in every group; the penalty counts them once.
    intercept, free, stats, alpha
        As in `softmax_point`.

    Returns
    -------
    slopes : ndarray (M, P)
        They sum to zero over the destinations that are free somewhere.
    intercept : ndarray (G, M)
        They sum to zero over the free destinations of each group that has counts.
    """
    G, M = intercept.shape
    n_features = slopes.shape[1] + 1
    n_free = np.where(stats["weight"] > 0, free.sum(axis=1), 0)
    used = np.flatnonzero(n_free > 1)
    active = free.any(axis=0)
    if not len(used):
        return slopes, intercept
    slopes = centred(slopes[None], active[None])[0]
    common = stats["hessian"][used].sum(axis=0)
    others = _reference_last(active[None], common[None], int(active.sum()))[0]
    right = (stats["gradient"][used, :, 1:].sum(axis=0) - alpha * slopes)[others[:-1]].reshape(-1, 1)
    matrix = _slope_system(common.reshape(M, n_features, M, n_features), others, alpha)
    diagonal = matrix.diagonal().copy()
    eliminated = []
    for m in np.unique(n_free[used]):
        groups = np.flatnonzero(n_free == m)
        own, sides, block = _intercept_systems(stats, groups, free, others, int(m))
        solved = damped_solve(block, sides)
        known = (np.swapaxes(sides[..., 1:], 1, 2) @ solved).sum(axis=0)
        right = right - known[:, :1]
        matrix = matrix - known[:, 1:]
        eliminated.append((groups[:, None], own[:, :-1], solved))
    moved = damped_solve(matrix, right, diagonal)
    step = np.zeros((G, M, n_features))
    step[:, others[:-1], 1:] = moved.reshape(-1, n_features - 1)
    for groups, own, solved in eliminated:
        step[groups, own, 0] = (solved[..., :1] - solved[..., 1:] @ moved)[..., 0]
    step = shorten(step, stats["moments"], axis=None)
    slopes = centred((slopes + step[0, :, 1:])[None], active[None])[0]
    moved_intercept = centred(intercept + step[..., 0], free)
    kept = np.isin(np.arange(G), used, invert=True)[:, None]
    return slopes, np.where(kept, intercept, moved_intercept)


def _slope_system(common, others, alpha):
    """Curvature of the shared slopes in differences to the reference, others[-1], with the penalty."""
    some, n_inputs = others[:-1], common.shape[1] - 1
    block = common[some, 1:][:, :, some, 1:]
    block = block + alpha * np.einsum("jk,ab->jakb", np.eye(len(some)) - 1.0 / len(others), np.eye(n_inputs))
    return block.reshape(len(some) * n_inputs, -1)


def _intercept_systems(stats, groups, free, others, m):
    """Return destinations (g, m), right-hand sides (gradient and cross terms) and the intercepts' curvature.

    Of groups (g,) that have m free destinations each.
    """
    M, n_features = stats["gradient"].shape[1:]
    own = _reference_last(free[groups], stats["hessian"][groups], m)
    blocks = stats["hessian"].reshape(-1, M, n_features, M, n_features)[groups[:, None], own[:, :-1], 0]
    cross = blocks[:, :, others[:-1], 1:].reshape(len(groups), m - 1, -1)
    sides = np.concatenate([stats["gradient"][groups[:, None], own[:, :-1], :1], cross], axis=2)
    return own, sides, np.take_along_axis(blocks[..., 0], own[:, None, :-1], axis=2)
