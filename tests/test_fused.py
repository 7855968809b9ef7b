"""E-steps in which one kernel does likelihoods, recursion and sums give what the parts give one by one."""

import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from dense_calls import available, offsets_of
from sklearn.exceptions import ConvergenceWarning

import hiermm.expectation
import hiermm.inference
from hiermm import HMM
from hiermm._ext import load
from hiermm.chains import Chain, chain_from_tables, random_chain
from hiermm.emissions import Gaussian, LinearGaussian
from hiermm.emissions.normal import NormalEmission
from hiermm.expectation import Expectation, ImpossibleObservation, Parameters
from hiermm.inference import HAS_THREADS
from hiermm.sequences import Sequences
from hiermm.structure import Structure
from hiermm.tables import TableRows


def problem(N, D, P, lengths, seed, zeros=False, missing=0.0, far=False):
    """Parameters and data; `far`: outputs so far out that states fall out of range; `zeros`: a chain left to right."""
    rng = np.random.default_rng(seed)
    A = rng.dirichlet(np.full(N, 0.3), N)
    initial = rng.dirichlet(np.ones(N))
    if zeros:
        A = np.triu(A + 1e-3)
        A /= A.sum(axis=1, keepdims=True)
        initial = np.eye(N)[0]
    offsets = offsets_of(lengths)
    n = int(offsets[-1])
    outputs, inputs = rng.normal(size=(n, D)), rng.normal(size=(n, P))
    if far:
        outputs[:: max(n // 7, 1)] *= 80.0
    outputs[rng.random(outputs.shape) < missing] = np.nan
    means, variances = 2 * rng.normal(size=(N, D)), rng.uniform(0.3, 2.0, (N, D))
    if P:
        coef = rng.normal(size=(N, D, P))
        emission = LinearGaussian.from_parameters(coef=coef, intercept=means, covariances=variances)
    else:
        emission = Gaussian.from_parameters(means=means, covariances=variances)
    chain = Chain((initial[None],), (TableRows(A[None, None]),), Structure((N,)))
    return Parameters(chain, emission), Sequences(inputs, outputs, offsets)


def statistics(parameters, sequences, n_jobs=1):
    with Expectation(sequences, n_jobs) as expectation:
        return expectation.statistics(parameters)


def one_by_one(parameters, sequences):
    parameters = Parameters(parameters.chain, parameters.emission)  # that knows nothing of what was found before
    with mock.patch.object(NormalEmission, "normal", None):
        assert not parameters.fused
        return statistics(parameters, sequences)


def assert_same(found, wanted, steps):
    assert found[0] == pytest.approx(wanted[0], rel=1e-12, abs=1e-10)
    for part, expected in zip(found[1:], wanted[1:]):
        assert part.keys() == expected.keys()
        for name, value in expected.items():
            scale = max(np.abs(value).max(), 1.0)
            np.testing.assert_allclose(part[name], value, rtol=1e-10, atol=1e-13 * scale * steps, err_msg=name)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("N, D, P", [(1, 1, 0), (2, 3, 0), (4, 2, 0), (5, 1, 2), (9, 2, 1), (17, 2, 0), (33, 1, 0)])
@pytest.mark.parametrize("kind", [{}, {"missing": 0.3}, {"zeros": True}, {"far": True}, {"far": True, "missing": 0.2}])
def test_sums_are_those_of_the_parts(N, D, P, kind, small, monkeypatch):
    lengths = np.random.default_rng(N).integers(1, 60, 45)
    parameters, sequences = problem(N, D, P, lengths, seed=N, **kind)
    if small:
        monkeypatch.setattr(hiermm.expectation, "FEW_NUMBERS", 150 * N)
        monkeypatch.setattr(hiermm.inference, "AT_ONCE", 2)
    assert parameters.fused
    assert_same(statistics(parameters, sequences), one_by_one(parameters, sequences), lengths.sum())


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(8))
def test_sequences_that_the_lanes_give_up_count_once(seed, missing):
    """Some sequences make a move that is all but impossible; lanes lose it, and what they had summed up counts not."""
    rng = np.random.default_rng(seed)
    N, lengths = int(rng.integers(2, 9)), rng.integers(2, 60, size=40)
    offsets = offsets_of(lengths)
    states, moving = np.empty(offsets[-1], dtype=int), rng.random(40) < 0.3
    for s in range(40):
        here, there = rng.choice(N, 2, replace=False)
        states[offsets[s] : offsets[s + 1]] = here
        if moving[s]:
            states[rng.integers(offsets[s] + 1, offsets[s + 1]) : offsets[s + 1]] = there
    outputs = 60.0 * states[:, None] + rng.normal(size=(offsets[-1], 2))
    outputs[rng.random(outputs.shape) < missing] = np.nan
    outputs[offsets[:-1]] = outputs[offsets[1:] - 1] = np.nan
    outputs[offsets[:-1], 0], outputs[offsets[1:] - 1, 0] = 60.0 * states[offsets[:-1]], 60.0 * states[offsets[1:] - 1]
    A = np.full((N, N), 1e-300) + np.eye(N)
    chain = Chain((np.full((1, N), 1 / N),), (TableRows(A[None, None]),), Structure((N,)))
    means = np.repeat(60.0 * np.arange(N)[:, None], 2, axis=1)
    emission = Gaussian.from_parameters(means=means, covariances=np.ones((N, 2)))
    parameters, sequences = Parameters(chain, emission), Sequences(np.empty((len(outputs), 0)), outputs, offsets)
    assert_same(statistics(parameters, sequences), one_by_one(parameters, sequences), lengths.sum())
    arrays = chain.joint_initial, chain.matrix, emission.normal, outputs, sequences.inputs, offsets
    found = hiermm.inference.smooth_normal(*arrays, bounds=np.array([0, 40]))
    np.testing.assert_array_equal(found.status, moving)
    assert found.first.sum() == pytest.approx(40) and found.xi.sum() == pytest.approx(lengths.sum() - 40)


@pytest.mark.parametrize("unlike", [{"y": 60.0}, {"y": 2e150}, {"mean": 1e160}, {"variance": 1e-300}])
@pytest.mark.parametrize("m", [16, 20])
@pytest.mark.parametrize("moves", [[[0.9, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.0, 1.0]]])
def test_lanes_without_any_likelihood_do_no_harm(moves, m, unlike):
    """Numbers that overflow, and a first output that the zeros of `initial` rule out, stay within their sequence."""
    outputs = np.random.default_rng(m).normal(size=(20 * m, 1))
    outputs[45:50] = np.nan
    outputs[60] = unlike.get("y", 0.0)
    outputs, offsets = outputs[:-7], np.minimum(20 * np.arange(m + 1), 20 * m - 7)
    chain = Chain((np.array([[1.0, 0.0]]),), (TableRows(np.array(moves)[None, None]),), Structure((2,)))
    means, variances = np.array([[0.0], [unlike.get("mean", 60.0)]]), np.array([[1.0], [unlike.get("variance", 1.0)]])
    emission = Gaussian.from_parameters(means=means, covariances=variances)
    parameters, sequences = Parameters(chain, emission), Sequences(np.empty((len(outputs), 0)), outputs, offsets)
    with np.errstate(over="ignore", invalid="ignore"):
        found, wanted = statistics(parameters, sequences), one_by_one(parameters, sequences)
    assert_same(found, wanted, len(outputs))
    assert np.isfinite(found[2]["gram"]).all() and found[2]["gram"].sum() == pytest.approx(len(outputs) - 5)


@pytest.mark.parametrize("N", [3, 9])
def test_long_sequences_side_by_side(N):
    lengths = [9_000, 8_000, 100] + [9_500] * 17
    parameters, sequences = problem(N, 1, 0, lengths, seed=0, missing=0.01)
    assert_same(statistics(parameters, sequences), one_by_one(parameters, sequences), sum(lengths))


@pytest.mark.parametrize("coupling", ["none", "slower", "faster"])
def test_small_hierarchies_too(coupling):
    structure = Structure((2, 3), coupling=coupling)
    chain = chain_from_tables(structure, *random_chain(structure, np.random.default_rng(4)))
    flat, sequences = problem(6, 2, 0, np.arange(1, 40), seed=4)
    parameters = Parameters(chain, flat.emission)
    assert parameters.fused and len(chain.rows) == 2
    assert_same(statistics(parameters, sequences), one_by_one(parameters, sequences), sequences.n_steps)


@pytest.mark.parametrize("n_jobs", [2, 3, 5])
def test_threads_change_nothing(n_jobs, monkeypatch):
    monkeypatch.setattr(hiermm.expectation, "FEW_NUMBERS", 2000)
    parameters, sequences = problem(4, 2, 0, [50] * 200, seed=0, far=True)
    alone, together = statistics(parameters, sequences), statistics(parameters, sequences, n_jobs)
    assert alone[0] == together[0]
    for mine, other in zip(alone[1:], together[1:]):
        for name, value in mine.items():
            assert np.array_equal(value, other[name]), name


def test_without_threads_of_its_own_the_kernel_serves_those_of_python(monkeypatch):
    monkeypatch.setattr(hiermm.expectation, "HAS_THREADS", False)
    monkeypatch.setattr(hiermm.expectation, "TOGETHER", 1)
    monkeypatch.setattr(hiermm.expectation, "FEW_NUMBERS", 2000)
    parameters, sequences = problem(4, 2, 0, [50] * 200, seed=0)
    with mock.patch.object(hiermm.expectation, "fused_statistics", wraps=hiermm.expectation.fused_statistics) as used:
        found = statistics(parameters, sequences, 2)
    assert used.call_count > 10 and all(len(call.args) == 3 for call in used.call_args_list)  # one thread
    assert_same(found, one_by_one(parameters, sequences), 10_000)
    alone = statistics(parameters, sequences)
    assert found[0] == alone[0]
    for mine, other in zip(found[1:], alone[1:]):
        assert all(np.array_equal(value, other[name]) for name, value in mine.items())


def test_long_sequences_keep_their_blocks(monkeypatch):
    monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", 40_000)
    parameters, sequences = problem(4, 2, 0, [30] * 40 + [3_000] + [25] * 40, seed=1)
    wanted = one_by_one(parameters, sequences)
    with mock.patch.object(hiermm.expectation, "fused_statistics", wraps=hiermm.expectation.fused_statistics) as used:
        found = statistics(parameters, sequences)
    assert used.called
    assert_same(found, wanted, 5_200)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_impossible_observation_is_named(n_jobs, monkeypatch):
    monkeypatch.setattr(hiermm.expectation, "FEW_NUMBERS", 400)
    monkeypatch.setattr(hiermm.inference, "AT_ONCE", 2)
    parameters, sequences = problem(2, 1, 0, [20] * 60, seed=2)
    sequences.outputs[20 * 47 + 6] = 1e200
    with pytest.raises(ImpossibleObservation, match="sequence 47, step 6"):
        statistics(parameters, sequences, n_jobs)


def test_a_subclass_with_a_density_of_its_own_is_asked():
    class Shifted(Gaussian):
        def log_likelihood(self, outputs, inputs, out=None):
            return super().log_likelihood(outputs + 1.0, inputs, out)

    parameters, sequences = problem(3, 1, 0, [20] * 5, seed=3)
    old = parameters.emission
    shifted = Shifted.from_parameters(means=old.means_, covariances=old.covariances_)
    moved = Gaussian.from_parameters(means=old.means_ - 1.0, covariances=old.covariances_)
    found = statistics(Parameters(parameters.chain, shifted), sequences)[0]
    assert found == pytest.approx(statistics(Parameters(parameters.chain, moved), sequences)[0], rel=1e-12)
    assert found != pytest.approx(statistics(parameters, sequences)[0], rel=1e-3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_can_fit_too():
    """A forked process has none of the threads of its parent, and must not wait for them."""
    program = (
        "import os, sys, numpy as np\n"
        "from hiermm import HMM\n"
        "X = np.random.default_rng(0).normal(size=(100_000, 2))\n"
        "model = HMM(3, n_jobs=2, max_iter=3, tol=0.0, random_state=0)\n"
        "before = model.fit(X, lengths=[500] * 200).history_\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if np.allclose(model.fit(X, lengths=[500] * 200).history_, before, rtol=1e-12) else 3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize("variant", available())
def test_wrong_shapes_are_named(variant):
    dense = load("dense", variant)
    N, D, m = 2, 1, 3
    arguments = {
        "outputs": np.zeros((6, D)), "inputs": np.empty((6, 0)), "coef": np.empty((N, D, 0)),
        "intercept": np.zeros((N, D)), "variances": np.ones((N, D)), "offsets": np.array([0, 2, 4, 6]),
        "bounds": np.array([0, 2, 3]), "initial": np.full(N, 0.5), "A": np.full((1, N, N), 0.5),
        "loglik": np.empty(m), "status": np.empty(m, dtype=np.int64), "first": np.zeros(N), "xi": np.zeros((N, N)),
        "gram": np.zeros((N, D, 1, 1)), "cross": np.zeros((N, D, 1)), "scatter": np.zeros((N, D)),
    }  # fmt: skip
    total = dense.smooth_normal(**arguments)
    assert total == pytest.approx(arguments["loglik"].sum()) == pytest.approx(-3 * np.log(2 * np.pi))
    assert arguments["first"].sum() == pytest.approx(m) and arguments["xi"].sum() == pytest.approx(3)
    part = dense.smooth_normal(**{**arguments, "bounds": np.array([1, 3])})  # adds the last two sequences again
    assert part == pytest.approx(2 / 3 * total)
    assert arguments["first"].sum() == pytest.approx(m + 2) and arguments["xi"].sum() == pytest.approx(5)
    for name in ("coef", "variances", "loglik", "status", "first", "xi", "gram", "cross", "scatter"):
        value = arguments[name]
        with pytest.raises(ValueError, match=name):
            dense.smooth_normal(**{**arguments, name: np.concatenate([value, value])})
    for bounds in ([0, 4], [-1, 3], [0], [0, 0, 3], [0, 3, 2, 3]):
        with pytest.raises(ValueError, match="bounds"):
            dense.smooth_normal(**{**arguments, "bounds": np.array(bounds)})
    with pytest.raises(ValueError, match="thread"):
        dense.smooth_normal(**arguments, threads=0)


def test_fit_uses_it():
    X = np.random.default_rng(0).normal(size=(2_000, 2))
    spied = mock.patch.object(hiermm.expectation, "fused_statistics", wraps=hiermm.expectation.fused_statistics)
    with spied as used, pytest.warns(ConvergenceWarning):
        HMM(3, max_iter=2, tol=0.0, random_state=0).fit(X, lengths=[100] * 20)
    assert used.call_count == 3
    assert HAS_THREADS or not sys.platform.startswith("linux")
