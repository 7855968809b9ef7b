"""Normal emissions without inputs."""

import numpy as np

from hiermm.emissions import covariance as cov
from hiermm.emissions.base import as_parameter, check_at_least, check_shape, cluster, standardise, start_sample
from hiermm.emissions.normal import NormalEmission


class Gaussian(NormalEmission):
    """Normal emission: y_t given state k is Normal(means_[k], covariance of k).

    Parameters
    ----------
    covariance : {"diag", "full", "tied", "spherical"}, default "diag"
        Form of the covariances, as in scikit-learn's GaussianMixture.
    min_variance : float, default 1e-6
        Least variance, relative to the variance of the data (of each output; under "spherical" their mean). Under
        "full" and "tied" it bounds the variance in every direction, in units of the data. A constant column counts
        as having its squared value (or 1 where that is 0) for variance.
    means_prior : float or array-like (D,), default 0.0
        Centre of the prior of the means.
    means_weight : float, default 0.0
        Its weight, in observations.
    covariances_prior : None, float, array-like (D,) or (D, D), default None
        Prior guess of the covariances: one variance, variances, or a matrix. Needed if the weight is positive.
    covariances_weight : float, default 0.0
        Its weight, in observations.

    Attributes
    ----------
    means_ : ndarray (N, D)
    covariances_ : ndarray, diag (N, D), full (N, D, D), tied (D, D), spherical (N,)

    Notes
    -----
    Up to a constant, with l = `means_weight`, m = `means_prior`, c = `covariances_weight` and S0 =
    `covariances_prior`, the log prior is

        -1/2 sum_k [ l (mu_k - m)' S_k^-1 (mu_k - m) + c (log det S_k + tr(S_k^-1 S0)) ]

    (under "tied" the second term counts once): a normal-inverse-Wishart density, whose effect is that of l
    observations of the mean and c of the covariance. The defaults are no prior. With w_k, s_k the weight and the
    scatter about the new mean of state k's observations,

        mu_k = (sum gamma y + l m) / (w_k + l),  S_k = (s_k + l (mu_k - m)(mu_k - m)' + c S0) / (w_k + c).

    Entries that were not observed (NaN) are left out exactly: densities are marginal, and under "full" and "tied" the
    sums use their conditional means and covariances.

    A start is greedy k-means++ with a few Lloyd iterations on the standardised outputs (a sample of them, if long),
    soft responsibilities (a tenth spread over all states), one M-step, and a seeded jitter of the means.

    References
    ----------
    Murphy, "Machine learning: a probabilistic perspective", sections 4.6 and 11.4.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm.emissions import Gaussian
    >>> emission = Gaussian.from_parameters(means=[[0.0], [3.0]], covariances=[[1.0], [0.25]])
    >>> emission.log_likelihood(np.array([[3.0], [np.nan]]), np.empty((2, 0))).round(3)
    array([[-5.419, -0.226],
           [ 0.   ,  0.   ]])
    """

    _parameters = ("means_", "covariances_")

    def __init__(
        self,
        covariance="diag",
        *,
        min_variance=1e-6,
        means_prior=0.0,
        means_weight=0.0,
        covariances_prior=None,
        covariances_weight=0.0,
    ):
        self.covariance = covariance
        self.min_variance = min_variance
        self.means_prior = means_prior
        self.means_weight = means_weight
        self.covariances_prior = covariances_prior
        self.covariances_weight = covariances_weight

    @classmethod
    def from_parameters(cls, *, means, covariances, covariance="diag", **options):
        """Return an emission with known parameters.

        Parameters
        ----------
        means : array-like (N, D)
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
        means = as_parameter("means", means, 2)
        return new._fitted(means_=means, covariances_=cov.as_covariances(covariance, covariances, *means.shape))

    def initialise(self, outputs, inputs, n_states, rng):
        """Return an emission with parameters started from the data (see the class notes).

        Parameters
        ----------
        outputs : ndarray (n, D)
            Observations, NaN where not observed.
        inputs : ndarray (n, P)
            Not looked at.
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
        outputs, inputs = start_sample(outputs, inputs, rng)
        labels = cluster(standardise(outputs), n_states, rng)
        return self._started(np.nanmean(outputs, axis=0)[:, None], labels, outputs, inputs, n_states, rng)

    def _check_options(self):
        super()._check_options()
        check_at_least("means_weight", self.means_weight, 0.0)
        as_parameter("means_prior", self.means_prior, (0, 1))

    def _used(self, inputs):
        return inputs[:, :0]

    def _linear(self):
        return self.means_, np.empty((*self.means_.shape, 0))

    def _arrays(self, theta, covariances):
        return {"means_": theta[:, :, 0], "covariances_": covariances}

    def _ridge(self):
        if self.means_weight == 0:
            return None
        D = self.means_.shape[1]
        centre = as_parameter("means_prior", self.means_prior, (0, 1))
        if centre.ndim:
            check_shape("means_prior", centre, (D,))
        return np.array([float(self.means_weight)]), np.broadcast_to(centre, D)[:, None]
