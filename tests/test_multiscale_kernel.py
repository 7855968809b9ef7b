"""Structured inference against the enumerated joint chain."""

import itertools

import numpy as np
import oracles
import oracles_multiscale as om
import pytest

from hiermm._ext import VARIANT, load

ms = load("multiscale")
SIZES = [(3,), (2, 3), (3, 2), (2, 2, 3), (2, 3, 1, 2)]
WIDE = [(9,), (4, 4), (2, 3, 5), (5, 2, 2, 2), (3, 3, 3), (3, 9), (2, 16), (2, 4, 4), (1,), (4, 2, 4), (2, 8, 3)]
PERIODS = {1: (3,), 2: (4, 1), 3: (6, 2, 1), 4: (6, 3, 3, 2)}
CASES = list(itertools.product(SIZES, (-1, 0, 1), (False, True)))


class Case:
    """A random chain with data: `kind` of rows is "one", "steps" (one a step) or "index" (three, by symbol)."""

    def __init__(self, sizes, parent=-1, periodic=False, kind="one", lengths=(9, 1, 5), seed=0, narrow=False):
        rng = np.random.default_rng([seed, *sizes, parent + 1, periodic])
        self.sizes, self.parent, self.N = sizes, parent, int(np.prod(sizes))
        self.periods = PERIODS[len(sizes)] if periodic else (1,) * len(sizes)
        self.offsets = np.cumsum([0, *lengths])
        self.n = int(self.offsets[-1])
        L = {"one": 1, "steps": self.n, "index": 3}[kind]
        self.A = om.random_rows(rng, L, sizes, parent)
        self.index = rng.integers(0, 3, self.n) if kind == "index" else None
        self.initial = rng.dirichlet(np.ones(self.N))
        self.emit = np.arange(self.N) % sizes[-1] if narrow else np.arange(self.N)
        self.ll = 2 * rng.standard_normal((self.n, int(self.emit.max()) + 1))
        self.ll[rng.random(self.n) < 0.25] = 0.0
        self.rng = rng

    def geometry(self):
        return np.array(self.sizes), self.parent, np.array(self.periods)

    def runs(self):
        return list(itertools.pairwise(self.offsets))

    def matrices(self, start, stop, t0=0):
        return om.joint_matrices(self.A, self.index, self.sizes, self.parent, self.periods, start, stop, t0)

    def reference(self, start, stop):
        return oracles.log_chain(self.initial, self.matrices(start, stop), self.ll[start:stop][:, self.emit])

    def forward(self, kernels=ms):
        m = len(self.offsets) - 1
        alpha, loglik, status = np.full((self.n, self.N), np.nan), np.full(m, np.nan), np.full(m, 9)
        kernels.forward(self.ll, self.offsets, self.initial, self.A, self.index, *self.geometry(), self.emit, 0, None,
                        alpha, loglik, status)  # fmt: skip
        return alpha, loglik, status

    def smooth(self, kernels=ms, gamma=None, **rest):
        m, total = len(self.offsets) - 1, self.A.shape[1]
        gamma = np.full((self.n, self.N), np.nan) if gamma is None else gamma
        out = {
            "gamma": gamma,
            "loglik": np.full(m, np.nan),
            "status": np.full(m, 9),
            "xi": np.zeros_like(self.A),
            "xi_steps": np.full((self.n, total), np.nan),
            "gamma_emit": np.full_like(self.ll, np.nan),
            "gamma_first": np.full((m, self.N), np.nan),
        } | rest
        kernels.smooth(self.ll, self.offsets, self.initial, self.A, self.index, *self.geometry(), self.emit, 0, None,
                       None, **out)  # fmt: skip
        return out

    def summed(self, xi_steps):
        """Counts by packed row, from counts by step."""
        xi = np.zeros_like(self.A)
        rows = self.index if self.index is not None else np.arange(self.n) if len(self.A) > 1 else np.zeros(self.n, int)
        np.add.at(xi, rows, xi_steps)
        return xi


def assert_exact(case, out, tol=1e-12):
    """`out` of smooth against the reference, all results; status is the caller's."""
    steps = np.zeros((case.n, case.A.shape[1]))
    for q, (start, stop) in enumerate(case.runs()):
        want = case.reference(start, stop)
        steps[start:stop] = om.level_counts(want.xi, case.sizes, case.parent, case.periods)
        assert out["loglik"][q] == pytest.approx(want.loglik, rel=tol, abs=tol)
        np.testing.assert_allclose(out["gamma"][start:stop], want.gamma, rtol=0, atol=tol)
        np.testing.assert_allclose(out["gamma_first"][q], want.gamma[0], rtol=0, atol=tol)
        by_column = np.zeros((stop - start, case.ll.shape[1]))
        np.add.at(by_column.T, case.emit, want.gamma.T)
        np.testing.assert_allclose(out["gamma_emit"][start:stop], by_column, rtol=0, atol=tol)
    np.testing.assert_allclose(out["xi_steps"], steps, rtol=0, atol=tol)
    np.testing.assert_allclose(out["xi"], case.summed(steps), rtol=0, atol=tol * case.n)


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
    np.testing.assert_array_equal(status, [1, 0, 1])
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
    np.testing.assert_array_equal(one.smooth()["xi"], out["xi"])
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
