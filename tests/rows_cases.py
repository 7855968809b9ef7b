"""Random softmax rows with data, and a plain Newton climb, for several test modules."""

import numpy as np
import oracles as o

from hiermm.rows import SoftmaxRows


def make_rows(R, K, P, w=None, shared=False, alpha=0.3, seed=0):
    rng = np.random.default_rng([seed, R, K, P])
    coef = np.broadcast_to(rng.normal(size=(K, P)), (R, K, K, P)) if shared else rng.normal(size=(R, K, K, P))
    return SoftmaxRows(coef, rng.normal(size=(R, K, K)), w, shared, alpha)


def make_data(n, rows, seed=0):
    rng = np.random.default_rng(seed)
    shape = rows.intercept.shape
    return rng.normal(size=(n, rows.n_inputs)), rng.uniform(size=(n, *shape)) ** 3 * rows.free


def objective(rows, inputs, xi):
    """Sum of xi * log p over the free transitions; log p through log-sum-exp, so that no p is too small for it."""
    z = np.where(rows.free, np.einsum("rijp,np->nrij", rows.coef, inputs) + rows.intercept, -np.inf)
    w = 0.0 if rows.self_transition is None or rows.n_states == 1 else rows.self_transition
    log_p = z - o.logsumexp(z, axis=-1)[..., None] + np.log1p(-w)
    return float(np.sum(xi * np.where(rows.free, log_p, 0.0), where=xi > 0))


def total(rows, inputs, xi):
    return objective(rows, inputs, xi) + rows.penalty()


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
