"""Softmax rows in the cases that break solvers; table rows; what both keep, count and refuse."""

import numpy as np
import oracles as o
import pytest
from rows_cases import climb, make_data, make_rows, objective

from hiermm.rows import SoftmaxRows
from hiermm.tables import TableRows


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
    assert objective(best, inputs, xi) > -1e-6
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
    nudged = SoftmaxRows(rows.coef + rng.normal(size=rows.coef.shape), rows.intercept)
    leaving = np.empty((40, 3))
    stats = rows.statistics(inputs, xi, leaving=leaving)
    gain = rows.slope(nudged, stats) - rows.divergence(nudged, inputs, leaving)
    assert gain == pytest.approx(objective(nudged, inputs, xi) - objective(rows, inputs, xi), abs=1e-12 * size * 120)
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
    for same in (np.asfortranarray(counts), np.repeat(counts, 2, axis=0)[::2]):
        np.testing.assert_array_equal(rows.maximise({"counts": same}).probs, new.probs)
    whole = (100 * counts).astype(int)
    np.testing.assert_array_equal(rows.maximise({"counts": whole}).probs, rows.maximise({"counts": 1.0 * whole}).probs)
    faint = rows.maximise({"counts": counts * np.where(np.arange(3) == 1, 1e-91, 1.0)[:, None]})  # rows from state 1
    np.testing.assert_array_equal(faint.probs[:, :, 1], probs[:, :, 1])
    np.testing.assert_array_equal(faint.probs[:, :, ::2], new.probs[:, :, ::2])
    assert new.probs[0, 0, 0, 2] == 0.0 and rows.n_parameters == 12 * 2 - 1
    assert rows.penalty() == 0.0 and not rows.iterative


def test_table_rows_with_fixed_self_transition():
    w = 0.75
    probs = np.array([[[[w, 0.25, 0.0], [0.125, w, 0.125], [0.25, 0.0, w]]]])
    rows = TableRows(probs, self_transition=w)
    counts = np.array([[[[9.0, 2, 0], [1, 5, 3], [0, 0, 7]]]])
    new = rows.maximise({"counts": counts})
    np.testing.assert_allclose(new.probs[0, 0], [[w, 0.25, 0], [0.0625, w, 0.1875], [0.25, 0, w]], rtol=1e-15, atol=0)
    assert rows.n_parameters == 1
    nearly = np.array([[[[w + 1e-9, 0.25 - 1e-9], [0.25, 0.75]]]])  # rows keep their sum, not w
    new = TableRows(nearly, self_transition=w).maximise({"counts": np.ones((1, 1, 2, 2))})
    np.testing.assert_allclose(new.probs, nearly, rtol=1e-15)
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
