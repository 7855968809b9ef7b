"""Fits that go on, start anew or are interrupted."""

import pickle
import signal
import threading

import numpy as np
import pytest
from markov_cases import TRUE_A, gaussian_model, quiet
from sklearn.base import clone

import hiermm.expectation
from hiermm import HMM, IOHMM


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


def test_zeros_stay_zero(series):
    start = gaussian_model()
    start.set_params(warm_start=True, max_iter=10, tol=0)
    start.initial_ = np.array([0.6, 0.4, 0.0])
    start.history_ = [0.0]
    quiet(start, series[0])
    assert start.initial_[2] == 0.0
    np.testing.assert_array_equal(start.transition_ == 0, TRUE_A == 0)


def test_a_new_fit_is_not_bound_by_known_parameters():
    narrow = gaussian_model(1)
    wide = np.random.default_rng(0).normal(size=(50, 2))
    assert quiet(narrow.set_params(max_iter=1), wide).emission_.means_.shape == (3, 2)
    assert narrow.emission.means_.shape == (3, 1)


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
