"""Counts whose rates follow the inputs through a log link."""

import numpy as np
from scipy.special import gammaln

from hiermm import newton
from hiermm.emissions.base import BadRow, first_bad, start_sample
from hiermm.emissions.regression import Regression, step_blocks

MAX_LOG_RATE = 43.6  # rates up to 2^63 or so, whose counts still are 64-bit integers


class PoissonRegression(Regression):
    """Counts whose rates follow the inputs: in state k, y_d ~ Poisson(exp(intercept[k, d] + coef[k, d] @ u)).

    Parameters
    ----------
    alpha : float
        L2 penalty: log prior = -alpha/2 * sum of squared slopes. Intercepts carry none.

    Attributes
    ----------
    coef_ : ndarray (N, D, P)
        Slopes of the log rates.
    intercept_ : ndarray (N, D)
        Log rates at zero inputs.

    Notes
    -----
    Columns are independent given state and inputs; entries that are NaN are left out. One M-step is one Newton step on
    N D systems of P + 1 unknowns.

    Examples
    --------
    >>> import numpy as np
    >>> emission = PoissonRegression.from_parameters(coef=[[[1.0]]], intercept=[[0.0]])
    >>> emission.mean(np.log([[2.0], [3.0]]), 2).ravel().round(12)
    array([2., 3.])
    """

    def __init__(self, alpha=1e-4):
        self.alpha = alpha

    @classmethod
    def from_parameters(cls, *, coef, intercept, alpha=1e-4):
        """Return an emission with known parameters.

        Parameters
        ----------
        coef : array_like (N, D, P)
            Slopes of the log rates by [state, output, input].
        intercept : array_like (N, D)
            Log rates at zero inputs.
        alpha : float
            L2 penalty on the slopes, should it be fitted further.

        Raises
        ------
        ValueError
            If a value is not finite, shapes disagree or `alpha` is negative.
        """
        return cls._known(cls(alpha=alpha), coef, intercept)

    @property
    def n_outputs(self):
        """Number of output columns D."""
        return self.intercept_.shape[1]

    @property
    def n_parameters(self):
        """Number of free parameters."""
        return self.coef_.size + self.intercept_.size

    def check(self, outputs, inputs):
        """Raise ValueError, naming row and column, unless all observed `outputs` are counts 0, 1, ...."""
        super().check(outputs, inputs)
        bad = first_bad(outputs, (outputs >= 0) & (outputs == np.floor(outputs)) & np.isfinite(outputs))
        if bad is not None:
            raise BadRow(bad[0], f"{outputs[bad]:g} in column {bad[1]} is not a count")

    def initialise(self, outputs, inputs, n_states, rng):
        """Return a start: one regression fitted to all data, then a random copy of it for every state.

        The copies differ as much as the counts do from the common regression.

        Parameters
        ----------
        outputs : ndarray (n, D)
            Counts; NaN means not observed.
        inputs : ndarray (n, P)
            Inputs.
        n_states : int
            Number of states N.
        rng : numpy.random.Generator
            Source of the random copies.
        """
        self._check_options()
        self.check(outputs, inputs)
        outputs, inputs = start_sample(outputs, inputs, rng)
        level = np.log(np.nanmean(outputs, axis=0) + 0.5 / len(outputs))
        spread = np.nanstd(np.log(outputs + 0.5), axis=0).max()
        return self._spread_start(level, outputs, inputs, n_states, rng, jitter=min(max(0.1, spread), 0.5))

    def _log_rates(self, inputs, column):
        return inputs @ self.coef_[:, column].T + self.intercept_[:, column]

    def log_likelihood(self, outputs, inputs, out=None):
        """Return the log-probability (n, N) of each step's observed counts in every state, in nats.

        Parameters
        ----------
        outputs : ndarray (n, D)
            Counts or NaN.
        inputs : ndarray (n, P)
            Inputs.
        out : ndarray (n, N), optional
            Where to put the result.
        """
        out = np.empty((len(outputs), self.n_states)) if out is None else out
        out[...] = 0.0
        for d in range(self.n_outputs):
            seen = ~np.isnan(outputs[:, d])
            y, log_rate = outputs[seen, d, None], self._log_rates(inputs[seen], d)
            with np.errstate(over="ignore"):
                out[seen] += y * log_rate - np.exp(log_rate) - gammaln(y + 1.0)
        return out

    def mean(self, inputs, n):
        """Return the rates (n, N, D) in every state."""
        with np.errstate(over="ignore"):
            return np.exp(np.einsum("np,kdp->nkd", inputs, self.coef_) + self.intercept_)

    def sample(self, states, inputs, rng):
        """Return counts (n, D) drawn in the given `states` (n,) at `inputs` (n, P)."""
        log_rate = self.intercept_[states] + np.einsum("ndp,np->nd", self.coef_[states], inputs)
        if log_rate.size and log_rate.max() > MAX_LOG_RATE:
            row, column = np.unravel_index(log_rate.argmax(), log_rate.shape)
            raise BadRow(
                int(row),
                f"in state {states[row]} the rate of column {column} is exp({log_rate.max():.6g}), "
                f"too large to draw counts from (the limit is exp({MAX_LOG_RATE:g}))",
            )
        return rng.poisson(np.exp(log_rate)).astype(np.float64)

    def statistics(self, outputs, inputs, gamma):
        """Return value, gradient and Hessian of the expected log-likelihood, as a dict of arrays that add.

        Returns
        -------
        dict
            `gradient` (N, D, P+1) of the objective, `hessian` (N, D, P+1, P+1) of its negative, `weight` (N, D)
            observed responsibility, `moments` (P+1, P+1) sums of products of [1, inputs].
        """
        N, D, P = self.coef_.shape
        gradient, hessian, weight = np.zeros((N, D, P + 1)), np.zeros((N, D, (P + 1) ** 2)), np.zeros((N, D))
        moments = np.zeros((P + 1) ** 2)
        for block in step_blocks(len(outputs), (P + 1) ** 2 + 3 * N):
            features = np.hstack([np.ones((block.stop - block.start, 1)), inputs[block]])
            products = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
            moments += products.sum(axis=0)
            for d in range(D):
                seen = ~np.isnan(outputs[block, d])
                g = np.where(seen[:, None], gamma[block], 0.0)
                with np.errstate(over="ignore"):
                    rate = np.exp(self._log_rates(inputs[block], d))
                expected = np.multiply(g, rate, out=np.zeros_like(g), where=g > 0)
                residual = g * np.where(seen, outputs[block, d], 0.0)[:, None] - expected
                gradient[:, d] += residual.T @ features
                hessian[:, d] += expected.T @ products
                weight[:, d] += g.sum(axis=0)
        return {
            "gradient": gradient,
            "hessian": hessian.reshape(N, D, P + 1, P + 1),
            "weight": weight,
            "moments": moments.reshape(P + 1, P + 1),
        }

    def maximise(self, stats):
        """Return the Newton point of objective + log prior; states without responsibility keep their parameters."""
        theta = np.concatenate([self.intercept_[..., None], self.coef_], axis=2)
        penalty = self.alpha * np.array([0.0] + [1.0] * self.n_inputs)
        gradient = stats["gradient"] - penalty * theta
        step = newton.damped_solve(stats["hessian"] + np.diag(penalty), gradient[..., None])[..., 0]
        step = newton.shorten(step, stats["moments"], axis=())
        theta = np.where((stats["weight"] > 0)[..., None], theta + step, theta)
        arrays = {"coef_": theta[..., 1:].copy(), "intercept_": theta[..., 0].copy()}
        return self._keep_dead(stats["weight"].max(axis=1), arrays)
