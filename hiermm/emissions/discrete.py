"""Emissions of symbols and of counts, without inputs."""

import numpy as np
from scipy.special import gammaln

from hiermm._ext import load
from hiermm.emissions.base import (
    BadRow,
    Emission,
    as_parameter,
    as_probabilities,
    check_at_least,
    cluster,
    first_bad,
    soft_assignments,
    standardise,
    start_sample,
)

kernels = load("emission")
MAX_BYTES = 1 << 31  # largest table of probabilities
MAX_RATE = 8e18  # rates up to 2^63 or so, whose counts still are 64-bit integers
# log y! of the counts that nearly all data are made of.
LOG_FACTORIALS = gammaln(np.arange(1.0, 257.0))


def check_symbols(name, outputs, n_symbols):
    """Raise ValueError, naming row and symbol, unless outputs are one column of whole numbers 0..n_symbols-1 or NaN.

    `n_symbols` None sets no upper limit.
    """
    if n_symbols is not None and (not isinstance(n_symbols, (int, np.integer)) or n_symbols < 1):
        raise ValueError(f"{name}: n_symbols must be None or an integer of at least 1, got {n_symbols!r}")
    if outputs.shape[1] != 1:
        raise ValueError(f"{name}: symbols come in one column, got {outputs.shape[1]}; use Product for several")
    bad = first_bad(outputs, (outputs >= 0) & (outputs == np.floor(outputs)))
    if bad is not None:
        raise BadRow(bad[0], f"{outputs[bad]:g} is no symbol (a whole number from 0 on)")
    if n_symbols is None:
        return
    bad = first_bad(outputs, outputs < n_symbols)
    if bad is not None:
        raise BadRow(
            bad[0],
            f"symbol {outputs[bad]:g} is not among 0..{n_symbols - 1}; "
            "give n_symbols when later data may hold symbols that the training data lack",
        )


def alphabet_size(outputs, n_symbols, n_states):
    """Return the number of symbols M: `n_symbols`, or the largest in the outputs plus one (None).

    Raises
    ------
    ValueError
        If probabilities (N, M) would exceed 2 GiB; the message states the size.
    """
    M = int(np.nanmax(outputs)) + 1 if n_symbols is None else int(n_symbols)
    size = 8 * n_states * M
    if size > MAX_BYTES:
        source = f"the symbol {M - 1} asks for" if n_symbols is None else f"n_symbols={n_symbols} asks for"
        raise ValueError(
            f"{source} {M} probabilities in each of {n_states} states, {size / 2**30:.3g} GiB (limit "
            f"{MAX_BYTES / 2**30:.0f} GiB): number the symbols 0, 1, 2, ... without large gaps."
        )
    return M


def log_factorials(counts):
    """Return log y! of an array of counts."""
    if counts.size == 0 or counts.max() >= len(LOG_FACTORIALS):
        return gammaln(counts + 1.0)
    return LOG_FACTORIALS[counts.astype(np.int64)]


class Categorical(Emission):
    """Symbols: y_t given state k is m with probability probs_[k, m].

    Parameters
    ----------
    n_symbols : int or None, default None
        Number of symbols M; None: the largest one in the training data plus 1.
    concentration : float or array-like (M,), default 1.0
        Concentration (>= 1) of the Dirichlet prior of each state's probabilities. 1 is no prior: then a symbol that the
        training data lack has probability 0, and data that hold it are impossible. Larger values smooth:
        `concentration` - 1 is a number of imagined observations of each symbol.

    Attributes
    ----------
    probs_ : ndarray (N, M)

    Notes
    -----
    M-step: probs[k, m] = (sum of gamma[t, k] over y_t = m, plus concentration[m] - 1), normalised. Log prior:
    sum (concentration - 1) log probs, up to a constant. Under the default prior zeros stay zero. Outputs are one
    column of codes 0..M-1; NaN is a step without observation. `mean` is the expected code.

    A start is the overall frequencies times independent exponential draws for each state and symbol, normalised.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm.emissions import Categorical
    >>> emission = Categorical.from_parameters(probs=[[0.5, 0.5], [0.1, 0.9]])
    >>> np.exp(emission.log_likelihood(np.array([[0.0], [1.0]]), np.empty((2, 0)))).round(3)
    array([[0.5, 0.1],
           [0.5, 0.9]])
    """

    _parameters = ("probs_",)
    discrete = True
    pooled = True
    n_outputs = 1

    def __init__(self, n_symbols=None, *, concentration=1.0):
        self.n_symbols = n_symbols
        self.concentration = concentration

    @classmethod
    def from_parameters(cls, *, probs, **options):
        """Return an emission with known probabilities.

        Parameters
        ----------
        probs : array-like (N, M)
            Rows sum to 1; errors of rounding are normalised away.
        **options
            Other constructor arguments; `n_symbols` is taken from `probs`.

        Raises
        ------
        ValueError
            On negative probabilities and rows that do not sum to 1.
        """
        probs = as_probabilities("probs", probs)
        return cls(**{"n_symbols": probs.shape[1], **options})._fitted(probs_=probs)

    @property
    def n_parameters(self):
        """Number of free parameters: positive probabilities less one for each state."""
        return int((self.probs_ > 0).sum()) - self.n_states

    def _prepare(self):
        with np.errstate(divide="ignore"):
            self._table = np.ascontiguousarray(np.log(self.probs_.T))
        self._table.flags.writeable = False

    def _check_options(self):
        check_at_least("concentration", self.concentration, 1.0)

    def _shaping(self):
        return {"n_symbols": self.probs_.shape[1]}

    def _excess(self, n_symbols):
        """Return concentration - 1 as an array that goes with (N, M)."""
        excess = np.asarray(self.concentration, dtype=np.float64) - 1.0
        if excess.ndim and excess.shape != (n_symbols,):
            raise ValueError(f"concentration must be a number or have shape ({n_symbols},), got {excess.shape}")
        return excess

    def check(self, outputs, inputs):
        """Raise ValueError, naming row and symbol, unless outputs are codes 0..M-1 (or NaN) in one column."""
        known = self.probs_.shape[1] if self.is_fitted else self.n_symbols
        check_symbols("Categorical", outputs, known)

    def initialise(self, outputs, inputs, n_states, rng):
        """Return an emission started from the data (see the class notes); arguments as in `Gaussian.initialise`."""
        self._check_options()
        self.check(outputs, inputs)
        if np.isnan(outputs).all():
            raise ValueError("cannot start: no observed values among the outputs")
        M = alphabet_size(outputs, self.n_symbols, n_states)
        self._excess(M)
        counts = np.zeros((M, 1))
        for start in range(0, len(outputs), 100_000):
            part = outputs[start : start + 100_000]
            kernels.scatter(part, np.ones((len(part), 1)), counts)
        weights = (counts[:, 0] + 1.0) * rng.standard_exponential((n_states, M))
        return self._fitted(probs_=weights / weights.sum(axis=1, keepdims=True))

    def log_likelihood(self, outputs, inputs, out=None):
        """Return log probs_[k, y_t], (n, N) in nats, 0 where y_t is missing; written into `out` if given.

        Raises
        ------
        ValueError
            On a symbol outside 0..M-1.
        """
        if out is None:
            out = np.empty((len(outputs), self._table.shape[1]))
        kernels.gather(outputs, self._table, out)
        return out

    def statistics(self, outputs, inputs, gamma):
        """Return {"counts": (M, N)}: the sum of gamma over the steps of each symbol."""
        counts = np.zeros(self._table.shape)
        kernels.scatter(outputs, gamma, counts)
        return {"counts": counts}

    def maximise(self, stats):
        """Return the emission that maximises expected log-likelihood plus log prior; dead states keep their rows."""
        counts = stats["counts"].T
        weights = counts + self._excess(counts.shape[1])
        totals = weights.sum(axis=1, keepdims=True)
        return self._keep_dead(counts.sum(axis=1), {"probs_": weights / np.where(totals > 0, totals, 1.0)})

    def log_prior(self):
        """Return sum (concentration - 1) log probs: -inf if the prior smooths and a probability is 0."""
        excess = np.broadcast_to(self._excess(self.probs_.shape[1]), self.probs_.shape)
        return float((excess[excess > 0] * self._table.T[excess > 0]).sum())

    def mean(self, inputs, n):
        """Return the expected code (n, N, 1) of every state at every step."""
        mean = self.probs_ @ np.arange(self.probs_.shape[1])
        return np.broadcast_to(mean[:, None], (n, len(mean), 1))

    def probabilities(self, inputs, n):
        """Return the symbols' probabilities (n, N, M) in every state at every step."""
        return np.broadcast_to(self.probs_, (n, *self.probs_.shape))

    def sample(self, states, inputs, rng):
        """Return symbols (n, 1), as floats, drawn in the given states (n,)."""
        uniforms = rng.random(len(states))
        out = np.empty((len(states), 1))
        for k in np.unique(states):
            rows = states == k
            possible = np.flatnonzero(self.probs_[k])
            edges = np.cumsum(self.probs_[k, possible])
            place = np.searchsorted(edges, uniforms[rows] * edges[-1], side="right")
            out[rows, 0] = possible[np.minimum(place, len(possible) - 1)]
        return out


class Poisson(Emission):
    """Counts: y_td given state k is Poisson with rate rates_[k, d], outputs independent given the state.

    Parameters
    ----------
    shape : float, default 1.0
        Shape (>= 1) of the Gamma prior of each rate.
    rate : float, default 0.0
        Rate (>= 0) of the Gamma prior. (1, 0) is no prior.

    Attributes
    ----------
    rates_ : ndarray (N, D)
        Expected counts a step.

    Notes
    -----
    M-step: rates = (sum gamma y + shape - 1) / (sum gamma + rate), over the steps where y was observed. Log prior:
    sum (shape - 1) log rates - rate * rates, up to a constant. A rate of 0 makes counts above 0 impossible.

    A start is k-means++ on the square roots of the counts, softened, one M-step, and a seeded jitter.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm.emissions import Poisson
    >>> emission = Poisson.from_parameters(rates=[[1.0], [4.0]])
    >>> emission.log_likelihood(np.array([[2.0]]), np.empty((1, 0))).round(4)
    array([[-1.6931, -1.9206]])
    """

    _parameters = ("rates_",)
    pooled = True

    def __init__(self, *, shape=1.0, rate=0.0):
        self.shape = shape
        self.rate = rate

    @classmethod
    def from_parameters(cls, *, rates, **options):
        """Return an emission with known rates, array-like (N, D), >= 0."""
        rates = as_parameter("rates", rates, 2)
        if (rates < 0).any():
            where = [int(k) for k in np.argwhere(rates < 0)[0]]
            raise ValueError(f"rates{where} = {rates[tuple(where)]:g} is negative")
        return cls(**options)._fitted(rates_=rates)

    @property
    def n_outputs(self):
        """Number of outputs D."""
        return self._fitted_array().shape[1]

    @property
    def n_parameters(self):
        """Number of rates."""
        return self.rates_.size

    def _prepare(self):
        with np.errstate(divide="ignore"):
            log_rates = np.log(self.rates_)
        self._zero = self.rates_ == 0
        self._log_rates = np.where(self._zero, 0.0, log_rates)

    def _check_options(self):
        check_at_least("shape", self.shape, 1.0)
        check_at_least("rate", self.rate, 0.0)

    def check(self, outputs, inputs):
        """Raise ValueError, naming row and column, unless outputs are whole numbers >= 0 or NaN."""
        super().check(outputs, inputs)
        bad = first_bad(outputs, (outputs >= 0) & (outputs == np.floor(outputs)))
        if bad is not None:
            raise BadRow(bad[0], f"{outputs[bad]:g} in column {bad[1]} is not a count")

    def features(self, outputs, inputs):
        """Return the standardised square roots of the counts, whose variance hardly depends on the rate."""
        return standardise(np.sqrt(outputs))

    def initialise(self, outputs, inputs, n_states, rng):
        """Return an emission started from the data (see the class notes); arguments as in `Gaussian.initialise`."""
        self._check_options()
        self.check(outputs, inputs)
        outputs, inputs = start_sample(outputs, inputs, rng)
        labels = cluster(self.features(outputs, inputs), n_states, rng)
        start = self._fitted(rates_=np.tile(np.nanmean(outputs, axis=0), (n_states, 1)))
        start = start.maximise(start.statistics(outputs, inputs, soft_assignments(labels, n_states)))
        size = np.where(np.bincount(labels, minlength=n_states) > 0, 0.1, 0.5)
        return start._fitted(rates_=start.rates_ * np.exp(size[:, None] * rng.standard_normal(start.rates_.shape)))

    def log_likelihood(self, outputs, inputs, out=None):
        """Return log p(observed counts | state), (n, N) in nats; written into `out` if given."""
        if out is None:
            out = np.empty((len(outputs), len(self.rates_)))
        seen = ~np.isnan(outputs)
        counts = np.where(seen, outputs, 0.0)
        np.matmul(counts, self._log_rates.T, out=out)
        if seen.all():
            out -= self.rates_.sum(axis=1)
        else:
            out -= seen.astype(np.float64) @ self.rates_.T
        out -= log_factorials(counts).sum(axis=1)[:, None]
        if self._zero.any():
            out[(counts > 0).astype(np.float64) @ self._zero.T > 0] = -np.inf
        return out

    def statistics(self, outputs, inputs, gamma):
        """Return {"counts", "weights"}, each (N, D): sums of gamma y and of gamma over the observed entries."""
        seen = ~np.isnan(outputs)
        if seen.all():
            weights = np.repeat(gamma.sum(axis=0)[:, None], outputs.shape[1], axis=1)
            return {"counts": gamma.T @ outputs, "weights": weights}
        return {"counts": gamma.T @ np.where(seen, outputs, 0.0), "weights": gamma.T @ seen.astype(np.float64)}

    def maximise(self, stats):
        """Return the emission that maximises expected log-likelihood plus log prior; dead states keep their rates."""
        total = stats["weights"] + self.rate
        rates = (stats["counts"] + self.shape - 1.0) / np.where(total > 0, total, 1.0)
        rates = np.where(stats["weights"] > 0, rates, self.rates_)
        return self._keep_dead(stats["weights"].max(axis=1), {"rates_": rates})

    def log_prior(self):
        """Return sum (shape - 1) log rates - rate * rates: -inf if shape > 1 and a rate is 0."""
        if self.shape > 1 and self._zero.any():
            return -np.inf
        return float(((self.shape - 1.0) * self._log_rates - self.rate * self.rates_).sum())

    def mean(self, inputs, n):
        """Return the rates as expected counts (n, N, D) of every state at every step."""
        return np.broadcast_to(self.rates_, (n, *self.rates_.shape))

    def sample(self, states, inputs, rng):
        """Return counts (n, D), as floats, drawn in the given states (n,).

        Raises
        ------
        ValueError
            If a rate is above `MAX_RATE`, naming row and state (`BadRow`).
        """
        rates = self.rates_[states]
        if rates.size and rates.max() > MAX_RATE:
            row, column = (int(k) for k in np.unravel_index(rates.argmax(), rates.shape))
            raise BadRow(
                row,
                f"in state {states[row]} the rate of column {column} is {rates[row, column]:g}, too large to draw "
                f"counts from (the limit is {MAX_RATE:g})",
            )
        return rng.poisson(rates).astype(np.float64)
