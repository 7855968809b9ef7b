"""The fused smoother of input-driven chains: equal to the smoother of given matrices and the sums of its counts."""

import itertools

import numpy as np
import pytest
from dense_calls import available
from oracles import log_chain

from hiermm import IOHMM
from hiermm._ext import load
from hiermm.chains import Chain, chain_from_tables
from hiermm.rows import LEFT_OUT, SoftmaxRows
from hiermm.structure import Structure

LENGTHS = [1, 40, 7, 33, 16, 40, 2, 31, 17, 40, 40, 38, 40, 25, 40, 40, 39, 12, 40]


def problem(K, P, lengths, w=None, seed=0):
    rng = np.random.default_rng([seed, K, P])
    rows = SoftmaxRows(rng.normal(size=(1, K, K, P)), rng.normal(size=(1, K, K)), w)
    n, offsets = sum(lengths), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    structure = Structure((K,)) if w is None else Structure((K,), timescales=(1 / (1 - w),))
    chain = Chain((rng.dirichlet(np.ones(K), 1),), (rows,), structure)
    return chain, rng.normal(size=(n, P)), 3.0 * rng.normal(size=(n, K)) - 2.0, offsets


def one_by_one(chain, inputs, ll, offsets):
    """What `smooth` gives for all sequences, from each of them alone."""
    parts = []
    for a, b in itertools.pairwise(offsets):
        parts.append(chain.smooth(inputs[a:b], ll[a:b].copy(), np.array([0, b - a]), leaving=True))
    stats = {name: sum(part[1][name] for part in parts) for name in parts[0][1]}
    gamma, leaving = np.concatenate([p[0].gamma for p in parts]), np.concatenate([p[2] for p in parts])
    return gamma, np.array([p[0].log_likelihood[0] for p in parts]), stats, leaving


def assert_equal(chain, inputs, ll, offsets):
    gamma, loglik, stats, leaving = one_by_one(chain, inputs, ll, offsets)
    r, found, left = chain.smooth(inputs, ll.copy(), offsets, leaving=True)
    np.testing.assert_allclose(r.gamma, gamma, rtol=0, atol=1e-12)
    np.testing.assert_allclose(r.log_likelihood, loglik, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(r.first, gamma[offsets[:-1]], rtol=0, atol=1e-12)
    np.testing.assert_allclose(left, leaving, rtol=0, atol=1e-12)
    assert found.keys() == stats.keys()
    for name, value in stats.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12 * np.abs(value).max())
    return r.status


@pytest.mark.parametrize("K, P, w", [(2, 1, None), (3, 2, 0.7), (4, 3, None), (5, 0, None), (6, 9, 0.4), (2, 3, 0.5)])
def test_side_by_side_equals_one_by_one(K, P, w):
    assert (assert_equal(*problem(K, P, LENGTHS, w)) == 0).all()


def test_lanes_that_are_left_out():
    """One long sequence beside short ones, and a last one alone in its lanes, are done by other means."""
    assert_equal(*problem(3, 2, [500, *[3] * 9]))
    assert_equal(*problem(3, 2, [50] * 9))
    assert_equal(*problem(4, 1, [1] * 20))


def test_a_sequence_out_of_range_is_done_again_and_counted_once():
    chain, inputs, ll, offsets = problem(3, 2, [40] * 16)
    ll[offsets[4] + 10 : offsets[4] + 13] += [[0.0, -900.0, -700.0], [-800.0, 0.0, -700.0], [0.0, -800.0, -900.0]]
    inputs[offsets[9] + 5] = 300.0  # rows without a way between states
    status = assert_equal(chain, inputs, ll, offsets)
    assert (np.delete(status, 9)[np.arange(15) != 4] == 0).all()


@pytest.fixture(params=available())
def variant(request, monkeypatch):
    monkeypatch.setattr("hiermm.rows.driven", load("driven", request.param))


def left_out(chain, inputs, ll, offsets):
    """The sequences that the lanes leave out, and the rows that they leave."""
    rows = ll.copy()
    return chain.rows[0].smooth(inputs, rows, offsets, chain.joint_initial)[1] == LEFT_OUT, rows


def assert_log_space(chain, inputs, ll, offsets):
    """`smooth` equals the log-space reference under the compiled matrices, and the statistics made of its moves."""
    matrices = chain.compile(inputs).matrices()
    parts = [
        log_chain(chain.joint_initial, matrices[a:b], ll[a:b]) for a, b in itertools.pairwise(offsets)
    ]  # rows of `matrices` that begin a sequence are not used
    gamma, xi = np.concatenate([p.gamma for p in parts]), np.concatenate([p.xi for p in parts])
    leaving = np.empty(gamma.shape)
    stats = chain.statistics(
        inputs, gamma[offsets[:-1]].sum(axis=0), xi.reshape(len(xi), -1), matrices.reshape(xi.shape), leaving
    )
    r, found, left = chain.smooth(inputs, ll.copy(), offsets, leaving=True)
    np.testing.assert_allclose(r.log_likelihood, [p.loglik for p in parts], rtol=1e-12)
    np.testing.assert_allclose(r.gamma, gamma, rtol=0, atol=1e-10)
    np.testing.assert_allclose(left, leaving, rtol=0, atol=1e-10)
    for name, value in stats.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10 * len(ll), err_msg=name)
    return r


@pytest.mark.parametrize("K, P, w", [(2, 1, None), (3, 2, 0.7), (4, 3, None), (6, 2, None)])
def test_steep_rows_are_done_side_by_side(variant, K, P, w):
    """As Newton steps make them: most moves are far out of the range of plain products, or exactly zero."""
    chain, inputs, ll, offsets = problem(K, P, [40] * 16, w)
    rows = SoftmaxRows(400 * chain.rows[0].coef, 400 * chain.rows[0].intercept, w)
    steep = Chain(chain.initial, (rows,), chain.structure)
    probs = steep.compile(inputs).matrices()
    ll = np.zeros(ll.shape)
    ll[np.arange(len(ll)), _likely_path(probs, offsets)] = 3.0
    assert (probs < 1e-95).mean() > 0.2 and not left_out(steep, inputs, ll, offsets)[0].any()
    assert (assert_log_space(steep, inputs, ll, offsets).status == 0).all()


def _likely_path(probs, offsets):
    path = np.zeros(len(probs), dtype=int)
    for k in range(len(probs)):
        path[k] = 0 if k in offsets else probs[k, path[k - 1]].argmax()
    return path


def test_dust_that_grows_is_left_out_and_counted_nowhere(variant):
    """Every other sequence ends in a state that tiny transitions rule out, without a step that shows it."""
    offsets = np.arange(0, 16 * 30 + 1, 30)
    inputs, ll = np.random.default_rng(0).normal(size=(16 * 30, 1)), np.zeros((16 * 30, 2))
    for a in offsets[:-1:2]:
        ll[a + 3 : a + 6, 1] = ll[a + 10 : a + 20, 0] = -100.0
    slopes = np.array([[[[0.0], [0.5]], [[0.3], [0.0]]]])
    rows = SoftmaxRows(slopes, [[[0.0, -575.0], [-575.0, 0.0]]])
    chain = Chain((np.array([[1.0, 1e-300]]),), (rows,), Structure((2,)))
    left, kept = left_out(chain, inputs, ll, offsets)
    assert left.tolist() == [True, False] * 8
    assert (kept[np.repeat(left, 30)] == ll[np.repeat(left, 30)]).all()
    r = assert_log_space(chain, inputs, ll, offsets)
    assert r.status.tolist() == [1, 0] * 8 and (r.gamma[29 : 30 * 16 : 60, 1] > 0.999).all()


@pytest.mark.parametrize("steep", [1.0, 300.0])
def test_states_that_forbidden_transitions_keep_apart(variant, steep):
    """The data favour a state that no sequence can reach; on the way back it does not outweigh the others."""
    chain, inputs, ll, offsets = problem(4, 2, [40] * 16)
    forbidden = np.tril(np.ones((4, 4)), -1) > 0
    forbidden[:3, 3] = True
    rows = SoftmaxRows(steep * chain.rows[0].coef, np.where(forbidden, -np.inf, steep * chain.rows[0].intercept))
    apart = Chain((np.array([[1.0, 0, 0, 0]]),), (rows,), chain.structure)
    ll = 0.1 * ll + [0.0, 0.0, 0.0, 100.0]
    assert not left_out(apart, inputs, ll, offsets)[0].any()
    r = assert_log_space(apart, inputs, ll, offsets)
    assert (r.gamma[:, 3] == 0).all() and (r.gamma[offsets[:-1], 1:] == 0).all()


def test_forbidden_transitions_and_starts_stay_at_zero():
    chain, inputs, ll, offsets = problem(4, 2, [20] * 9)
    intercept = np.where(np.triu(np.ones((4, 4))) > 0, chain.rows[0].intercept, -np.inf)
    rows = SoftmaxRows(chain.rows[0].coef, intercept)
    left_right = Chain((np.array([[1.0, 0, 0, 0]]),), (rows,), chain.structure)
    assert_equal(left_right, inputs, ll, offsets)
    r, stats, _ = left_right.smooth(inputs, ll, offsets)
    assert (r.gamma[offsets[:-1], 1:] == 0).all()
    assert (stats["0.gradient"][np.tril_indices(4, -1)] == 0).all()


def test_an_impossible_observation_is_named_by_its_status():
    chain, inputs, ll, offsets = problem(3, 2, [20] * 8)
    ll[offsets[2] + 7] = -np.inf
    r, _, leaving = chain.smooth(inputs, ll, offsets, leaving=True)
    assert r.status[2] == -1 - 7 and r.log_likelihood[2] == -np.inf and (np.delete(r.status, 2) == 0).all()
    assert (leaving[offsets[2] : offsets[3]] == 0).all() and np.isfinite(leaving).all()


@pytest.mark.parametrize("variant", available()[1:])
@pytest.mark.parametrize("K, P", [(2, 1), (4, 3), (6, 2)])
def test_variants_agree(K, P, variant):
    chain, inputs, ll, offsets = problem(K, P, LENGTHS)
    rows, results = chain.rows[0], []
    for name in ("base", variant):
        size, m = K * (P + 1), len(LENGTHS)
        out = {
            "gamma": np.zeros_like(ll), "loglik": np.zeros(m), "gradient": np.zeros((K, K, P + 1)),
            "hessian": np.zeros((K, size, size)), "weight": np.zeros(K), "moments": np.zeros((P + 1, P + 1)),
            "leaving": np.zeros_like(ll),
        }  # fmt: skip
        status = np.empty(m, dtype=np.int64)
        load("driven", name).smooth(
            ll, inputs, offsets, chain.joint_initial, rows.coef[0], rows.intercept[0], -1.0, None, status=status, **out
        )
        results.append((out, status))
    (base, left), (other, also) = results
    kept = np.repeat((left == 0) & (also == 0), LENGTHS)
    assert kept.mean() > 0.8
    np.testing.assert_allclose(other["gamma"][kept], base["gamma"][kept], rtol=0, atol=1e-12)
    if (left == also).all():
        for name, value in base.items():
            np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-12 * np.abs(value).max())


def test_refusals():
    chain, inputs, ll, offsets = problem(3, 2, [5] * 4)
    smooth = chain.rows[0].smooth
    for bad in (
        lambda: smooth(inputs[:, :1].copy(), ll, offsets, chain.joint_initial),
        lambda: smooth(inputs[:-1], ll, offsets, chain.joint_initial),
        lambda: smooth(inputs, ll, offsets[:-1], chain.joint_initial),
        lambda: smooth(inputs, ll, np.array([0, 5, 5, 20]), chain.joint_initial),
        lambda: smooth(inputs, ll, offsets, chain.joint_initial[:2]),
        lambda: smooth(inputs, np.zeros((20, 7)), offsets, chain.joint_initial),
    ):
        with pytest.raises(ValueError, match=r"shape|offsets|empty|states"):
            bad()


@pytest.mark.parametrize("transition", ["softmax", "shared"])
def test_a_fit_does_not_depend_on_company(transition):
    """EM over many sequences, in the lanes, and with the smoother of one sequence at a time: the same history."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(9, 60, 2))
    y = np.cumsum(X[:, :, 0] > 0.5, axis=1) % 3 + 0.3 * rng.normal(size=(9, 60))
    options = {"transition": transition, "max_iter": 15, "tol": 0.0, "random_state": 0}
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning):
        together = IOHMM(3, **options).fit(X, y)
        patch.setattr(Chain, "_side_by_side", False)
        alone = IOHMM(3, **options).fit(X, y)
    np.testing.assert_allclose(together.history_, alone.history_, rtol=1e-10)
    assert (np.diff(together.history_) > -1e-12).all()


def test_other_chains_do_not_go_side_by_side():
    tables = [np.full((1, 7, 7), 1 / 7)]
    assert not chain_from_tables(Structure((7,)), [np.full((1, 7), 1 / 7)], tables, "softmax", 2)._side_by_side
    tables = [np.full((1, 3, 3), 1 / 3)]
    initial = [np.full((1, 3), 1 / 3)]
    assert not chain_from_tables(Structure((3,)), initial, tables)._side_by_side
    assert chain_from_tables(Structure((3,)), initial, tables, "softmax", 2)._side_by_side
    clocked = Structure((3,), timescales=(4,), clock="periodic")
    assert not chain_from_tables(clocked, initial, tables, "softmax", 2)._side_by_side


def test_subnormal_probabilities_are_not_zero():
    """One move in 6e307 explains the data, little by little: no step alone is out of range."""
    lengths = [60] * 8
    chain, inputs, ll, offsets = problem(3, 1, lengths)
    intercept = np.array([[[0, 0, -707.9], [0, 0, -707.9], [-800, -800, 0]]])
    rows = SoftmaxRows(np.zeros((1, 3, 3, 1)), intercept)
    assert 0 < rows.probabilities(inputs[:1])[0, 0, 0, 2] < np.finfo(float).tiny
    chain = Chain((np.array([[1.0, 0, 0]]),), (rows,), chain.structure)
    ll[:] = [-25.0, -25.0, 0.0]
    assert_equal(chain, inputs, ll, offsets)
    r, _, _ = chain.smooth(inputs, ll.copy(), offsets)
    assert (r.log_likelihood > -760).all() and (r.gamma[offsets[1:] - 1, 2] > 1 - 1e-12).all()
