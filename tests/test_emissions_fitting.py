"""Emissions: exact M-steps, priors, missing entries, hard data, starts."""

import itertools
import tracemalloc
import warnings

import numpy as np
import oracles
import pytest
from emission_cases import FORMS, NONE, as_matrices, every_emission, normal_data, normal_emission, rng

from hiermm.emissions import (
    Categorical,
    DeadStateWarning,
    Gaussian,
    LinearGaussian,
    Poisson,
    Product,
)

# -- M-steps ---------------------------------------------------------------------------------------------------------

PRIORS = {
    "none": ({}, {}),
    "priors": (
        {"means_prior": [1.0, -1.0], "means_weight": 3.0, "covariances_prior": [0.5, 2.0], "covariances_weight": 5.0},
        {"alpha": 4.0, "covariances_prior": [[1.0, 0.3], [0.3, 2.0]], "covariances_weight": 5.0},
    ),
}


def test_a_prior_matrix_matters_only_through_its_diagonal_for_diag():
    r = rng(14)
    y, u = normal_data(r, 30, 2, 1, missing=False)
    gamma = r.dirichlet(np.ones(2), 30)
    fits = []
    for guess in ([[1.0, 0.3], [0.3, 2.0]], [1.0, 2.0]):
        options = {"covariances_prior": guess, "covariances_weight": 5.0}
        emission = normal_emission(LinearGaussian, "diag", rng(15), 2, 2, 1, **options)
        fits.append(emission.maximise(emission.statistics(y, u, gamma)).covariances_)
    np.testing.assert_array_equal(*fits)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [Gaussian, LinearGaussian])
def test_normal_m_step_maximises_q_plus_log_prior(kind, form, prior, missing):
    r = rng(16)
    N, D, P, T = 2, 2, 2, 40
    old = normal_emission(kind, form, r, N, D, P, **PRIORS[prior][kind is LinearGaussian])
    y, u = normal_data(r, T, D, P, missing)
    gamma = r.dirichlet(np.ones(N), T)

    def q(emission):
        moments = [emission.mean(u, T), as_matrices(form, emission.covariances_, N, D)]
        before = [old.mean(u, T), as_matrices(form, old.covariances_, N, D)]
        return oracles.normal_q(y, gamma, *moments, *before, form in ("full", "tied")) + emission.log_prior()

    assert_maximum(old, old.maximise(old.statistics(y, u, gamma)), q, r)


def assert_maximum(old, new, q, r):
    """`new` beats `old` and every neighbour, and q is flat there in random directions."""
    top = q(new)
    assert top > q(old)
    for name, _ in itertools.product(new._parameters, range(3)):
        value = getattr(new, name)
        step = 1e-4 * np.abs(value).mean() * r.normal(size=value.shape)
        if name == "covariances_" and value.shape[-2:] == (2, 2) and new.covariance in ("full", "tied"):
            step = step + np.swapaxes(step, -1, -2)
        if name == "probs_":
            step = value * (step - (step * value).sum(axis=-1, keepdims=True))
        up, down = (q(new._fitted(**{name: value + s * step})) for s in (1, -1))
        curvature = up + down - 2 * top
        assert curvature < 0
        assert abs(up - down) < 1e-3 * -curvature + 1e-10 * abs(top), name


@pytest.mark.parametrize("concentration", [1.0, 3.0, [1.0, 2.0, 5.0, 1.0]])
def test_categorical_m_step_maximises_q_plus_log_prior(concentration):
    r = rng(17)
    x, gamma = r.integers(0, 4, (50, 1)).astype(float), r.dirichlet(np.ones(3), 50)
    x[4] = np.nan
    old = Categorical.from_parameters(probs=r.dirichlet(np.ones(4), 3), concentration=concentration)
    counts = np.array([[gamma[x[:, 0] == m, k].sum() for m in range(4)] for k in range(3)])
    np.testing.assert_allclose(old.statistics(x, NONE[:50], gamma)["counts"], counts.T, rtol=1e-13)
    q = lambda e: (counts * np.log(e.probs_)).sum() + e.log_prior()  # noqa: E731
    new = old.maximise(old.statistics(x, NONE[:50], gamma))
    assert_maximum(old, new, q, r)
    assert q(new) - new.log_prior() == pytest.approx(new.objective(x, NONE[:50], gamma), rel=1e-12)


@pytest.mark.parametrize("prior", [{}, {"shape": 3.0, "rate": 0.7}])
def test_poisson_m_step_maximises_q_plus_log_prior(prior):
    r = rng(18)
    y, gamma = r.poisson(3, (50, 2)).astype(float), r.dirichlet(np.ones(3), 50)
    y[3, 0] = np.nan
    old = Poisson.from_parameters(rates=r.uniform(1, 4, (3, 2)), **prior)
    q = lambda e: e.objective(y, NONE[:50], gamma) + e.log_prior()  # noqa: E731
    assert_maximum(old, old.maximise(old.statistics(y, NONE[:50], gamma)), q, r)


@pytest.mark.parametrize("kind", [Gaussian, LinearGaussian])
@pytest.mark.parametrize("form", ["full", "tied", "diag"])
def test_em_with_missing_entries_ends_at_the_maximum_of_the_marginal_likelihood(form, kind):
    r = rng(19)
    y, u = normal_data(r, 80, 2, 1, missing=True)
    y[:, 1] += 0.8 * np.nan_to_num(y[:, 0])
    emission = normal_emission(kind, form, r, 1, 2, 1, **({} if kind is Gaussian else {"alpha": 0.0}))
    ones, scores = np.ones((80, 1)), []
    for _ in range(400):
        scores.append(emission.objective(y, u, ones))
        emission = emission.maximise(emission.statistics(y, u, ones))
    assert np.diff(scores).min() > -1e-10
    start = normal_emission(kind, form, rng(20), 1, 2, 1)
    assert_maximum(start, emission, lambda e: e.objective(y, u, ones), r)


def test_data_far_from_zero_lose_no_digits():
    r = rng(21)
    y, gamma = r.normal(size=(500, 2)), r.dirichlet(np.ones(2), 500)
    for form, shift in itertools.product(FORMS, (0.0, 2.0**27)):
        start = Gaussian(form).initialise(y + shift, NONE[:500], 2, rng(22))
        new = start.maximise(start.statistics(y + shift, NONE[:500], gamma))
        if shift == 0:
            base = new
        else:
            np.testing.assert_allclose(new.covariances_, base.covariances_, rtol=1e-6)
            np.testing.assert_allclose(new.means_ - shift, base.means_, atol=1e-7)


def test_collinear_inputs_give_the_fit_and_finite_slopes():
    r = rng(23)
    u = r.normal(size=(100, 1)) @ np.ones((1, 3))
    u[:, 2] = 4.0
    y = 2 * u[:, :1] + 1 + 0.1 * r.normal(size=(100, 1))
    for alpha in (0.0, 1e-6):
        start = LinearGaussian(alpha=alpha).initialise(y, u, 1, r)
        new = start.maximise(start.statistics(y, u, np.ones((100, 1))))
        x = np.column_stack([np.ones(100), u[:, 0]])
        want = x @ np.linalg.lstsq(x, y, rcond=None)[0]
        assert np.isfinite(new.coef_).all()
        np.testing.assert_allclose(new.mean(u, 100)[:, 0], want, atol=1e-6)


# -- hard data -------------------------------------------------------------------------------------------------------


def test_dead_states_keep_their_parameters_and_warn_once():
    for emission, y, u in every_emission(rng(24)):
        gamma = rng(25).dirichlet(np.ones(3), len(y))
        gamma[:, 1] = 0.0
        with pytest.warns(DeadStateWarning, match=r"state\(s\) 1"):
            new = emission.maximise(emission.statistics(y, u, gamma))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            new = new.maximise(new.statistics(y, u, gamma))
        for (a, _), (b, _) in zip(*(getattr(e, "emissions_", [(e, None)]) for e in (emission, new))):
            for name in a._parameters:
                if not a._shared(name):
                    np.testing.assert_array_equal(getattr(a, name)[1], getattr(b, name)[1])
                    assert not np.array_equal(getattr(a, name)[0], getattr(b, name)[0])
        assert np.isfinite(new.log_likelihood(y, u)).all()


def hard_data():
    r = rng(26)
    yield "fewer points than states", r.normal(size=(3, 2))
    yield "one point", np.ones((1, 2))
    yield "constant feature", np.column_stack([np.full(50, 0.1), r.normal(size=50)])
    yield "all constant", np.full((20, 2), -7.0)
    yield "zeros", np.zeros((20, 2))
    yield "duplicated rows", np.repeat(r.normal(size=(4, 2)), 20, axis=0)
    yield "D > T", r.normal(size=(5, 9))
    yield "huge scale", 1e80 * r.normal(size=(30, 2))
    yield "tiny scale", 1e-80 * r.normal(size=(30, 2))
    yield "mostly missing", np.where(r.random((60, 2)) < 0.9, np.nan, r.normal(size=(60, 2)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [Gaussian, LinearGaussian])
@pytest.mark.parametrize("name, y", list(hard_data()), ids=lambda v: v if isinstance(v, str) else "")
def test_hard_data_never_collapse(name, y, kind, form):
    u = rng(27).normal(size=(len(y), 2))
    emission = kind(form).initialise(y, u, 5, rng(28))
    for _ in range(20):
        log_likelihood = emission.log_likelihood(y, u)
        assert np.isfinite(log_likelihood).all()
        shifted = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeadStateWarning)
            emission = emission.maximise(emission.statistics(y, u, shifted / shifted.sum(axis=1, keepdims=True)))
    matrices = as_matrices(form, emission.covariances_, 5, y.shape[1])
    variance = np.nanvar(y, axis=0)
    floor = emission.min_variance * np.where(variance > 1e-20 * np.nanmean(y, axis=0) ** 2, variance, 0)
    floor = floor.mean() * np.ones_like(floor) if form == "spherical" else floor
    assert (np.diagonal(matrices, axis1=1, axis2=2) >= floor * (1 - 1e-9)).all()


def test_the_floor_holds_in_every_direction_and_is_the_constrained_maximum():
    r = rng(29)
    y = r.normal(size=(200, 1)) @ np.ones((1, 2)) * [1.0, 10.0]
    start = Gaussian("full", min_variance=1e-3).initialise(y, NONE[:200], 1, r)
    new = start.maximise(start.statistics(y, NONE[:200], np.ones((200, 1))))
    scaled = new.covariances_[0] / np.sqrt(np.outer(y.var(axis=0), y.var(axis=0)))
    np.testing.assert_allclose(np.linalg.eigvalsh(scaled), [1e-3, 2.0], rtol=1e-8)


def test_a_symbol_never_seen_is_impossible_or_smoothed():
    x = np.array([[0.0], [2], [2], [0]])
    for concentration, want in ((1.0, [0.5, 0, 0.5, 0]), (2.0, [3 / 8, 1 / 8, 3 / 8, 1 / 8])):
        start = Categorical(4, concentration=concentration).initialise(x, NONE[:4], 1, rng(30))
        assert (start.probs_ > 0).all()
        new = start.maximise(start.statistics(x, NONE[:4], np.ones((4, 1))))
        np.testing.assert_allclose(new.probs_[0], want, rtol=1e-14)
    assert Categorical().initialise(x, NONE[:4], 2, rng(31)).probs_.shape == (2, 3)


def test_zero_probabilities_stay_zero():
    start = Categorical.from_parameters(probs=[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    x = np.array([[0.0], [1], [2], [2]])
    gamma = np.array([[0.5, 0.5], [0.5, 0.5], [0, 1], [0, 1]])
    new = start.maximise(start.statistics(x, NONE[:4], gamma))
    assert new.probs_[0, 2] == 0 and new.n_parameters == 1 + 2


# -- starts ----------------------------------------------------------------------------------------------------------


def regimes(r, T=3000):
    states = np.repeat(np.arange(T // 50) % 3, 50)
    return states, r.normal(size=(T, 2))


def starts(r):
    """Emissions of a known truth, with data and what must be found: a function that gives rows to match."""
    states, u = regimes(r)
    truth = Gaussian.from_parameters(means=[[0, 0], [4, 1], [-3, 5.0]], covariances=np.ones((3, 2)))
    yield Gaussian(), truth, lambda e: e.means_, states, u, 0.8
    truth = LinearGaussian.from_parameters(
        coef=[[[2.0, 0]], [[-1, 1]], [[0, -2]]], intercept=[[0.0], [1], [-1]], covariances=np.full((3, 1), 0.1)
    )
    yield LinearGaussian(), truth, lambda e: np.column_stack([e.coef_[:, 0], e.intercept_]), states, u, 0.8
    truth = Poisson.from_parameters(rates=[[1.0], [9.0], [40.0]])
    yield Poisson(), truth, lambda e: np.sqrt(e.rates_), states, u, 0.8


def distance(a, b):
    return min(np.abs(a[list(order)] - b).max() for order in itertools.permutations(range(3)))


def test_starts_are_near_the_truth_seeded_and_differ():
    for emission, truth, rows, states, u, bar in starts(rng(32)):
        y = truth.sample(states, u, rng(33))
        found = [emission.initialise(y, u, 3, rng(34, seed)) for seed in (0, 0, 1, 2, 3)]
        np.testing.assert_array_equal(rows(found[0]), rows(found[1]))
        assert not np.allclose(rows(found[0]), rows(found[2]), rtol=1e-6)
        errors = [distance(rows(e), rows(truth)) for e in found]
        assert max(errors) < bar, (type(emission).__name__, errors)
        # The bar means something: the states' common parameters do not pass it.
        same = np.repeat(rows(truth).mean(axis=0, keepdims=True), 3, axis=0)
        assert distance(same, rows(truth)) > 2 * bar


def test_product_start_pairs_the_states_of_its_channels():
    states, u = regimes(rng(35))
    gaussian = Gaussian.from_parameters(means=[[0.0], [10], [20]], covariances=np.ones((3, 1)))
    symbols = Categorical.from_parameters(probs=np.eye(3) * 0.9 + 0.1 / 3)
    truth = Product.from_parameters([(gaussian, [1]), (symbols, [0])])
    y = truth.sample(states, u, rng(36))
    start = Product([(Gaussian(), [1]), (Categorical(), [0])]).initialise(y, u, 3, rng(37))
    order = np.argsort(start.emissions_[0][0].means_[:, 0])
    assert (start.emissions_[1][0].probs_[order].argmax(axis=1) == [0, 1, 2]).all()


def test_starts_cope_with_long_data_in_bounded_memory():
    y = np.zeros((400_000, 1))
    y[200_000:] = 5.0
    y[:, 0] += rng(38).normal(size=400_000)
    tracemalloc.start()
    start = Gaussian().initialise(y, np.empty((400_000, 0)), 2, rng(39))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    np.testing.assert_allclose(np.sort(start.means_[:, 0]), [0, 5], atol=0.8)


def test_a_column_without_observations_is_refused():
    y = np.column_stack([np.ones(5), np.full(5, np.nan)])
    for emission in (Gaussian(), LinearGaussian(), Poisson()):
        with pytest.raises(ValueError, match=r"column 1 .* no observed value"):
            emission.initialise(y, np.ones((5, 1)), 2, rng(40))
    with pytest.raises(ValueError, match="no observed value"):
        Categorical().initialise(y[:, 1:], NONE[:5], 2, rng(40))


@pytest.mark.parametrize("covariance", FORMS)
def test_a_state_with_a_subnormal_share_is_dead(covariance):
    y = rng(0).normal(size=(20, 2))
    u = rng(1).normal(size=(20, 3))
    for emission in (Gaussian(covariance), LinearGaussian(covariance)):
        start = emission.initialise(y, u, 2, rng(2))
        gamma = np.column_stack([np.full(20, 1e-311), np.ones(20)])
        with pytest.warns(DeadStateWarning):
            new = start.maximise(start.statistics(y, u, gamma))
        np.testing.assert_array_equal(new.mean(u, 20)[:, 0], start.mean(u, 20)[:, 0])
        assert np.isfinite(new.log_likelihood(y, u)).all()


def test_prior_of_the_variances_is_not_lost_beside_far_means():
    y, gamma = np.repeat([[1e5], [-1e5 / 3]], 1000, axis=0), np.repeat(np.eye(2), 1000, axis=0)
    old = Gaussian.from_parameters(
        means=[[0.1], [0.7]], covariances=[[1.0], [1.0]],
        covariances_prior=1e-2, covariances_weight=1.0, min_variance=1e-30,
    )  # fmt: skip
    new = old.maximise(old.statistics(y, np.empty((2000, 0)), gamma))
    assert new.covariances_.min() >= 0.01 / 1001 * (1 - 1e-12)
