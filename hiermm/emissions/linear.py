"""Normal emissions whose means are linear in the inputs."""

import numpy as np

from hiermm.emissions import covariance as cov
from hiermm.emissions.base import as_parameter, check_at_least, check_shape, standardise, start_sample
from hiermm.emissions.normal import NormalEmission


class LinearGaussian(NormalEmission):
    """Linear regression per state: y_t given state k is Normal(coef_[k] @ u_t + intercept_[k], covariance of k).

    Parameters
    ----------
    covariance : {"diag", "full", "tied", "spherical"}, default "diag"
        Form of the covariances of the noise.
    alpha : float, default 1e-4
        Ridge: L2 penalty on the slopes, relative to the noise variance; the intercepts have none.
    min_variance : float, default 1e-8
        Least noise variance, relative to the variance of the outputs (see `Gaussian`).
    covariances_prior : None, float, array-like (D,) or (D, D), default None
        Prior guess of the covariances. Needed if the weight is positive.
    covariances_weight : float, default 0.0
        Its weight, in observations.

    Attributes
    ----------
    coef_ : ndarray (N, D, P)
        Slopes [state, output, input].
    intercept_ : ndarray (N, D)
    covariances_ : ndarray, diag (N, D), full (N, D, D), tied (D, D), spherical (N,)

    Notes
    -----
    With B_k the slopes of state k and c, S0 the weight and guess of the covariances, the log prior is, up to a
    constant,

        -1/2 sum_k [ alpha tr(B_k' S_k^-1 B_k) + c (log det S_k + tr(S_k^-1 S0)) ]

    so that the M-step is closed: ridge regression, then the covariance of the residuals with alpha B_k B_k' and c S0
    added. In directions of the inputs of which the data say nothing (and alpha = 0) the slopes stay as they are.
    Entries not observed are left out exactly, as in `Gaussian`; inputs must all be known.

    A start is clusterwise regression: about one regression over all steps, states are seeded by short windows of
    consecutive steps, each drawn in proportion to the squared residual that the earlier ones leave (as k-means++ does),
    then steps are reassigned and states refitted a few times; of three such attempts the best is kept.

    References
    ----------
    DeSarbo & Cron, "A maximum likelihood methodology for clusterwise linear regression", J. Classification 5, 1988.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm.emissions import LinearGaussian
    >>> emission = LinearGaussian.from_parameters(coef=[[[2.0]]], intercept=[[1.0]], covariances=[[0.5]])
    >>> emission.mean(np.array([[0.0], [3.0]]), 2)[:, 0, 0]
    array([1., 7.])
    """

    _parameters = ("coef_", "intercept_", "covariances_")

    def __init__(
        self, covariance="diag", *, alpha=1e-4, min_variance=1e-8, covariances_prior=None, covariances_weight=0.0
    ):
        self.covariance = covariance
        self.alpha = alpha
        self.min_variance = min_variance
        self.covariances_prior = covariances_prior
        self.covariances_weight = covariances_weight

    @classmethod
    def from_parameters(cls, *, coef, intercept, covariances, covariance="diag", **options):
        """Return an emission with known parameters.

        Parameters
        ----------
        coef : array-like (N, D, P)
        intercept : array-like (N, D)
        covariances : array-like
            diag (N, D), full (N, D, D), tied (D, D) or spherical (N,), positive (definite).
        covariance : str, default "diag"
            Their form.
        **options
            Other constructor arguments.

        Raises
        ------
        ValueError
            On wrong shapes and on covariances that are not positive (definite).
        """
        new = cls(covariance, **options)
        new._check_options()
        coef = as_parameter("coef", coef, 3)
        intercept = as_parameter("intercept", intercept, 2)
        check_shape("intercept", intercept, coef.shape[:2])
        covariances = cov.as_covariances(covariance, covariances, *intercept.shape)
        return new._fitted(coef_=coef, intercept_=intercept, covariances_=covariances)

    @property
    def n_inputs(self):
        """Number of inputs P, or None before fitting."""
        return self.coef_.shape[2] if self.is_fitted else None

    def features(self, outputs, inputs):
        """Return the standardised residuals of one regression over all steps (n, D), for clustering a start."""
        return standardise(outputs - one_regression(outputs, inputs)[1])

    def initialise(self, outputs, inputs, n_states, rng):
        """Return an emission with parameters started from the data (see the class notes).

        Parameters
        ----------
        outputs : ndarray (n, D)
            Observations, NaN where not observed.
        inputs : ndarray (n, P)
            Inputs, all known; rows in the order of time.
        n_states : int
            Number of states N.
        rng : numpy.random.Generator
            Source of randomness; other draws give other starts.

        Raises
        ------
        ValueError
            When a column holds no observed value, or an argument of the constructor is out of its range.
        """
        self._check_options()
        outputs, inputs = start_sample(outputs, inputs, rng, limit=8_000)  # as good a start as from more, sooner
        theta, fitted = one_regression(outputs, inputs)
        rest = np.nan_to_num(standardise(outputs - fitted), nan=0.0)
        x = np.concatenate([np.ones((len(rest), 1)), standardise(inputs)], axis=1)
        labels = min((clusterwise(x, rest, n_states, rng) for _ in range(3)), key=lambda attempt: attempt[0])[1]
        return self._started(theta, labels, outputs, inputs, n_states, rng)

    def _check_options(self):
        super()._check_options()
        check_at_least("alpha", self.alpha, 0.0)

    def _used(self, inputs):
        return inputs

    def _linear(self):
        return self.intercept_, self.coef_

    def _arrays(self, theta, covariances):
        return {"coef_": theta[:, :, 1:], "intercept_": theta[:, :, 0], "covariances_": covariances}

    def _ridge(self):
        if self.alpha == 0:
            return None
        F = self.coef_.shape[2] + 1
        ridge = np.full(F, float(self.alpha))
        ridge[0] = 0.0
        return ridge, np.zeros((self.coef_.shape[1], F))


def one_regression(outputs, inputs):
    """Return (theta (D, F), fitted (n, D)) of least squares over all steps, each output over its observed steps."""
    x = np.concatenate([np.ones((len(inputs), 1)), inputs], axis=1)
    theta = np.empty((outputs.shape[1], x.shape[1]))
    for d, column in enumerate(outputs.T):
        seen = ~np.isnan(column)
        theta[d] = np.linalg.lstsq(x[seen], column[seen], rcond=1e-10)[0]
    return theta, x @ theta.T


def clusterwise(x, rest, n_states, rng, n_iter=15):
    """Return (sum of squared residuals, labels (n,)) of one attempt at clusterwise regression of rest on x.

    A ridge of one observation on every coefficient (in standardised units) pulls states of few steps to the regression
    over all steps.
    """
    n, F = x.shape
    window = np.arange(max(4 * F, 16))
    loss = np.empty((n, n_states))
    nearest = np.ones(n)
    for k in range(n_states):
        weight = nearest if nearest.sum() > 0 else np.ones(n)
        row = rng.choice(n, p=weight / weight.sum()) - len(window) // 2
        rows = np.unique(np.clip(row + window, 0, n - 1))
        loss[:, k] = refit(x, rest, rows)
        nearest = loss[:, : k + 1].min(axis=1)
    for _ in range(n_iter):
        labels = loss.argmin(axis=1)
        for k in range(n_states):
            loss[:, k] = refit(x, rest, np.flatnonzero(labels == k))
    return loss.min(axis=1).sum(), loss.argmin(axis=1)


def refit(x, rest, rows):
    """Return the squared residuals (n,) of all steps under the ridge regression on the chosen rows."""
    mine = x.take(rows, axis=0)
    theta = np.linalg.solve(mine.T @ mine + np.eye(x.shape[1]), mine.T @ rest.take(rows, axis=0))
    error = rest - x @ theta
    return np.einsum("nd,nd->n", error, error)  # summing short rows in any other way is slow
