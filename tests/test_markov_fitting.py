"""EM from its start to its end; exactness of the kernels is tested beside them."""

import numpy as np
import pytest
from markov_cases import TRUE_A, driven_model, gaussian_model, quiet
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import hiermm.expectation
from hiermm import HMM, IOHMM, MultiscaleHMM, MultiscaleIOHMM, em
from hiermm.emissions import Gaussian, LinearGaussian, Logistic, Poisson, Product


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


def test_threads_change_no_bit(driven, monkeypatch):
    monkeypatch.setattr(hiermm.expectation, "PIECE_NUMBERS", 128)
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
    for emission, X in [("gaussian", data[1] * 3), ("categorical", [np.abs(np.round(part)) for part in data[1] * 3])]:
        fits = [quiet(HMM(2, emission=emission, max_iter=5, random_state=0, n_jobs=n), X) for n in (1, 2, 3)]
        assert fits[0].history_ == fits[1].history_ == fits[2].history_
        np.testing.assert_array_equal(fits[0].transition_, fits[1].transition_)


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


@pytest.mark.parametrize("covariance", ["diag", "spherical"])
def test_the_floor_of_constant_columns_does_not_move(covariance, recwarn):
    for n_steps, seed in [(2, 0), (3, 0), (10, 0), (3, 1), (10, 1)]:
        X = np.tile(np.random.default_rng(seed).normal(size=30), (n_steps, 1))
        model = quiet(HMM(3, emission=Gaussian(covariance), max_iter=50, random_state=seed), X)
        assert (np.diff(model.history_) > -1e-9).all()
        assert model.emission_._floor is not None
    assert not [str(warning.message) for warning in recwarn if warning.category is RuntimeWarning]


def test_new_data_bring_a_floor_of_their_own():
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = quiet(HMM(2, max_iter=3, random_state=0, warm_start=True), X)
    first = model.emission_._floor
    quiet(model.set_params(max_iter=1), 1e3 * X)
    np.testing.assert_allclose(model.emission_._floor, 1e6 * first, rtol=1e-9)


def test_sequences_of_one_step_have_no_operators():
    u, y = np.zeros((3, 2)), np.array([0.0, 1.0, 0.5])
    model = quiet(IOHMM(2, max_iter=2, random_state=0), np.random.default_rng(0).normal(size=(40, 2)), np.ones(40))
    assert len(model.operators(u, lengths=[1, 1, 1])) == 0
    assert np.isfinite(model.score(u, y, lengths=[1, 1, 1]))
