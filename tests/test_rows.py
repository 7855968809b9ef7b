"""Table rows and softmax rows: kernels against plain NumPy, derivatives, optima, and the cases that break solvers."""

import numpy as np
import oracles as o
import pytest
from sklearn.linear_model import LogisticRegression

from hiermm._ext import _cpu, load
from hiermm.rows import SoftmaxRows, TableRows

VARIANTS = {"base": ["base"], "v3": ["base", "v3"], "v4": ["base", "v3", "v4"]}[_cpu.best()]
# n, G, M, P, w: lengths around a block, sizes around the unrolled ones, no inputs, one destination
SHAPES = [
    (1, 1, 1, 0, None),
    (7, 2, 2, 1, None),
    (130, 4, 4, 3, None),
    (65, 3, 3, 2, 0.3),
    (64, 2, 2, 5, 0.9),
    (33, 5, 9, 4, None),
    (20, 2, 12, 0, 0.5),
    (9, 17, 17, 2, 0.25),
    (6, 3, 8, 9, None),
]


def problem(n, G, M, P, w, seed=0):
    """Parameters, inputs, counts and `stay` of a random problem; with room for it, one forbidden destination."""
    rng = np.random.default_rng([seed, n, G, M, P])
    coef, intercept = rng.normal(size=(G, M, P)), rng.normal(size=(G, M))
    inputs, counts = rng.normal(size=(n, P)), rng.uniform(size=(n, G, M)) * (rng.uniform(size=(n, G, 1)) < 0.8)
    if M > 2:
        intercept[0, 1], counts[:, 0, 1] = -np.inf, 0.0
    return coef, intercept, inputs, counts, (None if w is None else np.arange(G) % M)


def kernel_probabilities(kernel, coef, intercept, inputs, w, stay):
    """Run the kernel into a strided view; check that nothing around the view was touched."""
    n, (G, M) = len(inputs), intercept.shape
    around = np.full((n, G * M + 5), 7.0)
    kernel.probabilities(
        inputs, coef, intercept, -1.0 if w is None else w, stay, around[:, 2 : 2 + G * M].reshape(n, G, M)
    )
    assert (around[:, :2] == 7.0).all() and (around[:, 2 + G * M :] == 7.0).all()
    return around[:, 2 : 2 + G * M].reshape(n, G, M)


def kernel_sums(kernel, inputs, probs, counts, w, stay):
    _, G, M = probs.shape
    size = inputs.shape[1] + 1
    gradient, hessian = np.zeros((G, M, size)), np.zeros((G, M * size, M * size))
    kernel.newton_sums(inputs, probs, counts, -1.0 if w is None else w, stay, gradient, hessian)
    return gradient, hessian


# -- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_plain_numpy(shape, variant):
    w = shape[-1]
    kernel = load("softmax", variant)
    coef, intercept, inputs, counts, stay = problem(*shape)
    probs = kernel_probabilities(kernel, coef, intercept, inputs, w, stay)
    expected = o.softmax_rows(coef, intercept, inputs, w, stay)
    np.testing.assert_allclose(probs, expected, rtol=1e-13, atol=0)
    value = kernel.objective(inputs, coef, intercept, -1.0 if w is None else w, stay, counts)
    np.testing.assert_allclose(value, o.softmax_objective(coef, intercept, inputs, counts, w, stay), rtol=1e-13)
    gradient, hessian = kernel_sums(kernel, inputs, probs, counts, w, stay)
    slow_gradient, slow_hessian = slow_sums(inputs, expected, counts, w, stay)
    np.testing.assert_allclose(gradient, slow_gradient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(hessian, slow_hessian, rtol=0, atol=1e-12)
    normalizer = np.empty(probs.shape[:2])
    kernel.log_normalizer(inputs, coef, intercept, normalizer)
    z = np.einsum("gmp,np->ngm", coef, inputs) + intercept
    np.testing.assert_allclose(normalizer, o.logsumexp(z, axis=-1), rtol=1e-13, atol=1e-13)


def slow_sums(inputs, probs, counts, w, stay):
    n, G, M = probs.shape
    size = inputs.shape[1] + 1
    gradient, hessian = np.zeros((G, M, size)), np.zeros((G, M, size, M, size))
    for g in range(G):
        free = np.arange(M) != (-1 if stay is None else stay[g])
        for k in range(n):
            f, c = np.append(1.0, inputs[k]), counts[k, g] * free
            p = probs[k, g] * free / (1.0 if stay is None else 1.0 - w)
            gradient[g] += np.outer(c - c.sum() * p, f)
            hessian[g] += c.sum() * np.einsum("jk,a,b->jakb", np.diag(p) - np.outer(p, p), f, f)
    return gradient, hessian.reshape(G, M * size, M * size)


@pytest.mark.parametrize("variant", VARIANTS[1:])
@pytest.mark.parametrize("shape", [*SHAPES, (2_000, 4, 4, 3, None), (2_000, 2, 3, 2, 0.5)])
def test_variants_agree(shape, variant):
    w = shape[-1]
    coef, intercept, inputs, counts, stay = problem(*shape)
    results = []
    for kernel in (load("softmax", "base"), load("softmax", variant)):
        probs = kernel_probabilities(kernel, coef, intercept, inputs, w, stay)
        value = kernel.objective(inputs, coef, intercept, -1.0 if w is None else w, stay, counts)
        results.append([probs, np.array(value), *kernel_sums(kernel, inputs, probs, counts, w, stay)])
    for base, other in zip(*results):
        np.testing.assert_allclose(other, base, rtol=1e-12, atol=1e-12 * np.abs(base).max())


def test_sums_are_added_and_many_groups_take_several_passes():
    """Enough groups that the running sums do not fit at once; results are added to what was there."""
    kernel = load("softmax")
    coef, intercept, inputs, counts, stay = problem(70, 30, 16, 6, None)
    probs = kernel_probabilities(kernel, coef, intercept, inputs, None, stay)
    gradient, hessian = kernel_sums(kernel, inputs, probs, counts, None, stay)
    assert 2 * 30 * 120 * 28 > 1 << 16
    for g in (0, 17, 29):
        one = slow_sums(inputs, probs[:, g : g + 1], counts[:, g : g + 1], None, None)
        np.testing.assert_allclose(gradient[g], one[0][0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(hessian[g], one[1][0], rtol=0, atol=1e-12)
    again = gradient.copy(), hessian.copy()
    weight, moments = np.ones(30), np.ones((7, 7))
    kernel.newton_sums(inputs, probs, counts, -1.0, None, *again, weight, moments)
    features = np.column_stack([np.ones(70), inputs])
    np.testing.assert_allclose(weight, 1 + counts.sum(axis=(0, 2)), rtol=1e-13)
    np.testing.assert_allclose(moments, 1 + features.T @ features, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(again[0], 2 * gradient, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(again[1], 2 * hessian, rtol=1e-12, atol=1e-13)


def test_saturated_rows_keep_their_digits():
    """At p = 1e-25 the curvature n p (1 - p) and the residual are right in all digits, not rounded to 0 or noise."""
    kernel = load("softmax")
    gap = np.log(1e25)
    coef, intercept = np.zeros((1, 2, 0)), np.array([[gap / 2, -gap / 2]])
    probs = kernel_probabilities(kernel, coef, intercept, np.zeros((3, 0)), None, None)
    counts = np.tile([[[1.0, 3e-25]]], (3, 1, 1))
    gradient, hessian = kernel_sums(kernel, np.zeros((3, 0)), probs, counts, None, None)
    np.testing.assert_allclose(gradient[0].ravel(), np.array([-1, 1]) * 3 * 2e-25, rtol=1e-12)
    np.testing.assert_allclose(hessian[0], np.array([[1, -1], [-1, 1]]) * 3e-25, rtol=1e-12)


def test_refusals_of_the_kernels():
    kernel = load("softmax")
    coef, intercept, inputs, counts, _ = problem(5, 2, 3, 2, None)
    out = np.empty((5, 2, 3))
    for bad in (
        lambda: kernel.probabilities(inputs[:, :1].copy(), coef, intercept, -1.0, None, out),
        lambda: kernel.probabilities(inputs, coef, intercept, -1.0, None, out[:4]),
        lambda: kernel.probabilities(inputs, coef, intercept, -1.0, None, np.empty((5, 2, 6))[:, :, ::2]),
        lambda: kernel.probabilities(inputs, coef, intercept, 0.5, np.array([0, 3]), out),
        lambda: kernel.probabilities(inputs, coef, intercept, 1.0, np.array([0, 1]), out),
        lambda: kernel.objective(inputs, coef[:1], intercept, -1.0, None, counts),
        lambda: kernel.newton_sums(inputs, out, counts, -1.0, None, np.zeros((2, 3, 3)), np.zeros((2, 9, 8))),
        lambda: kernel.newton_sums(inputs, out, counts, -1.0, None, np.zeros((2, 3, 2)), np.zeros((2, 9, 9))),
    ):
        with pytest.raises(ValueError, match=r"expected|stay|need|contiguous|inputs"):
            bad()


# -- softmax rows: derivatives and optima ----------------------------------------------------------------------------


def make_rows(R, K, P, w=None, shared=False, alpha=0.3, seed=0):
    rng = np.random.default_rng([seed, R, K, P])
    coef = np.broadcast_to(rng.normal(size=(K, P)), (R, K, K, P)) if shared else rng.normal(size=(R, K, K, P))
    return SoftmaxRows(coef, rng.normal(size=(R, K, K)), w, shared, alpha)


def make_data(n, rows, seed=0):
    rng = np.random.default_rng(seed)
    shape = rows.intercept.shape
    return rng.normal(size=(n, rows.n_inputs)), rng.uniform(size=(n, *shape)) ** 3 * rows.free


def total(rows, inputs, xi):
    return rows.objective(inputs, xi) + rows.penalty()


def climb(rows, inputs, xi, max_iter=300):
    """Newton with line search until the objective stands still; asserts that it never falls. Returns rows, history."""
    history = [total(rows, inputs, xi)]
    for _ in range(max_iter):
        target, fraction = rows.maximise(rows.statistics(inputs, xi)), 1.0
        trial = rows.between(target, fraction)
        while total(trial, inputs, xi) < history[-1] - 1e-13 * abs(history[-1]):
            fraction *= 0.5
            assert fraction > 1e-9, "the Newton point does not lie uphill"
            trial = rows.between(target, fraction)
        rows = trial
        history.append(total(rows, inputs, xi))
        assert np.isfinite(rows.coef).all() and np.isfinite(rows.intercept[rows.free]).all()
        if history[-1] - history[-2] <= 1e-13 * abs(history[-1]):
            break
    return rows, history


@pytest.mark.parametrize("w", [None, 0.6])
def test_gradient_and_hessian_by_finite_differences(w):
    rows = make_rows(2, 3, 2, w)
    inputs, xi = make_data(40, rows)
    stats = rows.statistics(inputs, xi)
    R, K, P = 2, 3, 2

    def at(theta):
        theta = theta.reshape(R, K, K, P + 1)
        return SoftmaxRows(theta[..., 1:], theta[..., 0], w, alpha=rows.alpha)

    x = np.concatenate([rows.intercept[..., None], rows.coef], axis=-1).ravel()
    gradient = o.central_differences(lambda x: at(x).objective(inputs, xi), x, 1e-3)
    np.testing.assert_allclose(stats["gradient"].ravel(), gradient, rtol=1e-6, atol=1e-8)
    hessian = o.central_differences(lambda x: at(x).statistics(inputs, xi)["gradient"].ravel(), x, 1e-3)
    blocks = np.zeros((R * K, K * (P + 1), R * K, K * (P + 1)))
    blocks[np.arange(R * K), :, np.arange(R * K)] = stats["hessian"]
    np.testing.assert_allclose(-blocks.reshape(x.size, x.size), hessian, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        rows.objective(inputs, xi),
        o.softmax_objective(
            rows.coef.reshape(-1, K, P),
            rows.intercept.reshape(-1, K),
            inputs,
            xi.reshape(-1, R * K, K),
            w,
            None if w is None else np.tile(np.arange(K), R),
        ),
        rtol=1e-13,
    )


@pytest.mark.parametrize("w", [None, 0.6])
@pytest.mark.parametrize("shared", [False, True])
def test_maximise_is_the_newton_point(shared, w):
    """The step solves the full system of the penalised objective, whatever coordinates it was found in."""
    rows = make_rows(2, 3, 2, w, shared, alpha=0.7)
    rows = SoftmaxRows(0.3 * rows.coef, 0.3 * rows.intercept, w, shared, 0.7)  # near enough for a step of full length
    inputs, xi = make_data(60, rows)
    new = rows.maximise(rows.statistics(inputs, xi))
    free = np.append(rows.free.ravel(), np.ones(3 * 2 if shared else rows.coef.size, bool))
    if not shared:
        free[rows.free.size :] = np.repeat(rows.free.ravel(), 2)

    def objective(x):
        intercept, slopes = x[: rows.intercept.size].reshape(2, 3, 3), x[rows.intercept.size :]
        coef = np.broadcast_to(slopes.reshape(3, 2), rows.coef.shape) if shared else slopes.reshape(rows.coef.shape)
        return total(SoftmaxRows(coef, intercept, w, shared, 0.7), inputs, xi)

    start = np.append(rows.intercept, rows.coef[0, 0] if shared else rows.coef)
    gradient = o.central_differences(objective, start, 1e-3)
    hessian = o.central_differences(lambda x: o.central_differences(objective, x, 3e-3), start, 3e-3)
    step = np.linalg.lstsq(hessian[np.ix_(free, free)], -gradient[free], rcond=1e-9)[0]
    moved = start.copy()
    moved[free] += step
    expected = objective(moved)
    assert abs(total(new, inputs, xi) - expected) < 1e-6 * abs(expected - objective(start))
    intercept = moved[: rows.intercept.size].reshape(2, 3, 3)
    slopes = moved[rows.intercept.size :]
    coef = np.broadcast_to(slopes.reshape(3, 2), rows.coef.shape) if shared else slopes.reshape(rows.coef.shape)
    reference = SoftmaxRows(coef, intercept, w, shared)
    np.testing.assert_allclose(new.probabilities(inputs), reference.probabilities(inputs), rtol=0, atol=1e-7)


def test_newton_reaches_sklearns_optimum():
    """One row per source: scikit-learn's multinomial logistic regression with the same L2 penalty and weights."""
    rows = make_rows(1, 3, 2, alpha=0.5)
    inputs, xi = make_data(150, rows)
    best, _ = climb(rows, inputs, xi)
    for source in range(3):
        X, y = np.repeat(inputs, 3, axis=0), np.tile(np.arange(3), 150)
        peer = LogisticRegression(C=1 / 0.5, tol=1e-12, max_iter=10_000, solver="newton-cg")
        peer.fit(X, y, sample_weight=xi[:, 0, source].ravel())
        np.testing.assert_allclose(best.probabilities(inputs)[:, 0, source], peer.predict_proba(inputs), atol=1e-7)
        np.testing.assert_allclose(best.coef[0, source], peer.coef_, atol=1e-6)


@pytest.mark.parametrize("w", [None, 0.6])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("R, K, P", [(1, 2, 1), (2, 3, 2), (3, 4, 3), (1, 4, 0), (2, 1, 2)])
def test_newton_with_line_search_ends_where_the_gradient_vanishes(R, K, P, shared, w):
    rows = make_rows(R, K, P, w, shared)
    inputs, xi = make_data(200, rows)
    best, history = climb(rows, inputs, xi)
    assert len(history) < 12
    gradient = best.statistics(inputs, xi)["gradient"]
    assert np.abs(gradient[..., 0]).max() < 1e-8 * 200
    penalised = gradient[..., 1:].reshape(rows.coef.shape) * rows.free[..., None]
    penalised = penalised.sum(axis=(0, 1)) - 0.3 * best.coef[0, 0] if shared else penalised - 0.3 * best.coef
    free = rows.free.any(axis=(0, 1)) if shared else rows.free
    if K > 1 and (w is None or K > 2):
        assert np.abs(penalised[free]).max(initial=0.0) < 1e-8 * 200
        np.testing.assert_allclose(
            np.where(free[..., None], best.coef[0, 0] if shared else best.coef, 0).sum(-2), 0, atol=1e-12
        )
        np.testing.assert_allclose(np.where(rows.free, best.intercept, 0).sum(-1), 0, atol=1e-12)


def test_any_gauge_gives_the_same_step():
    rows = make_rows(2, 3, 2)
    inputs, xi = make_data(50, rows)
    shift = np.random.default_rng(1).normal(size=(2, 3, 1, 3)) * 5
    moved = SoftmaxRows(rows.coef + shift[..., 1:], rows.intercept + shift[..., 0], alpha=rows.alpha)
    np.testing.assert_allclose(moved.probabilities(inputs), rows.probabilities(inputs), rtol=1e-12)
    a, b = (r.maximise(r.statistics(inputs, xi)) for r in (rows, moved))
    np.testing.assert_allclose(a.coef, b.coef, atol=1e-10)
    np.testing.assert_allclose(a.intercept, b.intercept, atol=1e-10)


def test_statistics_add_over_blocks_and_take_strided_counts():
    rows = make_rows(2, 3, 2)
    inputs, xi = make_data(100, rows)
    packed = np.zeros((100, 30))
    packed[:, 5:23] = xi.reshape(100, 18)
    whole = rows.statistics(inputs, xi)
    view = packed[:, 5:23].reshape(100, 2, 3, 3)
    parts = [rows.statistics(inputs[a:b], view[a:b]) for a, b in ((0, 13), (13, 77), (77, 100))]
    given = rows.statistics(inputs, view, probs=rows.probabilities(inputs))
    for name, value in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), value, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(given[name], value)
    with pytest.raises(ValueError, match="contiguous"):
        rows.statistics(inputs, np.asfortranarray(xi))


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_called_sure_never_falls(shared):
    """The bound holds on many problems, says yes near the optimum, and does not say yes to an overshooting step."""
    yes = no = fell = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size = 10.0 ** rng.uniform(-2, 1)
        made = make_rows(1, 3, 2, None if seed % 3 else 0.5, shared, alpha=10.0 ** rng.uniform(-4, 1), seed=seed)
        rows = SoftmaxRows(size * made.coef, size * made.intercept, made.self_transition, shared, made.alpha)
        inputs, xi = make_data(rng.integers(2, 40), rows, seed)
        goal = rows.maximise(rows.statistics(inputs, xi))
        gain = total(goal, inputs, xi) - total(rows, inputs, xi)
        sure = rows.surely_rises(goal, inputs.min(axis=0), inputs.max(axis=0))
        assert gain >= -1e-11 * abs(total(rows, inputs, xi)) or not sure
        yes, no, fell = yes + sure, no + (not sure), fell + (gain < 0)
        best, _ = climb(rows, inputs, xi)
        again = best.maximise(best.statistics(inputs, xi))
        assert best.surely_rises(again, inputs.min(axis=0), inputs.max(axis=0))
    assert yes > 5 and no > 10 and fell > 5


# -- softmax rows: hard cases ----------------------------------------------------------------------------------------


def check_finite(rows, inputs, xi):
    """A climb that asserts ascent and finiteness, and probabilities that are probabilities at the end."""
    best, history = climb(rows, inputs, xi)
    probs = best.probabilities(inputs)
    assert np.isfinite(history).all() and np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, atol=1e-12)
    return best


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1e-4])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda u: np.c_[u[:, 0], 3 * u[:, 0] - 1],  # collinear, the intercept among them
        lambda u: np.ones_like(u),  # constant
        lambda u: np.zeros_like(u),
        lambda u: u * [1e8, 1e-8],  # units
        lambda u: u + np.array([1e5, -1e3]),  # far from zero
    ],
    ids=["collinear", "constant", "zero", "units", "offset"],
)
def test_degenerate_inputs(spoil, alpha, shared):
    rows = SoftmaxRows(np.zeros((2, 3, 3, 2)), np.zeros((2, 3, 3)), shared=shared, alpha=alpha)
    inputs, xi = make_data(120, rows)
    best = check_finite(rows, np.ascontiguousarray(spoil(inputs)), xi)
    gradient = best.statistics(np.ascontiguousarray(spoil(inputs)), xi)["gradient"]
    assert np.abs(gradient[..., 0]).max() < 1e-5 * 120, "the intercepts did not reach their optimum"


def test_separable_data():
    """The optimum lies at infinity: logits grow, the objective tends to its supremum 0, nothing overflows."""
    inputs = np.linspace(-1, 1, 50)[:, None]
    xi = np.zeros((50, 1, 2, 2))
    xi[:, 0, :, 0], xi[:, 0, :, 1] = inputs > 0, inputs <= 0
    rows = SoftmaxRows(np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2)), alpha=0.0)
    best = check_finite(rows, inputs, xi)
    assert best.objective(inputs, xi) > -1e-6
    tamed = check_finite(SoftmaxRows(np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2)), alpha=1e-2), inputs, xi)
    assert np.abs(tamed.coef).max() < 50


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_huge_logits(size):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 2))
    rows = SoftmaxRows(size * rng.normal(size=(1, 3, 3, 2)), size * rng.normal(size=(1, 3, 3)))
    expected = o.softmax_rows(rows.coef[0], rows.intercept[0], inputs)
    np.testing.assert_allclose(rows.probabilities(inputs)[:, 0], expected, rtol=1e-9, atol=1e-300)
    xi = rng.uniform(size=(40, 1, 3, 3))
    value = rows.objective(inputs, xi)
    assert np.isfinite(value) and value < -size
    new = rows.maximise(rows.statistics(inputs, xi))
    assert np.isfinite(new.coef).all() and np.isfinite(new.intercept).all()


def test_steps_are_bounded():
    """Almost no curvature and a large residual: the plain Newton step would be 1e20."""
    rows = SoftmaxRows(np.zeros((1, 2, 2, 1)), np.array([[[50.0, 0.0], [0.0, 0.0]]]))
    inputs, xi = np.random.default_rng(0).normal(size=(30, 1)), np.ones((30, 1, 2, 2))
    new = rows.maximise(rows.statistics(inputs, xi))
    assert 11 < np.abs(new.intercept[0, 0] - [25, -25]).max() < 12.001
    assert np.abs(new.intercept[0, 1]).max() < 1e-3


def test_rows_without_counts_keep_their_parameters():
    rows = make_rows(2, 3, 2)
    inputs, xi = make_data(50, rows)
    xi[:, 1, 2] = 0.0
    new = rows.maximise(rows.statistics(inputs, xi))
    assert np.array_equal(new.coef[1, 2], rows.coef[1, 2])
    assert np.array_equal(new.intercept[1, 2], rows.intercept[1, 2])
    assert (np.abs(new.intercept - rows.intercept)[[0, 0, 0, 1, 1], [0, 1, 2, 0, 1]] > 1e-6).all()
    shared = make_rows(2, 3, 2, shared=True)
    new = shared.maximise(shared.statistics(inputs, xi))
    assert np.array_equal(new.intercept[1, 2], shared.intercept[1, 2])
    nothing = shared.maximise(shared.statistics(inputs, 0 * xi))
    assert np.array_equal(nothing.coef, shared.coef) and np.array_equal(nothing.intercept, shared.intercept)


def test_forbidden_transitions_stay_exactly_zero():
    table = np.array([[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]]])
    rows = SoftmaxRows.from_table(table, n_inputs=2)
    np.testing.assert_allclose(rows.probabilities(np.ones((1, 2)))[0], table, rtol=1e-14, atol=0)
    assert rows.n_parameters == (1 + 0 + 2) * 3
    inputs, xi = make_data(80, rows)
    best, _ = climb(rows, inputs, xi)
    probs = best.probabilities(inputs)
    assert (probs[:, table == 0] == 0.0).all() and (probs[:, 0, 1, 1] == 1.0).all()
    assert (probs[:, table > 0] > 0).all()
    assert (best.between(rows, 0.3).intercept[table == 0] == -np.inf).all()


def test_self_transition_is_fixed_and_not_counted():
    rows = SoftmaxRows.from_table(np.full((2, 3, 3), 1 / 3), 2, self_transition=0.9)
    assert rows.n_parameters == 2 * 3 * (3 - 2) * 3
    inputs, xi = make_data(60, rows)
    xi += 5 * np.eye(3)  # self-transitions must not matter
    best, _ = climb(rows, inputs, xi)
    probs = best.probabilities(inputs)
    assert np.allclose(np.einsum("nrii->nri", probs), 0.9, rtol=0, atol=1e-15)
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=1e-14)
    assert np.ptp(probs[:, 0, 0, 1]) > 0.001
    alone = SoftmaxRows(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1)), self_transition=0.9)
    assert (alone.probabilities(inputs) == 1.0).all() and alone.n_parameters == 0


def test_counts_of_parameters():
    assert make_rows(2, 3, 4).n_parameters == 2 * 3 * 2 * 5
    assert make_rows(2, 3, 4, shared=True).n_parameters == 2 * 3 * 2 + 2 * 4
    assert make_rows(2, 3, 4, w=0.5).n_parameters == 2 * 3 * 1 * 5
    assert make_rows(2, 3, 4, w=0.5, shared=True).n_parameters == 2 * 3 * 1 + 2 * 4
    assert make_rows(1, 2, 4, w=0.5, shared=True).n_parameters == 0


def test_penalty_counts_only_slopes_that_take_part():
    rows = make_rows(2, 3, 2, alpha=0.4)
    np.testing.assert_allclose(rows.penalty(), -0.2 * (rows.coef**2).sum(), rtol=1e-14)
    intercept = rows.intercept.copy()
    intercept[0, 1, 2] = -np.inf
    rows = SoftmaxRows(rows.coef, intercept, self_transition=0.5, alpha=0.4)
    part = ~np.eye(3, dtype=bool) & np.ones((2, 1, 1), dtype=bool)
    part[0, 1, 2] = False
    np.testing.assert_allclose(rows.penalty(), -0.2 * (rows.coef[part] ** 2).sum(), rtol=1e-14)
    shared = make_rows(2, 3, 2, shared=True, alpha=0.4)
    np.testing.assert_allclose(shared.penalty(), -0.2 * (shared.coef[1, 2] ** 2).sum(), rtol=1e-14)


def test_between_is_a_straight_line():
    a, b = make_rows(1, 3, 2, seed=1), make_rows(1, 3, 2, seed=2)
    middle = a.between(b, 0.25)
    np.testing.assert_allclose(middle.coef, 0.75 * a.coef + 0.25 * b.coef, rtol=1e-14)
    np.testing.assert_allclose(middle.intercept, 0.75 * a.intercept + 0.25 * b.intercept, rtol=1e-13)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"coef": np.zeros((1, 2, 2))}, "coef must have shape"),
        ({"intercept": np.zeros((1, 2, 3))}, "intercept must have shape"),
        ({"coef": np.full((1, 2, 2, 1), np.nan)}, "not finite"),
        ({"intercept": np.full((1, 2, 2), np.nan)}, "NaN"),
        ({"intercept": np.array([[[0, 0], [-np.inf, -np.inf]]])}, r"intercept\[0, 1\] forbids"),
        ({"self_transition": 1.0}, "self_transition"),
        ({"intercept": np.array([[[0, -np.inf], [0, 0]]]), "self_transition": 0.5}, r"intercept\[0, 0\] forbids"),
        ({"coef": np.arange(4.0).reshape(1, 2, 2, 1), "shared": True}, "shared"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxRows(**{"coef": np.zeros((1, 2, 2, 1)), "intercept": np.zeros((1, 2, 2)), **arguments})


# -- table rows ------------------------------------------------------------------------------------------------------


def test_table_rows_divide_counts():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=(2, 2, 3))
    probs[0, 0, 0] = [0.4, 0.6, 0.0]
    rows = TableRows(probs)
    counts = rng.uniform(size=(2, 2, 3, 3)) * (probs > 0)
    counts[1, 1, 2] = 0.0
    new = rows.maximise(rows.statistics(None, counts))
    expected = counts / np.where(counts.sum(-1, keepdims=True) > 0, counts.sum(-1, keepdims=True), 1)
    expected[1, 1, 2] = probs[1, 1, 2]
    np.testing.assert_allclose(new.probs, expected, rtol=1e-15, atol=0)
    assert new.probs[0, 0, 0, 2] == 0.0 and rows.n_parameters == 12 * 2 - 1
    assert new.objective(None, counts) > rows.objective(None, counts)
    used = counts > 0
    np.testing.assert_allclose(rows.objective(None, counts), (counts[used] * np.log(probs[used])).sum(), rtol=1e-14)
    impossible = np.zeros_like(counts)
    impossible[0, 0, 0, 2] = 1.0
    assert rows.objective(None, impossible) == -np.inf
    assert rows.penalty() == 0.0 and not rows.iterative


def test_table_rows_with_fixed_self_transition():
    w = 0.75
    probs = np.array([[[[w, 0.25, 0.0], [0.125, w, 0.125], [0.25, 0.0, w]]]])
    rows = TableRows(probs, self_transition=w)
    counts = np.array([[[[9.0, 2, 0], [1, 5, 3], [0, 0, 7]]]])
    new = rows.maximise({"counts": counts})
    np.testing.assert_allclose(new.probs[0, 0], [[w, 0.25, 0], [0.0625, w, 0.1875], [0.25, 0, w]], rtol=1e-15, atol=0)
    assert rows.n_parameters == 1
    np.testing.assert_allclose(rows.objective(None, counts), 2 * np.log(0.25) + 4 * np.log(0.125), rtol=1e-14)
    alone = TableRows(np.ones((1, 1, 1, 1)), self_transition=0.5)
    assert alone.maximise({"counts": np.full((1, 1, 1, 1), 4.0)}).probs.item() == 1.0 and alone.n_parameters == 0


def test_table_rows_follow_symbols():
    rows = TableRows(np.stack([np.eye(2)[None], np.eye(2)[None, ::-1]]))
    assert np.array_equal(rows.index(np.array([[0.0], [1.0], [1.0]])), [0, 1, 1])
    assert rows.index(np.array([[0.0]])).dtype == np.int64
    assert TableRows(np.ones((1, 1, 1, 1))).index(np.zeros((3, 0))) is None
    out = np.empty((2, 1, 2, 2))
    rows.compile(None, out)
    assert np.array_equal(out, rows.probs) and np.array_equal(rows.probabilities(), rows.probs)
    for inputs, message in (
        (np.array([[0.0], [2.0]]), r"inputs\[1, 0\] = 2 is not"),
        (np.array([[0.5]]), r"inputs\[0, 0\] = 0.5"),
        (np.array([[-1.0]]), "symbols 0..1"),
        (np.zeros((2, 2)), "one column"),
        (None, "one column"),
    ):
        with pytest.raises(ValueError, match=message):
            rows.index(inputs)
    with pytest.raises(ValueError, match="probs must have shape"):
        TableRows(np.ones((2, 2)))


def test_rows_are_frozen_copies():
    source = np.zeros((1, 2, 2))
    rows = SoftmaxRows(np.zeros((1, 2, 2, 1)), source)
    source[:] = 9
    assert (rows.intercept == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        rows.coef[0] = 1
    with pytest.raises(AttributeError):
        rows.alpha = 2.0
