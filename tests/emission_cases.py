"""Emissions of every kind and form, with data, for the tests."""

import itertools

import numpy as np

from hiermm.emissions import (
    Categorical,
    Gaussian,
    LinearGaussian,
    Poisson,
    Product,
)

FORMS = ("diag", "full", "tied", "spherical")
NONE = np.empty((1000, 0))


def rng(*seed):
    return np.random.default_rng(seed)


def covariances_of(form, r, N, D):
    """Random covariances of a form, and the same as matrices (N, D, D)."""
    roots = r.normal(size=(N, D, D + 2))
    full = roots @ np.swapaxes(roots, 1, 2) / D
    if form == "full":
        return full, full
    if form == "tied":
        return full[0], np.repeat(full[:1], N, axis=0)
    variances = r.uniform(0.3, 2, (N, D) if form == "diag" else N)
    return variances, np.array([np.diag(np.broadcast_to(v, D)) for v in variances])


def as_matrices(form, covariances, N, D):
    if form in ("full", "tied"):
        return np.broadcast_to(covariances, (N, D, D))
    return np.array([np.diag(np.broadcast_to(v, D)) for v in covariances])


def normal_emission(kind, form, r, N, D, P, **options):
    covariances, _ = covariances_of(form, r, N, D)
    if kind is Gaussian:
        return Gaussian.from_parameters(
            means=r.normal(size=(N, D)), covariances=covariances, covariance=form, **options
        )
    return LinearGaussian.from_parameters(
        coef=r.normal(size=(N, D, P)),
        intercept=r.normal(size=(N, D)),
        covariances=covariances,
        covariance=form,
        **options,
    )


def normal_data(r, T, D, P, missing):
    y, u = 2 * r.normal(size=(T, D)) + 1, r.normal(size=(T, P))
    if missing:
        y[r.random(y.shape) < 0.3] = np.nan
        y[1] = np.nan
    return y, u


def every_emission(r, N=3):
    """A fitted emission of each kind with data for it."""
    T = 60
    normal = normal_data(r, T, 2, 2, missing=True)
    symbols = r.integers(0, 4, (T, 1)).astype(float)
    symbols[5] = np.nan
    counts = r.poisson(3.0, (T, 2)).astype(float)
    counts[6, 1] = np.nan
    for kind, form in itertools.product((Gaussian, LinearGaussian), FORMS):
        yield normal_emission(kind, form, r, N, 2, 2), *normal
    categorical = Categorical.from_parameters(probs=r.dirichlet(np.ones(4), N))
    poisson = Poisson.from_parameters(rates=r.uniform(1, 5, (N, 2)))
    yield categorical, symbols, normal[1]
    yield poisson, counts, normal[1]
    parts = [(normal_emission(Gaussian, "full", r, N, 2, 0), [3, 0]), (categorical, [1]), (poisson, [2, 4])]
    both = np.column_stack([normal[0][:, 1], symbols, counts[:, 0], normal[0][:, 0], counts[:, 1]])
    yield Product.from_parameters(parts), both, normal[1]
