"""Softmax rows: derivatives, the Newton point and the optimum."""

import numpy as np
import oracles as o
import pytest
from rows_cases import climb, make_data, make_rows, objective, total
from sklearn.linear_model import LogisticRegression

from hiermm.rows import SoftmaxRows


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
    gradient = o.central_differences(lambda x: objective(at(x), inputs, xi), x, 1e-3)
    np.testing.assert_allclose(stats["gradient"].ravel(), gradient, rtol=1e-6, atol=1e-8)
    hessian = o.central_differences(lambda x: at(x).statistics(inputs, xi)["gradient"].ravel(), x, 1e-3)
    blocks = np.zeros((R * K, K * (P + 1), R * K, K * (P + 1)))
    blocks[np.arange(R * K), :, np.arange(R * K)] = stats["hessian"]
    np.testing.assert_allclose(-blocks.reshape(x.size, x.size), hessian, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("w", [None, 0.6])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("R, K, P", [(1, 2, 1), (2, 3, 2), (1, 4, 3), (1, 9, 2), (2, 1, 2), (1, 3, 0)])
def test_the_objective_rises_by_slope_less_divergence(R, K, P, shared, w):
    rows, other = make_rows(R, K, P, w, shared), make_rows(R, K, P, w, shared, seed=1)
    inputs, xi = make_data(75, rows)
    if K > 2:  # a forbidden transition, and a group without counts
        away = np.zeros(rows.intercept.shape)
        away[0, 0, 1] = -np.inf
        rows, other = (SoftmaxRows(r.coef, r.intercept + away, w, shared) for r in (rows, other))
        xi[:, 0, 0, 1] = xi[:, -1, 2] = 0.0
    leaving = np.empty((75, R * K + 3))[:, 1:-2]
    stats = rows.statistics(inputs, xi, leaving=leaving)
    np.testing.assert_allclose(leaving, (xi * rows.free).sum(-1).reshape(75, -1), rtol=1e-14)
    start = objective(rows, inputs, xi)
    for goal in (other, rows.between(other, 1e-3), rows):
        gain = rows.slope(goal, stats) - rows.divergence(goal, inputs, leaving)
        assert abs(gain - (objective(goal, inputs, xi) - start)) <= 1e-13 * max(1.0, abs(start))


def test_small_divergences_keep_their_digits():
    """KL of a change of 1e-5 is near 1e-11: its own digits count, not those of the logits."""
    rows = make_rows(1, 3, 2)
    inputs, _ = make_data(200, rows)
    goal = rows.between(make_rows(1, 3, 2, seed=1), 1e-5)
    p, q = rows.probabilities(inputs)[:, 0], goal.probabilities(inputs)[:, 0]
    rest = q / p - 1.0
    expected = (p * (rest**2 / 2 - rest**3 / 3)).sum()  # of p (rest - log(1 + rest)), and the sum of p rest is 0
    np.testing.assert_allclose(rows.divergence(goal, inputs, np.ones((200, 3))), expected, rtol=1e-5)


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

    def value(x):
        intercept, slopes = x[: rows.intercept.size].reshape(2, 3, 3), x[rows.intercept.size :]
        coef = np.broadcast_to(slopes.reshape(3, 2), rows.coef.shape) if shared else slopes.reshape(rows.coef.shape)
        return total(SoftmaxRows(coef, intercept, w, shared, 0.7), inputs, xi)

    start = np.append(rows.intercept, rows.coef[0, 0] if shared else rows.coef)
    gradient = o.central_differences(value, start, 1e-3)
    hessian = o.central_differences(lambda x: o.central_differences(value, x, 3e-3), start, 3e-3)
    step = np.linalg.lstsq(hessian[np.ix_(free, free)], -gradient[free], rcond=1e-9)[0]
    moved = start.copy()
    moved[free] += step
    expected = value(moved)
    assert abs(total(new, inputs, xi) - expected) < 1e-6 * abs(expected - value(start))
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
