"""Products, spectra and exponents against closed forms and exact arithmetic."""

import warnings
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest

from hiermm import Operators
from hiermm import analysis as an
from hiermm._ext import VARIANT, load

# Each of the two is primitive, yet their alternating product keeps (0, 1, 0) and (1/3, 0, 2/3) for ever.
FIRST = np.array([[0, 1, 0], [0, 0, 0.5], [1, 0, 0.5]])
SECOND = np.array([[0, 0, 0.5], [1, 0, 0], [0, 1, 0.5]])
CYCLE = np.eye(4)[[1, 2, 3, 0]]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def jacobians(matrices, **options):
    return Operators.from_arrays(matrices, kind="jacobian", **options)


def random_chain(rng, steps, n, sharpness=1.0):
    return rng.dirichlet(np.full(n, sharpness), (steps, n)).transpose(0, 2, 1).copy()


def exact_product(matrices):
    """The product as fractions: no rounding at all."""
    n = matrices.shape[-1]
    total = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
    for matrix in matrices:
        m = [[Fraction(float(x)) for x in row] for row in matrix]
        total = [[sum(m[i][k] * total[k][j] for k in range(n)) for j in range(n)] for i in range(n)]
    return total


def determinant(m):
    """Of a matrix of fractions."""
    m, value = [row[:] for row in m], Fraction(1)
    for k in range(len(m)):
        pivot = next((i for i in range(k, len(m)) if m[i][k] != 0), None)
        if pivot is None:
            return Fraction(0)
        if pivot != k:
            m[k], m[pivot], value = m[pivot], m[k], -value
        value *= m[k][k]
        for i in range(k + 1, len(m)):
            m[i] = [a - b * m[i][k] / m[k][k] for a, b in zip(m[i], m[k])]
    return value


def log_fraction(x):
    x = abs(x)
    shift = x.numerator.bit_length() - x.denominator.bit_length()
    return float(np.log(float(x / Fraction(2) ** shift))) + shift * np.log(2)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 17])
def test_product_equals_exact_arithmetic(rng, n):
    matrices = rng.normal(size=(6, n, n))
    result = an.product(jacobians(matrices), 1, 6)
    want = np.array(exact_product(matrices[1:]), dtype=float)
    np.testing.assert_allclose(result.dense(), want, rtol=1e-12, atol=1e-13 * np.abs(want).max())


def test_product_at_its_ends(rng):
    ops = jacobians(rng.normal(size=(5, 3, 3)))
    assert np.array_equal(an.product(ops, 2, 2).dense(), np.eye(3))
    np.testing.assert_allclose(an.product(ops, 4, 5).dense(), ops.matrices[4], rtol=1e-15)
    for wrong in [(-1, 2), (3, 2), (0, 6)]:
        with pytest.raises(ValueError, match="steps"):
            an.product(ops, *wrong)


def test_product_stays_in_its_run(rng):
    ops = jacobians(rng.normal(size=(5, 2, 2)), offsets=[0, 2, 5])
    np.testing.assert_allclose(an.product(ops, 0, 2).dense(), ops.matrices[1] @ ops.matrices[0])
    with pytest.raises(ValueError, match="step 2 between 1 and 3 ends run 0"):
        an.product(ops, 1, 3)


def test_a_million_stochastic_factors_keep_their_sums(rng):
    ops = Operators(random_chain(rng, 1000, 3), np.array([0, 10**6]))
    total = an.product(ops, 0, 10**6)
    assert total.log_scale == 0
    assert np.abs(total.matrix.sum(axis=0) - 1).max() < 1e-12


def test_rounding_of_given_sums_does_not_add_up(rng):
    """Columns that sum to 1 + 1e-9 are accepted; a thousand factors would make that 1e-6."""
    ops = Operators.from_arrays(random_chain(rng, 1000, 3) * (1 + 1e-9))
    assert np.abs(an.product(ops, 0, 1000).matrix.sum(axis=0) - 1).max() < 1e-12


def test_a_million_factors_neither_underflow_nor_overflow(rng):
    for size in [1e-200, 1e200]:
        ops = jacobians(size * np.eye(2))
        ops = Operators(ops.matrices, np.array([0, 10**6]), kind="jacobian")
        result = an.product(ops, 0, 10**6)
        np.testing.assert_allclose(result.log_scale + np.log(result.matrix[0, 0]), 1e6 * np.log(size), rtol=1e-12)
    walk = jacobians(np.concatenate([rng.normal(size=(20_000, 4, 4)) * 1e-3, np.zeros((1, 4, 4))]))
    assert an.product(walk, 0, 20_000).log_scale < -1e5
    zero = an.product(walk, 0, 20_001)
    assert zero.log_scale == 0
    assert np.array_equal(zero.matrix, np.zeros((4, 4)))


def test_powers_by_squaring_equal_steps(rng):
    chain = random_chain(rng, 3, 4)
    for kind in ["stochastic", "jacobian"]:
        repeated = Operators(chain, None, kind=kind)
        plain = Operators(chain, np.array([0, 500]), kind=kind)
        for start in [0, 1]:
            want = reduce(lambda total, matrix: matrix @ total, plain.take(start, start + 400))
            np.testing.assert_allclose(an.product(repeated, start, start + 400).dense(), want, rtol=1e-11)


def test_singular_values_below_the_reach_of_plain_products(rng):
    """The product of 40 matrices has singular values over 100 decades; their products are exact minors' sums."""
    matrices = rng.normal(size=(40, 3, 3)) @ np.diag([1, 1e-2, 1e-4])
    got = an.singular_values(jacobians(matrices), [40], log=True, n_starts=1)[0]
    exact = exact_product(matrices)
    gram = [[sum(exact[k][i] * exact[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
    trace = sum(gram[i][i] for i in range(3))
    minors = sum(gram[i][i] * gram[j][j] - gram[i][j] * gram[j][i] for i in range(3) for j in range(i))
    # far apart: the sum of squares is the first, the sum of 2 x 2 minors the first times the second, and so on
    first, second = log_fraction(trace) / 2, log_fraction(minors) / 2
    third = log_fraction(determinant(exact))
    assert first - second > 20
    np.testing.assert_allclose(got, [first, second - first, third - second], rtol=1e-11)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_singular_values_equal_numpy_where_it_can(rng, n):
    matrices = rng.normal(size=(3, n, n))
    got = an.singular_values(jacobians(matrices), [1, 3], n_starts=1)
    np.testing.assert_allclose(got[0], np.linalg.svd(matrices[0], compute_uv=False), rtol=1e-11)
    np.testing.assert_allclose(
        got[1], np.linalg.svd(matrices[2] @ matrices[1] @ matrices[0], compute_uv=False), rtol=1e-8
    )


def test_singular_values_are_geometric_means_over_starts(rng):
    matrices = rng.normal(size=(6, 3, 3))
    got = an.singular_values(jacobians(matrices), [2])
    logs = [np.log(np.linalg.svd(matrices[k + 1] @ matrices[k], compute_uv=False)) for k in range(5)]
    np.testing.assert_allclose(got[0], np.exp(np.mean(logs, axis=0)), rtol=1e-10)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_saturated_rows_are_not_lost(rng, place):
    """A saturated unit has a row of 1e-30 in the Jacobian: small, but not zero, wherever it stands."""
    mix, slopes = rng.normal(size=(3, 3)), np.ones(3)
    slopes[place] = 1e-30
    matrices = np.repeat((slopes[:, None] * mix)[None], 3, axis=0)
    got = an.singular_values(jacobians(matrices), [3], log=True)[0]
    log_det = np.linalg.slogdet(mix)[1] + np.log(1e-30)
    np.testing.assert_allclose(got.sum(), 3 * log_det, rtol=1e-13)
    assert got[0] == pytest.approx(np.log(np.linalg.norm(np.linalg.matrix_power(matrices[0], 3), 2)), abs=1e-10)


def test_effective_rank_of_known_spectra():
    identity = jacobians(np.eye(4))
    np.testing.assert_allclose(an.effective_rank(identity, [0, 1, 1000]), 4, rtol=1e-14)
    rank_one = Operators.from_arrays(np.outer([0.2, 0.3, 0.5], np.ones(3)))
    np.testing.assert_allclose(an.effective_rank(rank_one, [1, 7]), 1, rtol=1e-14)
    assert np.array_equal(an.effective_rank(rank_one, [0, 1, 7], keep_trivial=False)[1:], [0, 0])
    p = np.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(an.effective_rank(jacobians(np.diag(p)), [1]), np.exp(-(p * np.log(p)).sum()))
    assert an.effective_rank(jacobians(np.zeros((2, 2))), [1]) == [0]


def test_setting_the_trivial_direction_apart(rng):
    chain = random_chain(rng, 1, 5)
    basis = np.linalg.qr(np.concatenate([np.ones((5, 1)), rng.normal(size=(5, 4))], axis=1))[0][:, 1:]
    want = np.linalg.svd(basis.T @ chain[0] @ basis, compute_uv=False)
    got = an.singular_values(Operators(chain, None), [1], keep_trivial=False)[0]
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_eigenvalues_of_one_matrix(rng):
    chain = random_chain(rng, 1, 5)
    lags = [0, 1, 2, 7]
    got = an.eigenvalues(Operators(chain, None), lags)
    for row, lag in zip(got, lags):
        want = np.linalg.eigvals(chain[0]) ** lag
        want = want[np.argsort(-np.abs(want), kind="stable")]
        np.testing.assert_allclose(np.sort(np.abs(row)), np.sort(np.abs(want)), rtol=1e-9)
        np.testing.assert_allclose(row.sum(), want.sum(), rtol=1e-9)
    assert np.array_equal(got[:, 0], np.ones(4))


def test_negative_and_complex_eigenvalues():
    flip = Operators.from_arrays(np.array([[0.2, 0.7], [0.8, 0.3]]))
    np.testing.assert_allclose(an.eigenvalues(flip, [1, 2, 3])[:, 1], [-0.5, 0.25, -0.125], rtol=1e-12)
    turn = jacobians(0.5 * np.array([[0.0, -1.0], [1.0, 0.0]]))
    got = an.eigenvalues(turn, [1, 2, 4])
    np.testing.assert_allclose(np.sort_complex(got[0]), [-0.5j, 0.5j], atol=1e-15)
    np.testing.assert_allclose(got[1], [-0.25, -0.25], atol=1e-15)
    np.testing.assert_allclose(got[2], [0.0625, 0.0625], atol=1e-15)


def test_zero_and_defective_eigenvalues():
    nilpotent = jacobians(np.diag([1.0, 1.0], 1))
    with pytest.warns(an.DefectiveWarning):
        assert np.array_equal(an.eigenvalues(nilpotent, [1, 2, 3]), np.zeros((3, 3)))
    with pytest.warns(an.DefectiveWarning):
        assert np.array_equal(an.lyapunov(nilpotent).exponents, [-np.inf] * 3)
    jordan = jacobians(np.array([[0.5, 1.0], [0.0, 0.5]]))
    with pytest.warns(an.DefectiveWarning):
        np.testing.assert_allclose(
            an.eigenvalues(jordan, [1, 1000], log=True), np.log(0.5) * np.array([[1], [1000]]) * [1, 1]
        )
    turned = np.array([[3.0, 1.0], [2.0, -1.0]])
    with pytest.warns(an.DefectiveWarning):
        got = an.eigenvalues(jacobians(turned @ jordan.matrices[0] @ np.linalg.inv(turned)), [1])
    np.testing.assert_allclose(np.abs(got), 0.5, atol=1e-7)


def test_zeros_among_other_eigenvalues(rng):
    """A matrix of rank two in four dimensions, exactly, without a zero entry."""
    matrix = rng.integers(1, 9, size=(4, 2)) @ rng.integers(1, 9, size=(2, 4)).astype(float)
    ops = jacobians(matrix)
    got = an.eigenvalues(ops, [1, 3])
    assert np.array_equal(got[:, 2:], np.zeros((2, 2)))
    assert (np.abs(got[:, :2]) > 0).all()
    np.testing.assert_allclose(got[0].sum(), np.trace(matrix), rtol=1e-12)
    assert np.array_equal(np.isneginf(an.lyapunov(ops).exponents), [False, False, True, True])


def test_eigenvalues_of_varying_products(rng):
    matrices = rng.normal(size=(6, 4, 4))
    got = an.eigenvalues(jacobians(matrices), [6])[0]
    want = np.linalg.eigvals(np.linalg.multi_dot(matrices[::-1]))
    want = want[np.argsort(-np.abs(want))]
    np.testing.assert_allclose(np.abs(got), np.abs(want), rtol=1e-7)
    assert got.sum() == pytest.approx(want.sum(), rel=1e-9)
    logs = an.eigenvalues(jacobians(rng.normal(size=(2000, 4, 4))), [2000], log=True)[0]
    assert np.isfinite(logs).all()
    assert logs[0] - logs[-1] > 1000


def test_logs_of_eigenvalues_add_to_the_determinant(rng):
    matrices = rng.normal(size=(500, 4, 4))
    logs = an.eigenvalues(jacobians(matrices), [500], log=True)[0]
    assert logs.sum() == pytest.approx(np.linalg.slogdet(matrices)[1].sum(), rel=1e-11)


def test_alternating_primitive_matrices_keep_two_directions():
    """Spectral radii of the factors say nothing about the product."""
    got = an.eigenvalues(Operators.from_arrays(np.array([FIRST, SECOND] * 500)), [2, 10, 1000], n_starts=1)
    np.testing.assert_allclose(got[:, :2], 1, rtol=1e-12)
    np.testing.assert_allclose(got[:2, 2], [0.25, 0.25**5], rtol=1e-12)
    with pytest.warns(an.ReducibleWarning, match="2 closed classes"):
        result = an.lyapunov(Operators(np.array([FIRST, SECOND]), None))
    np.testing.assert_allclose(result.exponents, [0, np.log(0.25) / 2], atol=1e-14)
    assert result.timescales[0] == np.inf


def test_permutations_have_exponents_exactly_zero():
    with pytest.warns(an.PeriodicWarning, match="period 4"):
        assert np.array_equal(an.lyapunov(Operators.from_arrays(CYCLE)).exponents, np.zeros(3))
    varying = np.array([np.eye(5)[np.random.default_rng(k).permutation(5)] for k in range(1000)])
    result = an.lyapunov(Operators.from_arrays(varying))
    assert np.array_equal(result.exponents, np.zeros(4))
    assert np.array_equal(result.timescales, np.full(4, np.inf))


def test_identity_and_block_diagonal_chains():
    with pytest.warns(an.ReducibleWarning, match="3 closed classes"):
        assert np.array_equal(an.lyapunov(Operators.from_arrays(np.eye(3))).exponents, [0, 0])
    blocks = np.kron(np.eye(2), np.array([[0.9, 0.1], [0.1, 0.9]]))
    with pytest.warns(an.ReducibleWarning):
        result = an.lyapunov(Operators.from_arrays(blocks))
    np.testing.assert_allclose(result.exponents, [0, np.log(0.8), np.log(0.8)], atol=1e-14)
    assert not np.isnan(result.timescales).any()


@pytest.mark.parametrize("forever", [True, False])
def test_rank_one_factors_have_exponents_minus_infinity(rng, forever):
    rank_one = np.outer([0.2, 0.3, 0.5], np.ones(3))
    ops = Operators.from_arrays(rank_one if forever else np.repeat(rank_one[None], 50, axis=0))
    result = an.lyapunov(ops)
    assert np.array_equal(result.exponents, [-np.inf, -np.inf])
    assert np.array_equal(result.timescales, [0, 0])
    assert not np.isnan(result.stderr).any()
    assert not np.isnan(result.history).any()
    mixed = random_chain(rng, 50, 3)
    mixed[20] = rank_one
    assert np.array_equal(an.lyapunov(Operators.from_arrays(mixed)).exponents, [-np.inf, -np.inf])
    network = rng.normal(size=(50, 4, 4))
    network[30] = np.outer(rng.normal(size=4), rng.normal(size=4))
    exponents = an.lyapunov(jacobians(network)).exponents
    assert np.isfinite(exponents[0])
    assert np.array_equal(exponents[1:], [-np.inf] * 3)


def test_order_of_directions_that_die():
    """The first direction of the frame dies at a factor that another one survives."""
    matrices = np.array([np.diag([3.0, 1.0]), [[0.0, 1.0], [0.0, 1.0]]] * 200)
    exponents = an.lyapunov(jacobians(matrices)).exponents
    assert exponents[0] == pytest.approx(0, abs=1e-12)
    assert exponents[1] == -np.inf


def test_nearly_one_is_not_infinity():
    slow = np.array([[1 - 1e-6, 1e-6], [1e-6, 1 - 1e-6]])
    assert an.lyapunov(Operators.from_arrays(slow)).timescales[0] == pytest.approx(499999.5, rel=1e-9)
    run = Operators(slow[None], np.array([0, 1000]))
    assert an.lyapunov(run).timescales[0] == pytest.approx(499999.5, rel=1e-9)


def test_exponents_of_triangular_systems(rng):
    """The exponents of a product of triangular matrices are the means of the logs on the diagonal."""
    matrices = np.triu(rng.normal(size=(20_000, 3, 3)))
    result = an.lyapunov(jacobians(matrices))
    want = np.sort(np.log(np.abs(np.diagonal(matrices, axis1=1, axis2=2))).mean(axis=0))[::-1]
    np.testing.assert_allclose(result.exponents, want, atol=4 * result.stderr.max())
    total = np.log(np.abs(np.diagonal(matrices[2000:], axis1=1, axis2=2))).mean(axis=0).sum()
    assert result.exponents.sum() == pytest.approx(total, abs=1e-10)


def test_exponents_of_a_linear_system(rng):
    rates, frame = np.array([0.3, -0.1, -2.0]), rng.normal(size=(3, 3))
    step = frame @ np.diag(np.exp(rates)) @ np.linalg.inv(frame)
    np.testing.assert_allclose(an.lyapunov(jacobians(step)).exponents, rates, atol=1e-12)
    finite = an.lyapunov(jacobians(np.repeat(step[None], 2000, axis=0), dt=0.5))
    np.testing.assert_allclose(finite.exponents, rates / 0.5, atol=1e-9)
    np.testing.assert_allclose(finite.timescales, -0.5 / rates, rtol=1e-8)


def test_henon_map():
    """Benettin's classic: exponents 0.4192 and log 0.3 - 0.4192 for a = 1.4, b = 0.3."""
    x, y, steps = 0.1, 0.1, []
    for _ in range(60_000):
        steps.append([[-2.8 * x, 1.0], [0.3, 0.0]])
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
    result = an.lyapunov(jacobians(np.array(steps)))
    assert result.exponents[0] == pytest.approx(0.4192, abs=4 * result.stderr[0] + 5e-4)
    assert 0 < result.stderr[0] < 0.005
    assert result.exponents.sum() == pytest.approx(np.log(0.3), abs=1e-10)


def test_orthogonal_products_neither_grow_nor_decay(rng):
    turns = np.linalg.qr(rng.normal(size=(5000, 6, 6)))[0]
    assert np.array_equal(an.lyapunov(jacobians(turns)).exponents, np.zeros(6))
    np.testing.assert_allclose(an.singular_values(jacobians(turns), [5000]), 1, rtol=1e-11)


def test_history_and_runs_of_lyapunov(rng):
    offsets = np.array([0, 400, 400, 401, 1000])
    ops = jacobians(rng.normal(size=(1000, 3, 3)), offsets=offsets)
    result = an.lyapunov(ops, 2)
    assert result.exponents.shape == result.stderr.shape == result.timescales.shape == (2,)
    np.testing.assert_allclose(result.history[-1], result.exponents)
    assert result.steps[-1] == (400 - 40) + 1 + (599 - 59)
    assert (np.diff(result.steps) > 0).all()
    with pytest.raises(ValueError, match="no step"):
        an.lyapunov(jacobians(np.zeros((0, 2, 2)), offsets=[0, 0]))


def test_held_levels_are_seen():
    """Where a level holds, its rows of the Jacobian are the identity: that is what lengthens memory."""
    move, hold = 0.5 * np.eye(2), np.diag([1.0, 0.5])
    maps = np.array([move if t % 4 == 0 else hold for t in range(400)])
    np.testing.assert_allclose(an.lyapunov(jacobians(maps)).exponents, np.log(0.5) * np.array([0.25, 1]), atol=1e-12)


def test_one_state_has_nothing_to_forget():
    ops = Operators.from_arrays(np.ones((1, 1)))
    assert an.lyapunov(ops).exponents.shape == (0,)
    assert an.contraction(ops, [1]) == [0]
    assert an.half_life(ops) == 0
    np.testing.assert_allclose(an.eigenvalues(ops, [3]), [[1]])
    assert an.singular_values(ops, [3], keep_trivial=False).shape == (1, 0)


def test_no_warning_where_nothing_is_wrong(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops = Operators.from_arrays(random_chain(rng, 1, 6)[0])
        an.lyapunov(ops), an.eigenvalues(ops, [1, 100]), an.half_life(ops), an.effective_rank(ops, [1, 100])


def test_deeptime_agrees_on_timescales(rng):
    deeptime = pytest.importorskip("deeptime")
    weights = rng.uniform(size=(5, 5)) + 5 * np.eye(5)
    matrix = weights + weights.T  # reversible: their time scales are for real eigenvalues
    matrix /= matrix.sum(axis=1, keepdims=True)
    theirs = deeptime.markov.msm.MarkovStateModel(matrix).timescales()
    np.testing.assert_allclose(an.lyapunov(Operators.from_arrays(matrix.T)).timescales, theirs, rtol=1e-10)


def test_variants_of_the_kernels_agree(rng):
    matrices = rng.normal(size=(50, 7, 7))
    results = []
    order = ["base", "v3", "v4"]
    for name in order[: order.index(VARIANT) + 1]:
        products, graded = load("products", name), load("graded", name)
        total, left, logs, right, values = np.eye(7), np.eye(7), np.zeros(7), np.eye(7), np.empty(7)
        exponent = products.chain(matrices, 0, 50, False, False, total)
        graded.graded(matrices, 0, 50, False, left, logs, right)
        products.log_singular_values(logs, right, values)
        results.append((np.ldexp(total, exponent), np.sort(values)))
    for total, values in results:
        np.testing.assert_allclose(total, results[0][0], rtol=1e-12, atol=1e-12 * np.abs(total).max())
        np.testing.assert_allclose(values, results[0][1], rtol=1e-12)


def test_kernels_refuse_wrong_shapes():
    products, graded = load("products"), load("graded")
    maps = np.ones((1, 3, 3))
    with pytest.raises(ValueError, match="product must be"):
        products.chain(maps, 0, 1, True, False, np.eye(3))
    with pytest.raises(ValueError, match="Q must be"):
        graded.graded(maps, 0, 1, False, np.eye(2), np.zeros(2))
    with pytest.raises(ValueError, match="gradient"):
        products.backward(maps, 0, 1, False, np.zeros(2))
    with pytest.raises(ValueError, match="matrices"):
        products.chain(np.ones((0, 3, 3)), 0, 1, False, False, np.eye(3))
    with pytest.raises(ValueError, match="d, T and out"):
        products.log_singular_values(np.zeros(2), np.eye(3), np.zeros(3))


def test_lags_and_models_are_checked(rng):
    ops = jacobians(rng.normal(size=(5, 2, 2)))
    for wrong in [[-1], [1.5], [], [[1, 2]]]:
        with pytest.raises(ValueError, match="lags"):
            an.contraction(ops, wrong)
    with pytest.raises(ValueError, match="longest run of the operators \\(5 steps\\)"):
        an.singular_values(ops, [6])
    with pytest.raises(TypeError, match="ndarray has neither"):
        an.half_life(np.eye(2))
