"""Fits that go on, start anew or are interrupted."""

import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
from markov_cases import gaussian_model, quiet
from sklearn.base import clone

import hiermm.expectation
from hiermm import HMM, IOHMM, MultiscaleHMM, MultiscaleIOHMM, MultiscaleRNN
from hiermm.emissions import Categorical, Gaussian, Poisson, Product


def test_going_on_equals_not_stopping(driven):
    u, y, _ = driven
    whole = quiet(IOHMM(2, max_iter=8, tol=0, random_state=0), u, y)
    parts = IOHMM(2, max_iter=4, tol=0, random_state=0, warm_start=True)
    quiet(quiet(parts, u, y), u, y)
    assert parts.history_ == whole.history_
    np.testing.assert_array_equal(parts.coef_, whole.coef_)
    restored = pickle.loads(pickle.dumps(quiet(IOHMM(2, max_iter=4, tol=0, random_state=0, warm_start=True), u, y)))
    np.testing.assert_array_equal(quiet(restored, u, y).coef_, whole.coef_)


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


def walk(seed=0):
    return np.random.default_rng(seed).normal(size=(80, 1)).cumsum(axis=0)


def test_going_on_takes_up_new_options(series):
    X, count = series[0], np.abs(series[0]).round()
    model = quiet(HMM(2, emission=Gaussian("full"), max_iter=3, random_state=0, warm_start=True), X)
    before = model.score(X)
    model.set_params(emission__covariances_prior=1.0, emission__covariances_weight=1e9)
    np.testing.assert_allclose(quiet(model, X).emission_.covariances_, 1.0, atol=1e-5)
    assert model.history_[3] == pytest.approx(before, rel=1e-12)  # where the first fit ended, the second begins
    for emission, change, away in [
        (Categorical(4), {"concentration": 1e9}, lambda e: e.probs_ - 0.25),
        (Poisson(), {"shape": 1e9, "rate": 1e9}, lambda e: e.rates_ - 1),
        (
            Product([(Poisson(), [0])]),
            {"emissions": [(Poisson(shape=1e9, rate=1e9), [0])]},
            lambda e: e.emissions_[0][0].rates_ - 1,
        ),
    ]:
        data = np.minimum(count, 3)
        model = quiet(HMM(2, emission=emission, max_iter=2, random_state=0, warm_start=True), data)
        model.emission.set_params(**change)
        np.testing.assert_allclose(away(quiet(model, data).emission_), 0.0, atol=1e-5)


@pytest.mark.parametrize("covariance", ["diag", "full", "tied", "spherical"])
def test_going_on_lifts_variances_to_a_higher_floor(covariance):
    means = np.array([[0.0, 1.0], [3.0, -5.0]])
    X = np.random.default_rng(0).normal(size=(200, 2)) * 0.01 + np.repeat(means, 100, axis=0)
    small = {"diag": np.ones((2, 2)), "full": np.tile(np.eye(2), (2, 1, 1)), "tied": np.eye(2), "spherical": np.ones(2)}
    known = Gaussian.from_parameters(means=means, covariances=1e-4 * small[covariance], covariance=covariance)
    model = HMM.from_parameters(initial=[0.5, 0.5], transition=np.full((2, 2), 0.5), emission=known, warm_start=True)
    model.set_params(emission=Gaussian(covariance, min_variance=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a fall of the objective would be one
        model.fit(X)
    floor = 0.1 * X.var(axis=0)
    floor = np.full(2, floor.mean()) if covariance == "spherical" else floor
    for matrix in model.emission_._covariance_matrices():
        assert np.linalg.eigvalsh(matrix / np.sqrt(np.outer(floor, floor)))[0] > 1 - 1e-9
    kept = model.emission_.covariances_
    np.testing.assert_array_equal(model.emission_.going_on_from(model.emission_, X).covariances_, kept)


OTHER_SHAPES = [
    (HMM(2), {"emission__covariance": "full"}, "covariance='diag', but covariance is now 'full'"),
    (HMM(2), {"emission__min_variance": -1.0}, "min_variance must be finite and > 0"),
    (HMM(2), {"n_states": 3}, "n_states=2, but n_states is now 3"),
    (HMM(2), {"emission": "poisson"}, r"goes on from Gaussian\(\), but emission is now Poisson\(\)"),
    (HMM(2, emission=Product([(Gaussian(), [0])])), {"emission": Product([(Poisson(), [0])])}, "but emission is now"),
    (
        HMM(2, emission=Product([(Gaussian(), [0])])),
        {"emission": Product([(Gaussian("full"), [0])])},
        "covariance is now 'full'",
    ),
    (MultiscaleHMM((2, 2)), {"timescales": (8, 1)}, r"level 0 is sticky with w = 1 - 1/n = 0.875, which its trans"),
    (MultiscaleHMM((2, 2)), {"coupling": "none"}, "coupling='slower', but coupling is now 'none'"),
    (MultiscaleHMM((2, 2)), {"n_states": (2, 3)}, r"n_states=\(2, 2\), but"),
    (MultiscaleHMM((2, 2)), {"emission_levels": (1,)}, "emission_levels=None, but"),
    (IOHMM(2), {"transition": "table"}, "transition='softmax', but transition is now 'table'"),
    (IOHMM(2), {"transition": "shared"}, "shared slopes must be the same for every parent and source state"),
]


@pytest.mark.parametrize(("model", "change", "message"), OTHER_SHAPES, ids=[m for *_, m in OTHER_SHAPES])
def test_going_on_with_another_shape_is_refused(model, change, message):
    X = walk()
    model = clone(model).set_params(warm_start=True, max_iter=1)
    if model.emission == "gaussian":
        model.set_params(emission=Gaussian())
    quiet(model, X, X)
    before = model.score(X, X)
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).fit(X, X)
    assert model.score(X, X) == before


def test_going_on_with_other_time_scales_and_rows():
    """Softmax rows keep their shape, whatever the time scales; slopes that were shared may part."""
    y = walk()
    X = np.random.default_rng(1).normal(size=(80, 1))
    model = MultiscaleIOHMM((2, 2), timescales=(2, 1), transition="shared", max_iter=3, random_state=0, warm_start=True)
    quiet(model, X, y)
    quiet(model.set_params(timescales=(8, 1), transition="softmax"), X, y)
    stays = model._chain().rows[0].probabilities(X).diagonal(axis1=2, axis2=3)
    np.testing.assert_allclose(stays, 7 / 8, rtol=1e-14)
    assert np.ptp(model.coef_[1][..., 0, 0]) > 0
    quiet(model.set_params(timescales=(3, 1), clock="periodic"), X, y)
    assert model._chain().periods == (3, 1)


def test_going_on_with_symbols():
    X = np.tile([[0], [1], [2]], (10, 1))
    model = quiet(HMM(2, emission=Categorical(), max_iter=2, random_state=0, warm_start=True), X)
    quiet(model.set_params(emission__n_symbols=3), X)
    with pytest.raises(ValueError, match="n_symbols=3, but n_symbols is now 4"):
        model.set_params(emission__n_symbols=4).fit(X)
    model = quiet(HMM(2, emission=Categorical(4), max_iter=2, random_state=0, warm_start=True), X)
    with pytest.raises(ValueError, match=r"impossible under the prior of Categorical\(concentration=2, n_symbols=4\)"):
        model.set_params(emission__concentration=2).fit(X)


CHANGES = {
    "n_states": 5,
    "timescales": (3, 1),
    "clock": "periodic",
    "coupling": "none",
    "emission_levels": (0,),
    "transition": "shared",
    "emission": "categorical",
    "n_units": (9,),
    "delays": (1, 2),
    "output": "classification",
}


@pytest.mark.parametrize(
    "model",
    [
        HMM(2),
        IOHMM(2),
        IOHMM(2, transition="table"),
        MultiscaleHMM((2, 2)),
        MultiscaleIOHMM((2, 2)),
        MultiscaleRNN((2, 2)),
    ],
    ids=lambda model: str(model)[:30],
)
def test_set_params_changes_nothing_that_is_fitted(model):
    y = walk()
    X = (y > 0).astype(float)
    model = quiet(clone(model).set_params(max_iter=1, random_state=0), X, y)
    answers = [model.predict(X), model.score(X, y), model.operators(X).matrices, model.n_parameters_]
    for name in CHANGES.keys() & model.get_params(deep=False).keys():
        model.set_params(**{name: CHANGES[name]})
        again = [model.predict(X), model.score(X, y), model.operators(X).matrices, model.n_parameters_]
        for before, after in zip(answers, again):
            np.testing.assert_array_equal(before, after, err_msg=name)


def test_a_new_fit_forgets_the_kind_of_rows_before():
    y = walk()
    X = (y > 0).astype(float)
    model = quiet(IOHMM(2, transition="table", max_iter=1), X, y)
    assert not hasattr(model, "coef_") and hasattr(model, "symbols_")
    quiet(model.set_params(transition="softmax"), X, y)
    assert hasattr(model, "coef_") and not hasattr(model, "transition_") and not hasattr(model, "symbols_")
