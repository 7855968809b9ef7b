"""The models as users meet them; exactness of the kernels is tested beside them."""

import pickle
import signal
import threading
import warnings

import numpy as np
import oracles
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hiermm.expectation
from hiermm import HMM, IOHMM, MultiscaleHMM, MultiscaleIOHMM, em
from hiermm.emissions import Categorical, Gaussian, LinearGaussian, Logistic, Poisson, PoissonRegression, Product
from hiermm.expectation import ImpossibleObservation

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


@pytest.fixture(scope="module")
def series():
    X, states = gaussian_model().sample(600, random_state=1)
    return X, states


@pytest.fixture(scope="module")
def driven():
    u = np.random.default_rng(0).normal(size=(800, 2))
    y, states = driven_model().sample(u, random_state=3)
    return u, y, states


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


def recovers(model):
    order = np.argsort(model.emission_.means_[:, 0])
    means = model.emission_.means_[order, 0]
    A = model.transition_[np.ix_(order, order)]
    return np.abs(means - [-3, 0, 3]).max() < 0.3 and np.abs(A - TRUE_A).max() < 0.06


def test_hmm_recovers_what_made_the_data_and_the_start_does_not():
    X, _ = gaussian_model().sample(4000, random_state=5)
    assert not recovers(quiet(HMM(3, max_iter=1, random_state=0), X))
    assert recovers(HMM(3, random_state=0, n_init=3).fit(X))


def test_iohmm_recovers_what_made_the_data_and_the_start_does_not(driven):
    truth = driven_model()
    u = np.random.default_rng(6).normal(size=(6000, 2))
    y, _ = truth.sample(u, random_state=7)

    def gap(model):
        order = np.argsort(model.emission_.intercept_[:, 0])
        away = []
        for a, b in [(0, 1), (1, 0)]:
            i, j = order[a], order[b]
            away.append(np.abs((model.coef_[i, j] - model.coef_[i, i]) - (truth.coef_[a, b] - truth.coef_[a, a])).max())
        return max(away)

    fitted = IOHMM(2, random_state=0, n_init=2).fit(u, y)
    assert gap(quiet(IOHMM(2, random_state=0, max_iter=1), u, y)) > 0.5
    assert gap(fitted) < 0.35
    assert fitted.score(u, y) >= truth.score(u, y) - 1e-6


MODELS = [
    (HMM(3, tol=0, max_iter=40), False),
    (HMM(2, emission=Gaussian(covariance="full"), tol=0, max_iter=40), False),
    (IOHMM(2, tol=0, max_iter=40), True),
    (IOHMM(3, transition="shared", emission="gaussian", tol=0, max_iter=40), True),
    (MultiscaleHMM((2, 2), timescales=(16, 1), tol=0, max_iter=30), False),
    (MultiscaleHMM((2, 2), timescales=(4, 1), clock="periodic", coupling="faster", tol=0, max_iter=30), False),
    (MultiscaleHMM((2, 3), timescales=None, emission_levels=(1,), tol=0, max_iter=30), False),
    (MultiscaleIOHMM((2, 2), timescales=(8, 1), tol=0, max_iter=30), True),
    (MultiscaleIOHMM((2, 2), timescales=(3, 1), clock="periodic", transition="shared", tol=0, max_iter=30), True),
]


@pytest.mark.parametrize(("model", "has_inputs"), MODELS, ids=[str(k) for k in range(len(MODELS))])
def test_em_never_falls_and_history_ends_with_the_score(model, has_inputs, driven):
    u, y, _ = driven
    y = y[:, 0].copy()
    y[50:60] = np.nan
    model = clone(model).set_params(random_state=0)
    data = (u, y) if has_inputs else (y[:, None],)
    quiet(model, *data, lengths=[500, 300])
    penalty = model._parameters().log_prior()
    steps = np.diff(model.history_)
    assert len(steps) > 3
    assert steps.min() > -1e-9 - abs(penalty), steps.min()
    assert model.history_[-1] == pytest.approx(model.score(*data, lengths=[500, 300]), rel=1e-12)
    assert model.n_iter_ == len(model.history_) - 1


def test_table_rows_learn_one_matrix_a_symbol():
    rng = np.random.default_rng(0)
    u = rng.integers(0, 2, (3000, 1))
    tables = np.array([[[0.95, 0.05], [0.05, 0.95]], [[0.1, 0.9], [0.9, 0.1]]])
    emission = Gaussian.from_parameters(means=[[0.0], [4.0]], covariances=[[1.0], [1.0]], covariance="diag")
    truth = IOHMM.from_parameters(initial=[0.5, 0.5], transition=tables, emission=emission)
    y, _ = truth.sample(u, random_state=0)
    model = IOHMM(2, emission="gaussian", transition="table", random_state=0).fit(u, y)
    order = np.argsort(model.emission_.means_[:, 0])
    assert np.abs(model.transition_[:, order][:, :, order] - tables).max() < 0.05
    with pytest.raises(ValueError, match="sequence 0, step 2: input 2 is not a symbol"):
        model.predict(np.array([[0], [1], [2]]))
    with pytest.raises(ValueError, match="one input column"):
        clone(model).fit(np.zeros((3, 2)), np.zeros(3))


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


def test_threads_change_no_bit(driven, monkeypatch):
    monkeypatch.setattr(hiermm.expectation, "PIECE_STEPS", 64)
    u, y, _ = driven
    parts = [(u[i : i + 40], y[i : i + 40]) for i in range(0, 800, 40)]
    data = [p[0] for p in parts], [p[1] for p in parts]
    for model in [IOHMM(2, max_iter=5, random_state=0), MultiscaleIOHMM((2, 2), max_iter=5, random_state=0)]:
        one = quiet(clone(model).set_params(n_jobs=1), *data)
        two = quiet(clone(model).set_params(n_jobs=2), *data)
        assert one.history_ == two.history_
        for a, b in zip(one.coef_, two.coef_):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one.emission_.coef_, two.emission_.coef_)


@pytest.mark.parametrize(("model", "has_inputs"), MODELS, ids=[str(k) for k in range(len(MODELS))])
def test_blocks_with_checkpoints_change_nothing(model, has_inputs, driven, monkeypatch):
    u, y, _ = driven
    data = (u, y) if has_inputs else (y,)
    model = clone(model).set_params(random_state=0, max_iter=3, tol=0)
    whole = quiet(clone(model), *data, lengths=[600, 200])
    total = whole.log_likelihood(*data, lengths=[600, 200])
    monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", 70 * whole._parameters().bytes_per_step())
    cut = quiet(clone(model), *data, lengths=[600, 200])
    np.testing.assert_allclose(cut.history_, whole.history_, rtol=1e-11)
    assert cut.log_likelihood(*data, lengths=[600, 200]) == pytest.approx(total, rel=1e-9)
    assert whole.log_likelihood(*data, lengths=[600, 200]) == pytest.approx(total, rel=1e-13)


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


def test_going_on_equals_not_stopping(driven):
    u, y, _ = driven
    whole = quiet(IOHMM(2, max_iter=8, tol=0, random_state=0), u, y)
    parts = IOHMM(2, max_iter=4, tol=0, random_state=0, warm_start=True)
    quiet(quiet(parts, u, y), u, y)
    assert parts.history_ == whole.history_
    np.testing.assert_array_equal(parts.coef_, whole.coef_)
    restored = pickle.loads(pickle.dumps(quiet(IOHMM(2, max_iter=4, tol=0, random_state=0, warm_start=True), u, y)))
    np.testing.assert_array_equal(quiet(restored, u, y).coef_, whole.coef_)


def test_going_on_with_another_emission_is_refused(series):
    model = quiet(HMM(2, max_iter=1, random_state=0, warm_start=True), series[0])
    with pytest.raises(ValueError, match=r"goes on from Gaussian\(\), but emission is now Poisson\(\)"):
        model.set_params(emission="poisson").fit(np.ones((5, 1)))


def test_interrupting_leaves_the_last_complete_iteration():
    X, _ = gaussian_model(2).sample(50_000, random_state=0)
    model = HMM(12, max_iter=1_000_000, tol=0, random_state=0)
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    timer.join()
    assert not model.converged_
    assert model.history_[-1] == pytest.approx(model.score(X), rel=1e-12)


@pytest.mark.parametrize("where", ["start", "E-step"])
def test_interrupting_a_later_start_keeps_the_earlier(series, monkeypatch, where):
    X, _ = series
    model = HMM(2, n_init=3, max_iter=3, tol=0, random_state=0)
    alone = quiet(clone(model).set_params(n_init=1), X)
    owner, name = (HMM, "_start") if where == "start" else (hiermm.expectation.Expectation, "statistics")
    original, calls = getattr(owner, name), iter(range(100))
    last = 1 if where == "start" else 4  # calls that the first start takes

    def interrupted(self, *args):
        if next(calls) == last:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert model.history_[:3] == alone.history_[:3]
    np.testing.assert_array_equal(model.transition_, alone.transition_)
    assert next(calls) == last + 1


def test_names_of_features_follow_the_last_fit(series):
    X = series[0]
    frame = pd.DataFrame(X, columns=["height"])
    model = quiet(HMM(2, max_iter=1, random_state=0), [frame[:300], frame[300:]])
    assert model.feature_names_in_.tolist() == ["height"]
    with pytest.raises(ValueError, match="feature names"):
        model.score([pd.DataFrame(X, columns=["weight"])])
    assert not hasattr(quiet(model, [X[:300], X[300:]]), "feature_names_in_")


def test_shared_slopes_from_parameters():
    known = {"coef": np.ones((2, 2, 1)) * [[[1.0], [-1.0]]], "intercept": np.zeros((2, 2))}
    known |= {"initial": [0.5, 0.5], "emission": Gaussian.from_parameters(means=[[0], [1]], covariances=[[1], [1]])}
    shared, free = IOHMM.from_parameters(transition="shared", **known), IOHMM.from_parameters(**known)
    assert shared.n_parameters_ == free.n_parameters_ - 1
    assert shared.get_params()["transition"] == "shared"
    with pytest.raises(ValueError, match="not both"):
        IOHMM.from_parameters(transition=[np.eye(2)], **known)
    with pytest.raises(ValueError, match="not both"):
        IOHMM.from_parameters(transition="table", **known)


def test_only_models_of_classes_predict_probabilities():
    for emission in ["gaussian", "poisson", "poisson_regression", "linear_gaussian", Gaussian(), Poisson()]:
        assert not hasattr(IOHMM(emission=emission), "predict_proba"), emission
    for emission in ["categorical", "logistic", Categorical(), Logistic()]:
        assert hasattr(IOHMM(emission=emission), "predict_proba"), emission


def test_not_converged_is_said(series):
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        model = HMM(3, max_iter=2, random_state=0).fit(series[0])
    assert not model.converged_
    assert HMM(3, random_state=0, max_iter=1000).fit(series[0]).converged_


def test_restarts_keep_the_best_and_share_nothing(series):
    X = series[0]
    best = HMM(3, n_init=4, random_state=3, max_iter=500).fit(X)
    again = HMM(3, n_init=4, random_state=3, max_iter=500).fit(X)
    assert best.history_ == again.history_
    first = HMM(3, n_init=1, random_state=3, max_iter=500).fit(X)
    assert best.history_[-1] >= first.history_[-1]


def test_the_best_of_the_restarts_is_kept(series, monkeypatch):
    ends, run = [], em.run

    def watched(*args, **options):
        ends.append(run(*args, **options))
        return ends[-1]

    monkeypatch.setattr(em, "run", watched)
    winners = set()
    for seed in range(5):
        ends.clear()
        model = quiet(HMM(4, n_init=4, max_iter=3, random_state=seed), series[0])
        winner = np.argmax([fit.objective for fit in ends])
        assert model.history_ == ends[winner].history
        winners.add(winner)
    assert len(winners) > 2  # so neither the first nor the last would have done


def test_zeros_stay_zero(series):
    start = gaussian_model()
    start.set_params(warm_start=True, max_iter=10, tol=0)
    start.initial_ = np.array([0.6, 0.4, 0.0])
    start.history_ = [0.0]
    quiet(start, series[0])
    assert start.initial_[2] == 0.0
    np.testing.assert_array_equal(start.transition_ == 0, TRUE_A == 0)


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


def test_sequences_of_length_one_are_a_mixture():
    X = np.concatenate([np.random.default_rng(0).normal(m, 0.5, (200, 1)) for m in (-2, 2)])
    model = HMM(2, random_state=0).fit(X, lengths=np.ones(400, dtype=int))
    np.testing.assert_allclose(np.sort(model.emission_.means_[:, 0]), [-2, 2], atol=0.1)
    np.testing.assert_allclose(model.initial_, 0.5, atol=0.05)


def test_em_of_a_product_with_an_iterative_channel(driven):
    u, y, _ = driven
    both = np.column_stack([y[:, 0], (y[:, 0] > 1).astype(float)])
    emission = Product([(LinearGaussian(), [0]), (Logistic(), [1])])
    model = quiet(IOHMM(2, emission=emission, random_state=0, max_iter=15, tol=0), u, both)
    assert np.diff(model.history_).min() > -1e-7
    assert model.predict(u).shape == (800, 2)


def test_labels_and_classification(driven):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(40, 30, 1))
    words = np.where(u[:, :3].mean(axis=1)[:, 0] > 0, "up", "down")
    model = quiet(IOHMM(3, emission="logistic", max_iter=20, random_state=0), u, list(words))
    assert model.classes_.tolist() == ["down", "up"]
    proba = model.predict_proba(u)
    assert proba.shape == (40, 30, 2)
    np.testing.assert_allclose(proba.sum(axis=-1), 1, atol=1e-12)
    assert set(np.unique(model.predict(u))) <= {"up", "down"}
    outputs, states = model.sample(u[0], random_state=0)
    assert outputs.shape == states.shape == (30,)
    with pytest.raises(ValueError, match="label 'left'"):
        model.score(u[:1], ["left"])
    with pytest.raises(AttributeError, match="predict_proba"):
        driven_model().predict_proba(driven[0])


def test_hmm_of_words():
    X = np.array(list("abcabcabcaab"), dtype=object)[:, None]
    model = quiet(HMM(2, emission="categorical", random_state=0, max_iter=5), X)
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert set(model.sample(20, random_state=0)[0][:, 0]) <= {"a", "b", "c"}
    with pytest.raises(ValueError, match="label 'z'"):
        model.score(np.array([["z"]], dtype=object))


def test_hmm_of_words_some_missing():
    words, nothing = np.array([["a"], ["b"], ["a"]]), np.full((2, 1), np.nan)
    for X in [[nothing, words], [words, nothing], [words, np.array([[None], [np.nan]], dtype=object)]]:
        model = quiet(HMM(2, emission="categorical", random_state=0, max_iter=3), X)
        assert model.classes_.tolist() == ["a", "b"]
        assert model.score(X) == pytest.approx(model.score([words]), rel=1e-12)


def test_rates_beyond_range_in_states_that_cannot_be():
    emission = PoissonRegression.from_parameters(coef=[[[1.0]], [[800.0]]], intercept=[[0.0], [0.0]])
    stay = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    model = IOHMM.from_parameters(initial=[1, 0], coef=np.zeros((2, 2, 1)), intercept=stay, emission=emission)
    np.testing.assert_allclose(model.predict(np.array([[0.0], [1.0]])), [1, np.e], rtol=1e-14)


def test_a_new_fit_is_not_bound_by_known_parameters():
    narrow = gaussian_model(1)
    wide = np.random.default_rng(0).normal(size=(50, 2))
    assert quiet(narrow.set_params(max_iter=1), wide).emission_.means_.shape == (3, 2)
    assert narrow.emission.means_.shape == (3, 1)


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


def test_parameter_counts():
    emission = Gaussian.from_parameters(means=np.zeros((3, 1)), covariances=np.ones((3, 1)), covariance="diag")
    assert gaussian_model().n_parameters_ == 2 + 3 + 6  # three of nine transitions are zero: 6 - 3 are free
    free = HMM.from_parameters(initial=np.full(3, 1 / 3), transition=np.full((3, 3), 1 / 3), emission=emission)
    assert free.n_parameters_ == 2 + 6 + 6
    assert driven_model().n_parameters_ == 1 + 2 * 3 + (4 + 2 + 2)
    w = 0.75
    sticky = MultiscaleHMM.from_parameters(
        initial=[np.full((1, 3), 1 / 3), np.full((3, 1), 1.0)],
        transition=[np.where(np.eye(3, dtype=bool), w, (1 - w) / 2)[None], np.ones((3, 1, 1))],
        timescales=(4, 1), emission=emission,
    )  # fmt: skip
    assert sticky.n_parameters_ == 2 + 3 + 6
    X = np.zeros((10, 1))
    ll = free.log_likelihood(X)
    assert free.aic(X) == pytest.approx(-2 * ll + 28)
    assert free.bic(X) == pytest.approx(-2 * ll + 14 * np.log(10))


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


REFUSED = [
    (HMM(0), "n_states"),
    (HMM(2.5), "n_states"),
    (HMM(2, n_init=0), "n_init"),
    (HMM(2, max_iter=0), "max_iter"),
    (HMM(2, tol=-1), "tol"),
    (HMM(2, emission="gauss"), "gauss"),
    (HMM(2, emission=Categorical(2.5)), "n_symbols must be None or an integer"),
    (IOHMM(2, emission=Logistic(0)), "n_symbols"),
    (IOHMM(2, alpha=-1.0), "alpha must be finite and at least 0, got -1.0"),
    (MultiscaleIOHMM((2, 2), alpha=np.inf), "alpha must be"),
    (MultiscaleHMM((2, 2), timescales=(16, 1.5), clock="periodic"), r"timescales\[1\] = 1.5: .* whole numbers"),
    (MultiscaleHMM((2, 2), timescales=("slow", 1)), r"timescales\[0\] = 'slow'"),
    (MultiscaleHMM((2, 2), timescales=(4,)), "timescales has 1 entries for 2 levels"),
    (MultiscaleHMM((2, 2), timescales=(0.5, 1)), r"timescales\[0\] = 0.5"),
    (MultiscaleHMM((2, 2), timescales=(2.5, 1), clock="periodic"), "whole numbers"),
    (MultiscaleHMM((2, 2), timescales=None, clock="periodic"), "periodic"),
    (MultiscaleHMM((2, 2), clock="slow"), "clock must be one of"),
    (MultiscaleHMM((2, 2), coupling="full"), "coupling must be one of"),
    (MultiscaleHMM((2, 2), emission_levels=(2,)), "emission_levels"),
    (MultiscaleHMM((2, 2), emission_levels=(1, 0)), "emission_levels"),
    (IOHMM(2, transition="tables"), "transition must be"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_bad_hyperparameters_are_refused_in_fit(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((10, 1)), np.zeros(10))


def test_bad_parameters_are_refused():
    emission = Gaussian.from_parameters(means=np.zeros((2, 1)), covariances=np.ones((2, 1)), covariance="diag")
    half = np.full((2, 2), 0.5)
    for changes, message in [
        ({"initial": [1.5, -0.5]}, "initial_"),
        ({"initial": [0.5, 0.6]}, "initial_"),
        ({"transition": half * 1.1}, "transition_"),
        ({"transition": np.full((3, 3), 1 / 3)}, "transition_"),
        ({"initial": np.full(3, 1 / 3), "transition": np.full((3, 3), 1 / 3)}, "2 states, the chain wants 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            HMM.from_parameters(**({"initial": [0.5, 0.5], "transition": half, "emission": emission} | changes))
    near = HMM.from_parameters(initial=[0.5, 0.5 + 1e-8], transition=half, emission=emission)
    assert near._chain().joint_initial.sum() == pytest.approx(1, abs=1e-15)
    with pytest.raises(ValueError, match="level 0 is sticky"):
        MultiscaleHMM.from_parameters(
            initial=[[[0.5, 0.5]]], transition=[half[None]], timescales=(4,), emission=emission
        )
    for unknown in ["gaussian", Gaussian(), Categorical(), None]:
        with pytest.raises(ValueError, match="emission must have parameters"):
            HMM.from_parameters(initial=[0.5, 0.5], transition=half, emission=unknown)
    three = {"coef": np.zeros((2, 2, 3)), "intercept": np.zeros((2, 2))}
    logistic = Logistic.from_parameters(**three)
    for unknown, message in [
        (Logistic(), "emission must have parameters"),
        (logistic, "takes 3 inputs, the trans.* 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            IOHMM.from_parameters(initial=[0.5, 0.5], coef=np.zeros((2, 2, 1)), intercept=half, emission=unknown)
    with pytest.raises(ValueError, match="give X, not a number of steps"):
        driven_model().sample(5)
    with pytest.raises(NotFittedError):
        HMM(2).score(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="nothing to learn"):
        HMM(2).fit(np.full((5, 1), np.nan))


def test_grid_search_and_pipeline_split_by_sequence(series):
    X = series[0]
    parts = [X[i : i + 60] for i in range(0, 600, 60)]
    search = GridSearchCV(HMM(max_iter=30, tol=1e-3, random_state=0), {"n_states": [1, 3]}, cv=KFold(3)).fit(parts)
    assert search.best_params_ == {"n_states": 3}
    scores = cross_val_score(HMM(3, max_iter=20, tol=1e-3, random_state=0), parts, cv=2)
    assert scores.shape == (2,)
    pipe = make_pipeline(StandardScaler(), HMM(3, random_state=0, tol=1e-3))
    pipe.fit(X, np.arange(600))  # y is not lengths
    assert pipe.predict(X).shape == (600,)
    nested = clone(HMM(2, emission=Gaussian(covariance="full"))).set_params(emission__covariance="diag")
    assert nested.emission.covariance == "diag"


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


def test_poisson_counts():
    rng = np.random.default_rng(0)
    X = rng.poisson(np.repeat([2, 20, 2, 20], 100))[:, None]
    model = HMM(2, emission=Poisson(), random_state=0).fit(X)
    np.testing.assert_allclose(np.sort(model.emission_.rates_[:, 0]), [2, 20], rtol=0.1)


def test_logistic_driven_by_inputs():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(2000, 1))
    truth = IOHMM.from_parameters(
        initial=[0.5, 0.5], coef=np.zeros((2, 2, 1)), intercept=np.log([[0.97, 0.03], [0.03, 0.97]]),
        emission=Logistic.from_parameters(coef=[[[0.0], [4.0]], [[0.0], [-4.0]]], intercept=np.zeros((2, 2))),
    )  # fmt: skip
    y, _ = truth.sample(u, random_state=0)
    model = quiet(IOHMM(2, emission="logistic", random_state=0, n_init=3, max_iter=60), u, y)
    slopes = np.sort(model.emission_.coef_[:, 1, 0] - model.emission_.coef_[:, 0, 0])
    np.testing.assert_allclose(slopes, [-4, 4], atol=1.2)
