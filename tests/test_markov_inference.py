"""What fitted models answer: likelihoods, posteriors, paths, predictions, samples, operators."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
from markov_cases import TRUE_A, driven_model, gaussian_model, quiet

import hiermm.chains
import hiermm.expectation
import hiermm.pieces
from hiermm import HMM, IOHMM, MultiscaleHMM, MultiscaleIOHMM
from hiermm.emissions import Categorical, Gaussian, PoissonRegression
from hiermm.expectation import Expectation, ImpossibleObservation
from hiermm.inference import smooth
from hiermm.sequences import observations


def test_hmm_agrees_with_enumeration():
    model = gaussian_model(2)
    X = np.random.default_rng(2).normal(size=(6, 2)) * 2
    X[2] = np.nan
    X[4, 1] = np.nan
    b = np.nansum(
        -0.5 * ((X[:, None] - model.emission_.means_) ** 2 / 0.5 + np.log(2 * np.pi * 0.5)) * ~np.isnan(X)[:, None],
        axis=-1,
    )
    want, best, best_log_prob = oracles.enumerate_chain(model.initial_, np.repeat(TRUE_A[None], 6, axis=0), b)
    assert model.log_likelihood(X) == pytest.approx(want.loglik, rel=1e-12)
    np.testing.assert_allclose(model.posterior(X), want.gamma, atol=1e-12)
    np.testing.assert_allclose(model.posterior(X, mode="filter"), want.filtered, atol=1e-12)
    log_prob, path = model.decode(X)
    assert log_prob == pytest.approx(best_log_prob, rel=1e-12)
    np.testing.assert_array_equal(path, best)


def test_score_counts_observed_steps_only(series):
    X = series[0][:50].copy()
    X[10:20] = np.nan
    model = gaussian_model()
    assert model.score(X) == pytest.approx(model.log_likelihood(X) / 40, rel=1e-14)
    parts = model.sequence_log_likelihoods([X[:30], X[30:]])
    assert parts.shape == (2,)
    assert model.log_likelihood(X, lengths=[30, 20]) == pytest.approx(parts.sum(), rel=1e-14)


def test_filtering_does_not_see_the_future(series):
    X = series[0][:60]
    changed = X.copy()
    changed[40:] += 5
    model = gaussian_model()
    np.testing.assert_array_equal(model.posterior(X, mode="filter")[:40], model.posterior(changed, mode="filter")[:40])
    assert np.abs(model.posterior(X)[:40] - model.posterior(changed)[:40]).max() > 1e-4


def test_permuting_states_permutes_everything(series):
    X, order = series[0][:80], np.array([2, 0, 1])
    model = gaussian_model()
    other = HMM.from_parameters(
        initial=model.initial_[order],
        transition=TRUE_A[np.ix_(order, order)],
        emission=Gaussian.from_parameters(
            means=model.emission_.means_[order], covariances=model.emission_.covariances_[order], covariance="diag"
        ),
    )
    assert other.log_likelihood(X) == pytest.approx(model.log_likelihood(X), rel=1e-13)
    np.testing.assert_allclose(other.posterior(X), model.posterior(X)[:, order], atol=1e-13)


def test_constant_inputs_are_no_inputs(series):
    X = series[0]
    plain = gaussian_model()
    with np.errstate(divide="ignore"):
        intercept = np.log(TRUE_A)
    driven = IOHMM.from_parameters(
        initial=plain.initial_, coef=np.zeros((3, 3, 1)), intercept=intercept, emission=plain.emission_
    )
    u = np.ones((len(X), 1))
    assert driven.log_likelihood(u, X) == pytest.approx(plain.log_likelihood(X), rel=1e-12)
    np.testing.assert_allclose(driven.posterior(u, X), plain.posterior(X), atol=1e-12)


def test_one_level_is_the_flat_model(series):
    X = series[0][:200]
    plain = gaussian_model()
    one = MultiscaleHMM.from_parameters(
        initial=[plain.initial_[None]], transition=[TRUE_A[None]], emission=plain.emission_, timescales=(1,)
    )
    assert one.log_likelihood(X) == plain.log_likelihood(X)
    np.testing.assert_array_equal(one.posterior(X), plain.posterior(X))
    periodic = MultiscaleHMM.from_parameters(
        initial=[plain.initial_[None]], transition=[TRUE_A[None]], emission=plain.emission_, timescales=(3,),
        clock="periodic",
    )  # fmt: skip
    assert periodic.log_likelihood(X) != pytest.approx(plain.log_likelihood(X))


def test_the_extinct_state_survives_blocks(monkeypatch):
    means, X = [[0.0], [1.0]], np.full((300, 1), 0.0)
    X[250:] = 40.0
    emission = Gaussian.from_parameters(means=means, covariances=[[0.04], [0.04]], covariance="diag")
    model = HMM.from_parameters(initial=[0.5, 0.5], transition=np.eye(2), emission=emission)
    whole = model.log_likelihood(X)
    b = model.emission_.log_likelihood(X, np.empty((300, 0))).sum(axis=0)
    assert whole == pytest.approx(np.logaddexp(*b) + np.log(0.5), rel=1e-12)
    monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", 40 * model._parameters().bytes_per_step())
    assert model.log_likelihood(X) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("calls_back", [False, True])
def test_tiny_transitions_keep_their_blocks(calls_back, monkeypatch):
    """Blocks serve as long as underflow takes nothing that matters; data that call it back want all steps at once."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 1)) + 3.0 * (np.arange(600)[:, None] // 50 % 2)
    emission = Gaussian.from_parameters(means=[[0.0], [3.0], [40.0]], covariances=np.ones((3, 1)), covariance="diag")
    transition = np.array([[0.9, 0.1, 0.0], [0.1, 0.9 - 1e-300, 1e-300], [1e-300, 0.0, 1.0]])
    if calls_back:  # nothing but ending in the third state explains these, and nothing before lets one expect it
        X[300:] = 40.0
        transition = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
    model = HMM.from_parameters(initial=[0.4, 0.3, 0.3], transition=transition, emission=emission)
    parameters, data = model._parameters(), observations(X)
    with Expectation(data) as expectation:
        whole = expectation.statistics(parameters)
    monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", 40 * parameters.bytes_per_step())
    shapes = []
    monkeypatch.setattr(hiermm.chains, "smooth", lambda *a, **k: shapes.append(len(a[1])) or smooth(*a, **k))
    with Expectation(data) as expectation:
        cut = expectation.statistics(parameters)
    assert cut[0] == pytest.approx(whole[0], rel=1e-12)
    assert model.log_likelihood(X) == pytest.approx(whole[0], rel=1e-12)
    for ours, theirs in zip(cut[1:], whole[1:]):
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-9)
    assert (600 in shapes) == calls_back


def test_blocks_that_were_handed_dust_are_done_again(monkeypatch):
    """A block redone in log space says that what was handed on before may have been dust, though it was good enough."""
    emission = Gaussian.from_parameters(means=[[0.0], [16.6]], covariances=np.ones((2, 1)), covariance="diag")
    transition = np.array([[1.0, 1e-300], [1e-300, 1.0]])
    model = HMM.from_parameters(initial=[1.0, 1e-300], transition=transition, emission=emission)
    X = np.full((120, 1), 8.3)
    X[5:9], X[60:62] = 16.6, 0.0
    parameters, data = model._parameters(), observations(X)
    ll = emission.log_likelihood(X, np.empty((120, 0)))
    truth = oracles.log_chain(np.array([1.0, 1e-300]), np.repeat(transition[None], 120, axis=0), ll)
    for steps in (1000, 40, 30, 2):
        monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", steps * parameters.bytes_per_step())
        assert model.log_likelihood(X) == pytest.approx(truth.loglik, rel=1e-12)
        with Expectation(data) as expectation:
            loglik, moves, _ = expectation.statistics(parameters)
        assert loglik == pytest.approx(truth.loglik, rel=1e-12)
        np.testing.assert_allclose(moves["0.counts"][0, 0], truth.xi.sum(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [(3,), (2, 2)])
def test_blocks_of_one_step(sizes, monkeypatch):
    rng = np.random.default_rng(0)
    n = int(np.prod(sizes))
    emission = Gaussian.from_parameters(means=rng.normal(size=(n, 1)), covariances=np.ones((n, 1)), covariance="diag")
    X = rng.normal(size=(7, 1))
    if len(sizes) == 1:
        model = HMM.from_parameters(initial=[1, 0, 0], transition=rng.dirichlet(np.ones(3), 3), emission=emission)
    else:
        rows = [rng.dirichlet(np.ones(2), (1, 2)), rng.dirichlet(np.ones(2), (2, 2))]
        initial = [np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.5, 0.5]])]
        model = MultiscaleHMM.from_parameters(
            initial=initial, transition=rows, emission=emission, timescales=(2, 1), clock="periodic"
        )
    whole = model.log_likelihood(X)
    monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", 1)
    assert model.log_likelihood(X) == pytest.approx(whole, rel=1e-12)
    with Expectation(observations(X)) as expectation:
        assert expectation.statistics(model._parameters())[0] == pytest.approx(whole, rel=1e-12)


def test_impossible_observations():
    emission = Categorical.from_parameters(probs=[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    model = HMM.from_parameters(initial=[0.5, 0.5], transition=np.full((2, 2), 0.5), emission=emission)
    X = np.array([[0], [1], [0], [2]])
    assert model.log_likelihood(X) == -np.inf
    assert model.score(X) == -np.inf
    np.testing.assert_array_equal(np.isneginf(model.sequence_log_likelihoods(X, lengths=[2, 2])), [False, True])
    for call in [model.posterior, model.decode, model.predict]:
        with pytest.raises(ImpossibleObservation, match="sequence 1, step 1"):
            call(X, lengths=[2, 2])


def test_rates_beyond_range_in_states_that_cannot_be():
    emission = PoissonRegression.from_parameters(coef=[[[1.0]], [[800.0]]], intercept=[[0.0], [0.0]])
    stay = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    model = IOHMM.from_parameters(initial=[1, 0], coef=np.zeros((2, 2, 1)), intercept=stay, emission=emission)
    np.testing.assert_allclose(model.predict(np.array([[0.0], [1.0]])), [1, np.e], rtol=1e-14)


def test_predict_looks_at_inputs_only(driven):
    u = driven[0]
    model = driven_model()
    mean = model.predict(u)
    states, steps = np.array([0.5, 0.5]), []
    for t in range(len(u)):
        if t:
            z = np.exp(model.intercept_ + model.coef_ @ u[t])
            states = states @ (z / z.sum(axis=1, keepdims=True))
        steps.append(states @ (model.emission_.coef_[:, 0] @ u[t] + model.emission_.intercept_[:, 0]))
    np.testing.assert_allclose(mean, steps, rtol=1e-10)


def test_sampling_honours_seed_and_marginals():
    model = gaussian_model()
    a, b = model.sample(50, random_state=1), model.sample(50, random_state=1)
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], model.sample(50, random_state=2)[0])
    X, states = model.sample(40_000, random_state=0)
    moves = np.zeros((3, 3))
    np.add.at(moves, (states[:-1], states[1:]), 1)
    np.testing.assert_allclose(moves / moves.sum(axis=1, keepdims=True), TRUE_A, atol=0.02)
    assert np.abs(X[states == 2].mean() - 3) < 0.05


def test_levels():
    model = MultiscaleHMM((2, 3), timescales=(8, 1), random_state=0, max_iter=3, tol=1)
    X = np.random.default_rng(0).normal(size=(60, 1))
    quiet(model, X)
    joint = model.posterior(X).reshape(60, 2, 3)
    np.testing.assert_allclose(model.level_posterior(X, level=0), joint.sum(axis=2), atol=1e-14)
    np.testing.assert_allclose(model.level_posterior(X, level=1), joint.sum(axis=1), atol=1e-14)
    states = model.predict(X)
    np.testing.assert_array_equal(model.levels_of(states), np.stack([states // 3, states % 3], axis=1))
    parts = [X[:20], X[20:]]
    shapes = [levels.shape for levels in model.levels_of(model.predict(parts))]
    assert shapes == [level.shape for level in model.level_posterior(parts, level=0)] == [(20, 2), (40, 2)]
    np.testing.assert_allclose(np.diagonal(model.transition_[0], axis1=1, axis2=2), 7 / 8, atol=1e-15)
    for joint in ([6], [-1], [0.5], "a"):
        with pytest.raises(ValueError, match="states must be integers from 0 to 5"):
            model.levels_of(joint)
    for level in (2, -1, 0.5):
        with pytest.raises(ValueError, match="level must be 0 to 1"):
            model.level_posterior(X, level=level)


def test_operators():
    model = driven_model()
    u = np.random.default_rng(0).normal(size=(7, 2))
    ops = model.operators(u, lengths=[4, 3])
    assert ops.runs() == [(0, 3), (3, 5)]
    z = np.exp(model.intercept_ + model.coef_ @ u[5])
    np.testing.assert_allclose(ops.matrices[3], (z / z.sum(axis=1, keepdims=True)).T, rtol=1e-12)
    with pytest.raises(ValueError, match="needs X"):
        model.operators()
    assert gaussian_model().operators().forever
    constant = gaussian_model().operators(np.zeros((9, 1)))
    assert len(constant) == 8
    assert len(constant.matrices) == 1
    big = MultiscaleIOHMM.from_parameters(
        initial=[np.full((1, 8), 1 / 8)] * 3, coef=[np.zeros((1, 8, 8, 1))] * 3, intercept=[np.zeros((1, 8, 8))] * 3,
        timescales=(1, 1, 1), coupling="none", emission_levels=(2,),
        emission=Gaussian.from_parameters(means=np.zeros((8, 1)), covariances=np.ones((8, 1)), covariance="diag"),
    )  # fmt: skip
    with pytest.raises(MemoryError, match="512 x 512"):
        big.operators(np.zeros((5000, 1)))


def test_credit_sources_are_gradients_of_the_predictive_log_likelihood(driven):
    u, y, _ = driven
    u, y = u[:12], y[:12].copy()
    y[5] = np.nan
    model = driven_model()
    sources = model.credit_sources(u, y, lengths=[7, 5])
    assert (sources[5] == 0).all()
    b = np.exp(model.emission_.log_likelihood(y, u))
    for start, stop in [(0, 7), (7, 12)]:
        p, alpha = model.initial_, None
        for t in range(start, stop):
            if t > start:
                z = np.exp(model.intercept_ + model.coef_ @ u[t])
                p = alpha @ (z / z.sum(axis=1, keepdims=True))
            if t != 5:
                for j in range(2):
                    step = np.zeros(2)
                    step[j] = 1e-6
                    slope = (np.log((p + step) @ b[t]) - np.log((p - step) @ b[t])) / 2e-6
                    assert sources[t, j] == pytest.approx(slope, rel=1e-6, abs=1e-8)
            alpha = p * b[t] / (p @ b[t])


@pytest.mark.parametrize("levels", [False, True])
def test_answers_do_not_depend_on_how_the_steps_are_cut(driven, monkeypatch, levels):
    u, y, _ = driven
    model = MultiscaleIOHMM((2, 2), emission_levels=(1,), timescales=(3, 1), clock="periodic") if levels else IOHMM(2)
    quiet(model.set_params(max_iter=2, random_state=0), u, y)
    lengths = [500, 100, 7, 93, 1, 99]

    def answers():
        posteriors = [model.posterior(u, y, lengths=lengths, mode=mode) for mode in ("smooth", "filter")]
        return [model.predict(u, lengths=lengths), *posteriors, *model.decode(u, y, lengths=lengths)]

    whole = answers()
    monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", 70 * model._parameters().bytes_per_step())
    monkeypatch.setattr(hiermm.expectation, "PIECE_NUMBERS", 220)
    for before, after in zip(whole, answers()):
        np.testing.assert_allclose(after, before, rtol=1e-11, atol=1e-14)
    y = y.copy()
    y[650, 0] = 1e200  # in the fourth sequence
    for answer in (model.posterior, model.decode):
        with pytest.raises(ImpossibleObservation, match="sequence 3, step 43"):
            answer(u, y, lengths=lengths)


def test_predicting_takes_memory_by_blocks():
    """Rows of 400,000 steps would take 200 MB at once."""
    rng = np.random.default_rng(0)
    known = Gaussian.from_parameters(means=np.arange(8.0)[:, None], covariances=np.ones((8, 1)))
    rows = {"coef": rng.normal(size=(8, 8, 1)), "intercept": rng.normal(size=(8, 8))}
    model, u = IOHMM.from_parameters(initial=np.full(8, 1 / 8), emission=known, **rows), rng.normal(size=(400_000, 1))
    tracemalloc.start()
    mean = model.predict(u)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    np.testing.assert_allclose(mean[:1000], model.predict(u[:1000]), rtol=1e-12)
    # The chain forgets: the last steps are those of a chain that started late.
    np.testing.assert_allclose(mean[-500:], model.predict(u[-1000:])[-500:], rtol=1e-9)


def test_answers_do_not_lie_in_memory_that_is_used_again():
    rng, models = np.random.default_rng(0), (driven_model(), gaussian_model())
    X, y = rng.normal(size=(90, 2)), rng.normal(size=(90, 1))
    data = {models[0]: (X, y), models[1]: (y,)}
    first = {model: [model.posterior(*of), model.posterior(*of, mode="filter")] for model, of in data.items()}
    kept = {model: [one.copy() for one in answers] for model, answers in first.items()}
    for model, of in data.items():
        model.posterior(*[-part for part in of], lengths=[30, 60])
        model.log_likelihood(*[2 * part for part in of])
    for model in models:
        np.testing.assert_array_equal(first[model], kept[model])


def test_a_room_keeps_no_more_than_it_should(monkeypatch):
    monkeypatch.setattr(hiermm.pieces, "MOST_HELD", 100)
    room = hiermm.pieces.Room()
    small = room.empty("rows", (10, 8))
    assert room.empty("likelihoods", (10, 8)) is not small
    assert np.shares_memory(room.empty("rows", (5, 4)), small)
    assert not np.shares_memory(room.empty("rows", (101, 1)), room.empty("rows", (101, 1)))
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(pool.submit(room.empty, "rows", (10, 8)).result(), small)
