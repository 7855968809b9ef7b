"""Several channels of different kinds, independent given the state."""

import numpy as np

from hiermm.emissions.base import BadRow, Emission, cluster, soft_assignments, start_sample


class Product(Emission):
    """Channels that are independent given the state, each with its own emission and its own columns of the outputs.

    Parameters
    ----------
    emissions : list of (Emission, list of int)
        Each channel's emission and the columns of the outputs that it describes. Every column belongs to one channel.

    Attributes
    ----------
    emissions_ : list of (Emission, tuple of int)
        The fitted channels.

    Notes
    -----
    log p(y | k) is the sum over channels; statistics are the channels' own under names "0.counts", "1.gram", ...

    A start clusters the steps on all channels together (k-means++ on their features), so that the states of different
    channels belong together; each channel goes nine tenths of the way from its own start to its M-step under these
    clusters.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm.emissions import Categorical, Gaussian, Product
    >>> normal = Gaussian.from_parameters(means=[[0.0], [3.0]], covariances=[[1.0], [1.0]])
    >>> symbol = Categorical.from_parameters(probs=[[0.5, 0.5], [0.1, 0.9]])
    >>> emission = Product.from_parameters([(normal, [0]), (symbol, [1])])
    >>> emission.log_likelihood(np.array([[0.0, 1.0]]), np.empty((1, 0))).round(3)
    array([[-1.612, -5.524]])
    """

    def __init__(self, emissions):
        self.emissions = emissions

    @classmethod
    def from_parameters(cls, emissions):
        """Return a product of fitted emissions, a list of (emission, columns).

        Raises
        ------
        ValueError
            When an emission is not fitted, their numbers of states differ, or the columns do not fit.
        """
        new = cls(emissions)
        channels = new._channels()
        for i, (emission, columns) in enumerate(channels):
            if not emission.is_fitted:
                raise ValueError(f"channel {i} ({type(emission).__name__}) has no parameters yet")
            if emission.n_outputs != len(columns):
                raise ValueError(f"channel {i} has {emission.n_outputs} outputs but {len(columns)} columns")
        states = {emission.n_states for emission, _ in channels}
        if len(states) > 1:
            raise ValueError(f"the channels must have equally many states, got {sorted(states)}")
        return new._with([emission for emission, _ in channels])

    # -- structure ---------------------------------------------------------------------------------------------------

    def _channels(self):
        """Return the checked list of (emission, columns) as given to the constructor."""
        if not isinstance(self.emissions, (tuple, list)) or not self.emissions:
            raise ValueError(f"Product needs a list of at least one pair (Emission, columns), got {self.emissions!r}")
        channels = []
        for i, pair in enumerate(self.emissions):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], Emission):
                raise ValueError(f"channel {i} must be a pair (Emission, columns), got {pair!r}")
            columns = np.atleast_1d(pair[1])
            if columns.ndim != 1 or columns.dtype.kind not in "iu" or not len(columns):
                raise ValueError(f"channel {i} must have a list of column numbers, got {pair[1]!r}")
            channels.append((pair[0], tuple(columns.tolist())))
        used = sorted(c for _, columns in channels for c in columns)
        if used != list(range(len(used))):
            raise ValueError(f"the channels' columns must be 0..D-1, each once; got {used}")
        return channels

    def _with(self, emissions):
        """Return a copy whose channels hold these fitted emissions."""
        new = self._fitted()
        new.emissions_ = [(emission, columns) for emission, (_, columns) in zip(emissions, self._channels())]
        return new

    def _map(self, verb):
        """Return the product of verb(index, emission) over the fitted channels."""
        return self._with([verb(i, emission) for i, (emission, _) in enumerate(self.emissions_)])

    @staticmethod
    def _take(outputs, columns):
        """Return the channel's columns, C-contiguous; no copy where they are all the columns in order."""
        if columns == tuple(range(outputs.shape[1])):
            return outputs
        return np.ascontiguousarray(outputs[:, list(columns)])

    @property
    def is_fitted(self):
        """Whether the parameters are known."""
        return hasattr(self, "emissions_")

    def _fitted_array(self):
        return self.emissions_[0][0]._fitted_array()

    def going_on_from(self, fitted, outputs, square=np.nan):
        """Return a product with the options of this one and the parameters of `fitted`, channel by channel.

        Raises
        ------
        ValueError
            If the channels have changed, or an option of theirs that shapes parameters.
        """
        now, then = self._channels(), fitted.emissions_
        if [(type(e), columns) for e, columns in now] != [(type(e), columns) for e, columns in then]:
            raise ValueError(f"warm_start goes on from {fitted!r}, but emission is now {self!r}.")
        pairs = zip(now, then)
        return self._with([new.going_on_from(old, self._take(outputs, c), square) for (new, c), (old, _) in pairs])

    @property
    def n_outputs(self):
        """Number of outputs D, over all channels."""
        return sum(len(columns) for _, columns in self._channels())

    @property
    def n_inputs(self):
        """Number of inputs that the channels look at, or None."""
        known = [e.n_inputs for e, _ in self.emissions_ if e.n_inputs is not None] if self.is_fitted else []
        return known[0] if known else None

    @property
    def n_parameters(self):
        """Number of free parameters, over all channels."""
        return sum(emission.n_parameters for emission, _ in self.emissions_)

    @property
    def iterative(self):
        """Whether some channel's M-step is iterative."""
        return any(emission.iterative for emission, _ in self._channels())

    # -- protocol ----------------------------------------------------------------------------------------------------

    def check(self, outputs, inputs):
        """Raise ValueError, naming channel, row and column, when the channels cannot have produced the outputs."""
        if outputs.shape[1] != self.n_outputs:
            raise ValueError(f"Product: the outputs have {outputs.shape[1]} columns, expected {self.n_outputs}")
        for i, (emission, columns) in enumerate(self.emissions_ if self.is_fitted else self._channels()):
            channel = f"channel {i} (columns {list(columns)})"
            try:
                emission.check(self._take(outputs, columns), inputs)
            except BadRow as error:
                raise BadRow(error.row, f"{channel}: {error.reason}") from None
            except ValueError as error:
                raise ValueError(f"{channel}: {error}") from None

    def initialise(self, outputs, inputs, n_states, rng):
        """Return a product started from the data (see the class notes); arguments as in `Gaussian.initialise`."""
        self.check(outputs, inputs)
        channels = self._channels()
        starts = [e.initialise(self._take(outputs, columns), inputs, n_states, rng) for e, columns in channels]
        outputs, inputs = start_sample(outputs, inputs, rng)
        parts = [self._take(outputs, columns) for _, columns in channels]
        features = [start.features(part, inputs) for start, part in zip(starts, parts)]
        labels = cluster(np.concatenate(features, axis=1), n_states, rng)
        gamma = soft_assignments(labels, n_states)
        moved = [
            start.between(start.maximise(start.statistics(part, inputs, gamma)), 0.9)
            for start, part in zip(starts, parts)
        ]
        return self._with(moved)

    def log_likelihood(self, outputs, inputs, out=None):
        """Return the sum of the channels' log-likelihoods (n, N) in nats; written into `out` if given."""
        for i, (emission, columns) in enumerate(self.emissions_):
            part = self._take(outputs, columns)
            if i == 0:
                out = emission.log_likelihood(part, inputs, out=out)
            else:
                out += emission.log_likelihood(part, inputs)
        return out

    def statistics(self, outputs, inputs, gamma):
        """Return the channels' sums, each name led by the channel's number and a dot."""
        return {
            f"{i}.{name}": value
            for i, (emission, columns) in enumerate(self.emissions_)
            for name, value in emission.statistics(self._take(outputs, columns), inputs, gamma).items()
        }

    def maximise(self, stats):
        """Return the product of the channels' M-steps (or Newton points)."""

        def own(i):
            lead = f"{i}."
            return {name.removeprefix(lead): value for name, value in stats.items() if name.startswith(lead)}

        return self._map(lambda i, emission: emission.maximise(own(i)))

    def between(self, other, fraction):
        """Return the product on the way from this one (fraction 0) to `other` (fraction 1).

        Channels with a closed M-step are taken from `other` as they are, for nothing is gained by stopping short.
        """

        def step(i, emission):
            end = other.emissions_[i][0]
            return emission.between(end, fraction) if emission.iterative or fraction == 0 else end

        return self._map(step)

    def log_prior(self):
        """Return the sum of the channels' log priors."""
        return sum(emission.log_prior() for emission, _ in self.emissions_)

    def mean(self, inputs, n):
        """Return the expected outputs (n, N, D) of every state at every step."""
        out = np.empty((n, self.n_states, self.n_outputs))
        for emission, columns in self.emissions_:
            out[:, :, list(columns)] = emission.mean(inputs, n)
        return out

    def sample(self, states, inputs, rng):
        """Return outputs (n, D) drawn in the given states (n,)."""
        out = np.empty((len(states), self.n_outputs))
        for emission, columns in self.emissions_:
            out[:, list(columns)] = emission.sample(states, inputs, rng)
        return out
