"""Structured inference at the ends of the range of doubles: zeros, lost states, impossible data."""

import numpy as np
import oracles
import oracles_multiscale as om
import pytest
from cases_multiscale import Case, assert_exact, ms


@pytest.mark.parametrize("parent", [-1, 0, 1])
@pytest.mark.parametrize("periodic", [False, True])
def test_zeros_stay_zeros(parent, periodic):
    """Left-right levels, forbidden first states and -inf likelihoods: exact zeros in, exact zeros out, no redo."""
    case = Case((2, 3, 2), parent, periodic, "one", lengths=(40, 20), seed=4)
    for rows in om.unpack(case.A[0], case.sizes, parent):
        rows[:] = np.triu(rows)
        rows /= rows.sum(-1, keepdims=True)
    case.initial[5:] = 0.0
    case.initial /= case.initial.sum()
    case.ll[case.rng.random(case.ll.shape) < 0.2] = -np.inf
    case.ll[:, -1] = 0.0
    out = case.smooth()
    assert np.all(out["status"] == 0)
    assert_exact(case, out)
    reachable = np.array([case.reference(*run).gamma for run in case.runs()], dtype=object)
    assert np.all(out["gamma"][np.concatenate(reachable) == 0.0] == 0.0)
    assert np.all(out["xi"][case.A == 0] == 0.0)


def extinct(sizes, parent):
    """Two states that cannot communicate; each observation rules out the other one, far below the range of doubles."""
    case = Case(sizes, parent, lengths=(2, 3, 2))
    for rows in om.unpack(case.A[0], sizes, parent):
        rows[:] = np.eye(rows.shape[-1])
    case.ll[:] = 0.0
    case.ll[2:5] += case.rng.standard_normal((3, case.N))
    for row in (0, 5):
        case.ll[row] = -800.0
        case.ll[row, 1] = 0.0
        case.ll[row + 1, 1] = -2000.0
    return case


def test_extinct_state_is_redone_in_log_space():
    case = extinct((2,), 0)
    case.initial[:] = 0.5
    out = case.smooth()
    assert out["loglik"][0] == pytest.approx(-800.6931471805599, rel=1e-14)
    np.testing.assert_array_equal(out["status"], [1, 0, 1])


@pytest.mark.parametrize("parent", [-1, 0, 1])
@pytest.mark.parametrize("sizes", [(2,), (2, 3), (2, 2, 3), (4, 4)])
def test_redo_is_exact_and_counted_once(sizes, parent):
    case = extinct(sizes, parent)
    out = case.smooth()
    np.testing.assert_array_equal(out["status"], [1, 0, 1])
    assert_exact(case, out, tol=1e-11)
    alpha, loglik, status = case.forward()
    np.testing.assert_array_equal(status, [3, 0, 3])  # redone, and what is left cannot carry on
    np.testing.assert_allclose(loglik, out["loglik"], rtol=1e-14)
    np.testing.assert_allclose(alpha[5:], case.reference(5, 7).filtered, rtol=0, atol=1e-13)
    want = {name: value.copy() for name, value in out.items()}
    again = case.smooth(gamma=case.ll)
    for name in want:
        np.testing.assert_array_equal(again[name], want[name], err_msg=name)


def test_redo_with_varying_rows_and_clocks():
    case = Case((2, 2, 3), -1, True, "steps", lengths=(30,), seed=3, narrow=True)
    levels = [om.unpack(row, case.sizes, -1) for row in case.A]
    for rows in levels:
        rows[0][:] = np.eye(2)
        rows[1][:] = np.eye(2)
        rows[2][:, :, :] = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1.0]])
    case.ll[4, 2] = -900.0
    case.ll[20, :2] = -1900.0
    out = case.smooth()
    assert out["status"][0] == 1
    assert_exact(case, out, tol=1e-11)


def test_block_redo():
    """A block that must be redone takes and gives the same messages."""
    case = extinct((2, 3), -1)
    start, before, after = 5, case.rng.dirichlet(np.ones(6)), case.rng.random(6)
    A = case.matrices(start, 7)
    first = oracles.log_chain(before @ A[0], A, case.ll[5:7], message=after)
    gamma, loglik, status, xi, out = np.empty((2, 6)), np.empty(1), np.empty(1, int), np.zeros_like(case.A), np.empty(6)
    ms.smooth(case.ll[5:7], np.array([0, 2]), case.initial, case.A, None, *case.geometry(), case.emit, 3, before, after,
              gamma, loglik, status, xi=xi, beta_out=out)  # fmt: skip
    assert status[0] == 1
    assert loglik[0] == pytest.approx(first.loglik, rel=1e-13)
    np.testing.assert_allclose(gamma, first.gamma, rtol=0, atol=1e-12)
    assert xi.sum() == pytest.approx(4, rel=1e-12)
    message = case.ll[5] + case.ll[6] + np.log(after)  # the levels do not move
    np.testing.assert_allclose(out, np.exp(message - oracles.logsumexp(message)), rtol=0, atol=1e-12)


def test_forward_tells_where_blocks_must_not_meet():
    """A state without mass in the last row matters if nothing else leads to it, or if the next rows are not known."""
    for kind, want in (("one", 0), ("steps", 2)):
        case = Case((2, 3), -1, False, kind, lengths=(6,))
        case.ll[5, 4] = -1500.0
        assert case.forward()[2][0] == want
        case.ll[5, 4] = -np.inf
        assert case.forward()[2][0] == 0
    case = Case((2, 3), -1, True, lengths=(6,))
    om.unpack(case.A[0], case.sizes, -1)[0][:] = np.eye(2)
    case.ll[5, 3:] -= 1500.0
    assert case.forward()[2][0] == 2


def test_messages_that_exclude_states():
    case = Case((2, 3), -1, lengths=(5,))
    case.ll[4, 0] = -1500.0
    args = (case.ll, case.offsets, case.initial, case.A, None, *case.geometry(), case.emit, 0, None)
    gamma, loglik, status, xi = np.empty((5, 6)), np.empty(1), np.empty(1, int), np.zeros_like(case.A)
    message = np.eye(6)[0]
    ms.smooth(*args, message, gamma, loglik, status, xi=xi)
    want = oracles.log_chain(case.initial, case.matrices(0, 5), case.ll, message=message)
    assert status[0] == 1
    np.testing.assert_allclose(gamma, want.gamma, rtol=0, atol=1e-11)
    case.ll[4, 0] = -np.inf
    xi[:] = 0.0
    ms.smooth(*args, message, gamma, loglik, status, xi=xi)
    assert status[0] == -6 and loglik[0] == -np.inf
    assert np.all(gamma == 0.0) and np.all(xi == 0.0)


@pytest.mark.parametrize("step", [0, 2, 4])
def test_impossible_sequence(step):
    case = Case((2, 3), -1, True, lengths=(5, 5))
    case.ll[5 + step] = -np.inf
    out = case.smooth()
    np.testing.assert_array_equal(out["status"], [0, -1 - step])
    assert out["loglik"][1] == -np.inf
    for name in ("gamma", "gamma_emit", "xi_steps"):
        assert np.all(out[name][5:] == 0.0)
    assert np.all(out["gamma_first"][1] == 0.0)
    one = Case((2, 3), -1, True, lengths=(5,))
    one.initial, one.A, one.ll = case.initial, case.A, case.ll[:5].copy()
    np.testing.assert_allclose(one.smooth()["xi"], out["xi"], rtol=1e-14, atol=0)
    alpha, loglik, status = case.forward()
    np.testing.assert_array_equal(status, out["status"])
    assert loglik[1] == -np.inf and np.all(alpha[5:] == 0.0)
    path, log_prob = np.zeros(10, int), np.empty(2)
    ms.viterbi(case.ll, case.offsets, np.log(case.initial), np.log(case.A), None, *case.geometry(), case.emit, path,
               log_prob)  # fmt: skip
    assert log_prob[1] == -np.inf and np.all(path[5:] == -1) and np.all(path[:5] >= 0)


def test_impossible_by_structure_and_in_log_space():
    case = extinct((2,), 0)
    case.initial[:] = 0.5, 0.5
    case.ll[1] = -np.inf
    case.initial[:] = 1.0, 0.0
    case.ll[6, 0] = -np.inf
    np.testing.assert_array_equal(case.smooth()["status"], [-2, 0, -2])
    case.initial[:] = 0.5
    case.ll[6] = -np.inf
    assert case.smooth()["status"][2] == -2


@pytest.mark.parametrize("shift", [-800.0, 800.0, -1e5])
def test_shifting_a_row_moves_only_the_constant(shift):
    case = Case((2, 3), 1, True, lengths=(9,))
    want = case.smooth()
    case.ll[4] += shift
    out = case.smooth()
    assert out["loglik"][0] == pytest.approx(want["loglik"][0] + shift, rel=1e-13)
    np.testing.assert_allclose(out["gamma"], want["gamma"], rtol=0, atol=1e-11)


def test_unreachable_states_may_fit_best():
    """States that cannot be reached but explain everything far better neither drown the others nor force a redo."""
    case = Case((2, 3), -1, lengths=(40,), seed=2)
    top = om.unpack(case.A[0], case.sizes, -1)[0]
    top[:] = np.eye(2)
    case.initial[3:] = 0.0
    case.initial /= case.initial.sum()
    case.ll[:, 3:] += 900.0
    out = case.smooth()
    assert out["status"][0] == 0
    assert_exact(case, out, tol=1e-11)


def test_weak_products_on_both_sides():
    """Likelihoods that swing by hundreds of nats between states that communicate."""
    for seed in range(20):
        case = Case((2, 3), -1, lengths=(30,), seed=seed)
        case.ll *= 10.0 ** (seed % 4)
        assert_exact(case, case.smooth(), tol=2e-10 if seed % 4 == 3 else 1e-11)


def fade(case, power=900):
    """Rows as EM makes them: most moves are far below the range that plain products stand."""
    for k in range(len(case.A)):
        for rows in om.unpack(case.A[k], case.sizes, case.parent):
            rows[:] = rows ** case.rng.uniform(power / 9, power, rows.shape)
            rows[..., np.arange(rows.shape[-1]), np.arange(rows.shape[-1])] = 0.5
            rows[..., 0, -1] = 1e-290
            rows /= rows.sum(-1, keepdims=True)
    return case


@pytest.mark.parametrize("parent", [-1, 0, 1])
@pytest.mark.parametrize("kind", ["one", "steps", "index"])
@pytest.mark.parametrize(("sizes", "periodic"), [((3,), False), ((2, 3), False), ((4, 4), False), ((2, 2, 3), True)])
def test_faint_states_need_no_logarithms(sizes, parent, kind, periodic):
    case = fade(Case(sizes, parent, periodic, kind, lengths=(40, 12, 1, 25)))
    out = case.smooth()
    assert_exact(case, out, tol=1e-11)
    assert case.A[case.A > 0].min() < 1e-280 and not out["status"].any()
    loglik, status = np.empty(4), np.empty(4, int)
    ms.forward(case.ll, case.offsets, case.initial, case.A, case.index, *case.geometry(), case.emit, 0, None, None,
               loglik, status)  # fmt: skip
    np.testing.assert_allclose(loglik, out["loglik"], rtol=1e-13)
    assert not status.any()


@pytest.mark.parametrize("lengths", [(40,), (30,) * 8])
@pytest.mark.parametrize("seed", range(10))
def test_data_that_call_faint_states_back(seed, lengths):
    case = fade(Case((2, 3), lengths=lengths, seed=seed))
    for start, stop in case.runs()[::2]:
        for row in case.rng.integers(start, stop, size=3):
            case.ll[row] = -np.abs(case.rng.normal(scale=900, size=case.N))
    out = case.smooth()
    assert_exact(case, out, tol=1e-10)
    assert case.forward()[1] == pytest.approx(out["loglik"], rel=1e-12)


@pytest.mark.parametrize("called_back", [False, True])
def test_a_block_vouches_for_what_came_before(called_back):
    """The message of a block to the row before it is exact, with faint states and without."""
    case = fade(Case((2, 3), lengths=(40,), seed=1))
    case.ll[25] = -900.0 * (np.arange(6) != 4) if called_back else case.ll[25]
    whole, before = case.reference(0, 40), case.reference(0, 20).filtered[-1]
    out = {
        "gamma": np.empty((20, 6)),
        "loglik": np.empty(1),
        "status": np.empty(1, int),
        "beta_out": np.empty(6),
        "xi": np.zeros_like(case.A),
    }
    ms.smooth(case.ll[20:], np.array([0, 20]), case.initial, case.A, None, *case.geometry(), case.emit, 20,
              before, None, **out)  # fmt: skip
    np.testing.assert_allclose(out["gamma"], whole.gamma[20:], rtol=0, atol=1e-11)
    evidence = before * out["beta_out"]
    np.testing.assert_allclose(evidence / evidence.sum(), whole.gamma[19], rtol=0, atol=1e-11)


def test_the_first_row_has_no_dust():
    case = Case((2, 2), 0, lengths=(1,))
    case.initial[:] = [1, 1e-300, 0, 0]
    case.ll[:] = [[-650, 0, 0, 0]]
    assert_exact(case, case.smooth())


@pytest.mark.parametrize("rest", [-np.inf, -1100.0])
def test_reach_survives_products_that_underflow(rest):
    """Both levels move at once, each with 1e-200, and nothing else explains the data."""
    case = Case((2, 2), 0, lengths=(3,))
    for rows in om.unpack(case.A[0], case.sizes, 0):
        rows[:] = [[1, 1e-200], [0, 1]]
    case.initial[:] = [1, 0, 0, 0]
    case.ll[:] = 0.0
    case.ll[1, 1:3] = -np.inf
    case.ll[2, :3] = rest
    out = case.smooth()  # the reference's joint matrices lose 1e-400
    assert out["status"][0] == 1 and case.forward()[1] == pytest.approx(out["loglik"], rel=1e-14)
    assert out["loglik"][0] == pytest.approx(np.log(2) + 2 * np.log(1e-200), rel=1e-14)
    np.testing.assert_allclose(out["gamma"], [[1, 0, 0, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 1]], rtol=0, atol=1e-13)


def test_log_space_where_no_level_moves():
    case = Case((2,), -1, lengths=(4,))
    case.periods = (4,)
    case.initial[:] = 0.5
    case.ll[:] = [[-1, 0], [0, -2000], [-4000, 0], [0, -3]]
    out = case.smooth()
    assert out["status"][0] == 1
    assert_exact(case, out)


@pytest.mark.parametrize("lengths", [(30,), (30, 30)])
def test_dust_that_grows_is_found_out(lengths):
    """No step alone is out of range, but together they make a state fainter than dust the one that matters."""
    case = Case((2, 2), 0, lengths=lengths)
    for rows in om.unpack(case.A[0], case.sizes, 0):
        rows[:] = [[1, 1e-150], [1e-150, 1]]
    case.initial[:] = [1, 0, 0, 0]
    case.ll[:] = 0.0
    case.ll[1, 1:3] = -np.inf
    case.ll[3:6, 3] = -20.0
    case.ll[10:30, :3] = -25.0
    case.ll[10:30, 3] = 12.0
    out = case.smooth()
    assert_exact(case, out, tol=1e-11)
    assert case.forward()[1] == pytest.approx(out["loglik"], rel=1e-12)


@pytest.mark.parametrize("where", ["initial", "move"])
@pytest.mark.parametrize("lengths", [(6,), (6,) * 9])
@pytest.mark.parametrize("kind", ["one", "steps"])
@pytest.mark.parametrize("sizes", [(2,), (2, 2), (3, 2, 4)])
def test_subnormal_probabilities_are_not_zero(sizes, kind, lengths, where):
    """What one in 1e310 does explains the data; the scaled recursions hold such numbers for zero, for themselves."""
    case = Case(sizes, 0, kind=kind, lengths=lengths)
    for s, k in enumerate(sizes):
        for packed in case.A:
            om.unpack(packed, sizes, 0)[s][:] = np.eye(k)
            om.unpack(packed, sizes, 0)[-1][0, 0, 1] = 1e-310 if where == "move" else 0.0
    case.initial[:] = 0.0
    case.initial[:2] = 1.0, 1e-310 if where == "initial" else 0.0
    case.ll[:] = 0.0
    case.ll[3::6, 0] = -np.inf
    out = case.smooth()
    assert_exact(case, out)
    assert (out["status"] == 1).all()
    _, loglik, _ = case.forward()
    np.testing.assert_allclose(loglik, np.log(1e-310 * (1 if where == "initial" else 3)), rtol=1e-14)
    assert (np.full(16, 1e-310) * 0.5 > 0).all()
