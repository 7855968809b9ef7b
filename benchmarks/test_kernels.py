"""Times of the kernels for pytest-benchmark: `make bench` keeps them and shows how they moved since the last run."""

import numpy as np
import pytest

from hiermm import HMM, IOHMM
from hiermm._ext import load
from hiermm.emissions import Categorical, Gaussian
from hiermm.expectation import Expectation
from hiermm.rnn.network import Network
from hiermm.rnn.training import Objective
from hiermm.rows import SoftmaxRows
from hiermm.sequences import Sequences, inputs_outputs, observations

dense, multiscale = load("dense"), load("multiscale")


def chain(lengths, n_states):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    initial, A = np.full(n_states, 1 / n_states), rng.dirichlet(np.ones(n_states), (1, n_states))
    return rng.normal(size=(offsets[-1], n_states)), offsets, initial, A


@pytest.mark.parametrize("n_states", [4, 16, 64])
@pytest.mark.parametrize("lengths", [[500] * 50, [10_000]], ids=["50 sequences", "one sequence"])
def test_smooth(benchmark, lengths, n_states):
    ll, offsets, initial, A = chain(lengths, n_states)
    gamma, xi = np.empty_like(ll), np.zeros_like(A)
    loglik, status = np.empty(len(lengths)), np.empty(len(lengths), np.int64)
    benchmark(dense.smooth, ll, offsets, initial, A, None, None, None, gamma, loglik, status, xi)
    np.testing.assert_allclose(gamma.sum(axis=1), 1, rtol=1e-10)


@pytest.mark.parametrize("n_states", [8, 64])
def test_viterbi(benchmark, n_states):
    ll, offsets, initial, A = chain([10_000], n_states)
    path, log_prob = np.empty(len(ll), np.int64), np.empty(1)
    benchmark(dense.viterbi, ll, offsets, np.log(initial), np.log(A), None, path, log_prob)
    assert np.isfinite(log_prob[0])


@pytest.mark.parametrize("n_levels", [2, 3, 4])
def test_smooth_levels(benchmark, n_levels):
    rng = np.random.default_rng(0)
    sizes, n, N = np.full(n_levels, 4), 2_000, 4**n_levels
    A = np.concatenate([rng.dirichlet(np.ones(4), (1 if s == 0 else 4, 4)).ravel() for s in range(n_levels)])[None]
    ll, gamma, offsets = rng.normal(size=(n, N)), np.empty((n, N)), np.array([0, n])
    loglik, status = np.empty(1), np.empty(1, np.int64)
    structure = (sizes, -1, np.ones(n_levels, np.int64), np.arange(N), 0)
    initial = np.full(N, 1 / N)
    benchmark(multiscale.smooth, ll, offsets, initial, A, None, *structure, None, None, gamma, loglik, status)
    np.testing.assert_allclose(gamma.sum(axis=1), 1, rtol=1e-10)


@pytest.mark.parametrize("emission", ["Gaussian", "Categorical"])
def test_expectation(benchmark, emission):
    rng = np.random.default_rng(0)
    if emission == "Gaussian":
        held = Gaussian.from_parameters(means=rng.normal(size=(4, 2)), covariances=np.ones((4, 2)), covariance="diag")
        X = rng.normal(size=(20, 500, 2))
    else:
        held = Categorical.from_parameters(probs=rng.dirichlet(np.ones(27), 4))
        X = rng.integers(27, size=(20, 500, 1)).astype(float)
    model = HMM.from_parameters(initial=np.full(4, 0.25), transition=rng.dirichlet(np.ones(4), 4), emission=held)
    with Expectation(observations(X)) as expectation:
        loglik, *_ = benchmark(expectation.statistics, model._parameters())
    assert np.isfinite(loglik)


def test_expectation_driven_by_inputs(benchmark):
    rng = np.random.default_rng(0)
    emission = Gaussian.from_parameters(means=rng.normal(size=(4, 1)), covariances=np.ones((4, 1)), covariance="diag")
    model = IOHMM.from_parameters(
        initial=np.full(4, 0.25), coef=rng.normal(size=(4, 4, 3)), intercept=np.eye(4), emission=emission
    )
    sequences = inputs_outputs(rng.normal(size=(20, 500, 3)), rng.normal(size=(20, 500)))
    with Expectation(sequences) as expectation:
        loglik, *_ = benchmark(expectation.statistics, model._parameters())
    assert np.isfinite(loglik)


def test_softmax_rows(benchmark):
    rng = np.random.default_rng(0)
    rows = SoftmaxRows(rng.normal(size=(1, 4, 4, 3)), rng.normal(size=(1, 4, 4)))
    out = np.empty((10_000, 1, 4, 4))
    benchmark(rows.compile, rng.normal(size=(10_000, 3)), out)
    np.testing.assert_allclose(out.sum(axis=-1), 1, rtol=1e-12)


def test_network_gradient(benchmark):
    rng = np.random.default_rng(0)
    network = Network((20,), (1,), "periodic", "full", (1,), 1, 1)
    sequences = Sequences(rng.normal(size=(3_200, 1)), rng.normal(size=(3_200, 1)), np.arange(33) * 100)
    objective, theta = Objective(network, sequences, classes=False, alpha=0.0), network.draw(rng, "orthogonal")
    _, gradient = benchmark(objective.descend, theta, np.arange(32))
    assert np.isfinite(gradient).all()
