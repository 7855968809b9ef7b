"""Structured inference against the enumerated joint chain."""

import itertools

import numpy as np
import oracles
import oracles_multiscale as om
import pytest
from cases_multiscale import Case, assert_exact, ms

from hiermm._ext import VARIANT, load

SIZES = [(3,), (2, 3), (3, 2), (2, 2, 3), (2, 3, 1, 2)]
WIDE = [(9,), (4, 4), (2, 3, 5), (5, 2, 2, 2), (3, 3, 3), (3, 9), (2, 16), (2, 4, 4), (1,), (4, 2, 4), (2, 8, 3)]
CASES = list(itertools.product(SIZES, (-1, 0, 1), (False, True)))


@pytest.mark.parametrize("kind", ["one", "steps", "index"])
@pytest.mark.parametrize(("sizes", "parent", "periodic"), CASES)
def test_smooth_equals_joint_chain(sizes, parent, periodic, kind):
    case = Case(sizes, parent, periodic, kind)
    out = case.smooth()
    assert np.all(out["status"] == 0)
    assert_exact(case, out)


@pytest.mark.parametrize("parent", [-1, 0, 1])
@pytest.mark.parametrize("sizes", WIDE)
def test_sizes_that_fill_or_break_vectors(sizes, parent):
    for kind, narrow in (("one", False), ("steps", True)):
        case = Case(sizes, parent, len(sizes) > 2, kind, lengths=(5, 1, 3), narrow=narrow)
        assert_exact(case, case.smooth())


@pytest.mark.parametrize(("sizes", "parent", "periodic"), CASES)
def test_forward_equals_joint_chain(sizes, parent, periodic):
    for kind, narrow in (("one", True), ("steps", False), ("index", True)):
        case = Case(sizes, parent, periodic, kind, narrow=narrow)
        alpha, loglik, status = case.forward()
        assert np.all(status == 0)
        for q, (start, stop) in enumerate(case.runs()):
            want = case.reference(start, stop)
            assert loglik[q] == pytest.approx(want.loglik, rel=1e-12, abs=1e-12)
            np.testing.assert_allclose(alpha[start:stop], want.filtered, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sizes", "parent", "periodic"), CASES)
def test_emission_on_some_levels_only(sizes, parent, periodic):
    case = Case(sizes, parent, periodic, "one", narrow=True)
    assert_exact(case, case.smooth())


@pytest.mark.parametrize(("sizes", "parent", "periodic"), CASES)
def test_viterbi_equals_joint_chain(sizes, parent, periodic):
    for kind, narrow in (("one", False), ("steps", True), ("index", False)):
        case = Case(sizes, parent, periodic, kind, lengths=(12, 1, 7), narrow=narrow)
        case.ll += 1e-3 * case.rng.standard_normal(case.ll.shape)
        path, log_prob = np.full(case.n, 99), np.full(3, np.nan)
        ms.viterbi(case.ll, case.offsets, np.log(case.initial), np.log(case.A), case.index, *case.geometry(), case.emit,
                   path, log_prob)  # fmt: skip
        for q, (start, stop) in enumerate(case.runs()):
            ll = case.ll[start:stop][:, case.emit]
            log_A = oracles.log(case.matrices(start, stop))
            _, value = oracles.log_viterbi(np.log(case.initial), log_A, ll)
            got = path[start:stop]
            mine = np.log(case.initial)[got[0]] + ll[np.arange(len(ll)), got].sum()
            mine += sum(log_A[t][got[t - 1], got[t]] for t in range(1, len(ll)))
            assert log_prob[q] == pytest.approx(value, rel=1e-12)
            assert mine == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("sizes", "parent", "periodic"), CASES)
def test_blocks_equal_the_whole(sizes, parent, periodic, narrow):
    case = Case(sizes, parent, periodic, "steps", lengths=(11,), narrow=narrow)
    whole = case.smooth()
    alpha, loglik, _ = case.forward()
    message, total, xi = None, 0.0, np.zeros_like(case.A)
    for start, stop in ((7, 11), (3, 7), (0, 3)):
        before = alpha[start - 1] if start else None
        gamma, ll1, status = np.empty((stop - start, case.N)), np.empty(1), np.empty(1, int)
        steps, out = np.empty((stop - start, case.A.shape[1])), np.empty(case.N) if start else None
        filtered = np.empty_like(gamma)
        block = (case.ll[start:stop], np.array([0, stop - start]), case.initial, case.A[start:stop].copy(), None,
                 *case.geometry(), case.emit, start)  # fmt: skip
        ms.forward(*block, before, filtered, ll1, status)
        np.testing.assert_allclose(filtered, alpha[start:stop], rtol=0, atol=1e-13)
        part = np.zeros((stop - start, case.A.shape[1]))
        ms.smooth(*block, before, message, gamma, ll1, status, xi=part, xi_steps=steps, beta_out=out)
        np.testing.assert_allclose(gamma, whole["gamma"][start:stop], rtol=0, atol=1e-13)
        np.testing.assert_allclose(steps, whole["xi_steps"][start:stop], rtol=0, atol=1e-13)
        xi[start:stop] = part
        total += ll1[0]
        message = None if out is None else 7.5 * out
        if out is not None:
            assert out.sum() == pytest.approx(1, abs=1e-14)
    assert total == pytest.approx(loglik[0], rel=1e-13)
    np.testing.assert_allclose(xi, whole["xi"], rtol=0, atol=1e-13)


def test_posteriors_may_take_the_place_of_the_likelihoods():
    for sizes in ((4, 4), (2, 3), (3, 2, 4)):
        case = Case(sizes, lengths=(70, 1, 40))
        want = case.smooth()
        got = case.smooth(gamma=case.ll)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_results_may_be_left_out():
    case = Case((2, 3), -1, True, "index", narrow=True)
    want = case.smooth()
    m = len(want["loglik"])
    args = (case.ll, case.offsets, case.initial, case.A, case.index, *case.geometry(), case.emit, 0, None)
    loglik, status, xi, columns = np.empty(m), np.empty(m, int), np.ones_like(case.A), np.empty_like(case.ll)
    ms.smooth(*args, None, None, loglik, status, xi=xi, gamma_emit=columns)
    np.testing.assert_array_equal(loglik, want["loglik"])
    np.testing.assert_allclose(xi - 1, want["xi"], atol=1e-13)
    np.testing.assert_array_equal(columns, want["gamma_emit"])
    again = np.empty(m)
    ms.forward(*args, None, again, status)
    np.testing.assert_array_equal(again, loglik)


def test_long_sequence_to_nine_digits():
    case = Case((2, 3), -1, True, lengths=(10_000,))
    out = case.smooth()
    want = case.reference(0, 10_000)
    assert out["loglik"][0] == pytest.approx(want.loglik, rel=1e-12)
    # The reference carries logarithms of size 1e4, good to 1e-12 a step; its errors add up along the sequence.
    np.testing.assert_allclose(out["gamma"], want.gamma, rtol=0, atol=1e-9)
    xi = om.level_counts(want.xi, case.sizes, -1, case.periods).sum(0)
    np.testing.assert_allclose(out["xi"][0], xi, rtol=1e-9, atol=1e-8)


def test_sampling_inverts_the_distribution_functions():
    for parent, kind in itertools.product((-1, 0, 1), ("one", "steps", "index")):
        case = Case((2, 3, 2), parent, True, kind, lengths=(50, 1, 20))
        uniforms = case.rng.random((case.n, 4))
        path = np.empty(case.n, int)
        ms.sample_path(case.initial, case.A, case.index, *case.geometry(), case.offsets, uniforms, path)
        rows = oracles.per_step(case.A, case.index, 0, case.n)
        states = om.states_of(case.sizes)
        for start, stop in case.runs():
            assert path[start] == np.searchsorted(np.cumsum(case.initial), uniforms[start, 0], side="right")
            for k in range(start + 1, stop):
                x = states[path[k - 1]]
                for s, level in enumerate(om.unpack(rows[k], case.sizes, parent)):
                    p = om.parent_of(s, 3, parent)
                    row = level[0 if p is None else x[p], x[s]]
                    new = np.searchsorted(np.cumsum(row), uniforms[k, 1 + s], side="right")
                    assert states[path[k], s] == (new if (k - start) % case.periods[s] == 0 else x[s])


def test_sampling_never_takes_a_zero():
    A, path = np.array([[0.0, 1.0, 1.0, 0.0]]), np.empty(4, int)
    for u in (0.0, 1.0 - 2**-53):
        uniforms = np.full((4, 2), u)
        ms.sample_path(np.array([1.0, 0.0]), A, None, np.array([2]), 0, np.array([1]), np.array([0, 4]), uniforms, path)
        np.testing.assert_array_equal(path, [0, 1, 0, 1])


@pytest.mark.parametrize("variant", sorted({"base", "v3", VARIANT} if VARIANT == "v4" else {"base", VARIANT}))
def test_variants_agree(variant):
    for sizes, parent in itertools.product(((4, 4, 4), (3, 2, 3), (2, 5)), (-1, 0, 1)):
        case = Case(sizes, parent, len(sizes) == 3, lengths=(60, 3))
        want, got = case.smooth(), case.smooth(load("multiscale", variant))
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_no_sequences():
    case = Case((2, 3), lengths=())
    out = case.smooth()
    assert out["loglik"].shape == (0,) and np.all(out["xi"] == 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.ones((1, 5))}, "A must have shape"),
        ({"A": np.full((2, 22), 0.5)}, "1 or 15 rows"),
        ({"initial": np.ones(5)}, "initial and emit"),
        ({"emit": np.arange(6) + 1}, "emit must lie"),
        ({"offsets": np.array([0, 3])}, "offsets"),
        ({"offsets": np.array([0, 9, 9, 15])}, "offsets"),
        ({"index": np.full(15, 1)}, "index"),
        ({"periods": (0, 1)}, "periods"),
        ({"parent": 2}, "parent"),
        ({"sizes": (0, 3)}, "sizes"),
    ],
)
def test_refusals(change, message):
    case = Case((2, 3))
    for name, value in change.items():
        setattr(case, name, value)
    m = len(case.offsets) - 1
    with pytest.raises(ValueError, match=message):
        ms.forward(case.ll, case.offsets, case.initial, case.A, case.index, *case.geometry(), case.emit, 0, None, None,
                   np.empty(m), np.empty(m, int))  # fmt: skip


def test_refusals_of_blocks_and_results():
    case = Case((2, 3))
    args = (case.ll, case.offsets, case.initial, case.A, case.index, *case.geometry(), case.emit)
    loglik, status = np.empty(3), np.empty(3, int)
    with pytest.raises(ValueError, match="alpha_in"):
        ms.forward(*args, 0, case.initial, None, loglik, status)
    with pytest.raises(ValueError, match="t0"):
        ms.forward(*args, 1, None, None, loglik, status)
    with pytest.raises(ValueError, match="gamma must"):
        ms.smooth(*args, 0, None, None, np.empty((3, 6)), loglik, status)
    with pytest.raises(ValueError, match="xi must"):
        ms.smooth(*args, 0, None, None, None, loglik, status, xi=np.zeros((1, 3)))
    with pytest.raises(ValueError, match="loglik"):
        ms.smooth(*args, 0, None, None, None, loglik[:2], status)
