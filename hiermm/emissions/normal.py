"""Normal noise around a mean that is linear in x = [1, u]: what Gaussian (no inputs) and LinearGaussian share."""

import numpy as np

from hiermm._ext import load
from hiermm.emissions import covariance as cov
from hiermm.emissions.base import DEAD, Emission, as_parameter, check_at_least, check_shape, soft_assignments

kernels, mstep = load("emission"), load("mstep")


class NormalEmission(Emission):
    """Base of normal emissions; a subclass says where intercept and slopes are kept.

    Notes
    -----
    Sums are taken over residuals from the present means, so that data far from zero lose no digits. With
    x = [1, u], theta the (F,) coefficients of an output and r = y - theta x, the statistics are
    sum gamma x x', sum gamma x r and sum gamma r^2 (or r r'), and the M-step solves for the change of theta.

    The floor of the variances (D,) is worked out in the first M-step and stays, so that it cannot move by rounding.
    """

    _floor = None

    # -- to be said by subclasses ------------------------------------------------------------------------------------

    def _used(self, inputs):
        """Return the inputs that the means look at, (n, P)."""
        raise AttributeError("a normal emission must say which inputs it uses")

    def _linear(self):
        """Return intercepts (N, D) and slopes (N, D, P), in C order."""
        raise AttributeError("a normal emission must say where its coefficients are")

    def _arrays(self, theta, covariances):
        """Return the fitted arrays, by name, for these coefficients and covariances."""
        raise AttributeError("a normal emission must name its arrays")

    def _ridge(self):
        """Return the prior's precision (F,) of each coefficient, relative to the noise's, and its centre (D, F).

        None where there is no prior.
        """
        raise AttributeError("a normal emission must state its prior")

    # -- protocol ----------------------------------------------------------------------------------------------------

    @property
    def n_outputs(self):
        """Number of outputs D."""
        return self._fitted_array().shape[1]

    @property
    def n_parameters(self):
        """Number of free parameters."""
        return self._intercept.size + self._coef.size + cov.count(self.covariance, self.n_states, self.n_outputs)

    def _shared(self, name):
        return name == "covariances_" and self.covariance == "tied"

    def _prepare(self):
        self._intercept, self._coef = self._linear()
        N, D = self._intercept.shape
        self._variances = self._matrices = None
        if self.covariance == "diag":
            self._variances = self.covariances_
        elif self.covariance == "spherical":
            self._variances = np.repeat(self.covariances_[:, None], D, axis=1)
        else:
            self._matrices = np.broadcast_to(self.covariances_, (N, D, D))

    def _theta(self):
        """Return a new array of the coefficients (N, D, F), intercept first."""
        N, D, P = self._coef.shape
        theta = np.empty((N, D, P + 1))
        theta[:, :, 0], theta[:, :, 1:] = self._intercept, self._coef
        return theta

    def _covariance_matrices(self):
        """Return the covariances of all states as matrices (N, D, D)."""
        if self._matrices is not None:
            return self._matrices
        return self._variances[:, :, None] * np.eye(self._variances.shape[1])

    def log_likelihood(self, outputs, inputs, out=None):
        """Return log p(observed entries | state), (n, N) in nats; written into `out` if given.

        Parameters
        ----------
        outputs : ndarray (n, D)
            Observations; NaN where not observed. A row of NaN has log-likelihood 0.
        inputs : ndarray (n, P)
            Inputs.
        out : ndarray (n, N), optional
            C-contiguous array for the result.
        """
        if out is None:
            out = np.empty((len(outputs), len(self._intercept)))
        inputs = self._used(inputs)
        if self._variances is not None:
            kernels.linear_loglik(outputs, inputs, self._coef, self._intercept, self._variances, out)
        else:
            cov.dense_log_likelihood(outputs, inputs, self._coef, self._intercept, self._matrices, out)
        return out

    def statistics(self, outputs, inputs, gamma):
        """Return the sums that `maximise` needs (see the class notes); they add over blocks of steps.

        diag and spherical: gram (N, D, F, F), cross (N, D, F), scatter (N, D), over the steps where the output is
        observed. full and tied: gram (N, F, F), cross (N, F, D), scatter (N, D, D), with the conditional moments of
        missing entries, and before the first M-step data (3, D): count, sum and sum of squares of the observed outputs.
        """
        inputs = self._used(inputs)
        if self._variances is not None:
            N, D, P = self._coef.shape
            gram, cross, scatter = np.zeros((N, D, P + 1, P + 1)), np.zeros((N, D, P + 1)), np.zeros((N, D))
            kernels.linear_moments(outputs, inputs, gamma, self._coef, self._intercept, gram, cross, scatter)
            return {"gram": gram, "cross": cross, "scatter": scatter}
        names = ("gram", "cross", "scatter")
        sums = cov.dense_moments(outputs, inputs, gamma, self._coef, self._intercept, self._matrices)
        data = {} if self._floor is not None else {"data": data_sums(outputs, self._intercept.mean(axis=0))}
        return {**dict(zip(names, sums)), **data}

    @property
    def normal(self):
        """Slopes, intercepts and variances of independent outputs; None of others and of subclasses with own ways."""
        own = (type(self).log_likelihood, type(self).statistics)
        if self._variances is None or own != (NormalEmission.log_likelihood, NormalEmission.statistics):
            return None
        return self._coef, self._intercept, self._variances

    def _check_options(self):
        cov.check_form(self.covariance)
        check_at_least("min_variance", self.min_variance, 0.0, strict=True)
        check_at_least("covariances_weight", self.covariances_weight, 0.0)

    def _started(self, theta, labels, outputs, inputs, n_states, rng):
        """Return a start: one M-step from coefficients theta (D, F) under softened labels, then jittered intercepts."""
        _, variance = column_variance(outputs)
        same = np.tile(theta, (n_states, 1, 1))
        start = self._fitted(**self._arrays(same, cov.spread(self.covariance, variance, n_states)))
        start = start.maximise(start.statistics(outputs, inputs, soft_assignments(labels, n_states)))
        # Empty clusters share the overall mean: a larger jitter sets them apart.
        size = np.where(np.bincount(labels, minlength=n_states) > 0, 0.1, 0.5)
        deviation = np.sqrt(np.diagonal(start._covariance_matrices(), axis1=1, axis2=2))
        moved = start._theta()
        moved[:, :, 0] += size[:, None] * deviation * rng.standard_normal(deviation.shape)
        return start._floored(None, **start._arrays(moved, start.covariances_))  # these were not all of the data

    def _shaping(self):
        return {"covariance": self.covariance}

    def going_on_from(self, fitted, outputs, square=np.nan):
        """Return an emission with the options of this one and the parameters of `fitted`, variances above the floor.

        The floor of `outputs` may be higher than the one that the parameters were fitted under; where they had reached
        that one they keep every bit. Arguments and errors as in `Emission`.
        """
        new = super().going_on_from(fitted, outputs)
        most = max(square / len(outputs), 1.0)  # no variance of the data is larger; NaN if some are missing
        if new._matrices is None and new.covariances_.min() >= new.min_variance * most:
            new._floor = None
            return new
        centre = new._intercept.mean(axis=0)
        floor = (1 - 1e-12) * new.min_variance * moment_variance(*data_sums(outputs, centre), centre)
        if new._matrices is None:
            lifted = np.maximum(new.covariances_, floor.mean() if new.covariance == "spherical" else floor)
        else:
            matrices = new.covariances_.reshape(-1, len(floor), len(floor))
            lifted = cov.lift(matrices, floor).reshape(new.covariances_.shape)
        return new._floored(None, covariances_=lifted)

    def _floored(self, floor, **arrays):
        """Return `_fitted(**arrays)` with this floor of the variances."""
        new = self._fitted(**arrays)
        new._floor = floor
        return new

    def maximise(self, stats):
        """Return the emission that maximises expected log-likelihood plus log prior, variances above their floor.

        States without responsibility keep their parameters (`DeadStateWarning`).
        """
        maximise = self._maximise_joint if self._variances is None else self._maximise_separate
        floor = self.min_variance * self._data_variance(stats) if self._floor is None else self._floor
        weights, arrays = maximise(stats, floor)
        new = self._keep_dead(weights, arrays)
        new._floor = floor
        return new

    def _with_prior(self, theta, stats):
        """Return gram, cross and scatter, with the observations added that the prior of the coefficients stands for."""
        gram, cross, scatter = stats["gram"], stats["cross"], stats["scatter"]
        prior = self._ridge()
        if prior is None:
            return gram, cross, scatter
        ridge, centre = prior
        away = theta - centre
        pull = ridge * away
        if self._variances is None:
            across = np.swapaxes(pull, 1, 2)
            return gram + np.diag(ridge), cross - across, scatter + away @ across
        return gram + np.diag(ridge), cross - pull, scatter + (pull * away).sum(axis=-1)

    def _maximise_separate(self, stats, floor):
        """M-step with independent outputs (diag, spherical): weights of the states, and arrays."""
        theta, weight = self._theta(), stats["gram"][:, :, 0, 0]
        gram, cross, scatter = self._with_prior(theta, stats)
        N, D, F = cross.shape
        pseudo, guess = self._pseudo(D)
        prior = np.diagonal(guess) if pseudo else np.zeros(D)
        if self.covariance == "spherical":
            floor = np.full(1, floor.mean())
        change = solve(gram, cross) if F > 1 else np.empty(cross.shape)  # which the kernel solves itself
        variances, most = self.covariances_.copy(), np.empty(N)
        out = theta, variances.reshape(N, -1), most
        mstep.normal(gram, cross, scatter, weight, pseudo, prior, floor, DEAD, change, *out)
        return most, self._arrays(theta, variances)

    def _maximise_joint(self, stats, floor):
        """M-step with correlated outputs (full, tied): weights of the states, and arrays."""
        theta, weight = self._theta(), stats["gram"][:, 0, 0]
        gram, cross, scatter = self._with_prior(theta, stats)
        change = np.swapaxes(solve(gram[:, None], np.swapaxes(cross, 1, 2)), 1, 2)
        mixed = np.swapaxes(change, 1, 2) @ cross
        rest = scatter - mixed - np.swapaxes(mixed, 1, 2) + np.swapaxes(change, 1, 2) @ gram @ change
        alive = weight >= DEAD
        pseudo, guess = self._pseudo(theta.shape[1])
        if self.covariance == "tied":
            rest, total, alive_rows = rest[alive].sum(axis=0)[None], weight[alive].sum()[None], alive.any()[None]
        else:
            total, alive_rows = weight, alive
        safe = np.where(alive_rows, total + pseudo, 1.0)
        matrices = (rest + pseudo * guess) / safe[:, None, None]
        matrices = cov.lift((matrices + np.swapaxes(matrices, 1, 2)) / 2, floor)
        old = self.covariances_.reshape(-1, *matrices.shape[1:])
        matrices = np.where(alive_rows[:, None, None], matrices, old)
        return weight, self._arrays(theta + np.swapaxes(change, 1, 2), matrices.reshape(self.covariances_.shape))

    def _data_variance(self, stats):
        """Return the variance (D,) of each observed output."""
        if "data" in stats:
            return moment_variance(*stats["data"], self._intercept.mean(axis=0))
        shifted, gram, cross, scatter = self._theta(), stats["gram"], stats["cross"], stats["scatter"]
        centre = self._intercept.mean(axis=0)
        shifted[:, :, 0] -= centre
        pulled = (gram @ shifted[..., None])[..., 0]
        first = cross[:, :, 0] + pulled[:, :, 0]
        second = (shifted * pulled).sum(-1), 2 * (shifted * cross).sum(-1), scatter
        terms = sum(np.abs(term).sum(axis=0) for term in second)  # of whose size rounding errors are
        return moment_variance(gram[:, :, 0, 0].sum(axis=0), first.sum(axis=0), sum(second).sum(axis=0), centre, terms)

    # -- prior -------------------------------------------------------------------------------------------------------

    def _pseudo(self, n_outputs):
        """Return the number of pseudo-observations of the covariance and their covariance (D, D); 0, 0 if none."""
        if self.covariances_weight == 0:
            return 0.0, 0.0
        if self.covariances_prior is None:
            raise ValueError("covariances_weight > 0 needs covariances_prior")
        guess = as_parameter("covariances_prior", self.covariances_prior, (0, 1, 2))
        if guess.ndim:
            check_shape("covariances_prior", guess, (n_outputs,) * guess.ndim)
        if guess.ndim < 2:
            guess = np.diag(np.broadcast_to(guess, n_outputs))
        if not np.array_equal(guess, guess.T) or np.linalg.eigvalsh(guess)[0] < 0:
            raise ValueError(f"covariances_prior is not symmetric and positive semidefinite: {guess.tolist()}")
        return float(self.covariances_weight), guess

    def log_prior(self):
        """Return the log prior density of the parameters, up to a constant; the formula is in the class notes."""
        D, value, prior = self._intercept.shape[1], 0.0, self._ridge()
        pseudo, guess = self._pseudo(D)
        if prior is None and not pseudo:
            return 0.0
        W, log_norm = cov.whiteners(self._covariance_matrices())
        if prior is not None:
            ridge, centre = prior
            away = W @ (self._theta() - centre)
            value -= 0.5 * (ridge * away**2).sum()
        if pseudo:
            log_det = -2 * log_norm - D * np.log(2 * np.pi)
            fit = log_det + np.einsum("kij,jl,kil->k", W, guess, W)
            value -= 0.5 * pseudo * (fit[0] if self.covariance == "tied" else fit.sum())
        return float(value)

    # -- means and samples -------------------------------------------------------------------------------------------

    def mean(self, inputs, n):
        """Return the expected outputs (n, N, D) of every state at every step."""
        N, D, P = self._coef.shape
        if P == 0:
            return np.broadcast_to(self._intercept, (n, N, D))
        return (self._used(inputs) @ self._coef.reshape(N * D, P).T).reshape(n, N, D) + self._intercept

    def sample(self, states, inputs, rng):
        """Return outputs (n, D) drawn in the given states (n,)."""
        inputs = self._used(inputs)
        noise = rng.standard_normal((len(states), self.n_outputs))
        for k in np.unique(states):
            rows = states == k
            if self._variances is not None:
                noise[rows] *= np.sqrt(self._variances[k])
            else:
                noise[rows] = noise[rows] @ np.linalg.cholesky(self._matrices[k]).T
            noise[rows] += self._intercept[k] + inputs[rows] @ self._coef[k].T
        return noise


def solve(gram, cross):
    """Return x with gram x = cross for positive semidefinite gram (..., F, F), of least norm where singular.

    The matrices are scaled to unit diagonal first, so that the units of the inputs do not matter.
    """
    if gram.shape[-1] == 1:
        return np.divide(cross, gram[..., 0], out=np.zeros(cross.shape), where=gram[..., 0] > 0)
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    # Not sqrt(1 / diagonal), which overflows where the posteriors of a nearly dead state are subnormal.
    unit = np.divide(1.0, np.sqrt(np.maximum(diagonal, 0.0)), out=np.zeros(diagonal.shape), where=diagonal > 0)
    values, vectors = np.linalg.eigh(gram * unit[..., :, None] * unit[..., None, :])
    turned = ((cross * unit)[..., None, :] @ vectors)[..., 0, :]
    kept = np.divide(turned, values, out=np.zeros(turned.shape), where=values > 1e-13 * values[..., -1:])
    return unit * (vectors @ kept[..., None])[..., 0]


def data_sums(outputs, centre):
    """Return count, sum and sum of squares (3, D) of the observed entries of each column, taken about `centre` (D,)."""
    n, D = outputs.shape
    count, first, second = np.zeros((1, D, 1, 1)), np.zeros((1, D, 1)), np.zeros((1, D))
    none, ones = np.empty((n, 0)), np.ones((n, 1))
    kernels.linear_moments(outputs, none, ones, np.zeros((1, D, 0)), centre[None], count, first, second)
    return np.array([count[0, :, 0, 0], first[0, :, 0], second[0]])


def column_variance(outputs):
    """Return mean and variance (as `moment_variance`) of the observed entries of each column."""
    centre = np.nanmean(outputs, axis=0)
    rest = outputs - centre
    return centre, moment_variance(
        (~np.isnan(rest)).sum(axis=0), np.nansum(rest, axis=0), np.nansum(rest**2, axis=0), centre
    )


def moment_variance(count, first, second, centre, terms=0.0):
    """Return variances from sums about `centre`; a constant column gets its squared value, a zero column 1."""
    count = np.maximum(count, 1.0)
    average = first / count
    square = second / count
    variance = square - average**2
    size = (average + centre) ** 2
    flat = variance <= 1e-14 * np.maximum(square, terms / count) + 1e-26 * size
    # A mean of zero comes out as the rounding error of the sums, not as 0.
    return np.where(flat, np.where(size > 1e-26 * (square + centre**2), size, 1.0), variance)
