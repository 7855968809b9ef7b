"""EM where the M-step is a Newton step: one that goes too far is found out by the E-step and shortened."""

import warnings
from unittest import mock

import numpy as np
import pytest

from hiermm import HMM, IOHMM, MultiscaleIOHMM, em
from hiermm.emissions import Gaussian, Logistic, PoissonRegression
from hiermm.expectation import Expectation, Parameters
from hiermm.rows import SoftmaxRows


def too_far(kind, factor):
    """Patch `maximise` of a class so that its Newton steps are `factor` times as long as they should be."""
    real = kind.maximise
    return mock.patch.object(kind, "maximise", lambda self, stats: self.between(real(self, stats), factor))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 120, 2))
    known = Gaussian.from_parameters(means=[[-1.5], [1.5]], covariances=np.ones((2, 1)))
    coef = np.array([[[0.0, 0.0], [1.5, 0.0]], [[0.0, -1.5], [0.0, 0.0]]])
    truth = IOHMM.from_parameters(initial=[0.5, 0.5], coef=coef, intercept=2 * np.eye(2), emission=known)
    drawn = [truth.sample(u, random_state=i) for i, u in enumerate(X)]
    y, states = np.array([y.ravel() for y, _ in drawn]), np.array([s for _, s in drawn])
    drive = np.where(states == 0, X[:, :, 0], 1.0 - X[:, :, 1])
    counts = rng.poisson(np.exp(0.5 * drive)).astype(float)
    choices = (rng.random(drive.shape) < 1 / (1 + np.exp(-2 * drive))).astype(float)
    return X, {"gaussian": y, "logistic": choices, "poisson_regression": counts}


def fit(model, X, y):
    """Fit; no warning but that of too few iterations may come, so none of an objective that fell."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", "overflow", RuntimeWarning)
        warnings.filterwarnings("ignore", ".*converge")
        return model.fit(list(X), list(y))


CASES = [("gaussian", SoftmaxRows), ("logistic", Logistic), ("poisson_regression", PoissonRegression)]


@pytest.mark.parametrize("factor", [3.0, 50.0, 1e6])
@pytest.mark.parametrize("emission, kind", CASES, ids=[name for name, _ in CASES])
def test_steps_that_go_too_far_are_shortened(emission, kind, factor, data):
    X, outputs = data
    options = {"emission": emission, "random_state": 0, "tol": 1e-7, "max_iter": 400}
    plain = fit(IOHMM(2, **options), X, outputs[emission])
    with too_far(kind, factor), mock.patch.object(em, "shortened", wraps=em.shortened) as searched:
        found = fit(IOHMM(2, **options), X, outputs[emission])
    assert searched.call_count > 3
    assert (np.diff(found.history_) > -1e-9).all()
    assert found.history_[-1] == pytest.approx(plain.history_[-1], abs=2e-4)


@pytest.mark.parametrize("emission, kind", CASES[1:], ids=[name for name, _ in CASES[1:]])
def test_an_iteration_that_gains_less_than_tol_is_not_taken_for_the_end(emission, kind, data):
    """A step of more than twice the length gains nothing where one of the right length still gains a lot."""
    X, outputs = data
    options = {"emission": emission, "random_state": 0, "tol": 1e-4, "max_iter": 400}
    plain = fit(IOHMM(2, **options), X, outputs[emission])
    for factor in (2.2, 3.0, 5.0):
        with too_far(kind, factor):
            found = fit(IOHMM(2, **options), X, outputs[emission])
        assert found.converged_ and found.history_[-1] > plain.history_[-1] - 1e-3


def test_good_steps_are_not_searched(data):
    """Newton steps as they are rise nearly always, and then the data are looked at once an iteration."""
    X, outputs = data
    for emission in outputs:
        with (
            mock.patch.object(em, "shortened", wraps=em.shortened) as searched,
            mock.patch.object(Expectation, "statistics", autospec=True, side_effect=Expectation.statistics) as looked,
        ):
            model = fit(IOHMM(2, emission=emission, random_state=0, tol=1e-7, max_iter=100), X, outputs[emission])
        assert searched.call_count <= 2
        assert looked.call_count <= model.n_iter_ + 1 + 2 * searched.call_count


def test_closed_forms_are_never_searched(data):
    with mock.patch.object(em, "shortened", side_effect=AssertionError):
        fit(HMM(2, random_state=0, max_iter=20), *[data[1]["gaussian"][..., None]] * 2)


def test_each_part_is_shortened_by_itself(data):
    """Where the rows of one level go too far, those of the others and the emission keep their step."""
    X, outputs = data
    model = MultiscaleIOHMM((2, 2), timescales=None, coupling="none", random_state=0, max_iter=1, tol=0.0)
    start = fit(model, X, outputs["gaussian"])._parameters()
    sequences = model._read(list(X), list(outputs["gaussian"]), None, model.emission_)
    with Expectation(sequences) as expectation:
        _, moves, sums = expectation.statistics(start)
        goal = em.maximise(start, moves, sums)
        rows = (goal.chain.rows[0], start.chain.rows[1].between(goal.chain.rows[1], 40.0))
        wild = Parameters(type(goal.chain)(goal.chain.initial, rows, goal.chain.structure), goal.emission)
        found = em.shortened(expectation, start, wild)
        expectation.statistics(start, keep=True)
        gains = expectation.objective(start, found, moves) - expectation.objective(start, start, moves)
    assert found.chain.rows[0] is not wild.chain.rows[0] or found.chain.rows[1] is not wild.chain.rows[1]
    np.testing.assert_allclose(found.chain.rows[0].coef, goal.chain.rows[0].coef, atol=1e-12)
    assert (
        np.abs(found.chain.rows[1].coef - start.chain.rows[1].coef).max()
        < 30 * np.abs(goal.chain.rows[1].coef - start.chain.rows[1].coef).max()
    )
    assert found.emission is wild.emission
    assert (gains[:2] >= 0).all() and gains[1] > 0
