"""Closed M-steps against the same formulas in NumPy, in every variant."""

import numpy as np
import pytest
from dense_calls import available

from hiermm._ext import load

LEAST = 1e-10


@pytest.mark.parametrize("variant", available())
@pytest.mark.parametrize("K", [1, 2, 5, 33])
@pytest.mark.parametrize("masked", [False, True])
def test_proportions(variant, K, masked):
    rng = np.random.default_rng(K)
    before, counts = rng.dirichlet(np.ones(K), 7), rng.gamma(0.3, size=(7, K))
    before[:3, 0] = 0
    before[:3] /= np.maximum(before[:3].sum(axis=1, keepdims=True), 1e-300)
    counts[1], counts[2] = 0, LEAST / (2 * K)
    free = rng.random((7, K)) < 0.7 if masked else before > 0
    expected, out = before.copy(), np.full((7, K), np.nan)
    for r in range(7):
        total = counts[r, free[r]].sum()
        if total > LEAST:
            expected[r, free[r]] = (1 - before[r, ~free[r]].sum()) * counts[r, free[r]] / total
    load("mstep", variant).proportions(counts, before, free if masked else None, LEAST, out)
    np.testing.assert_allclose(out, expected, rtol=1e-13)
    np.testing.assert_array_equal(out[~free], before[~free])
    np.testing.assert_array_equal(out[1:3], before[1:3])


def normal_arguments(N, D, F, V, rng, pseudo=0.5):
    x, gamma = rng.normal(size=(40, F)), rng.random((40, N))
    x[:, 0] = 1
    r = rng.normal(size=(40, N, D))
    gram = np.einsum("tk,tf,tg->kfg", gamma, x, x)[:, None].repeat(D, axis=1)
    cross, scatter = np.einsum("tk,tf,tkd->kdf", gamma, x, r), np.einsum("tk,tkd->kd", gamma, r**2)
    change = np.linalg.solve(gram, cross[..., None])[..., 0] if F > 1 else np.full(cross.shape, np.nan)
    arguments = {"gram": gram, "cross": cross, "scatter": scatter, "weight": gram[:, :, 0, 0].copy()}
    arguments |= {"pseudo": pseudo, "prior": rng.random(D), "floor": np.full(V, 1e-3), "least": LEAST, "change": change}
    arguments |= {"theta": rng.normal(size=(N, D, F)), "variances": rng.random((N, V)) + 5, "most": np.empty(N)}
    return arguments, (x, gamma, r)


@pytest.mark.parametrize("variant", available())
@pytest.mark.parametrize("F", [1, 3])
@pytest.mark.parametrize(("D", "V"), [(1, 1), (3, 3), (3, 1)])
@pytest.mark.parametrize("pseudo", [0.0, 0.5])
def test_normal(variant, F, D, V, pseudo):
    N, rng = 5, np.random.default_rng(F)
    arguments, (x, gamma, r) = normal_arguments(N, D, F, V, rng, pseudo)
    old_theta, old_variances = arguments["theta"].copy(), arguments["variances"].copy()
    weight = arguments["weight"]
    weight[2], weight[4] = LEAST / 4, 10 * weight[4]  # dead; variances below the floor
    weight[3, 0 if pseudo else -1] = np.nan  # of the first or the last output
    arguments["floor"][:] = 0.2
    load("mstep", variant).normal(**arguments)
    np.testing.assert_array_equal(arguments["most"], weight.max(axis=1))
    for k in (0, 1, 2, 4):
        w = np.sqrt(gamma[:, k, None])
        best, *_ = np.linalg.lstsq(w * x, w * r[:, k], rcond=None)
        rest = (gamma[:, k, None] * (r[:, k] - x @ best) ** 2).sum(axis=0)
        total = weight[k] + pseudo
        rest += pseudo * arguments["prior"]
        variances = rest / total if V == D else [rest.sum() / total.sum()]
        new = arguments["theta"][k] - old_theta[k], arguments["variances"][k]
        if k == 2:
            assert not new[0].any()
        else:
            assert (np.less(variances, 0.2) == (k == 4)).all()
            np.testing.assert_allclose(new[0], best.T, rtol=1e-10, atol=1e-12)
        if k == 2 and not pseudo:
            np.testing.assert_array_equal(new[1], old_variances[k])
        else:
            np.testing.assert_allclose(new[1], np.maximum(variances, arguments["floor"]), rtol=1e-10)


@pytest.mark.parametrize("variant", available())
def test_normal_keeps_nan_and_lifts_what_rounding_made_negative(variant):
    arguments, _ = normal_arguments(3, 2, 1, 2, np.random.default_rng(0), pseudo=0.0)
    arguments["scatter"][0, 1] = np.nan
    arguments["scatter"][1, 0] = 0.0
    arguments["gram"][2, 1] = arguments["cross"][2, 1] = 0.0
    old = arguments["theta"][2, 1].item()
    load("mstep", variant).normal(**arguments)
    np.testing.assert_array_equal(np.isnan(arguments["variances"]), [[False, True], [False, False], [False, False]])
    assert arguments["variances"][1, 0] == arguments["floor"][0]
    assert arguments["theta"][2, 1].item() == old
    arguments, _ = normal_arguments(1, 2, 1, 1, np.random.default_rng(0))
    arguments["scatter"][0, 0] = 0.0
    expected = arguments["scatter"][0, 1] - arguments["cross"][0, 1, 0] ** 2 / arguments["gram"][0, 1, 0, 0]
    expected = (expected + 0.5 * arguments["prior"].sum()) / (arguments["weight"] + 0.5).sum()  # none of the negative
    load("mstep", variant).normal(**arguments)
    assert arguments["variances"].item() == pytest.approx(expected)


def test_wrong_shapes():
    kernels, a = load("mstep"), np.ones((2, 3))
    for wrong in ({"before": a.T.copy()}, {"free": np.ones((3, 2), dtype=bool)}, {"out": np.ones((2, 4))}):
        arguments = {"counts": a, "before": a, "free": None, "least": 0.0, "out": a.copy()} | wrong
        with pytest.raises(ValueError, match="shape"):
            kernels.proportions(**arguments)
    arguments, _ = normal_arguments(2, 3, 2, 3, np.random.default_rng(0))
    for name in set(arguments) - {"least", "pseudo"}:
        with pytest.raises(ValueError, match="shape"):
            kernels.normal(**arguments | {name: np.concatenate([arguments[name]] * 2)})
    with pytest.raises(ValueError, match="shape"):
        kernels.normal(**arguments | {"variances": np.ones((2, 2)), "floor": np.ones(2)})
