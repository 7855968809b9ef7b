"""Emissions: densities, protocol, samples, refusals."""

import itertools
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
from dense_calls import available
from emission_cases import FORMS, NONE, as_matrices, every_emission, normal_data, normal_emission, rng
from scipy import stats
from sklearn.base import clone

from hiermm._ext import load
from hiermm.emissions import (
    Categorical,
    Emission,
    Gaussian,
    LinearGaussian,
    Poisson,
    Product,
    make,
)

# -- densities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [Gaussian, LinearGaussian])
def test_normal_densities_are_scipys(kind, form, missing):
    for N, D in ((1, 1), (3, 2), (7, 3), (20, 5), (37, 2)):
        r = rng(N, D)
        emission = normal_emission(kind, form, r, N, D, 2)
        y, u = normal_data(r, 15, D, 2, missing)
        got = emission.log_likelihood(y, u)
        means, matrices = emission.mean(u, 15), as_matrices(form, emission.covariances_, N, D)
        want = np.zeros((15, N))
        for t, k in itertools.product(range(15), range(N)):
            seen = ~np.isnan(y[t])
            if seen.any():
                marginal = stats.multivariate_normal(means[t, k, seen], matrices[k][np.ix_(seen, seen)])
                want[t, k] = marginal.logpdf(y[t, seen])
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
        assert not missing or (got[1] == 0).all()


def test_means_are_linear_in_the_inputs():
    r = rng(1)
    coef, intercept, u = r.normal(size=(3, 2, 4)), r.normal(size=(3, 2)), r.normal(size=(6, 4))
    emission = LinearGaussian.from_parameters(coef=coef, intercept=intercept, covariances=np.ones((3, 2)))
    want = [[coef[k] @ u[t] + intercept[k] for k in range(3)] for t in range(6)]
    np.testing.assert_allclose(emission.mean(u, 6), want, rtol=1e-13)
    assert emission.n_inputs == 4


def test_poisson_densities_are_scipys_also_at_rate_zero():
    rates = np.array([[0.5, 7.0], [0.0, 2.0], [3.0, 0.0]])
    y = np.array([[0, 0], [2, 1], [0, 5], [np.nan, 3], [4, np.nan], [np.nan, np.nan]], dtype=float)
    want = np.nansum(stats.poisson.logpmf(np.nan_to_num(y), rates[:, None]) * np.where(np.isnan(y), np.nan, 1), axis=-1)
    np.testing.assert_allclose(Poisson.from_parameters(rates=rates).log_likelihood(y, NONE[:6]), want.T, rtol=1e-13)
    many = np.array([[255.0], [256.0], [1000.0]])
    got = Poisson.from_parameters(rates=[[300.0]]).log_likelihood(many, NONE[:3])
    np.testing.assert_allclose(got, stats.poisson.logpmf(many, 300.0), rtol=1e-12)
    got = Poisson.from_parameters(rates=[[300.0]]).log_likelihood(many[:1], NONE[:1])
    np.testing.assert_allclose(got, stats.poisson.logpmf(many[:1], 300.0), rtol=1e-12)


@pytest.mark.parametrize("N", [1, 2, 3, 7, 8, 16, 37])
def test_categorical_densities(N):
    r = rng(N)
    probs, x = r.dirichlet(np.ones(5), N), r.integers(0, 5, (50, 1)).astype(float)
    probs[0, 2], x[3] = 0.0, np.nan
    probs /= probs.sum(axis=1, keepdims=True)
    want = oracles.log(probs)[:, np.nan_to_num(x[:, 0]).astype(int)].T
    want[3] = 0.0
    got = Categorical.from_parameters(probs=probs).log_likelihood(x, NONE[:50])
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15)
    gamma = r.dirichlet(np.ones(N), 50)
    counts = np.array([gamma[x[:, 0] == m].sum(axis=0) for m in range(5)])
    for name in available():
        kernels, out, sums = load("emission", name), np.empty((50, N)), np.zeros((5, N))
        kernels.gather(x, np.ascontiguousarray(oracles.log(probs).T), out)
        kernels.scatter(x, gamma, sums)
        np.testing.assert_array_equal(out, want)
        np.testing.assert_allclose(sums, counts, rtol=1e-13)


def test_densities_above_one_are_legal():
    tiny = Gaussian.from_parameters(means=[[0.0]], covariances=[[1e-12]])
    assert tiny.log_likelihood(np.zeros((1, 1)), NONE[:1]).item() == pytest.approx(-0.5 * np.log(2e-12 * np.pi))


def test_every_kernel_variant_gives_the_plain_sums():
    r = rng(2)
    for N, D, P, missing in itertools.product((1, 5, 23), (1, 3), (0, 1, 2, 3, 5), (False, True)):
        y, u = normal_data(r, 40, D, P, missing)
        coef, icpt, v = r.normal(size=(N, D, P)), r.normal(size=(N, D)), r.uniform(1, 2, (N, D))
        gamma, x, F = r.dirichlet(np.ones(N), 40), np.column_stack([np.ones(40), u]), P + 1
        seen = ~np.isnan(y)[:, None]
        rest = np.where(seen, y[:, None] - icpt - np.einsum("ndp,tp->tnd", coef, u), 0.0)
        want = [
            (-0.5 * seen * (rest**2 / v + np.log(2 * np.pi * v))).sum(axis=-1),
            np.einsum("tn,tnd,tf,tg->ndfg", gamma, seen * np.ones((1, N, 1)), x, x),
            np.einsum("tn,tnd,tf->ndf", gamma, rest, x),
            np.einsum("tn,tnd->nd", gamma, rest**2),
        ]
        for name in available():
            kernels = load("emission", name)
            got = [np.zeros((40, N)), np.zeros((N, D, F, F)), np.zeros((N, D, F)), np.zeros((N, D))]
            kernels.linear_loglik(y, u, coef, icpt, v, got[0])
            kernels.linear_moments(y, u, gamma, coef, icpt, *got[1:])
            for a, b in zip(got, want):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_kernels_refuse_wrong_shapes():
    kernels, a = load("emission"), np.ones((4, 2))
    with pytest.raises(ValueError, match="coef"):
        kernels.linear_loglik(a, NONE[:4], np.ones((2, 3, 0)), a[:2], a[:2], a.copy())
    with pytest.raises(ValueError, match="rows"):
        kernels.linear_loglik(a, NONE[:3], np.ones((2, 2, 0)), a[:2], a[:2], a.copy())
    with pytest.raises(ValueError, match="gram"):
        kernels.linear_moments(a, NONE[:4], a, np.ones((2, 2, 0)), a[:2], np.ones((2, 2, 2, 2)), np.ones((2, 2, 1)), a)
    with pytest.raises(ValueError, match=r"row 2: symbol 7"):
        kernels.gather(np.array([[0.0], [1], [7]]), a, np.empty((3, 2)))
    with pytest.raises(ValueError, match=r"row 1: symbol -1"):
        kernels.scatter(np.array([[0.0], [-1]]), np.ones((2, 2)), a.copy())


# -- the protocol, for all -------------------------------------------------------------------------------------------


def test_out_is_filled_and_returned():
    for emission, y, u in every_emission(rng(3)):
        out = np.full((len(y), 3), np.nan)
        assert emission.log_likelihood(y, u, out=out) is out
        np.testing.assert_array_equal(out, emission.log_likelihood(y, u))


def test_statistics_add_over_blocks():
    for emission, y, u in every_emission(rng(4)):
        gamma = rng(5).dirichlet(np.ones(3), len(y))
        whole = emission.statistics(y, u, gamma)
        parts = [emission.statistics(y[a:b], u[a:b], gamma[a:b]) for a, b in ((0, 1), (1, 1), (1, 20), (20, 60))]
        for name, value in whole.items():
            np.testing.assert_allclose(sum(p[name] for p in parts), value, rtol=1e-11, atol=1e-11)


def test_fitted_emissions_are_frozen_cloned_and_pickled():
    for emission, y, u in every_emission(rng(6)):
        assert not clone(emission).is_fitted and emission.is_fitted
        assert isinstance(emission, Emission) and emission.n_states == 3 and emission.n_outputs == y.shape[1]
        again = pickle.loads(pickle.dumps(emission))
        np.testing.assert_array_equal(again.log_likelihood(y, u), emission.log_likelihood(y, u))
        for name in emission._parameters:
            with pytest.raises(ValueError, match="read-only"):
                getattr(emission, name)[...] = 0
        before = emission.log_likelihood(y, u)
        emission.maximise(emission.statistics(y, u, rng(7).dirichlet(np.ones(3), len(y))))
        np.testing.assert_array_equal(emission.log_likelihood(y, u), before)


def test_between_ends_and_middle():
    for emission, y, u in every_emission(rng(8)):
        other = emission.maximise(emission.statistics(y, u, rng(9).dirichlet(np.ones(3), len(y))))
        np.testing.assert_allclose(
            emission.between(other, 1.0).log_likelihood(y, u), other.log_likelihood(y, u), rtol=1e-9, atol=1e-9
        )
        np.testing.assert_array_equal(emission.between(other, 0.0).log_likelihood(y, u), emission.log_likelihood(y, u))
        for name in emission._parameters:
            middle = (getattr(emission, name) + getattr(other, name)) / 2
            np.testing.assert_allclose(getattr(emission.between(other, 0.5), name), middle, rtol=1e-13)


def test_objective_is_the_weighted_log_likelihood():
    for emission, y, u in every_emission(rng(10)):
        gamma = rng(11).dirichlet(np.ones(3), len(y))
        want = (gamma * emission.log_likelihood(y, u)).sum()
        assert emission.objective(y, u, gamma) == pytest.approx(want, rel=1e-12)
    zero = Categorical.from_parameters(probs=[[1.0, 0.0], [0.5, 0.5]])
    assert zero.objective(np.ones((1, 1)), NONE[:1], np.array([[0.0, 1.0]])) == pytest.approx(np.log(0.5))


def test_threads_give_the_same_bits():
    for emission, y, u in every_emission(rng(12)):
        gamma = rng(13).dirichlet(np.ones(3), len(y))
        want = emission.statistics(y, u, gamma)
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(lambda _, e=emission, a=(y, u, gamma): e.statistics(*a), range(8)):
                for name, value in want.items():
                    np.testing.assert_array_equal(got[name], value)


def test_no_array_of_steps_by_states_by_outputs():
    y, gamma = np.zeros((100_000, 8)), np.full((100_000, 4), 0.25)
    emission = Gaussian.from_parameters(means=np.zeros((4, 8)), covariances=np.ones((4, 8)))
    out = np.empty((100_000, 4))
    tracemalloc.start()
    emission.log_likelihood(y, np.empty((100_000, 0)), out=out)
    emission.statistics(y, np.empty((100_000, 0)), gamma)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


# -- samples ---------------------------------------------------------------------------------------------------------


def test_samples_have_the_right_moments():
    r = rng(41)
    n = 40_000
    states, u = np.repeat([0, 2, 1, 2], n // 4), np.tile([[0.5, -1.0]], (n, 1))
    for emission, _, _ in every_emission(r):
        y = emission.sample(states, u, rng(42))
        assert y.shape == (n, emission.n_outputs)
        np.testing.assert_array_equal(y, emission.sample(states, u, rng(42)))
        means = emission.mean(u, n)[0]
        for k in range(3):
            error = y[states == k].std(axis=0) / np.sqrt((states == k).sum())
            assert (np.abs(y[states == k].mean(axis=0) - means[k]) < 5 * error).all()
        if hasattr(emission, "covariances_"):
            want = as_matrices(emission.covariance, emission.covariances_, 3, 2)
            for k in range(3):
                np.testing.assert_allclose(np.cov(y[states == k].T), want[k], atol=0.06 * np.trace(want[k]))
        if isinstance(emission, Categorical):
            share = np.array([np.bincount(y[states == k, 0].astype(int), minlength=4) for k in range(3)])
            np.testing.assert_allclose(share / share.sum(axis=1, keepdims=True), emission.probs_, atol=0.02)
            np.testing.assert_array_equal(emission.probabilities(u[:2], 2), [emission.probs_] * 2)


def test_impossible_symbols_are_never_drawn():
    emission = Categorical.from_parameters(probs=[[0.0, 0.3, 0.0, 0.7, 0.0]])
    assert set(np.unique(emission.sample(np.zeros(5000, int), NONE, rng(43)))) == {1.0, 3.0}


# -- refusals and counts ---------------------------------------------------------------------------------------------

ONE = {"means": [[0.0, 1.0]]}
REFUSED = [
    (lambda: Gaussian.from_parameters(means=[0.0], covariances=[1.0]), "means must have 2 axes"),
    (lambda: Gaussian.from_parameters(means=[[np.nan]], covariances=[[1.0]]), r"means\[0, 0\] is not finite"),
    (lambda: Gaussian.from_parameters(**ONE, covariances=[[1.0, 0.0]]), r"covariances\[0, 1\] = 0 is not positive"),
    (lambda: Gaussian.from_parameters(**ONE, covariances=[[1.0]]), r"covariances must have shape \(1, 2\)"),
    (lambda: Gaussian.from_parameters(**ONE, covariances=[-1.0], covariance="spherical"), "not positive"),
    (lambda: Gaussian.from_parameters(**ONE, covariances=[[1, 2], [2, 1.0]], covariance="tied"), "positive definite"),
    (lambda: Gaussian.from_parameters(**ONE, covariances=[[[1, 2], [0, 1.0]]], covariance="full"), "symmetric"),
    (lambda: Gaussian.from_parameters(**ONE, covariances=[[1.0, 1.0]], covariance="round"), "one of diag, full"),
    (lambda: LinearGaussian.from_parameters(coef=[[[1.0]]], intercept=[[1.0, 2]], covariances=[[1.0]]), "intercept"),
    (lambda: Categorical.from_parameters(probs=[[1.5, -0.5]]), r"probs\[0, 1\] = -0.5 is negative"),
    (lambda: Categorical.from_parameters(probs=[[0.5, 0.5], [0.5, 0.4]]), r"probs\[1\] sums to 0.9"),
    (lambda: Poisson.from_parameters(rates=[[1.0, -2.0]]), r"rates\[0, 1\] = -2 is negative"),
    (lambda: Gaussian(min_variance=0.0).initialise(np.ones((3, 1)), NONE[:3], 2, rng(0)), "min_variance"),
    (lambda: Gaussian(means_weight=-1).initialise(np.ones((3, 1)), NONE[:3], 2, rng(0)), "means_weight"),
    (lambda: Gaussian(covariances_weight=1).initialise(np.ones((3, 1)), NONE[:3], 2, rng(0)), "covariances_prior"),
    (lambda: LinearGaussian(alpha=np.inf).initialise(np.ones((3, 1)), NONE[:3], 2, rng(0)), "alpha"),
    (lambda: Categorical(concentration=0.5).initialise(np.ones((3, 1)), NONE[:3], 2, rng(0)), "concentration"),
    (lambda: Poisson(shape=0.5).initialise(np.ones((3, 1)), NONE[:3], 2, rng(0)), "shape"),
    (lambda: Categorical().check(np.array([[0.0], [1.5]]), NONE[:2]), "row 1: 1.5 is no symbol"),
    (lambda: Categorical(3).check(np.array([[0.0], [3]]), NONE[:2]), r"row 1: symbol 3 is not among 0..2"),
    (lambda: Categorical().check(np.zeros((2, 2)), NONE[:2]), "one column"),
    (lambda: Poisson().check(np.array([[0.0, 1], [2, -1]]), NONE[:2]), "row 1: -1 in column 1 is not a count"),
    (lambda: normal_emission(Gaussian, "diag", rng(0), 2, 2, 0).check(np.ones((3, 4)), NONE[:3]), "4 columns"),
    (
        lambda: normal_emission(LinearGaussian, "diag", rng(0), 2, 2, 1).check(np.ones((3, 2)), NONE[:3]),
        "inputs have 0",
    ),
    (lambda: Product([Gaussian()]).check(np.ones((3, 1)), NONE[:3]), "channel 0 must be a pair"),
    (lambda: Product([]).check(np.ones((3, 2)), NONE[:3]), "at least one"),
    (lambda: Product(None).check(np.ones((3, 2)), NONE[:3]), r"at least one pair .*, got None"),
    (lambda: Product([(Gaussian(), [0.7])]).check(np.ones((3, 1)), NONE[:3]), r"channel 0 .* numbers, got \[0.7\]"),
    (lambda: Product([(Gaussian(), [0]), (Poisson(), [])]).check(np.ones((3, 1)), NONE[:3]), "channel 1 must have a"),
    (lambda: Product([(Gaussian(), ["a"])]).check(np.ones((3, 1)), NONE[:3]), "channel 0 must have a list of column"),
    (
        lambda: Gaussian(means_prior=np.nan, means_weight=1).initialise(np.ones((3, 1)), NONE[:3], 2, rng(0)),
        "^means_prior is not finite",
    ),
    (lambda: Product([(Gaussian(), [0]), (Poisson(), [0])]).check(np.ones((3, 2)), NONE[:3]), "each once"),
    (
        lambda: Product([(Gaussian(), [0]), (Poisson(), [1])]).check(-np.ones((3, 2)), NONE[:3]),
        "row 0: channel 1 .*-1 in",
    ),
    (lambda: Product.from_parameters([(Gaussian(), [0])]), "no parameters yet"),
    (lambda: Gaussian().n_states, "no parameters yet"),
    (lambda: make("gauss"), "one of gaussian, categorical, poisson, linear_gaussian"),
    (lambda: make(None), "got None"),
]


@pytest.mark.parametrize("call, message", REFUSED, ids=[message for _, message in REFUSED])
def test_refusals_name_the_culprit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rounding_of_probabilities_is_renormalised():
    probs = Categorical.from_parameters(probs=[[0.3, 0.7 + 1e-8]]).probs_
    assert probs.sum() == pytest.approx(1, abs=1e-15)


def test_numbers_of_free_parameters():
    want = {"diag": 6, "full": 9, "tied": 3, "spherical": 3}
    for form in FORMS:
        assert normal_emission(Gaussian, form, rng(44), 3, 2, 0).n_parameters == 6 + want[form]
        assert normal_emission(LinearGaussian, form, rng(44), 3, 2, 4).n_parameters == 30 + want[form]
    assert Poisson.from_parameters(rates=np.ones((3, 2))).n_parameters == 6
    assert Categorical.from_parameters(probs=[[0.5, 0.5, 0], [0.2, 0.3, 0.5]]).n_parameters == 3
    *_, (product, _, _) = every_emission(rng(45))
    assert product.n_parameters == sum(e.n_parameters for e, _ in product.emissions_)


def test_make():
    for name, kind in (("gaussian", Gaussian), ("categorical", Categorical), ("poisson", Poisson)):
        assert type(make(name)) is kind
    given = Gaussian("full")
    assert make(given) is not given and make(given).covariance == "full"
    fitted = normal_emission(Gaussian, "diag", rng(46), 2, 1, 0)
    assert fitted.is_fitted and not make(fitted).is_fitted
