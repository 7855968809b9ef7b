"""Many sequences at once: the same numbers as one by one, whatever their lengths and whatever befalls some of them."""

import numpy as np
import oracles_multiscale as om
import pytest
from cases_multiscale import Case, assert_exact, ms

LENGTHS = (6, 9, 8, 1, 7, 9, 5, 4, 8, 2, 9)


@pytest.mark.parametrize("kind", ["one", "steps", "index"])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("parent", [-1, 0, 1])
@pytest.mark.parametrize("sizes", [(3,), (2, 3), (3, 2), (2, 2, 3), (5, 2)])
def test_ragged_sequences(sizes, parent, periodic, narrow, kind):
    case = Case(sizes, parent, periodic, kind, LENGTHS, narrow=narrow)
    out = case.smooth()
    assert np.all(out["status"] == 0)
    assert_exact(case, out)
    alpha, loglik, status = case.forward()
    np.testing.assert_allclose(loglik, out["loglik"], rtol=1e-13)
    assert np.all(status == 0)
    for start, stop in case.runs():
        np.testing.assert_allclose(alpha[start:stop], case.reference(start, stop).filtered, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["one", "index"])
def test_sequences_in_trouble_leave_the_others_alone(kind):
    """Among ten sequences: one to be redone in logs, one impossible, one with messages and data out of range."""
    case = Case((2, 3), -1, False, kind, (8,) * 10, seed=1)
    for row in case.A:
        om.unpack(row, case.sizes, -1)[0][:] = np.eye(2)
    case.ll[8, 3:] -= 900.0
    case.ll[9, :3] -= 2000.0
    case.ll[30] = -np.inf
    case.ll[40:48] *= 60.0
    out = case.smooth()
    np.testing.assert_array_equal(out["status"][[0, 1, 2, 3, 4]], [0, 1, 0, -7, 0])
    assert np.all(out["gamma"][24:32] == 0.0) and np.all(out["xi_steps"][24:32] == 0.0)
    fine = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    rows = np.concatenate([np.arange(8 * q, 8 * q + 8) for q in fine])
    rest = Case((2, 3), -1, False, kind, (8,) * 9)
    rest.A, rest.initial, rest.ll = case.A, case.initial, case.ll[rows]
    rest.index = None if case.index is None else case.index[rows]
    want = rest.smooth()
    assert_exact(rest, want, tol=1e-11)
    np.testing.assert_allclose(out["gamma"][rows], want["gamma"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(out["xi"], want["xi"], rtol=0, atol=1e-12)
    again = case.smooth(gamma=case.ll)
    for name in ("gamma", "xi", "loglik", "status"):
        np.testing.assert_array_equal(again[name], out[name], err_msg=name)


def test_weak_products():
    for seed in range(12):
        case = Case((2, 3), -1, seed % 2 == 0, "one", LENGTHS, seed=seed)
        case.ll *= 10.0 ** (seed % 4)
        assert_exact(case, case.smooth(), tol=2e-10 if seed % 4 == 3 else 1e-11)


def test_zeros():
    case = Case((2, 3), 1, False, "one", LENGTHS, seed=2)
    for rows in om.unpack(case.A[0], case.sizes, 1):
        rows[:] = np.triu(rows)
        rows /= rows.sum(-1, keepdims=True)
    case.initial[[1, 4]] = 0.0
    case.initial /= case.initial.sum()
    out = case.smooth()
    assert np.all(out["status"] == 0)
    assert_exact(case, out)
    assert np.all(out["gamma"][case.offsets[:-1]][:, [1, 4]] == 0.0)


def test_results_may_be_left_out():
    case = Case((2, 3), -1, True, "index", LENGTHS, narrow=True)
    want = case.smooth()
    args = (case.ll, case.offsets, case.initial, case.A, case.index, *case.geometry(), case.emit, 0, None)
    m = len(LENGTHS)
    loglik, status, xi, columns = np.empty(m), np.empty(m, int), np.ones_like(case.A), np.empty_like(case.ll)
    ms.smooth(*args, None, None, loglik, status, xi=xi, gamma_emit=columns)
    np.testing.assert_allclose(xi - 1, want["xi"], rtol=0, atol=1e-13)
    np.testing.assert_array_equal(columns, want["gamma_emit"])
    ms.forward(*args, None, loglik, status)
    np.testing.assert_allclose(loglik, want["loglik"], rtol=1e-14)
