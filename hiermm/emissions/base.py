"""What every emission shares: the protocol, checks of parameters, dead states and data-driven starts."""

import warnings
from functools import cache

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

# Responsibility, in steps, below which a state counts as dead: its estimates would be ratios of rounding errors.
DEAD = 1e-10


class DeadStateWarning(UserWarning):
    """A state takes responsibility for no observation; it keeps its parameters."""


class BadRow(ValueError):
    """A row of the outputs that an emission cannot have produced; `row` and `reason` say which and why."""

    def __init__(self, row, reason):
        super().__init__(row, reason)
        self.row, self.reason = row, reason

    def __str__(self):
        return f"row {self.row}: {self.reason}"


class Emission(BaseEstimator):
    """Base class of what a hidden state emits.

    The constructor stores hyper-parameters and nothing else. A *fitted* emission holds arrays whose names end in an
    underscore; it is never changed: `initialise`, `maximise` and `between` return new objects, and its arrays are
    read-only. All sums that `statistics` returns add over blocks of steps, so that data may come in any portions.

    Attributes
    ----------
    iterative : bool
        False: `maximise` returns the maximiser of the expected complete-data log-likelihood plus log prior (as far as
        `variance floors`, which are constraints, allow). True: it returns the next Newton point, and the caller,
        if that went too far, halves the step by `between` until `objective` + `log_prior` rises.
    discrete : bool
        True when the outputs are symbol codes 0..M-1, stored as floats in one column.
    pooled : bool
        True when steps of equal outputs may be taken together: neither inputs nor steps without outputs matter, and
        `statistics` of one row for all of them, with the sum of their gammas, are the sum of their statistics.
    normal : tuple or None
        Slopes (N, D, P) over the first P inputs, intercepts (N, D) and variances (N, D) when the outputs are
        independent and normal given the state, and `statistics` the sums of `hiermm.inference.smooth_normal`.
    n_inputs : int or None
        Number of inputs P; None when the emission does not look at the inputs.

    Notes
    -----
    Shapes: `outputs` (n, D) with NaN for entries that were not observed, `inputs` (n, P), both C-contiguous float64;
    `gamma` (n, N) posterior state probabilities. Log-likelihoods are densities in nats and may be positive.

    A subclass names its fitted arrays in `_parameters` (the first one has the N states along its first axis) and
    implements `initialise`, `log_likelihood`, `statistics`, `maximise`, `mean`, `sample`, `n_outputs` and
    `n_parameters`.
    """

    _parameters: tuple[str, ...] = ()
    iterative = False
    discrete = False
    pooled = False
    normal = None
    n_inputs = None
    _dead = None

    # -- construction ------------------------------------------------------------------------------------------------

    @classmethod
    @cache
    def _get_param_names(cls):
        """Names of the options, which scikit-learn would read from the signature at every question, several a fit."""
        return super()._get_param_names()

    def _fitted(self, **arrays):
        """Return a copy of this emission that holds `arrays` (copied, float64, read-only) as its parameters."""
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        for name, value in arrays.items():
            value = np.array(value, dtype=np.float64, order="C")
            value.setflags(write=False)
            setattr(new, name, value)
        new._prepare()
        return new

    def _prepare(self):
        """Compute what follows from the parameters and is used at every call (a hook for subclasses)."""

    @property
    def is_fitted(self):
        """Whether the parameters are known."""
        return hasattr(self, self._parameters[0])

    @property
    def n_states(self):
        """Number of hidden states N (rows of parameters)."""
        return self._fitted_array().shape[0]

    def _fitted_array(self):
        return getattr(self, self._parameters[0])

    def __getattr__(self, name):
        """Say so where a name is missing because the parameters are: one of them, or what follows from them."""
        named = (name.startswith("_") or name.endswith("_")) and not name.startswith("__")
        if (named or hasattr(type(self), name)) and not any(known.endswith("_") for known in vars(self)):
            raise NotFittedError(f"This {type(self).__name__} emission has no parameters yet: fit a model with it.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _check_options(self):
        """Raise ValueError if an argument of the constructor makes no sense (a hook for subclasses)."""

    def _shaping(self):
        """Return the options, by name, that the shapes of the fitted parameters stand for (a hook for subclasses)."""
        return {}

    def going_on_from(self, fitted, outputs, square=np.nan):
        """Return an emission with the options of this one and the parameters of `fitted`: where a warm start begins.

        Parameters
        ----------
        fitted : Emission
            Of the same class, with parameters.
        outputs : ndarray (n, D)
            The data to come, to which variance floors relate.
        square : float, optional
            A bound on the sum of their squares, with which they need not be looked at.

        Raises
        ------
        ValueError
            If an option wants parameters of another shape, makes no sense, or is a prior under which these parameters
            are impossible.
        """
        self._check_options()
        for name, value in fitted._shaping().items():
            if getattr(self, name) not in (None, value):
                raise ValueError(
                    f"warm_start goes on from a {type(self).__name__} emission fitted with {name}={value!r}, but "
                    f"{name} is now {getattr(self, name)!r}. Its parameters have another shape: fit anew."
                )
        new = self._fitted(**{name: getattr(fitted, name) for name in fitted._parameters})
        new._dead = fitted._dead
        if not np.isfinite(new.log_prior()):
            raise ValueError(
                f"warm_start goes on from parameters that are impossible under the prior of {self!r} (a probability "
                "or a rate of zero): fit anew."
            )
        return new

    # -- parts of the protocol that are the same for all -------------------------------------------------------------

    def check(self, outputs, inputs):
        """Raise ValueError, naming row and column (`BadRow`), when this emission cannot have produced `outputs`.

        Parameters
        ----------
        outputs : ndarray (n, D)
            Observations; NaN means not observed.
        inputs : ndarray (n, P)
            Inputs.
        """
        name = type(self).__name__
        if self.is_fitted and outputs.shape[1] != self.n_outputs:
            raise ValueError(f"{name}: the outputs have {outputs.shape[1]} columns, expected {self.n_outputs}")
        if self.is_fitted and self.n_inputs is not None and inputs.shape[1] != self.n_inputs:
            raise ValueError(f"{name}: the inputs have {inputs.shape[1]} columns, expected {self.n_inputs}")

    def features(self, outputs, inputs):
        """Return (n, F) numbers whose distances say how alike the steps' outputs are, for clustering a start."""
        if self.discrete:
            return one_hot(outputs[:, 0]) / np.sqrt(2.0)
        return standardise(outputs)

    def objective(self, outputs, inputs, gamma):
        """Return sum over steps and states of gamma * log p(observed entries | state), in nats (0 * -inf = 0).

        This is the emissions' part of EM's objective Q, without the prior.
        """
        return weighted_total(self.log_likelihood(outputs, inputs), gamma)

    def log_prior(self):
        """Return the log prior density of the parameters up to a constant: 0 without a prior."""
        return 0.0

    def between(self, other, fraction):
        """Return the emission on the straight line from this one (fraction 0) to `other` (fraction 1)."""
        mixed = {}
        for name in self._parameters:
            start, end = getattr(self, name), getattr(other, name)
            mixed[name] = start + fraction * (end - start)
        return self._fitted(**mixed)

    def _keep_dead(self, weights, arrays):
        """Return an emission with `arrays`, in which states of no responsibility keep their present rows.

        Parameters
        ----------
        weights : ndarray (N,)
            Sum of responsibilities of each state.
        arrays : dict of ndarray
            New parameters. Arrays whose first axis is not the states (a tied covariance) are taken as they are.
        """
        dead = None
        if not all(weight >= DEAD for weight in weights.tolist()):
            dead = ~(weights >= DEAD)
            for name in arrays:
                if not self._shared(name):
                    arrays[name][dead] = getattr(self, name)[dead]
            warn_dead(dead, self._dead, type(self).__name__)
        new = self._fitted(**arrays)
        new._dead = dead
        return new

    def _shared(self, name):
        """Whether fitted array `name` is common to all states."""
        return False


# -- sums ------------------------------------------------------------------------------------------------------------


def weighted_total(log_likelihood, gamma):
    """Return sum(gamma * log_likelihood) with 0 * -inf = 0."""
    total = float(np.vdot(gamma, log_likelihood))
    if np.isfinite(total):
        return total
    used = gamma > 0
    return float(np.dot(gamma[used], log_likelihood[used]))


def warn_dead(dead, before, name):
    """Warn of states in the mask `dead` that were not dead `before` (mask or None)."""
    news = dead if before is None or len(before) != len(dead) else dead & ~before
    if news.any():
        states = ", ".join(str(k) for k in np.flatnonzero(news))
        warnings.warn(
            f"{name}: no observation belongs to state(s) {states}; they keep their parameters. "
            "Fewer states, another start or a prior may help.",
            DeadStateWarning,
            stacklevel=4,
        )


# -- checks of parameters --------------------------------------------------------------------------------------------


def as_floats(name, value):
    """Return `value` as a float64 array of its own, or raise ValueError with its name."""
    try:
        return np.array(value, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers: {error}") from None


def as_parameter(name, value, ndim):
    """Return `value` as a finite float64 array with `ndim` axes (an int or a tuple of choices), or raise ValueError."""
    array = as_floats(name, value)
    choices = (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if array.ndim not in choices:
        wanted = " or ".join(str(k) for k in choices)
        raise ValueError(f"{name} must have {wanted} axes, got shape {array.shape}")
    if array.size and not np.isfinite(array).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name}{list(where) if where else ''} is not finite")
    return array


def check_shape(name, array, shape):
    """Raise ValueError unless `array` has exactly this shape."""
    if array.shape != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {array.shape}")


def as_probabilities(name, value, ndim=2, tolerance=1e-6):
    """Return `value` as probabilities over the last axis; sums off by less than `tolerance` are renormalised.

    Those that are 1 to rounding (1e-12) keep every bit.

    Raises
    ------
    ValueError
        On a negative entry or a row whose sum is not 1; the message names it.
    """
    array = as_parameter(name, value, ndim)
    if array.shape[-1] == 0:
        raise ValueError(f"{name} has no columns")
    if (array < 0).any():
        where = tuple(int(k) for k in np.argwhere(array < 0)[0])
        raise ValueError(f"{name}{list(where)} = {array[where]:g} is negative")
    sums = array.sum(axis=-1)
    off = np.abs(sums - 1.0)
    if off.max(initial=0.0) <= 1e-12:
        return array
    wrong = off > tolerance
    if wrong.any():
        where = tuple(int(k) for k in np.argwhere(wrong)[0])
        raise ValueError(f"{name}{list(where) if where else ''} sums to {sums[where]:.9g}, not to 1")
    return array / sums[..., None]


def check_at_least(name, value, low, strict=False):
    """Raise ValueError unless every entry of `value` is a number >= `low` (> `low` if `strict`)."""
    value = as_floats(name, value)
    good = value > low if strict else value >= low
    if not np.all(good & np.isfinite(value)):
        raise ValueError(f"{name} must be finite and {'>' if strict else '>='} {low:g}, got {value}")


def first_bad(outputs, good):
    """Return (row, column) of the first observed entry of `outputs` where the mask `good` is False, or None."""
    bad = ~good & ~np.isnan(outputs)
    if not bad.any():
        return None
    row, column = np.argwhere(bad)[0]
    return int(row), int(column)


# -- data-driven starts ----------------------------------------------------------------------------------------------


def start_sample(outputs, inputs, rng, limit=20_000, chunk=64):
    """Return (outputs, inputs) of at most about `limit` rows to start from, with some entry observed in each.

    Long data are represented by contiguous chunks of `chunk` rows at random places, so that neighbours in time stay
    together and starting costs neither time nor memory that grows with the data.
    """
    unseen = np.array([np.isnan(column).all() for column in outputs.T])
    if unseen.any():
        raise ValueError(f"cannot start: column {int(np.argmax(unseen))} of the outputs has no observed value")
    if len(outputs) > limit:
        starts = np.sort(rng.integers(0, len(outputs) - chunk + 1, size=limit // chunk))
        rows = (starts[:, None] + np.arange(chunk)).ravel()
        missed = np.isnan(outputs[rows]).all(axis=0)
        rare = [np.flatnonzero(~np.isnan(column))[:chunk] for column in outputs.T[missed]]
        rows = np.concatenate([rows, *rare])
        outputs, inputs = outputs[rows], inputs[rows]
    seen = ~np.isnan(outputs).all(axis=1)
    return outputs[seen], inputs[seen]


def column_scale(values):
    """Return the mean and standard deviation of each column over its observed entries.

    Constant columns get deviation 1, columns without an observed entry mean 0 and deviation 1.
    """
    seen = ~np.isnan(values)
    count = np.maximum(seen.sum(axis=0), 1)
    centre = np.where(seen, values, 0.0).sum(axis=0) / count
    scale = np.sqrt((np.where(seen, values - centre, 0.0) ** 2).sum(axis=0) / count)
    return centre, np.where(scale > 1e-13 * np.abs(centre), scale, 1.0)


def standardise(values):
    """Return columns shifted and scaled to mean 0 and variance 1; entries not observed become 0, the mean."""
    centre, scale = column_scale(values)
    return np.nan_to_num((values - centre) / scale, nan=0.0)


def one_hot(symbols):
    """Return indicators (n, M) of the symbols; a missing one gives the symbols' frequencies."""
    seen = ~np.isnan(symbols)
    table = np.zeros((len(symbols), int(symbols[seen].max()) + 1))
    table[seen, symbols[seen].astype(np.int64)] = 1.0
    table[~seen] = table[seen].mean(axis=0)
    return table


def cluster(features, n_clusters, rng, n_iter=10):
    """Return labels (n,) of `features` (n, F) by greedy k-means++ seeding and a few Lloyd iterations.

    Clusters may come out empty, for instance when there are fewer distinct points than clusters.

    References
    ----------
    Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    columns = np.ascontiguousarray(features.T)
    centres = features[seeds(columns, n_clusters, rng)]
    ones = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    for _ in range(n_iter):
        # The nearest centre c has the largest c'x - c'c / 2.
        near = ones @ np.concatenate([centres, -0.5 * np.square(centres).sum(axis=1, keepdims=True)], axis=1).T
        labels = near.argmax(axis=1)
        counts = np.bincount(labels, minlength=n_clusters)
        sums = np.stack([np.bincount(labels, column, n_clusters) for column in columns], axis=1)
        filled = counts > 0
        centres[filled] = sums[filled] / counts[filled, None]
    return labels


def seeds(columns, n_clusters, rng):
    """Return points, numbers of columns (F, n), to start clusters from.

    Each is the best of a few drawn in proportion to the squared distance left.
    """
    n = columns.shape[1]
    points = [int(rng.integers(n))]
    nearest = _square_distances(columns, points[0])
    for _ in range(1, n_clusters):
        total = nearest.sum()
        draws = rng.choice(n, size=2 + int(np.log(n_clusters)), p=nearest / total if total > 0 else None)
        after = [np.minimum(nearest, _square_distances(columns, point)) for point in draws]
        best = int(np.argmin([left.sum() for left in after]))
        points.append(int(draws[best]))
        nearest = after[best]
    return points


def _square_distances(columns, point):
    return np.square(columns - columns[:, point, None]).sum(axis=0)


def soft_assignments(labels, n_states, softness=0.1):
    """Return responsibilities (n, N): 1 - `softness` on the label, the rest spread evenly."""
    gamma = np.full((len(labels), n_states), softness / n_states)
    gamma[np.arange(len(labels)), labels] += 1.0 - softness
    return gamma
