"""Chains whose rows are made whole, many at a time: every size that has such loops, and rows that leave them."""

import itertools

import dense_calls
import numpy as np
import oracles_multiscale as om
import pytest
from cases_multiscale import Case, assert_exact, ms

from hiermm._ext import load

SIZES = [*itertools.product((2, 3, 4)), *itertools.product((2, 3, 4), repeat=2), (2, 2, 2), (3, 3, 3), (4, 4, 4)]
NOTHING = {"xi_steps": None, "gamma_emit": None, "gamma_first": None}


def assert_many_equals_single(case, want):
    """Results of single steps keep the loops from making many rows at a time; the rest must not depend on it."""
    for rest in (NOTHING, NOTHING | {"xi": None}, NOTHING | {"gamma_first": np.empty((1, case.N))}):
        got = case.smooth(**rest)
        for name in [name for name in want if got[name] is not None]:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.parametrize(("kind", "narrow"), [("one", False), ("one", True), ("steps", False), ("index", True)])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_rows_equal_joint_chain(sizes, periodic, kind, narrow):
    case = Case(sizes, -1, periodic, kind, lengths=(75 if np.prod(sizes) < 64 else 20,), narrow=narrow)
    want = case.smooth()
    assert want["status"][0] == 0
    assert_exact(case, want)
    assert_many_equals_single(case, want)
    alpha, loglik, _ = case.forward()
    assert loglik[0] == pytest.approx(want["loglik"][0], rel=1e-13)
    np.testing.assert_allclose(alpha, case.reference(0, case.n).filtered, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sizes", "n"), [((4, 4, 4), 16_500), ((3, 3, 3), 22_000), ((4, 4, 4, 4), 60)])
def test_rows_equal_the_dense_kernel(sizes, n):
    """Also where the likelihoods of all rows are too many to keep, and through blocks that meet."""
    case = Case(sizes, lengths=(n,))
    joint = om.joint_matrix(case.A[0], sizes, -1, case.periods, 1)[None]
    want = dense_calls.smooth(load("dense"), case.ll, case.offsets, case.initial, joint, steps=False)
    got = case.smooth(**NOTHING)
    assert got["loglik"][0] == pytest.approx(want["loglik"][0], rel=1e-13)
    np.testing.assert_allclose(got["gamma"], want["gamma"], rtol=0, atol=1e-12)
    counts = om.level_counts(want["xi"], sizes, -1, case.periods)
    np.testing.assert_allclose(got["xi"], counts, rtol=1e-11, atol=1e-11)

    at = n // 3
    filtered, ll1, status, beta = np.empty((at, case.N)), np.empty(1), np.empty(1, int), np.empty(case.N)
    chain = (case.initial, case.A, None, *case.geometry(), case.emit)
    ms.forward(case.ll[:at], np.array([0, at]), *chain, 0, None, filtered, ll1, status)
    total, xi, gamma = ll1[0], np.zeros_like(case.A), np.empty((n, case.N))
    ms.smooth(case.ll[at:], np.array([0, n - at]), *chain, at, filtered[-1], None, gamma[at:], ll1, status, xi=xi,
              beta_out=beta)  # fmt: skip
    total += ll1[0]
    ms.smooth(case.ll[:at], np.array([0, at]), *chain, 0, None, beta, gamma[:at], ll1, status, xi=xi)
    assert total == pytest.approx(want["loglik"][0], rel=1e-13)
    np.testing.assert_allclose(gamma, got["gamma"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(xi, got["xi"], rtol=1e-11, atol=1e-11)


def sticky(sizes, n, leave):
    """A chain that hardly ever leaves a state, with data that make it do so every 13 steps."""
    case = Case(sizes, lengths=(n,))
    for rows in om.unpack(case.A[0], sizes, -1):
        k = rows.shape[-1]
        rows[:] = np.full((k, k), leave) + (1 - k * leave) * np.eye(k)
    case.ll[12::13] = -900.0
    case.ll[np.arange(12, n, 13), case.rng.integers(0, case.N, len(range(12, n, 13)))] = 0.0
    return case


@pytest.mark.parametrize("sizes", SIZES[:-1])
def test_weak_rows_among_many(sizes):
    """Rows whose products are made in logs interrupt the others; data may exclude states, or rows say nothing."""
    case = sticky(sizes, 75, 1e-15)
    case.ll[30:33, 1:] = -np.inf
    case.ll[40:44] = 0.0
    want = case.smooth()
    assert want["status"][0] == 0
    assert_exact(case, want, tol=1e-11)
    assert_many_equals_single(case, want)


@pytest.mark.parametrize("sizes", SIZES[:-1])
def test_lost_states_among_many(sizes):
    """Where the top level cannot change, data that exclude a value of it and then all others need log space."""
    case = Case(sizes, lengths=(60,))
    k, half = sizes[0], case.N // sizes[0]
    om.unpack(case.A[0], sizes, -1)[0][:] = np.eye(k)
    case.ll[40, :half] -= 900.0
    case.ll[50, half:] -= 2000.0
    want = case.smooth()
    assert want["status"][0] == 1
    assert_exact(case, want, tol=1e-10)
    assert_many_equals_single(case, want)
    case.ll[55] = -np.inf
    out = case.smooth(**NOTHING)
    assert out["status"][0] == -56 and np.all(out["gamma"] == 0.0) and np.all(out["xi"] == 0.0)


@pytest.mark.parametrize("sizes", SIZES[:-1])
def test_posteriors_of_many_rows_in_the_place_of_likelihoods(sizes):
    case = Case(sizes, lengths=(75,))
    want = case.smooth(**NOTHING)
    got = case.smooth(gamma=case.ll, **NOTHING)
    for name in ("gamma", "loglik", "xi"):
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize("variant", dense_calls.available())
def test_variants_agree(variant):
    for sizes in (*SIZES, (4, 4, 4, 4)):
        case = Case(sizes, lengths=(40,))
        for rest in ({}, NOTHING):
            want, got = case.smooth(**rest), case.smooth(load("multiscale", variant), **rest)
            for name in [name for name in want if want[name] is not None]:
                np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-12, err_msg=name)
