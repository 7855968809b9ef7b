"""The kernels of softmax rows against plain NumPy, and what they refuse."""

import numpy as np
import oracles as o
import pytest
from dense_calls import available

from hiermm._ext import load

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


@pytest.mark.parametrize("variant", available())
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_plain_numpy(shape, variant):
    w = shape[-1]
    kernel = load("softmax", variant)
    coef, intercept, inputs, counts, stay = problem(*shape)
    probs = kernel_probabilities(kernel, coef, intercept, inputs, w, stay)
    expected = o.softmax_rows(coef, intercept, inputs, w, stay)
    np.testing.assert_allclose(probs, expected, rtol=1e-13, atol=0)
    gradient, hessian = kernel_sums(kernel, inputs, probs, counts, w, stay)
    slow_gradient, slow_hessian = slow_sums(inputs, expected, counts, w, stay)
    np.testing.assert_allclose(gradient, slow_gradient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(hessian, slow_hessian, rtol=0, atol=1e-12)
    normalizer = np.empty(probs.shape[:2])
    kernel.log_normalizer(inputs, coef, intercept, normalizer)
    z = np.einsum("gmp,np->ngm", coef, inputs) + intercept
    np.testing.assert_allclose(normalizer, o.logsumexp(z, axis=-1), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("variant", available())
def test_exponentials_keep_their_digits_over_the_whole_range(variant):
    gap = np.concatenate([-np.geomspace(1e-300, 708.0, 4_001), np.linspace(-2.0, 0.0, 4_001)])
    beyond = np.array([-708.001, -745.0, -1e300])
    kernel, coef, intercept = load("softmax", variant), np.array([[[0.0], [1.0]]]), np.zeros((1, 2))
    probs = kernel_probabilities(kernel, coef, intercept, gap[:, None], None, None)[:, 0]
    odds = np.exp(gap.astype(np.longdouble))
    np.testing.assert_allclose(probs, np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1).astype(float), rtol=1e-15)
    probs = kernel_probabilities(kernel, coef, intercept, beyond[:, None], None, None)[:, 0]
    assert (probs == [1.0, 0.0]).all()


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


@pytest.mark.parametrize("variant", available()[1:])
@pytest.mark.parametrize("shape", [*SHAPES, (2_000, 4, 4, 3, None), (2_000, 2, 3, 2, 0.5)])
def test_variants_agree(shape, variant):
    w = shape[-1]
    coef, intercept, inputs, counts, stay = problem(*shape)
    results = []
    for kernel in (load("softmax", "base"), load("softmax", variant)):
        probs = kernel_probabilities(kernel, coef, intercept, inputs, w, stay)
        change = np.cos(np.arange(intercept.size)).reshape(intercept.shape)
        value = kernel.divergence(inputs, coef, intercept, 0.3 * coef, change, stay, counts.sum(-1))
        results.append([probs, value + counts.sum(), *kernel_sums(kernel, inputs, probs, counts, w, stay)])
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
        lambda: kernel.divergence(inputs, coef[:1], intercept, coef, intercept, None, counts.sum(-1)),
        lambda: kernel.divergence(inputs, coef, intercept, coef[..., :1], intercept, None, counts.sum(-1)),
        lambda: kernel.divergence(inputs, coef, intercept, coef, intercept, None, counts.sum(-1).T),
        lambda: kernel.newton_sums(inputs, out, counts, -1.0, None, np.zeros((2, 3, 3)), np.zeros((2, 9, 8))),
        lambda: kernel.newton_sums(inputs, out, counts, -1.0, None, np.zeros((2, 3, 2)), np.zeros((2, 9, 9))),
    ):
        with pytest.raises(ValueError, match=r"expected|stay|need|contiguous|inputs"):
            bad()
