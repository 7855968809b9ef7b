"""Products of one-step maps: the object that eqs. 3 and 4 of El Hihi & Bengio (1995) are about."""

import numbers
from dataclasses import dataclass

import numpy as np

from hiermm._ext import load
from hiermm.operators import Operators

_kernels, _graded = load("products"), load("graded")
BUDGET = 4e9  # multiply-adds that one call may spend on averaging over start times
FEWEST, MOST = 4, 64  # start times
LONGEST = 2**62  # lag


@dataclass(frozen=True)
class ScaledMatrix:
    """A matrix times exp(log_scale), so that entries of any size can be written down.

    Attributes
    ----------
    matrix : ndarray of shape (n, n)
    log_scale : float
        Natural logarithm of the factor in front; 0 for a product that is exactly zero.
    """

    matrix: np.ndarray
    log_scale: float

    def dense(self):
        """Return matrix * exp(log_scale) as one array; entries may under- or overflow."""
        return self.matrix * np.exp(self.log_scale)


def as_operators(model, X=None, *, lengths=None):
    """Turn a model, a fitted hmmlearn model or operators into `Operators`.

    Parameters
    ----------
    model : Operators, or an object with `.operators(X, lengths=)`, or one with `transmat_` (hmmlearn)
    X, lengths
        Handed to the model's `operators`; unused otherwise.

    Returns
    -------
    Operators

    Raises
    ------
    TypeError
        If the object is none of these, naming its type.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import as_operators
    >>> as_operators(Operators.from_arrays(np.eye(2))).n_states
    2
    """
    if isinstance(model, Operators):
        return model
    if hasattr(model, "operators"):
        return model.operators(X) if lengths is None else model.operators(X, lengths=lengths)
    if hasattr(model, "transmat_"):
        return Operators.from_arrays(np.asarray(model.transmat_, dtype=np.float64).T, kind="stochastic")
    raise TypeError(
        f"{type(model).__name__} has neither operators() nor transmat_: give a fitted model, an hmmlearn model or "
        "hiermm.Operators.from_arrays(matrices)."
    )


def product(ops, start, stop):
    """Return M_stop ... M_{start+1}: how a change of the state at `start` has arrived at `stop`.

    Parameters
    ----------
    ops : Operators or a model
    start, stop : int
        Steps between the maps; `product(ops, 0, len(ops))` uses every map of a single run. `start == stop` gives the
        identity.

    Returns
    -------
    ScaledMatrix
        For stochastic operators `log_scale` is 0 and the columns sum to 1 (kept so at every factor, so that the
        rounding of a million factors does not add up).

    Raises
    ------
    ValueError
        If the steps lie outside the operators or in different runs: sequences do not influence one another.

    Notes
    -----
    O((stop - start) n^3) operations; a repeated matrix is raised to its power by squaring.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import product
    >>> result = product(Operators.from_arrays(np.full((5000, 2, 2), 0.1), kind="jacobian"), 0, 5000)
    >>> print(round(result.log_scale + np.log(result.matrix[0, 0]), 3))
    -8047.883
    """
    ops = as_operators(ops)
    for step in (start, stop):
        if not isinstance(step, numbers.Integral):
            raise ValueError(f"a product leads from step to step, whole numbers; got {step!r}.")
    start, stop = int(start), int(stop)
    if start < 0 or stop < start or not (ops.forever or stop <= len(ops)):
        end = "ever" if ops.forever else len(ops)
        raise ValueError(f"steps {start} to {stop} asked for, but there are steps 0 to {end}.")
    for run, (_, last) in enumerate(ops.runs()):
        if start < last < stop:
            raise ValueError(f"step {last} between {start} and {stop} ends run {run}; a product cannot leave its run.")
    walk = Walk(ops, start)
    walk.go(stop - start)
    return ScaledMatrix(walk.matrix, walk.exponent * np.log(2.0) if walk.matrix.any() else 0.0)


def zero_sum_basis(n):
    """Return the orthonormal Helmert basis (n, n - 1) of the vectors that sum to zero.

    Column k - 1 is k ones, then -k, then zeros, divided by sqrt(k (k + 1)).
    """
    basis = np.zeros((n, n - 1))
    for k in range(1, n):
        basis[:k, k - 1] = 1.0
        basis[k, k - 1] = -k
    return basis / np.sqrt(np.arange(1, n) * np.arange(2, n + 1))


class Walk:
    """A product that grows to the left, kept as `matrix` times 2**exponent.

    Parameters
    ----------
    ops : Operators
    start : int
        Step at which the product begins.
    zero_sum : bool
        Follow only vectors of sum zero, in the basis of `zero_sum_basis`.
    """

    def __init__(self, ops, start, zero_sum=False):
        self.ops, self.at, self.zero_sum = ops, start, zero_sum
        self.whole = ops.kind == "stochastic" and not zero_sum
        self.matrix, self.exponent = np.eye(ops.n_states - zero_sum), 0

    def go(self, count):
        """Multiply by the next `count` maps."""
        period = len(self.ops.matrices)
        if not count or not self.matrix.size:
            self.at += count
            return
        if count >= 8 * period and period < count:
            laps, count = divmod(count, period)
            lap = Walk(self.ops, self.at, self.zero_sum)
            lap.exponent = lap._multiply(period)
            while laps:
                if laps & 1:
                    self._times(lap)
                lap._times(lap)
                laps >>= 1
        self.exponent += self._multiply(count)

    def _multiply(self, count):
        maps, first = self.ops.matrices, self.at
        self.at += count
        return _kernels.chain(maps, first, count, self.zero_sum, self.whole, self.matrix)

    def _times(self, other):
        """Multiply by a lap from the left; laps of the same maps commute."""
        matrix = other.matrix @ self.matrix
        if self.whole:
            self.matrix = matrix / matrix.sum(axis=0)
            return
        shift = int(np.frexp(np.abs(matrix).max())[1])
        self.matrix = np.ldexp(matrix, -shift)
        self.exponent = self.exponent + other.exponent + shift


class WholeWalk:
    """A stochastic product beside its action on differences, which keeps small differences accurate."""

    def __init__(self, ops, start):
        self.full, self.part = Walk(ops, start), Walk(ops, start, zero_sum=True)
        self.basis = zero_sum_basis(ops.n_states)

    def go(self, count):
        """Multiply by the next `count` maps."""
        self.full.go(count)
        self.part.go(count)

    def deviations(self, weights=None):
        """Columns minus their weighted mean, over 2**exponent: (n, n) array and exponent."""
        spread = self.basis @ self.part.matrix @ self.basis.T
        return spread - (0 if weights is None else (spread @ weights)[:, None]), self.part.exponent


class GradedWalk:
    """A product that grows to the left, kept as left diag(exp(logs)) right; every direction keeps its accuracy.

    Parameters as in `Walk`. `right=False` leaves out the right factor, which exponents do not need.
    """

    def __init__(self, ops, start, zero_sum=False, right=True):
        size = ops.n_states - zero_sum
        self.ops, self.at, self.zero_sum = ops, start, zero_sum
        self.left, self.logs, self.right = np.eye(size), np.zeros(size), np.eye(size) if right else None

    def go(self, count):
        """Multiply by the next `count` maps."""
        if count and len(self.logs):
            _graded.graded(self.ops.matrices, self.at, count, self.zero_sum, self.left, self.logs, self.right)
        self.at += count

    def log_singular_values(self):
        """Natural logs of the singular values of the product so far, descending."""
        out = np.empty(len(self.logs))
        if len(out):
            _kernels.log_singular_values(self.logs, self.right.copy(), out)
        return np.sort(out)[::-1]


def check_lags(lags):
    """Return lags as a 1-D int64 array, or say what is wrong with them."""
    array = np.atleast_1d(np.asarray(lags))
    if (
        array.ndim != 1
        or array.size == 0
        or array.dtype.kind not in "iuf"
        or not np.all(array == np.floor(array))
        or not ((array >= 0) & (array < LONGEST)).all()
    ):
        raise ValueError(f"lags must be non-negative whole numbers of steps, below 2^62, got {lags!r}.")
    return array.astype(np.int64)


def check_count(name, value):
    """Raise ValueError unless `value` is None or an integer of at least 1."""
    if value is not None and (not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def longest_run(ops):
    """Steps in the longest run; None where the maps repeat for ever."""
    return None if ops.forever else max(stop - start for start, stop in ops.runs())


def start_times(ops, lag, n_starts=None):
    """Choose start times from which `lag` steps fit into a run, spread evenly over all such times.

    Parameters
    ----------
    ops : Operators
    lag : int
    n_starts : int, optional
        How many at most. None: as many as about 4e9 multiply-adds allow, between 4 and 64. Maps that repeat for
        ever have one start time a phase; a single matrix needs one.

    Raises
    ------
    ValueError
        If no run is as long as the lag.
    """
    check_count("n_starts", n_starts)
    if n_starts is None:
        n_starts = int(np.clip(BUDGET / (max(lag, 1) * float(ops.n_states) ** 3), FEWEST, MOST))
    if ops.forever:
        times = np.arange(len(ops.matrices))
    else:
        if lag > longest_run(ops):
            raise ValueError(f"lag {lag} is longer than the longest run of the operators ({longest_run(ops)} steps).")
        times = np.concatenate([np.arange(start, stop - lag + 1) for start, stop in ops.runs() if stop - start >= lag])
    if len(ops.matrices) <= 1:
        return times[:1]
    return times[np.unique(np.linspace(0, len(times) - 1, min(n_starts, len(times))).round().astype(np.int64))]


def over_starts(ops, lags, n_starts, measure, walk, **options):
    """Collect `measure(walk)` for every start time and lag: a list over starts of lists over `lags`.

    All lags share the start times from which the longest of them fits, so that curves over lags are of one and
    the same set of products.
    """
    order = np.argsort(lags, kind="stable")
    collected = []
    for start in start_times(ops, int(lags.max()), n_starts):
        product_ = walk(ops, int(start), **options)
        values, done = [None] * len(lags), 0
        for place in order:
            product_.go(int(lags[place]) - done)
            done = int(lags[place])
            values[place] = measure(product_)
        collected.append(values)
    return collected
