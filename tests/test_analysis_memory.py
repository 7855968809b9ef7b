"""Contraction, half-life, mutual information, credit and paths against slow definitions and closed forms."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import xlogy

from hiermm import Operators
from hiermm import analysis as an

FIRST = np.array([[0, 1, 0], [0, 0, 0.5], [1, 0, 0.5]])
SECOND = np.array([[0, 0, 0.5], [1, 0, 0], [0, 1, 0.5]])


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def random_chain(rng, steps, n, sharpness=1.0):
    return rng.dirichlet(np.full(n, sharpness), (steps, n)).transpose(0, 2, 1).copy()


def dobrushin(rows):
    return max(np.abs(a - b).sum() / 2 for a in rows for b in rows)


def birkhoff(rows):
    pairs = itertools.product(range(len(rows)), repeat=2)
    phi = min(
        rows[i, k] * rows[j, m] / (rows[j, k] * rows[i, m])
        for i, j in pairs
        for k, m in itertools.product(range(rows.shape[1]), repeat=2)
    )
    return (1 - np.sqrt(phi)) / (1 + np.sqrt(phi))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_coefficients_equal_their_definitions(rng, n):
    chain = random_chain(rng, 6, n)
    ops = Operators.from_arrays(chain)
    for lag in [1, 2, 4]:
        rows = [np.linalg.multi_dot([*chain[s : s + lag][::-1], np.eye(n)]).T for s in range(3)]
        # the first three start times are those from which the longest lag, 4, fits
        for ours, slow in [(an.contraction, dobrushin), (an.birkhoff, birkhoff)]:
            got = ours(ops, [lag, 4])[0]
            assert got == pytest.approx(np.exp(np.mean([np.log(slow(r)) for r in rows])), rel=1e-10)


def test_contraction_of_jacobians_is_the_spectral_norm(rng):
    matrices = rng.normal(size=(3, 5, 5))
    got = an.contraction(Operators.from_arrays(matrices, kind="jacobian"), [0, 1, 3])
    assert got[0] == 1
    assert got[1] == pytest.approx(np.linalg.norm(matrices[0], 2))
    assert got[2] == pytest.approx(np.linalg.norm(matrices[2] @ matrices[1] @ matrices[0], 2))


@pytest.mark.parametrize("coefficient", [an.contraction, an.birkhoff])
def test_coefficients_are_submultiplicative(rng, coefficient):
    for sharpness in [0.1, 1.0, 10.0]:
        for pair in random_chain(rng, 100, 4, sharpness).reshape(50, 2, 4, 4):
            first, second = (coefficient(Operators.from_arrays(m), [1])[0] for m in pair)
            both = coefficient(Operators.from_arrays(pair), [2])[0]
            assert 0 <= both <= first * second * (1 + 1e-12)
            assert max(first, second) <= 1


def test_coefficients_at_their_ends():
    rank_one = Operators.from_arrays(np.outer([0.2, 0.3, 0.5], np.ones(3)))
    permutation = Operators.from_arrays(np.eye(3)[[1, 2, 0]])
    for coefficient in [an.contraction, an.birkhoff]:
        assert np.array_equal(coefficient(rank_one, [0, 1, 5]), [1, 0, 0])
        assert np.array_equal(coefficient(rank_one, [1], log=True), [-np.inf])
        np.testing.assert_allclose(coefficient(permutation, [1, 2, 1000]), 1, rtol=1e-12)
    unreachable = Operators.from_arrays(np.array([[0.4, 0.3], [0.6, 0.7], [0.0, 0.0]])[:, [0, 1, 1]])
    assert 0 < an.birkhoff(unreachable, [1])[0] < 1
    with pytest.raises(ValueError, match="Jacobians"):
        an.birkhoff(Operators.from_arrays(np.eye(2), kind="jacobian"), [1])


def test_contraction_far_below_rounding():
    ops = Operators.from_arrays(np.repeat(np.array([[[0.9, 0.2], [0.1, 0.8]]]), 5000, axis=0))
    lags = [1, 10, 100, 4000]
    np.testing.assert_allclose(an.contraction(ops, lags, log=True), np.log(0.7) * np.array(lags), rtol=1e-12)
    # near rank one all coefficients decay at the same rate
    np.testing.assert_allclose(np.diff(an.birkhoff(ops, [1000, 4000], log=True)), 3000 * np.log(0.7), rtol=1e-9)
    assert an.contraction(ops, [4000])[0] == 0


def test_birkhoff_is_continuous_where_its_formula_changes():
    """Close to rank one the ratios come from differences; the symmetric chain has tau_B = tau_1 exactly."""
    ops = Operators.from_arrays(np.array([[0.75, 0.25], [0.25, 0.75]]))
    lags = np.arange(1, 90)
    np.testing.assert_allclose(an.birkhoff(ops, lags, log=True), -lags * np.log(2), rtol=1e-12)


def test_alternating_primitive_matrices_never_forget():
    ops = Operators.from_arrays(np.array([FIRST, SECOND] * 500))
    np.testing.assert_allclose(an.contraction(ops, [2, 10, 100, 900]), 1, atol=1e-12)
    with pytest.warns(an.NotHalvedWarning, match="1000 steps"):
        assert an.half_life(ops) == np.inf
    with pytest.warns(an.ReducibleWarning):
        assert an.half_life(Operators(np.array([FIRST, SECOND]), None)) == np.inf


def test_half_life_of_known_rates():
    for rate in [1e-9, 1e-3, 0.1, 0.4]:
        ops = Operators.from_arrays(np.array([[1 - rate, rate], [rate, 1 - rate]]))
        assert an.half_life(ops) == pytest.approx(np.log(0.5) / np.log1p(-2 * rate), rel=1e-6)
    for rate in [0.999, 0.3]:
        run = Operators(np.diag([rate, 0.1])[None], np.array([0, 2000]), kind="jacobian")
        assert an.half_life(run) == pytest.approx(np.log(0.5) / np.log(rate), rel=1e-9)
    assert an.half_life(Operators.from_arrays(np.full((2, 2), 0.5))) == 0


def test_half_life_that_is_infinite_has_a_name():
    with pytest.warns(an.PeriodicWarning):
        assert an.half_life(Operators.from_arrays(np.eye(3)[[1, 2, 0]])) == np.inf
    with pytest.warns(an.ReducibleWarning):
        assert an.half_life(Operators.from_arrays(np.eye(3))) == np.inf
    both = np.zeros((4, 4))
    both[[1, 0, 3, 2], [0, 1, 2, 3]] = 1
    with pytest.warns(an.ReducibleWarning), pytest.warns(an.PeriodicWarning):
        assert an.half_life(Operators.from_arrays(both)) == np.inf
    with pytest.warns(an.NotHalvedWarning, match="left after"):
        assert an.half_life(Operators.from_arrays(2 * np.eye(2), kind="jacobian")) == np.inf
    with pytest.warns(an.NotHalvedWarning, match=r"0\.904"):
        short = Operators(np.full((1, 1, 1), 0.99), np.array([0, 10]), kind="jacobian")
        assert an.half_life(short) == np.inf
    with pytest.raises(ValueError, match="no step"):
        an.half_life(Operators(np.ones((1, 1, 1)), np.array([0, 0])))


def test_transient_states_are_no_obstacle():
    """One closed class and states that are left for good: reducible, but everything is forgotten."""
    chain = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.3, 0.3, 0.4]]).T
    assert an.half_life(Operators.from_arrays(chain)) == pytest.approx(np.log(0.5) / np.log(0.4), rel=0.2)
    assert np.isfinite(an.lyapunov(Operators.from_arrays(chain)).exponents[0])


def test_start_times_are_bounded(rng):
    ops = Operators.from_arrays(random_chain(rng, 2000, 3))
    all_of_them = an.contraction(ops, [2], n_starts=10_000)[0]
    few = an.contraction(ops, [2], n_starts=5)[0]
    assert all_of_them != few
    slow = np.mean([np.log(dobrushin((ops.matrices[s + 1] @ ops.matrices[s]).T)) for s in range(1999)])
    assert all_of_them == pytest.approx(np.exp(slow), rel=1e-10)
    with pytest.raises(ValueError, match="n_starts"):
        an.contraction(ops, [2], n_starts=0)


def slow_information(joint):
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return (xlogy(joint, joint) - xlogy(joint, np.where(joint > 0, outer, 1))).sum()


def test_mutual_information_equals_its_definition(rng):
    for sharpness in [0.05, 1.0]:
        chain = random_chain(rng, 1, 4, sharpness)[0] + 1e-3
        chain /= chain.sum(axis=0)
        values, vectors = np.linalg.eig(chain)
        p = np.real(vectors[:, np.argmax(values.real)])
        p /= p.sum()
        got = an.mutual_information(Operators.from_arrays(chain), [0, 1, 3])
        want = [slow_information((np.linalg.matrix_power(chain, lag) * p).T) for lag in [0, 1, 3]]
        np.testing.assert_allclose(got, want, rtol=1e-9)
        assert (np.diff(an.mutual_information(Operators.from_arrays(chain), np.arange(300))) <= 0).all()


def test_small_mutual_information_is_right():
    """For the symmetric binary chain I = r^2 / 2 + r^4 / 12 + r^6 / 30 + ..., r the correlation."""
    ops = Operators.from_arrays(np.array([[0.9, 0.1], [0.1, 0.9]]))
    lags = np.array([20, 40, 80, 150, 400])
    r = 0.8**lags
    np.testing.assert_allclose(an.mutual_information(ops, lags), r**2 / 2 + r**4 / 12 + r**6 / 30, rtol=1e-9)


def test_mutual_information_along_a_run(rng):
    chain, first = random_chain(rng, 5, 3), np.array([0.6, 0.4, 0.0])
    ops = Operators.from_arrays(chain, offsets=[0, 2, 5])
    got = an.mutual_information(ops, [2], initial=first)[0]
    pieces = []
    for start, p in [(0, first), (2, first), (3, chain[2] @ first)]:
        pieces.append(slow_information(((chain[start + 1] @ chain[start]) * p).T))
    assert got == pytest.approx(np.mean(pieces), rel=1e-10)
    model = SimpleNamespace(operators=lambda X: ops, initial_distribution=lambda: first)
    assert an.mutual_information(model, [2])[0] == got
    with pytest.raises(ValueError, match="distribution over 3"):
        an.mutual_information(ops, [1], initial=[0.5, 0.5])


def test_mutual_information_of_reducible_chains():
    blocks = np.kron(np.eye(2), np.full((2, 2), 0.5))
    with pytest.warns(an.ReducibleWarning):
        got = an.mutual_information(Operators.from_arrays(blocks), [0, 1, 1000])
    np.testing.assert_allclose(got, [np.log(4), np.log(2), np.log(2)], rtol=1e-12)
    absorbing = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]]).T
    with pytest.warns(an.ReducibleWarning):
        np.testing.assert_allclose(an.mutual_information(Operators.from_arrays(absorbing), [5]), np.log(2), rtol=1e-12)


class Chain:
    """A driven chain with Gaussian outputs: what an IOHMM offers to the analysis."""

    def __init__(self, rng, n=3):
        self.maps, self.first = random_chain(rng, 30, n), np.full(n, 1 / n)
        self.means = np.arange(n, dtype=float)

    def operators(self, X, *, lengths=None):
        return Operators.from_arrays(self.maps[: len(X) - 1])

    def densities(self, y):
        return np.exp(-((y[:, None] - self.means) ** 2) / 2)

    def predicted(self, T):
        p = [self.first]
        for t in range(T - 1):
            p.append(self.maps[t] @ p[-1])
        return np.array(p)

    def credit_sources(self, X, y=None, *, lengths=None):
        b = self.densities(y)
        return b / (b * self.predicted(len(X))).sum(axis=1, keepdims=True)


def test_credit_of_a_chain_by_finite_differences(rng):
    model, T, lag = Chain(rng), 8, 5
    X, y = np.zeros((T, 1)), rng.normal(size=T)
    got = an.credit(model, X, y, [lag], log=True)[0]
    basis = np.linalg.qr(np.eye(3) - 1 / 3)[0][:, :2]

    def cost(t, tau, delta):
        p = model.predicted(T)[tau] + delta
        for k in range(tau, t):
            p = model.maps[k] @ p
        return np.log((p * model.densities(y)[t]).sum())

    logs = []
    for t in range(lag, T):
        step = 1e-5
        slope = [(cost(t, t - lag, step * b) - cost(t, t - lag, -step * b)) / (2 * step) for b in basis.T]
        logs.append(np.log(np.linalg.norm(slope)))
    assert got == pytest.approx(np.mean(logs), abs=1e-7)


class Network:
    """A small tanh network with a linear read-out at the last step of every sequence."""

    def __init__(self, rng, n=4):
        self.W, self.V, self.c = rng.normal(size=(n, n)) / 2, rng.normal(size=n), rng.normal(size=n)

    def run(self, u, x=None, start=0):
        x, path = np.zeros(len(self.c)) if x is None else x, []
        for value in u[start:]:
            x = np.tanh(self.W @ x + self.V * value)
            path.append(x)
        return np.array(path)

    def operators(self, X, *, lengths=None):
        maps = [np.array([(1 - x**2)[:, None] * self.W for x in self.run(u)[1:]]) for u in X]
        return Operators.from_arrays(
            np.concatenate(maps), offsets=np.cumsum([0] + [len(m) for m in maps]), kind="jacobian"
        )

    def credit_sources(self, X, y=None, *, lengths=None):
        rows = []
        for u, target in zip(X, y):
            rows.append(np.zeros((len(u), len(self.c))))
            rows[-1][-1] = (self.c @ self.run(u)[-1] - target) * self.c
        return np.concatenate(rows)


def test_credit_of_a_network_by_finite_differences(rng):
    model, X, y = Network(rng), [rng.normal(size=6), rng.normal(size=9)], [1.0, -2.0]
    got = an.credit(model, X, y, [0, 4], log=True)
    for lag, value in zip([0, 4], got):
        logs = []
        for u, target in zip(X, y):
            tau = len(u) - 1 - lag
            x, step, slope = model.run(u)[tau], 1e-5, []
            for e in np.eye(4):
                ends = [model.run(u, x + s * step * e, tau + 1) for s in (1, -1)]
                ends = [end[-1] if len(end) else x + s * step * e for end, s in zip(ends, (1, -1))]
                costs = [(model.c @ end - target) ** 2 / 2 for end in ends]
                slope.append((costs[0] - costs[1]) / (2 * step))
            logs.append(np.log(np.linalg.norm(slope)))
        assert value == pytest.approx(np.mean(logs), abs=1e-7)


def test_credit_over_a_constant_chain_and_its_refusals(rng):
    matrix = np.array([[0.9, 0.2], [0.1, 0.8]])
    rows = rng.normal(size=(40, 2))
    model = SimpleNamespace(
        operators=lambda X, lengths=None: Operators.from_arrays(matrix), credit_sources=lambda X, y, **_: rows
    )
    X = np.zeros((40, 1))
    logs = an.credit(model, X, None, [0, 1, 10], log=True)
    np.testing.assert_allclose(logs - logs[0], np.log(0.7) * np.array([0, 1, 10]), rtol=1e-12)
    assert np.isfinite(an.credit(model, X, None, [19], lengths=[20, 20]))
    with pytest.raises(ValueError, match="20 steps before it"):
        an.credit(model, X, None, [20], lengths=[20, 20])
    with pytest.raises(ValueError, match="40 steps, the sequences have 30"):
        an.credit(model, X, None, [1], lengths=[10, 20])
    with pytest.raises(TypeError, match="credit_sources"):
        an.credit(Operators.from_arrays(matrix), X, None, [1])


def slow_path(scales, clock, coupling, delays, start, lag):
    """Fewest transformations by trying every path, one start time."""
    best = {(start, s): 0.0 for s in range(len(scales))}
    for t in range(start + 1, start + lag + 1):
        for s, n in enumerate(scales):
            options = []
            if clock != "periodic":
                options += [best[t - 1, s] + 1 / n] * (n > 1)  # what is replaced at every step does not stay
            elif t % n:
                options.append(best[t - 1, s])
            if clock != "periodic" or t % n == 0:
                for r in range(len(scales)):
                    near = {"none": r == s, "slower": r in (s, s - 1), "faster": r in (s, s + 1), "full": True}[
                        coupling
                    ]
                    options += [best[t - d, r] + 1 for d in delays if near and t - d >= start]
            best[t, s] = min(options, default=np.inf)
    return min(best[start + lag, s] for s in range(len(scales)))


@pytest.mark.parametrize("clock", ["periodic", "sticky"])
@pytest.mark.parametrize("coupling", ["none", "slower", "faster", "full"])
@pytest.mark.parametrize("delays", [(1,), (1, 3), (2,)])
def test_path_lengths_equal_the_slow_search(clock, coupling, delays):
    scales, lags = (6, 3, 1), [0, 1, 2, 5, 13]
    model = SimpleNamespace(timescales=scales, clock=clock, coupling=coupling, delays=delays)
    want = [np.mean([slow_path(scales, clock, coupling, delays, k, lag) for k in range(6)]) for lag in lags]
    np.testing.assert_allclose(an.path_lengths(model, lags), want, rtol=1e-12)


def test_paths_of_flat_models_and_of_outputs_on_one_level():
    assert np.array_equal(an.path_lengths(object(), [0, 1, 7]), [0, 1, 7])
    slow = SimpleNamespace(timescales=(10, 1), clock="sticky", coupling="slower", emission_levels=(1,))
    np.testing.assert_allclose(an.path_lengths(slow, [1, 100]), [1, 1 + 99 / 10])
    with pytest.raises(ValueError, match="coupling"):
        an.path_lengths(SimpleNamespace(timescales=(2,), coupling="up"), [1])
