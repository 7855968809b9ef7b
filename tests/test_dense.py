"""The flat-chain kernels against enumeration and plain log-space recursions."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from dense_calls import assert_sequence, available, forward, offsets_of, reference, smooth
from oracles import enumerate_chain, log, log_viterbi, per_step, random_chain

from hiermm._ext import load


@pytest.fixture(params=available())
def dense(request):
    return load("dense", request.param)


@pytest.mark.parametrize("N", [1, 2, 3])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_enumeration(dense, N, T):
    rng = np.random.default_rng(10 * N + T)
    initial, A, ll = random_chain(rng, N, T, steps=T)
    truth, best, log_prob = enumerate_chain(initial, A, ll)
    offsets = offsets_of([T])
    out = smooth(dense, ll, offsets, initial, A)
    alpha, loglik, _ = forward(dense, ll, offsets, initial, A)
    np.testing.assert_allclose(out["loglik"], truth.loglik, rtol=0, atol=1e-12)
    np.testing.assert_allclose(loglik, truth.loglik, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out["gamma"], truth.gamma, rtol=0, atol=1e-12)
    np.testing.assert_allclose(alpha, truth.filtered, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out["xi_steps"], truth.xi, rtol=0, atol=1e-12)
    path, score = np.empty(T, np.int64), np.empty(1)
    dense.viterbi(ll, offsets, log(initial), log(A), None, path, score)
    np.testing.assert_array_equal(path, best)
    np.testing.assert_allclose(score, log_prob, rtol=0, atol=1e-12)


@pytest.mark.parametrize("N", [*range(1, 18), 23, 24, 27, 31, 32, 33, 40, 60, 61, 63, 64, 65, 70])
@pytest.mark.parametrize("kind", ["constant", "per step", "index"])
def test_any_size_and_mixed_lengths(dense, N, kind):
    """Sequences of many lengths, among them one step, in one call: all outputs, alias of gamma and ll included."""
    rng = np.random.default_rng(N)
    lengths = [1, 9, 5, 1, 30, 8, 2, 17, 16, 3, 7, 12, 11, 4, 10, 6, 25, 9, 9, 2]
    offsets, n = offsets_of(lengths), sum(lengths)
    L = {"constant": 1, "per step": n, "index": 3}[kind]
    initial, A, ll = random_chain(rng, N, n, steps=L)
    index = rng.integers(0, L, n) if kind == "index" else None
    if kind == "per step":
        A[offsets[:-1]] = np.nan  # rows that begin a sequence are not looked at
    out = smooth(dense, ll, offsets, initial, A, index)
    alpha, loglik, status = forward(dense, ll, offsets, initial, A, index)
    A = np.nan_to_num(A)
    xi = np.zeros_like(A)
    for s in range(len(lengths)):
        steps = assert_sequence(out, alpha, s, offsets, initial, A, index, ll, 1e-12)
        for t in range(1, lengths[s]):
            k = offsets[s] + t
            xi[0 if kind == "constant" else k if index is None else index[k]] += steps[t]
    np.testing.assert_allclose(out["xi"], xi, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(loglik, out["loglik"], rtol=1e-13, atol=1e-12)
    assert not status.any() and not out["status"].any()
    again = smooth(dense, ll.copy(), offsets, initial, A, index, steps=False, alias=True)
    np.testing.assert_allclose(again["gamma"], out["gamma"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(again["xi"], out["xi"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("variant", available())
@pytest.mark.parametrize("N", [2, 4, 9])
def test_long_sequences_beside_less_long_ones(variant, N):
    """A group just short enough to be kept whole takes more room than a longer one, which goes in segments."""
    dense, lanes = load("dense", variant), {"base": 2, "v3": 4, "v4": 8}[variant]
    whole = (6 << 20) // (2 * N * 2 * lanes * 8)  # steps that two vectors of lanes keep, see kept_rows
    lengths = [whole + 1_000] * (2 * lanes) + [whole - 100] * (2 * lanes)
    offsets = offsets_of(lengths)
    initial, A, ll = random_chain(np.random.default_rng(N), N, offsets[-1])
    out = smooth(dense, ll, offsets, initial, A, steps=False)
    for s in (0, len(lengths) - 1):
        rows = slice(offsets[s], offsets[s + 1])
        alone = smooth(dense, ll[rows], offsets_of(lengths[s : s + 1]), initial, A, steps=False)
        np.testing.assert_allclose(out["gamma"][rows], alone["gamma"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(out["loglik"][s], alone["loglik"][0], rtol=1e-12)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("alias", [True, False])
@pytest.mark.parametrize("N", [2, 4, 7, 8, 9, 16, 20, 32, 40, 64, 70])
def test_one_run_meets_in_the_middle(dense, N, alias, counts):
    """One sequence under a constant matrix without zeros goes from both ends; also as a block, and up to a step that
    is impossible."""
    rng = np.random.default_rng(N)
    before, after = rng.dirichlet(np.ones(N)), 1e-9 * rng.random(N)
    for T in [*range(2, 10), 41, 90]:
        initial, A, ll = random_chain(rng, N, T)
        whole = reference(initial, A, None, 0, T, ll)
        options = {"steps": False, "alias": alias, "counts": counts}
        out = smooth(dense, ll.copy(), offsets_of([T]), initial, A, **options)
        np.testing.assert_allclose(out["loglik"], whole.loglik, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(out["gamma"], whole.gamma, rtol=0, atol=1e-12)
        if counts:
            np.testing.assert_allclose(out["xi"][0], whole.xi.sum(axis=0), rtol=1e-12, atol=1e-12)
        block = smooth(dense, ll.copy(), offsets_of([T]), initial, A, None, before, after, **options)
        apart = smooth(dense, ll.copy(), offsets_of([T]), initial, A, None, before, after)  # there and back
        for name in ("loglik", "gamma", "beta_out", *(["xi"] if counts else [])):
            np.testing.assert_allclose(block[name], apart[name], rtol=1e-12, atol=1e-12, err_msg=name)
        for t in range(min(T, 9)):
            bad = ll.copy()
            bad[t] = -np.inf
            out = smooth(dense, bad, offsets_of([T]), initial, A, **options)
            assert out["status"][0] == -1 - t and out["loglik"][0] == -np.inf and not out["gamma"].any()


@pytest.mark.parametrize("alias", [True, False])
@pytest.mark.parametrize("N", [3, 16, 20, 70])
def test_what_is_no_number_is_not_called_impossible(dense, N, alias):
    initial, A, ll = random_chain(np.random.default_rng(N), N, 20)
    ll[7, 1] = np.nan
    out = smooth(dense, ll, offsets_of([20]), initial, A, steps=False, alias=alias)
    assert np.isnan(out["loglik"][0]) and out["status"][0] == 0


@pytest.mark.parametrize("lengths", [[10_000], [10_000, 3], [4_000] * 3, [700, 500, 300] * 5, [1] * 40])
@pytest.mark.parametrize("N", [2, 4, 5, 16, 20])
def test_long_sequences(dense, N, lengths):
    rng = np.random.default_rng(N)
    offsets, n = offsets_of(lengths), sum(lengths)
    initial, A, ll = random_chain(rng, N, n)
    A = np.ascontiguousarray(0.9 * np.eye(N) + 0.1 * A)
    ll -= 1e3 * np.abs(rng.standard_normal((n, 1)))
    out = smooth(dense, ll, offsets, initial, A, steps=False)
    alpha, _, _ = forward(dense, ll, offsets, initial, A)
    xi = np.zeros((N, N))
    for s in range(len(lengths)):
        xi += assert_sequence(out, alpha, s, offsets, initial, A, None, ll, 1e-9).sum(0)
    np.testing.assert_allclose(out["xi"][0], xi, rtol=1e-9)


@pytest.mark.parametrize("kind", ["constant", "per step", "index"])
@pytest.mark.parametrize("N", [1, 2, 3, 4, 5, 8, 9, 16, 27, 64])
@pytest.mark.parametrize("cuts", [[1], [11], [7, 8, 20]])
def test_blocks_equal_the_whole(dense, N, kind, cuts):
    rng = np.random.default_rng(N)
    T = 23
    L = {"constant": 1, "per step": T, "index": 3}[kind]
    initial, A, ll = random_chain(rng, N, T, steps=L)
    index = rng.integers(0, L, T) if kind == "index" else None
    whole = smooth(dense, ll, offsets_of([T]), initial, A, index)
    alpha, loglik, _ = forward(dense, ll, offsets_of([T]), initial, A, index)
    edges = [0, *cuts, T]
    carry, carries, total = None, [], 0.0
    for a, b in itertools.pairwise(edges):
        carries.append(carry)
        part = slice(a, b)
        matrices, which = (A[part], None) if kind == "per step" else (A, None if index is None else index[part])
        rows, block, _ = forward(dense, ll[part], offsets_of([b - a]), initial, matrices.copy(), which, carry)
        np.testing.assert_allclose(rows, alpha[part], rtol=0, atol=1e-12)
        carry, total = rows[-1].copy(), total + block[0]
    np.testing.assert_allclose(total, loglik[0], rtol=1e-12)
    message, xi = None, np.zeros_like(A)
    for a, b, carry in reversed(list(zip(edges[:-1], edges[1:], carries, strict=True))):
        part = slice(a, b)
        matrices, which = (A[part], None) if kind == "per step" else (A, None if index is None else index[part])
        scale = None if message is None else 1e5 * message
        out = smooth(dense, ll[part], offsets_of([b - a]), initial, matrices.copy(), which, carry, scale)
        np.testing.assert_allclose(out["gamma"], whole["gamma"][part], rtol=0, atol=1e-12)
        np.testing.assert_allclose(out["xi_steps"], whole["xi_steps"][part], rtol=0, atol=1e-12)
        xi[part if kind == "per step" else slice(None)] += out["xi"]
        if carry is not None:
            message = out["beta_out"]
            assert abs(message.sum() - 1) < 1e-12
            truth = per_step(A, index, a, b)[0] @ _later(A, index, ll, a, T)
            np.testing.assert_allclose(message, truth / truth.sum(), rtol=1e-11)
    np.testing.assert_allclose(xi, whole["xi"], rtol=1e-12, atol=1e-12)


def _later(A, index, ll, a, T):
    """Likelihood of rows a..T-1 by the state at row a."""
    w = np.exp(ll[T - 1])
    for t in range(T - 2, a - 1, -1):
        w = np.exp(ll[t]) * (per_step(A, index, t + 1, t + 2)[0] @ w)
        w /= w.sum()
    return w


@pytest.mark.parametrize("N", [1, 2, 3, 7, 8, 9, 16, 27, 64, 70])
@pytest.mark.parametrize("kind", ["constant", "per step", "index"])
def test_viterbi(dense, N, kind):
    rng = np.random.default_rng(N)
    lengths = [1, 40, 7]
    offsets, n = offsets_of(lengths), sum(lengths)
    L = {"constant": 1, "per step": n, "index": 3}[kind]
    initial, A, ll = random_chain(rng, N, n, steps=L)
    A[A < 0.2 / N] = 0  # forbidden moves
    index = rng.integers(0, L, n) if kind == "index" else None
    path, score = np.empty(n, np.int64), np.empty(3)
    dense.viterbi(ll, offsets, log(initial), log(A), index, path, score)
    for s in range(3):
        a, b = offsets[s], offsets[s + 1]
        best, top = log_viterbi(log(initial), log(per_step(A, index, a, b)), ll[a:b])
        np.testing.assert_array_equal(path[a:b], best)
        np.testing.assert_allclose(score[s], top, rtol=1e-13)


def test_sample_path_inverts_the_distribution_function(dense):
    rng = np.random.default_rng(5)
    initial, A, _ = random_chain(rng, 3, 1)
    A[0, 1] = [0, 1, 0]
    n, offsets = 60_000, offsets_of([20_000, 40_000])
    u, path = rng.random(n), np.empty(n, np.int64)
    dense.sample_path(initial, A, None, offsets, u, path)
    for k in [0, 20_000]:
        assert path[k] == np.searchsorted(np.cumsum(initial), u[k], side="right")
    moved = np.setdiff1d(np.arange(1, n), [20_000])
    expected = (u[moved, None] >= np.cumsum(A[0], axis=1)[path[moved - 1], :2]).sum(1)
    np.testing.assert_array_equal(path[moved], expected)
    dense.sample_path(initial, np.repeat(A, 2, axis=0), np.ones(n, np.int64), offsets, u, expected := path.copy())
    np.testing.assert_array_equal(path, expected)


@pytest.mark.parametrize(("N", "lengths"), [(11, [20_000] * 5 + [3, 9_000]), (25, [7, *[20_000] * 4])])
def test_groups_in_segments_equal_single_sequences(dense, N, lengths):
    """So long that the lanes keep only checkpoints and go through the sequences in segments."""
    rng = np.random.default_rng(N)
    offsets = offsets_of(lengths)
    initial, A, ll = random_chain(rng, N, offsets[-1])
    together = smooth(dense, ll, offsets, initial, A, steps=False)
    filtered, _, _ = forward(dense, ll, offsets, initial, A)
    xi = np.zeros_like(A)
    for s in range(len(lengths)):
        part = slice(offsets[s], offsets[s + 1])
        alone = smooth(dense, ll[part], offsets_of([lengths[s]]), initial, A, steps=False)
        np.testing.assert_allclose(together["gamma"][part], alone["gamma"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(together["loglik"][s], alone["loglik"][0], rtol=1e-13)
        rows, _, _ = forward(dense, ll[part], offsets_of([lengths[s]]), initial, A)
        np.testing.assert_allclose(filtered[part], rows, rtol=0, atol=1e-12)
        xi += alone["xi"]
    np.testing.assert_allclose(together["xi"], xi, rtol=1e-11)


def test_variants_agree():
    rng = np.random.default_rng(6)
    offsets = offsets_of([300, 200, 100] * 4)
    for N in [3, 8, 20]:
        initial, A, ll = random_chain(rng, N, offsets[-1])
        outs = [smooth(load("dense", v), ll, offsets, initial, A) for v in available()]
        for other in outs[1:]:
            for name in ["gamma", "loglik", "xi", "xi_steps"]:
                np.testing.assert_allclose(other[name], outs[0][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": np.ones(3)}, "initial must have shape"),
        ({"A": np.ones((2, 2, 2))}, "A must hold 1 or 4 matrices"),
        ({"A": np.ones((1, 2, 3))}, "A must have shape"),
        ({"offsets": np.array([0, 3])}, "offsets must run from 0"),
        ({"offsets": np.array([0, 2, 2, 4])}, "sequence 1 is empty"),
        ({"index": np.array([0, 0, 1, 0])}, "index must lie in 0..0, row 2 has 1"),
        ({"gamma": np.ones((3, 2))}, "gamma must have shape"),
        ({"alpha_in": np.ones(2), "offsets": np.array([0, 2, 4])}, "block of one sequence"),
        ({"beta_out": np.ones(2)}, "beta_out needs alpha_in"),
    ],
)
def test_shapes_are_refused(dense, change, message):
    given = dict(
        ll=np.zeros((4, 2)),
        offsets=np.array([0, 4]),
        initial=np.full(2, 0.5),
        A=np.full((1, 2, 2), 0.5),
        index=None,
        alpha_in=None,
        beta_in=None,
        gamma=np.empty((4, 2)),
        loglik=np.empty(1),
        status=np.empty(1, np.int64),
    )
    given.update(change)
    if len(given["offsets"]) != 2:
        given.update(loglik=np.empty(len(given["offsets"]) - 1), status=np.empty(len(given["offsets"]) - 1, np.int64))
    with pytest.raises(ValueError, match=message):
        dense.smooth(**given)


def test_threads_share_scratch_and_nothing_else(dense):
    calls = []
    for seed, (N, lengths) in enumerate(
        [(4, [300] * 20), (16, [400] * 16), (64, [100] * 9), (33, [900]), (7, [50] * 40)]
    ):
        r = np.random.default_rng(seed)
        rows = sum(lengths)
        initial, A = r.dirichlet(np.ones(N)), r.dirichlet(np.ones(N), (1, N))
        calls.append((r.normal(size=(rows, N)), offsets_of(lengths), initial, A))
    want = [smooth(dense, *call, steps=False) for call in calls]

    def again(number):
        return number % 5, smooth(dense, *calls[number % 5], steps=False)

    with ThreadPoolExecutor(6) as pool:
        for which, got in pool.map(again, range(150)):
            for name in ("gamma", "loglik", "xi"):
                np.testing.assert_array_equal(got[name], want[which][name])
