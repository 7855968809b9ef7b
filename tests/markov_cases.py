"""Models with known parameters that several test modules draw from."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from hiermm import HMM, IOHMM
from hiermm.emissions import Gaussian, LinearGaussian

TRUE_A = np.array([[0.95, 0.05, 0.0], [0.0, 0.9, 0.1], [0.2, 0.0, 0.8]])


def gaussian_model(n_dim=1):
    means = np.array([-3.0, 0.0, 3.0])[:, None] * np.ones(n_dim)
    emission = Gaussian.from_parameters(means=means, covariances=np.full((3, n_dim), 0.5), covariance="diag")
    return HMM.from_parameters(initial=[0.5, 0.3, 0.2], transition=TRUE_A, emission=emission)


def driven_model():
    coef = np.zeros((2, 2, 2))
    coef[0, 1], coef[1, 0] = [2.0, 0.0], [0.0, 2.0]
    intercept = np.array([[0.0, -3.0], [-3.0, 0.0]])
    emission = LinearGaussian.from_parameters(
        coef=np.array([[[1.0, 0.0]], [[0.0, -1.0]]]), intercept=[[0.0], [3.0]], covariances=[[0.2], [0.3]]
    )
    return IOHMM.from_parameters(initial=[0.5, 0.5], coef=coef, intercept=intercept, emission=emission)


def quiet(model, *data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*data, **options)
