"""Logistic and Poisson regression emissions: likelihoods, derivatives, optima, missing entries, recovery, refusals."""

import numpy as np
import oracles as o
import pytest
from scipy.special import gammaln
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from hiermm.emissions import DeadStateWarning, Logistic, PoissonRegression

N, P = 3, 2


def random_emission(kind, seed=0, alpha=0.4):
    rng = np.random.default_rng(seed)
    if kind is Logistic:
        return kind.from_parameters(coef=rng.normal(size=(N, 4, P)), intercept=rng.normal(size=(N, 4)), alpha=alpha)
    coef, intercept = 0.5 * rng.normal(size=(N, 2, P)), 1 + 0.5 * rng.normal(size=(N, 2))
    return kind.from_parameters(coef=coef, intercept=intercept, alpha=alpha)


def random_data(emission, n=60, seed=1, missing=0.2):
    """Inputs, outputs with missing entries (one step wholly missing), responsibilities."""
    rng = np.random.default_rng(seed)
    inputs, states = rng.normal(size=(n, P)), rng.integers(0, N, n)
    outputs = emission.sample(states, inputs, rng)
    outputs[rng.uniform(size=outputs.shape) < missing] = np.nan
    outputs[3] = np.nan
    return outputs, inputs, rng.dirichlet(np.ones(N), n)


def slow_log_likelihood(emission, outputs, inputs):
    out = np.zeros((len(outputs), N))
    for t, (y, u) in enumerate(zip(outputs, inputs)):
        for k in range(N):
            z = emission.intercept_[k] + emission.coef_[k] @ u
            for d in np.flatnonzero(~np.isnan(y)):
                if isinstance(emission, Logistic):
                    out[t, k] += z[int(y[d])] - o.logsumexp(z)
                else:
                    out[t, k] += y[d] * z[d] - np.exp(z[d]) - gammaln(y[d] + 1)
    return out


def total(emission, data):
    return emission.objective(*data) + emission.log_prior()


def climb(emission, data, max_iter=100):
    """Newton with line search; asserts ascent."""
    value = total(emission, data)
    for _ in range(max_iter):
        target, fraction = emission.maximise(emission.statistics(*data)), 1.0
        while total(emission.between(target, fraction), data) < value - 1e-13 * abs(value):
            fraction *= 0.5
            assert fraction > 1e-9, "the Newton point does not lie uphill"
        emission = emission.between(target, fraction)
        value, before = total(emission, data), value
        assert np.isfinite(value)
        if value - before <= 1e-14 * abs(value):
            break
    return emission


both = pytest.mark.parametrize("kind", [Logistic, PoissonRegression])


@both
def test_log_likelihood(kind):
    emission = random_emission(kind)
    outputs, inputs, gamma = random_data(emission)
    expected = slow_log_likelihood(emission, outputs, inputs)
    got = emission.log_likelihood(outputs, inputs)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)
    assert (got[3] == 0).all()
    out = np.full((60, N), np.nan)
    assert emission.log_likelihood(outputs, inputs, out=out) is out
    np.testing.assert_array_equal(out, got)
    np.testing.assert_allclose(emission.objective(outputs, inputs, gamma), (gamma * expected).sum(), rtol=1e-13)


@both
def test_log_likelihood_is_exact_far_out(kind):
    """Where the probability itself underflows, its logarithm is still right."""
    if kind is Logistic:
        emission = kind.from_parameters(coef=[[[0.0], [0.0]]], intercept=[[1000.0, -1000.0]])
        assert emission.log_likelihood(np.array([[1.0]]), np.zeros((1, 1))).item() == -2000.0
        assert emission.probabilities(np.zeros((1, 1)), 1)[0, 0, 1] == 0.0
    else:
        emission = kind.from_parameters(coef=[[[1.0]]], intercept=[[0.0]])
        got = emission.log_likelihood(np.array([[0.0], [3.0], [2.0]]), np.array([[7.0], [-900.0], [800.0]]))
        np.testing.assert_allclose(got.ravel(), [-np.exp(7.0), -2700.0 - np.log(6.0), -np.inf], rtol=1e-14)


@both
def test_gradient_and_hessian_by_finite_differences(kind):
    emission = random_emission(kind)
    outputs, inputs, gamma = random_data(emission)
    stats = emission.statistics(outputs, inputs, gamma)
    M = emission.intercept_.shape[1]

    def at(x):
        theta = x.reshape(N, M, P + 1)
        return kind.from_parameters(coef=theta[..., 1:], intercept=theta[..., 0])

    x = np.concatenate([emission.intercept_[..., None], emission.coef_], axis=2).ravel()
    gradient = o.central_differences(lambda x: np.array(at(x).objective(outputs, inputs, gamma)), x, 1e-3)
    np.testing.assert_allclose(stats["gradient"].ravel(), gradient, rtol=1e-6, atol=1e-7)
    hessian = o.central_differences(lambda x: at(x).statistics(outputs, inputs, gamma)["gradient"].ravel(), x, 1e-3)
    full = np.zeros((N, M, P + 1, N, M, P + 1))
    for k in range(N):
        if kind is Logistic:
            full[k, :, :, k] = stats["hessian"][k].reshape(M, P + 1, M, P + 1)
        else:
            for d in range(M):
                full[k, d, :, k, d] = stats["hessian"][k, d]
    np.testing.assert_allclose(-full.reshape(x.size, x.size), hessian, rtol=1e-6, atol=1e-6)


@both
def test_statistics_add_and_ignore_missing_entries(kind):
    emission = random_emission(kind)
    outputs, inputs, gamma = random_data(emission)
    whole = emission.statistics(outputs, inputs, gamma)
    parts = [emission.statistics(outputs[a:b], inputs[a:b], gamma[a:b]) for a, b in ((0, 4), (4, 50), (50, 60))]
    for name in whole:
        np.testing.assert_allclose(sum(part[name] for part in parts), whole[name], rtol=1e-12, atol=1e-12)
    if kind is Logistic:
        seen = ~np.isnan(outputs[:, 0])
        kept = emission.statistics(outputs[seen], inputs[seen], gamma[seen])
        for name in whole:
            np.testing.assert_allclose(kept[name], whole[name], rtol=1e-13)
    else:
        changed = emission.statistics(np.column_stack([outputs[:, 0], outputs[:, 1] * 0 + 5]), inputs, gamma)
        np.testing.assert_array_equal(changed["gradient"][:, 0], whole["gradient"][:, 0])
        np.testing.assert_allclose(whole["weight"], gamma.T @ ~np.isnan(outputs), rtol=1e-13)


def test_long_data_are_taken_in_blocks(monkeypatch):
    """The same sums whether or not the steps fit into one block."""
    for kind in (Logistic, PoissonRegression):
        emission = random_emission(kind)
        data = random_data(emission, n=500)
        whole = emission.statistics(*data)
        monkeypatch.setattr("hiermm.emissions.regression.BLOCK", 200)
        cut = emission.statistics(*data)
        monkeypatch.undo()
        for name in whole:
            np.testing.assert_allclose(cut[name], whole[name], rtol=1e-11, atol=1e-11)


def test_logistic_reaches_sklearns_optimum():
    emission = random_emission(Logistic, alpha=0.5)
    outputs, inputs, gamma = random_data(emission, n=200)
    best = climb(emission, (outputs, inputs, gamma))
    seen = ~np.isnan(outputs[:, 0])
    for k in range(N):
        peer = LogisticRegression(C=1 / 0.5, tol=1e-12, max_iter=10_000, solver="newton-cg")
        peer.fit(inputs[seen], outputs[seen, 0], sample_weight=gamma[seen, k])
        np.testing.assert_allclose(best.coef_[k], peer.coef_, atol=1e-6)
        np.testing.assert_allclose(
            best.probabilities(inputs, 200)[seen, k], peer.predict_proba(inputs[seen]), atol=1e-7
        )


def test_poisson_reaches_sklearns_optimum():
    """scikit-learn divides the deviance by the sum of the weights, so its alpha is ours divided by that."""
    emission = random_emission(PoissonRegression, alpha=0.5)
    outputs, inputs, gamma = random_data(emission, n=200)
    best = climb(emission, (outputs, inputs, gamma))
    for k in range(N):
        for d in range(2):
            seen = ~np.isnan(outputs[:, d])
            weight = gamma[seen, k]
            peer = PoissonRegressor(alpha=0.5 / weight.sum(), tol=1e-10, max_iter=1000, solver="newton-cholesky")
            peer.fit(inputs[seen], outputs[seen, d], sample_weight=weight)
            np.testing.assert_allclose(best.coef_[k, d], peer.coef_, atol=1e-6)
            np.testing.assert_allclose(best.intercept_[k, d], peer.intercept_, atol=1e-6)


@both
@pytest.mark.parametrize(
    "spoil",
    [
        lambda u: np.column_stack([u[:, 0], 2 * u[:, 0] + 1]),
        np.ones_like,
        lambda u: u * np.array([1e6, 1e-6]),
        lambda u: u + np.array([1e4, 0.0]),
        lambda u: u[:, :0],
    ],
    ids=["collinear", "constant", "units", "offset", "no inputs"],
)
def test_degenerate_inputs_stay_finite(kind, spoil):
    outputs, inputs, gamma = random_data(random_emission(kind))
    inputs = np.ascontiguousarray(spoil(inputs))
    start = kind(alpha=0.0).initialise(outputs, inputs, N, np.random.default_rng(0))
    best = climb(start, (outputs, inputs, gamma))
    assert np.isfinite(best.coef_).all() and np.isfinite(best.intercept_).all()
    gradient = best.statistics(outputs, inputs, gamma)["gradient"]
    assert np.abs(gradient[..., 0]).max() < 1e-4 * len(outputs)


@both
def test_constant_outputs_stay_finite(kind):
    """All symbols alike, all counts zero: the optimum is at infinity."""
    inputs, gamma = np.random.default_rng(0).normal(size=(30, P)), np.full((30, N), 1 / N)
    emission = kind(n_symbols=3, alpha=0.0) if kind is Logistic else kind(alpha=0.0)
    emission = emission.initialise(np.zeros((30, 1)), inputs, N, np.random.default_rng(0))
    best = climb(emission, (np.zeros((30, 1)), inputs, gamma))
    assert np.isfinite(best.coef_).all() and np.isfinite(best.intercept_).all()
    assert -1e-4 < best.objective(np.zeros((30, 1)), inputs, gamma) <= 1e-12


@both
def test_dead_states_keep_their_parameters_and_warn(kind):
    emission = random_emission(kind)
    outputs, inputs, gamma = random_data(emission)
    gamma[:, 1] = 0.0
    with pytest.warns(DeadStateWarning, match="state\\(s\\) 1"):
        new = emission.maximise(emission.statistics(outputs, inputs, gamma))
    assert np.array_equal(new.coef_[1], emission.coef_[1])
    assert np.array_equal(new.intercept_[1], emission.intercept_[1])
    assert np.abs(new.coef_[[0, 2]] - emission.coef_[[0, 2]]).min() > 0


def test_unobserved_output_of_a_state_keeps_its_row():
    emission = random_emission(PoissonRegression)
    outputs, inputs, gamma = random_data(emission)
    gamma[~np.isnan(outputs[:, 1]), 2] = 0.0
    new = emission.maximise(emission.statistics(outputs, inputs, gamma))
    assert np.array_equal(new.coef_[2, 1], emission.coef_[2, 1])
    assert not np.array_equal(new.coef_[2, 0], emission.coef_[2, 0])


@both
def test_mean_and_sampling_agree(kind):
    emission = random_emission(kind)
    rng = np.random.default_rng(5)
    inputs = np.repeat(rng.normal(size=(2, P)), 40_000, axis=0)
    mean = emission.mean(inputs, len(inputs))
    assert mean.shape == (80_000, N, emission.n_outputs)
    for k in range(N):
        drawn = emission.sample(np.full(len(inputs), k), inputs, rng)
        assert drawn.shape == (80_000, emission.n_outputs)
        for half in (slice(0, 40_000), slice(40_000, None)):
            error = drawn[half].std(axis=0) / 200
            assert (np.abs(drawn[half].mean(axis=0) - mean[half][0, k]) < 5 * error + 1e-12).all()
            if kind is Logistic:
                frequency = np.bincount(drawn[half, 0].astype(int), minlength=4) / 40_000
                np.testing.assert_allclose(frequency, emission.probabilities(inputs[half][:1], 1)[0, k], atol=0.015)


@both
def test_em_recovers_two_regressions(kind):
    """A mixture of two regressions is found from the data-driven start; the start itself must fail the same test."""
    rng = np.random.default_rng(3)
    M = 2
    size = 3.0 if kind is Logistic else 0.7
    coef = size * np.array([[[1.0, 0.5], [-1.0, -0.5]], [[-1.0, 0.5], [1.0, -0.5]]])
    truth = kind.from_parameters(coef=coef, intercept=np.array([[0.5, -0.5], [-0.5, 0.5]]))
    inputs, states = rng.normal(size=(6000, P)), rng.integers(0, 2, 6000)
    outputs = truth.sample(states, inputs, rng)
    if kind is PoissonRegression:
        assert outputs.shape[1] == M
    emission = kind().initialise(outputs, inputs, 2, rng)
    # states come in runs of 10 so that the mixture is identified
    runs = np.repeat(rng.integers(0, 2, 600), 10)
    outputs = truth.sample(runs, inputs, rng)

    def error(emission):
        return min(np.abs(emission.coef_[order] - coef).max() for order in ([0, 1], [1, 0]))

    assert error(emission) > 0.5
    for _ in range(100):
        joint = emission.log_likelihood(outputs, inputs).reshape(600, 10, 2).sum(axis=1)
        gamma = np.exp(joint - o.logsumexp(joint, axis=1)[:, None]).repeat(10, axis=0)
        value = emission.objective(outputs, inputs, gamma) + emission.log_prior()
        target, fraction = emission.maximise(emission.statistics(outputs, inputs, gamma)), 1.0
        while total(emission.between(target, fraction), (outputs, inputs, gamma)) < value - 1e-12 * abs(value):
            fraction *= 0.5
        emission = emission.between(target, fraction)
    assert error(emission) < (0.35 if kind is Logistic else 0.1)


@both
def test_start_separates_states_and_follows_the_seed(kind):
    outputs, inputs, _ = random_data(random_emission(kind), n=300)
    first, again, other = (kind().initialise(outputs, inputs, N, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.coef_, again.coef_) and not np.array_equal(first.coef_, other.coef_)
    assert np.abs(first.coef_[0] - first.coef_[1]).min() > 1e-3
    one = kind().initialise(outputs, inputs, 1, np.random.default_rng(0))
    assert one.n_states == 1
    far = kind().initialise(outputs, inputs + 1e4, N, np.random.default_rng(0))
    assert far.log_likelihood(outputs, inputs + 1e4).min() > -1e4, "the start must not depend on where the inputs lie"


@both
def test_protocol(kind):
    emission = random_emission(kind)
    assert emission.iterative and emission.n_states == N and emission.n_inputs == P
    assert emission.discrete is (kind is Logistic)
    assert emission.n_outputs == (1 if kind is Logistic else 2)
    assert emission.n_parameters == (N * 3 * 3 if kind is Logistic else N * 2 * 3)
    np.testing.assert_allclose(emission.log_prior(), -0.2 * (emission.coef_**2).sum(), rtol=1e-14)
    other = random_emission(kind, seed=9)
    np.testing.assert_allclose(emission.between(other, 0.25).coef_, 0.75 * emission.coef_ + 0.25 * other.coef_)
    fresh = clone(emission)
    assert not fresh.is_fitted and fresh.n_inputs is None and fresh.alpha == 0.4
    with pytest.raises(NotFittedError):
        _ = fresh.n_states
    with pytest.raises(ValueError, match="read-only"):
        emission.coef_[0] = 0


def test_symbols_never_seen_have_room():
    inputs = np.random.default_rng(0).normal(size=(50, 1))
    emission = Logistic(n_symbols=4).initialise(np.tile([[0.0], [2.0]], (25, 1)), inputs, 2, np.random.default_rng(0))
    assert emission.intercept_.shape == (2, 4)
    assert np.isfinite(emission.log_likelihood(np.full((50, 1), 3.0), inputs)).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Logistic().check(np.array([[0.0], [1.5]]), np.zeros((2, 1))), "row 1: 1.5 is no symbol"),
        (lambda: Logistic().check(np.array([[-1.0]]), np.zeros((1, 1))), "row 0: -1 is no symbol"),
        (lambda: Logistic(n_symbols=3).check(np.array([[3.0]]), np.zeros((1, 1))), "symbol 3 is not among 0..2"),
        (
            lambda: random_emission(Logistic).check(np.array([[np.nan], [4.0]]), np.zeros((2, P))),
            "row 1: symbol 4 is not among",
        ),
        (lambda: Logistic().check(np.zeros((1, 2)), np.zeros((1, 1))), "one column, got 2"),
        (lambda: random_emission(Logistic).check(np.zeros((1, 1)), np.zeros((1, 3))), "inputs have 3 columns"),
        (lambda: PoissonRegression().check(np.array([[1.0, -2.0]]), np.zeros((1, 1))), "row 0: -2 in column 1 is not"),
        (lambda: PoissonRegression().check(np.array([[0.5]]), np.zeros((1, 1))), "not a count"),
        (lambda: random_emission(PoissonRegression).check(np.zeros((1, 3)), np.zeros((1, P))), "3 columns, expected 2"),
        (lambda: Logistic.from_parameters(coef=np.zeros((2, 3, 1)), intercept=np.zeros((2, 2))), "agree"),
        (lambda: Logistic.from_parameters(coef=np.full((1, 2, 1), np.nan), intercept=np.zeros((1, 2))), "not finite"),
        (lambda: PoissonRegression.from_parameters(coef=np.zeros((2, 1)), intercept=np.zeros((2, 1))), "3 axes"),
        (lambda: PoissonRegression.from_parameters(coef=np.zeros((1, 1, 1)), intercept=[[0]], alpha=-1), "alpha"),
        (
            lambda: PoissonRegression(alpha=-1).initialise(
                np.ones((5, 1)), np.ones((5, 1)), 2, np.random.default_rng(0)
            ),
            "alpha",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
