"""The flat-chain kernels where scaled recursions break: lost states, zeros, impossible and far-away data."""

import numpy as np
import pytest
from dense_calls import assert_sequence, available, forward, offsets_of, smooth
from oracles import log, log_chain, random_chain

from hiermm._ext import load


@pytest.fixture(params=available())
def dense(request):
    return load("dense", request.param)


def extinct():
    """The answer is -800.693: the state that the first step rules out is the one that the second needs."""
    return np.array([0.5, 0.5]), np.eye(2)[None], np.array([[-800.0, 0.0], [0.0, -2000.0]])


def test_extinct_state_is_redone_in_log_space(dense):
    initial, A, ll = extinct()
    out = smooth(dense, ll, offsets_of([2]), initial, A)
    alpha, loglik, status = forward(dense, ll, offsets_of([2]), initial, A)
    assert out["status"][0] == 1 and status[0] == 1 + 2
    np.testing.assert_allclose([out["loglik"][0], loglik[0]], -800 - np.log(2), rtol=1e-14)
    np.testing.assert_allclose(out["gamma"], [[1, 0], [1, 0]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(out["xi"][0], [[1, 0], [0, 0]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(alpha, [[0, 1], [1, 0]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("fill", [0, 3, 19])
@pytest.mark.parametrize("alias", [False, True])
def test_extinct_state_among_others_is_counted_once(dense, fill, alias):
    """One sequence of many is redone; the sums and the rows of its neighbours are as without it."""
    rng = np.random.default_rng(fill)
    initial, A, bad = extinct()
    rows = [2 * rng.standard_normal((2 + k % 4, 2)) for k in range(fill)]
    rows.insert(fill // 2, bad)
    ll, offsets = np.concatenate(rows), offsets_of([len(r) for r in rows])
    out = smooth(dense, ll.copy(), offsets, initial, A, steps=not alias, alias=alias)
    alpha, _, status = forward(dense, ll, offsets, initial, A)
    xi = sum(assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-12).sum(0) for s in range(len(rows)))
    np.testing.assert_allclose(out["xi"][0], xi, rtol=0, atol=1e-12)
    assert out["status"][fill // 2] == 1 and out["status"].sum() == 1
    assert (status & 1).tolist() == out["status"].tolist()


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_wild_ranges_and_zeros(dense, seed, steps):
    """Sparse chains, differences of hundreds of nats, impossible entries, tiny probabilities: exact or impossible."""
    rng = np.random.default_rng(seed)
    N, lengths = int(rng.integers(2, 7)), rng.integers(1, 9, size=int(rng.integers(1, 30)))
    offsets, n = offsets_of(lengths), int(lengths.sum())
    initial, A, ll = random_chain(
        rng, N, n, concentration=rng.choice([0.003, 0.02, 1.0]), spread=rng.choice([1, 150, 600])
    )
    A[rng.random(A.shape) < 0.3] = 0
    A[0, :, 0] += 1e-200
    A /= A.sum(-1, keepdims=True)
    initial[rng.random(N) < 0.3] = 0
    initial[rng.integers(N)] += 0.5
    initial /= initial.sum()
    ll[rng.random(ll.shape) < 0.1] = -np.inf
    out = smooth(dense, ll, offsets, initial, A, steps=steps)
    alpha, loglik, status = forward(dense, ll, offsets, initial, A)
    xi = np.zeros((N, N))
    for s in range(len(lengths)):
        part = slice(offsets[s], offsets[s + 1])
        if out["status"][s] >= 0:
            xi += assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-11).sum(0)
            continue
        t = -1 - out["status"][s]
        assert status[s] == out["status"][s] and loglik[s] == out["loglik"][s] == -np.inf
        assert not out["gamma"][part].any() and not alpha[part].any()
        assert not steps or not out["xi_steps"][part].any()
        with np.errstate(invalid="ignore"):
            repeated = np.repeat(A, lengths[s], axis=0)
            assert log_chain(initial, repeated[: t + 1], ll[part][: t + 1]).loglik == -np.inf
            assert t == 0 or log_chain(initial, repeated[:t], ll[part][:t]).loglik > -np.inf
    np.testing.assert_allclose(out["xi"][0], xi, rtol=1e-11, atol=1e-11)
    assert np.all(out["xi"][A == 0] == 0)


def test_one_far_outlier_and_a_shift_of_all_states(dense):
    rng = np.random.default_rng(0)
    initial, A, ll = random_chain(rng, 4, 50)
    plain = smooth(dense, ll, offsets_of([50]), initial, A)
    ll[20] -= 800
    ll[30] += 1e5
    shifted = smooth(dense, ll, offsets_of([50]), initial, A)
    np.testing.assert_allclose(shifted["loglik"], plain["loglik"] - 800 + 1e5, rtol=1e-13)
    np.testing.assert_allclose(shifted["gamma"], plain["gamma"], rtol=0, atol=1e-12)
    ll[25] = [-1e5, -1e6, -2e6, -3e6]
    outlier = smooth(dense, ll, offsets_of([50]), initial, A)
    truth = log_chain(initial, np.repeat(A, 50, axis=0), ll)
    np.testing.assert_allclose(outlier["loglik"], truth.loglik, rtol=1e-13)
    np.testing.assert_allclose(outlier["gamma"], truth.gamma, rtol=0, atol=1e-9)
    assert outlier["status"][0] == 0


@pytest.mark.parametrize("steps", [False, True])
def test_left_right_chain_keeps_its_zeros(dense, steps):
    N, T = 6, 40
    rng = np.random.default_rng(1)
    A = (0.8 * np.eye(N) + 0.2 * np.eye(N, k=1))[None]
    A[0, -1, -1] = 1
    initial, ll = np.eye(N)[0], 3 * rng.standard_normal((20 * T, N))
    offsets = offsets_of([T] * 20)
    out = smooth(dense, ll, offsets, initial, A, steps=steps)
    alpha, _, _ = forward(dense, ll, offsets, initial, A)
    for s in range(20):
        assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-12)
    assert not out["status"].any()
    assert np.all(out["xi"][A == 0] == 0) and np.all(alpha[0::T, 1:] == 0) and np.all(out["gamma"][0::T, 1:] == 0)


@pytest.mark.parametrize("steps", [False, True])
def test_states_out_of_reach_do_not_disturb_the_way_back(dense, steps):
    """The unreachable state explains the data better by 100 nats a step; it must not push the others out of range."""
    initial, A = np.array([1.0, 0.0, 0.0]), np.array([[[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1.0]]])
    ll = np.random.default_rng(2).standard_normal((20 * 60, 3))
    ll[:, 2] += 100
    offsets = offsets_of([60] * 20)
    out = smooth(dense, ll, offsets, initial, A, steps=steps)
    alpha, _, _ = forward(dense, ll, offsets, initial, A)
    for s in range(20):
        assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-12)
    assert not out["status"].any() and np.all(out["gamma"][:, 2] == 0)


def test_impossible_steps_are_named(dense):
    rng = np.random.default_rng(3)
    initial, A, ll = random_chain(rng, 3, 30)
    ll[14] = -np.inf  # step 4 of sequence 1
    out = smooth(dense, ll, offsets_of([10, 10, 10]), initial, A)
    assert out["status"].tolist() == [0, -5, 0] and out["loglik"][1] == -np.inf
    assert not out["gamma"][10:20].any() and not out["xi_steps"][10:20].any()
    assert abs(out["xi"].sum() - 18) < 1e-12
    path, score = np.empty(30, np.int64), np.empty(3)
    dense.viterbi(ll, offsets_of([10, 10, 10]), log(initial), log(A), None, path, score)
    assert (
        score[1] == -np.inf
        and np.all(path[10:20] == -1)
        and np.all(path[:10] >= 0)
        and np.isfinite(score[[0, 2]]).all()
    )


def test_later_rows_can_make_a_block_impossible(dense):
    initial, A, ll = np.array([1.0, 0.0]), np.eye(2)[None], np.zeros((3, 2))
    out = smooth(dense, ll, offsets_of([3]), initial, A, beta_in=np.array([0.0, 1.0]))
    assert out["status"][0] == -4 and not out["gamma"].any() and not out["xi"].any()


def test_forward_says_when_plain_numbers_cannot_carry_on(dense):
    initial, A, ll = extinct()
    assert forward(dense, ll[:1], offsets_of([1]), initial, A)[2][0] == 2
    assert forward(dense, ll[:1], offsets_of([1]), initial, np.full((1, 2, 2), 0.5))[2][0] == 0
    assert forward(dense, np.zeros((1, 2)), offsets_of([1]), np.array([1.0, 0.0]), A)[2][0] == 0


def fading(rng, N, power):
    """A chain as EM makes them: most moves are far below the range that plain products stand."""
    A = rng.dirichlet(np.ones(N), (1, N)) ** rng.uniform(1, power, (1, N, N))
    A[0, np.arange(N), np.arange(N)] = 0.5
    return A / A.sum(-1, keepdims=True)


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("N", [2, 3, 5, 8, 11, 33])
@pytest.mark.parametrize("lengths", [[60], [60] * 20, [5, 90, 33, 17, 64, 2] * 3])
def test_tiny_transitions_need_no_logarithms(dense, N, lengths, alias):
    rng = np.random.default_rng(N)
    offsets, A = offsets_of(lengths), fading(rng, N, 300)
    A[0, 0, 1], A[0, 1, 0] = 0.0, 1e-150
    ll, initial = 2 * rng.standard_normal((offsets[-1], N)), np.full(N, 1 / N)
    out = smooth(dense, ll.copy(), offsets, initial, A, steps=not alias, alias=alias)
    alpha, _, _ = forward(dense, ll, offsets, initial, A)
    xi = sum(assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-11).sum(0) for s in range(len(lengths)))
    assert A[A > 0].min() < 1e-95 and not out["status"].any()
    np.testing.assert_allclose(out["xi"][0], xi, rtol=0, atol=1e-10)
    assert np.all(out["xi"][A == 0] == 0)
    loglik, status = np.empty(len(lengths)), np.empty(len(lengths), np.int64)
    dense.forward(ll, offsets, initial, A, None, None, None, loglik, status)
    np.testing.assert_allclose(loglik, out["loglik"], rtol=1e-13)
    assert not status.any()


TABLES = ["a few", "many", "a step"]


def tables(rng, kind, n, table):
    """Tables made by `table()` and the index of each step: fewer than the steps of a group, more, or one a step."""
    L = {"a few": 3, "many": 2 * n, "a step": n}[kind]
    return np.concatenate([table() for _ in range(L)]), None if kind == "a step" else rng.integers(0, L, n)


def assert_tables(dense, ll, offsets, initial, A, index, alias, tolerance=1e-11):
    """Kernels equal log space and keep zeros, under one table or more; returns the status."""
    out = smooth(dense, ll.copy(), offsets, initial, A, index, steps=not alias, alias=alias)
    alpha, _, _ = forward(dense, ll, offsets, initial, A, index)
    moves = [assert_sequence(out, alpha, s, offsets, initial, A, index, ll, tolerance) for s in range(len(offsets) - 1)]
    xi = np.zeros(A.shape)
    which = index if index is not None else np.arange(len(ll)) if len(A) > 1 else np.zeros(len(ll), int)
    np.add.at(xi, which, np.concatenate(moves))
    np.testing.assert_allclose(out["xi"], xi, rtol=0, atol=10 * tolerance)
    assert not out["xi"][A == 0].any()
    return out["status"]


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("N", [2, 4, 6])
def test_tiny_entries_of_tables_need_no_logarithms(dense, N, kind, alias):
    rng = np.random.default_rng(N)
    offsets = offsets_of([40, 5, 33, 17, 40, 2, 38, 40, 36] * 2)
    A, index = tables(rng, kind, offsets[-1], lambda: fading(rng, N, 300))
    A[:, 0, 1] = rng.choice([0.0, 1e-120, 1e-300], len(A))
    ll, initial = 2 * rng.standard_normal((offsets[-1], N)), np.full(N, 1 / N)
    assert not assert_tables(dense, ll, offsets, initial, A, index, alias).any()


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("seed", range(6))
def test_data_that_call_back_what_tables_had_ruled_out(dense, seed, kind, alias):
    rng = np.random.default_rng(seed)
    N, offsets = int(rng.integers(2, 7)), offsets_of(rng.integers(20, 40, size=16))
    A, index = tables(rng, kind, offsets[-1], lambda: fading(rng, N, 300))
    A[rng.random(A.shape) < 0.2] = 0
    A[:, np.arange(N), np.arange(N)] += 1e-90
    ll, initial = rng.standard_normal((offsets[-1], N)), rng.dirichlet(np.ones(N))
    for s in range(0, 16, 2):
        for row in rng.integers(offsets[s], offsets[s + 1], size=4):
            ll[row] = -np.abs(rng.normal(scale=1500, size=N))
    assert set(assert_tables(dense, ll, offsets, initial, A, index, alias, 1e-10)) == {0, 1}


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("kind", TABLES)
def test_states_that_tables_keep_apart(dense, kind, alias):
    """The data may favour them as they like: they stay at zero, and on the way back they do not outweigh the others."""
    rng = np.random.default_rng(4)
    offsets = offsets_of([30] * 17)

    def table():
        A = np.triu(rng.dirichlet(np.ones(4), (1, 4)))
        A[0, :, 3] = 0.0, 0.0, 0.0, 1.0
        return A / A.sum(-1, keepdims=True)

    A, index = tables(rng, kind, offsets[-1], table)
    ll = rng.standard_normal((offsets[-1], 4))
    ll[:, 3] += 100
    out = smooth(dense, ll, offsets, np.eye(4)[0], A, index)
    assert not assert_tables(dense, ll, offsets, np.eye(4)[0], A, index, alias).any()
    assert not out["gamma"][:, 3].any() and not out["gamma"][offsets[:-1], 1:].any()


@pytest.mark.parametrize("alias", [False, True])
def test_an_impossible_step_among_tiny_tables(dense, alias):
    """Only dust could be where the data want the chain to be."""
    rng = np.random.default_rng(5)
    A, offsets, index = np.array([np.eye(2), [[1, 1e-300], [0, 1.0]]]), offsets_of([12] * 16), np.zeros(12 * 16, int)
    ll = rng.standard_normal((12 * 16, 2))
    ll[12 * 3 + 4, 0] = ll[12 * 3 + 7, 1] = -np.inf
    out = smooth(dense, ll.copy(), offsets, np.array([1.0, 0.0]), A, index, steps=not alias, alias=alias)
    assert out["status"].tolist() == [0] * 3 + [-5] + [0] * 12 and out["loglik"][3] == -np.inf
    assert not out["gamma"][36:48].any() and out["xi"].tolist() == [[[15 * 11, 0], [0, 0]], [[0, 0], [0, 0]]]
    index[12 * 3 + 2] = 1
    out = smooth(dense, ll.copy(), offsets, np.array([1.0, 0.0]), A, index, steps=not alias, alias=alias)
    assert out["status"][3] == -8 and out["loglik"][3] == -np.inf and not out["xi"][1].any()


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_data_that_call_back_what_underflow_took(dense, seed, alias):
    """Some sequences of a group favour, late, states that tiny transitions had ruled out; their neighbours do not."""
    rng = np.random.default_rng(seed)
    N, lengths = int(rng.integers(2, 9)), rng.integers(1, 40, size=16)
    offsets, A = offsets_of(lengths), fading(rng, N, 300)
    ll, initial = rng.standard_normal((offsets[-1], N)), rng.dirichlet(np.ones(N))
    for s in np.flatnonzero(rng.random(16) < 0.4):
        for row in rng.integers(offsets[s], offsets[s + 1], size=3):
            ll[row] = -np.abs(rng.normal(scale=900, size=N))
    out = smooth(dense, ll.copy(), offsets, initial, A, steps=not alias, alias=alias)
    alpha, loglik, _ = forward(dense, ll, offsets, initial, A)
    xi = sum(assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-10).sum(0) for s in range(16))
    np.testing.assert_allclose(out["xi"][0], xi, rtol=0, atol=1e-9)
    np.testing.assert_allclose(loglik, out["loglik"], rtol=1e-12)
    assert seed != 0 or set(out["status"]) == {0, 1}


def test_a_judged_row_keeps_what_other_matrices_may_want(dense):
    """All matrices of this block are positive; those of the next may not be."""
    ll = np.array([[0.0, 0.0], [0.0, -2000.0]])
    for A in (np.full((2, 2, 2), 0.5), np.array([np.full((2, 2), 0.5), np.eye(2)])):
        alpha, loglik, status = np.empty((2, 2)), np.empty(1), np.empty(1, np.int64)
        dense.forward(ll, offsets_of([2]), np.full(2, 0.5), A, None, None, alpha, loglik, status, True)
        assert status[0] == 0 and 0 < alpha[1, 1] < 1e-100
    ll[1, 1] = -np.inf
    dense.forward(ll, offsets_of([2]), np.full(2, 0.5), A, None, None, alpha, loglik, status, True)
    assert alpha[1, 1] == 0


def test_likelihoods_alone_do_not_depend_on_what_memory_held(dense):
    A = np.array([[[1, 1e-150, 0], [1e-150, 1, 1e-150], [0, 1e-150, 1.0]]])
    ll, found = np.random.default_rng(0).standard_normal((20, 3)), set()
    for fill in (0.0, np.nan, np.inf):
        for _ in range(20):
            held = [np.full(43 * 8 + k, fill) for k in range(-8, 60, 4)]
            del held
            loglik, status = np.empty(1), np.empty(1, np.int64)
            dense.forward(ll, offsets_of([20]), np.eye(3)[0], A, None, None, None, loglik, status)
            found.add((int(status[0]), float(loglik[0])))
    assert len(found) == 1


def growing_dust(m):
    """Log-likelihoods of m sequences of 30 steps; every other one ends in the state that tiny transitions rule out."""
    ll = np.zeros((30 * m, 2))
    for s in range(0, m, 2):
        ll[30 * s + 3 : 30 * s + 6, 1] = -100.0
        ll[30 * s + 10 : 30 * s + 20, 0] = -100.0
    return ll, offsets_of([30] * m), np.array([1.0, 1e-300])


@pytest.mark.parametrize("m", [1, 16])
def test_dust_that_grows_is_found_out(dense, m):
    """No step alone is out of range, but together they make the state that underflow took the only one that matters."""
    A = np.array([[[1.0, 1e-250], [1e-250, 1.0]]])
    ll, offsets, initial = growing_dust(m)
    for alias in (False, True):
        out = smooth(dense, ll.copy(), offsets, initial, A, steps=False, alias=alias)
        alpha, loglik, _ = forward(dense, ll, offsets, initial, A)
        for s in range(m):
            assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-11)
        assert out["status"].tolist() == ([1, 0] * m)[:m]
    dense.forward(ll, offsets, initial, A, None, None, None, loglik, np.empty(m, np.int64))
    np.testing.assert_allclose(loglik, out["loglik"], rtol=1e-13)


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("kind", TABLES)
def test_dust_that_grows_under_tables_is_found_out(dense, kind, alias):
    ll, offsets, initial = growing_dust(16)
    A, index = tables(np.random.default_rng(6), kind, len(ll), lambda: np.array([[[1.0, 1e-250], [1e-250, 1.0]]]))
    assert assert_tables(dense, ll, offsets, initial, A, index, alias).tolist() == [1, 0] * 8


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("kind", TABLES)
def test_a_state_two_tiny_moves_away_stays_within_reach(dense, kind, alias):
    """Its mass, 1e-400, is zero in doubles, where other zeros are true ones; then the way back loses it as well."""
    A = np.array([[[1, 1e-200, 0, 0], [0, 1, 1e-200, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]])
    offsets, ll = offsets_of([30] * 16), np.zeros((30 * 16, 4))
    for a in offsets[:-1:2]:
        ll[a + 6 : a + 26, :2] = -100.0
        ll[a + 27, 2] = -720.0
    A, index = tables(np.random.default_rng(7), kind, len(ll), lambda: A)
    assert assert_tables(dense, ll, offsets, np.eye(4)[0], A, index, alias).tolist() == [1, 0] * 8


def subnormal_way(where, how, m):
    """What one in 1e310 does explains the data: numbers that the scaled recursions hold for zero."""
    initial, A, ll = np.array([1.0, 0.0]), np.eye(2)[None], np.zeros((60 * m, 2))
    if where == "initial":
        initial[1] = 1e-310
    else:
        A[0, 0, 1] = 1e-310
    if how == "at once":
        ll[5::60, 0] = -np.inf
    else:  # no step alone is out of range
        ll[:, 0] = -25.0
    return initial, A, ll, offsets_of([60] * m)


@pytest.mark.parametrize("where", ["initial", "move"])
@pytest.mark.parametrize("how", ["at once", "little by little"])
@pytest.mark.parametrize("kind", ["constant", *TABLES])
@pytest.mark.parametrize("m", [1, 16])
def test_subnormal_probabilities_are_not_zero(dense, m, kind, how, where):
    initial, A, ll, offsets = subnormal_way(where, how, m)
    index = None
    if kind != "constant":
        A, index = tables(np.random.default_rng(0), kind, len(ll), lambda: A)
    assert (assert_tables(dense, ll, offsets, initial, A, index, False) == 1).all()
    _, loglik, _ = forward(dense, ll, offsets, initial, A, index)
    if how == "at once":
        np.testing.assert_allclose(loglik, np.log(1e-310 * (1 if where == "initial" else 5)), rtol=1e-14)
    assert (loglik > -800).all()


@pytest.mark.parametrize("m", [1, 16])
def test_the_caller_keeps_subnormal_numbers(dense, m):
    """Kernels that hold them for zero do so for themselves alone."""
    initial, A, ll, offsets = subnormal_way("move", "at once", m)
    for data in (ll, np.zeros_like(ll), np.full_like(ll, -np.inf)):
        for maps in (A, np.repeat(A, len(ll), axis=0)):
            smooth(dense, data, offsets, initial, maps)
            forward(dense, data, offsets, initial, maps)
            assert (np.full(16, 1e-310) * 0.5 > 0).all()


@pytest.mark.parametrize("A", [np.eye(2)[None], np.full((1, 2, 2), 0.5)])
def test_messages_of_any_scale(dense, A):
    """Scaled by 2^-1000 they are subnormal, but for the largest entries."""
    ll, initial, message = np.zeros((5, 2)), np.array([0.5, 0.5]), np.array([1.0, 2.0**-40])
    for scale in (1.0, 2.0**-1000, 2.0**-1020):
        out = smooth(dense, ll, offsets_of([5]), initial, A, beta_in=message * scale)
        np.testing.assert_allclose(out["gamma"][-1], message / message.sum(), rtol=1e-12)
