"""Emissions that follow the inputs through a link: their common base, and the multinomial logit for symbols.

They are fitted by Newton steps inside EM: `statistics` takes value, gradient and Hessian of the expected log-likelihood
at the present parameters, `maximise` returns the Newton point, and the caller shortens the step by `between`.
"""

import numpy as np

from hiermm import newton
from hiermm._ext import load
from hiermm.emissions.base import Emission, as_parameter, check_at_least, column_scale, start_sample
from hiermm.emissions.discrete import alphabet_size, check_symbols

softmax = load("softmax")

# Numbers in the scratch arrays of one block of steps (2 MB).
BLOCK = 1 << 18


def step_blocks(n_steps, per_step):
    """Slices that cut the steps into blocks of about BLOCK numbers."""
    size = max(1, BLOCK // max(1, per_step))
    return (slice(start, min(start + size, n_steps)) for start in range(0, n_steps, size))


class Regression(Emission):
    """What the two regressions share: parameters (coef_, intercept_), the L2 prior, starts, interpolation."""

    _parameters = ("coef_", "intercept_")
    iterative = True

    @property
    def n_inputs(self):
        """Number of inputs P, or None before fitting."""
        return self.coef_.shape[2] if self.is_fitted else None

    def log_prior(self):
        """Return -alpha/2 * sum of squared slopes, the log prior up to a constant."""
        return -0.5 * self.alpha * float(np.vdot(self.coef_, self.coef_))

    def _check_options(self):
        check_at_least("alpha", self.alpha, 0.0)

    @classmethod
    def _known(cls, emission, coef, intercept):
        emission._check_options()
        coef, intercept = as_parameter("coef", coef, 3), as_parameter("intercept", intercept, 2)
        if coef.shape[:2] != intercept.shape:
            raise ValueError(f"coef {coef.shape} and intercept {intercept.shape} must agree in their first two axes")
        return emission._fitted(coef_=coef, intercept_=intercept)

    def _spread_start(self, intercept, outputs, inputs, n_states, rng, jitter):
        """Fit one regression to all data from `intercept` (M,) and move each state's copy away from it at random.

        `jitter` is the standard deviation of the change of a logit (log rate) by the intercept, and by each input of
        typical size.
        """
        slopes = np.zeros((1, len(intercept), inputs.shape[1]))
        one = climb(self._fitted(coef_=slopes, intercept_=intercept[None]), outputs, inputs)
        coef = np.repeat(one.coef_, n_states, axis=0)
        intercept = np.repeat(one.intercept_, n_states, axis=0)
        if n_states > 1:
            centre, scale = column_scale(inputs)
            change = jitter * rng.standard_normal(coef.shape) / scale
            coef += change
            intercept += jitter * rng.standard_normal(intercept.shape) - change @ centre
        return self._fitted(coef_=coef, intercept_=intercept)


def climb(emission, outputs, inputs, max_iter=20, tol=1e-6):
    """Return a one-state emission after Newton steps with line search on unweighted data.

    Parameters
    ----------
    emission : Emission
        Fitted, one state, `iterative`.
    outputs : ndarray (n, D)
        Observations.
    inputs : ndarray (n, P)
        Inputs.
    max_iter : int
        Most Newton steps.
    tol : float
        Stops when a step gains less than this per row, in nats.
    """
    gamma = np.ones((len(outputs), 1))
    best = emission.objective(outputs, inputs, gamma) + emission.log_prior()
    for _ in range(max_iter):
        target, fraction = emission.maximise(emission.statistics(outputs, inputs, gamma)), 1.0
        while fraction > 1e-3:
            trial = emission.between(target, fraction)
            value = trial.objective(outputs, inputs, gamma) + trial.log_prior()
            if value > best:
                break
            fraction *= 0.5
        else:
            return emission
        gain, emission, best = value - best, trial, value
        if gain < tol * len(outputs):
            break
    return emission


class Logistic(Regression):
    """Symbols whose probabilities follow the inputs: in state k, p(y = m | u) = softmax_m(intercept[k] + coef[k] @ u).

    Parameters
    ----------
    n_symbols : int, optional
        Number of symbols M; None: the largest code in the training data plus one.
    alpha : float
        L2 penalty: log prior = -alpha/2 * sum of squared slopes. Intercepts carry none.

    Attributes
    ----------
    coef_ : ndarray (N, M, P)
        Slopes.
    intercept_ : ndarray (N, M)
        Intercepts. A constant added to all symbols of a state changes nothing; fitted parameters sum to zero over
        the symbols.

    Notes
    -----
    Outputs are one column of codes 0..M-1, NaN where not observed; such steps say nothing about the state.
    One M-step is one Newton step; its sums cost n N (M^2/2)(P+1)(P+2)/2 multiply-adds.

    References
    ----------
    Bengio and Frasconi, "An input output HMM architecture", NIPS 7, 1994 (output networks with a softmax).

    Examples
    --------
    >>> import numpy as np
    >>> emission = Logistic.from_parameters(coef=[[[0.0], [1.0]]], intercept=[[0.0, 0.0]])
    >>> emission.probabilities(np.array([[0.0], [np.log(3.0)]]), 2)[:, 0].round(12)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """

    discrete = True

    def __init__(self, n_symbols=None, alpha=1e-4):
        self.n_symbols = n_symbols
        self.alpha = alpha

    @classmethod
    def from_parameters(cls, *, coef, intercept, alpha=1e-4):
        """Return an emission with known parameters.

        Parameters
        ----------
        coef : array_like (N, M, P)
            Slopes by [state, symbol, input].
        intercept : array_like (N, M)
            Intercepts.
        alpha : float
            L2 penalty on the slopes, should it be fitted further.

        Raises
        ------
        ValueError
            If a value is not finite, shapes disagree or `alpha` is negative.
        """
        return cls._known(cls(n_symbols=np.shape(intercept)[-1], alpha=alpha), coef, intercept)

    @property
    def n_outputs(self):
        """Number of output columns: 1."""
        return 1

    @property
    def n_parameters(self):
        """Number of free parameters; one symbol a state is the reference."""
        N, M, P = self.coef_.shape
        return N * (M - 1) * (P + 1)

    def _shaping(self):
        return {"n_symbols": self.intercept_.shape[1]}

    def check(self, outputs, inputs):
        """Raise ValueError, naming row and symbol, unless `outputs` is one column of codes 0..M-1 or NaN."""
        check_symbols("Logistic", outputs, self.intercept_.shape[1] if self.is_fitted else self.n_symbols)
        super().check(outputs, inputs)

    def initialise(self, outputs, inputs, n_states, rng):
        """Return a start: one regression fitted to all data, then a random copy of it for every state.

        Parameters
        ----------
        outputs : ndarray (n, 1)
            Symbol codes; NaN means not observed.
        inputs : ndarray (n, P)
            Inputs.
        n_states : int
            Number of states N.
        rng : numpy.random.Generator
            Source of the random copies.
        """
        self._check_options()
        self.check(outputs, inputs)
        M = alphabet_size(outputs, self.n_symbols, n_states)
        outputs, inputs = start_sample(outputs, inputs, rng)
        counts = np.bincount(outputs[:, 0].astype(np.int64), minlength=M) + 1.0  # a start only: no symbol at -inf
        return self._spread_start(np.log(counts / counts.sum()), outputs, inputs, n_states, rng, jitter=1.0)

    def log_likelihood(self, outputs, inputs, out=None):
        """Return log p(y_t | state, u_t) (n, N) in nats; 0 for every state where y_t is not observed.

        Parameters
        ----------
        outputs : ndarray (n, 1)
            Symbol codes or NaN.
        inputs : ndarray (n, P)
            Inputs.
        out : ndarray (n, N), optional
            Where to put the result.
        """
        seen = ~np.isnan(outputs[:, 0])
        symbols = np.where(seen, outputs[:, 0], 0.0).astype(np.int64)
        normalizer = np.empty((len(inputs), self.n_states))
        softmax.log_normalizer(inputs, self.coef_, self.intercept_, normalizer)
        out = np.empty_like(normalizer) if out is None else out
        np.subtract(self.intercept_.T[symbols], normalizer, out=out)
        for p in range(inputs.shape[1]):
            out += inputs[:, p : p + 1] * self.coef_[:, :, p].T[symbols]
        out[~seen] = 0.0
        return out

    def probabilities(self, inputs, n):
        """Return the symbols' probabilities (n, N, M) in every state."""
        out = np.empty((n, *self.intercept_.shape))
        softmax.probabilities(inputs, self.coef_, self.intercept_, -1.0, None, out)
        return out

    def mean(self, inputs, n):
        """Return the mean of the symbol codes (n, N, 1) in every state."""
        return self.probabilities(inputs, n) @ np.arange(self.intercept_.shape[1], dtype=np.float64)[:, None]

    def sample(self, states, inputs, rng):
        """Return symbols (n, 1) drawn in the given `states` (n,) at `inputs` (n, P)."""
        logits = self.intercept_[states] + np.einsum("nmp,np->nm", self.coef_[states], inputs)
        return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)[:, None].astype(np.float64)

    def statistics(self, outputs, inputs, gamma):
        """Return gradient and Hessian of the expected log-likelihood, as a dict of arrays that add.

        Returns
        -------
        dict
            `gradient` (N, M, P+1) of the objective, `hessian` (N, M*(P+1), M*(P+1)) of its negative, `weight` (N,)
            observed responsibility, `moments` (P+1, P+1) sums of products of [1, inputs].
        """
        seen = ~np.isnan(outputs[:, 0])
        inputs, gamma, symbols = inputs[seen], gamma[seen], outputs[seen, 0].astype(np.int64)
        N, M, P = self.coef_.shape
        stats = newton.empty_sums(N, M, P + 1)
        for block in step_blocks(len(inputs), N * M):
            u, probs = inputs[block], self.probabilities(inputs[block], block.stop - block.start)
            counts = np.zeros_like(probs)
            counts[np.arange(len(u)), :, symbols[block]] = gamma[block]
            softmax.newton_sums(u, probs, counts, -1.0, None, **stats)
        return stats

    def maximise(self, stats):
        """Return the Newton point of objective + log prior; states without responsibility keep their parameters."""
        free = np.ones(self.intercept_.shape, dtype=bool)
        coef, intercept = newton.softmax_point(self.coef_, self.intercept_, free, stats, self.alpha)
        return self._keep_dead(stats["weight"], {"coef_": coef, "intercept_": intercept})
