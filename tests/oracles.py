"""Slow and obvious references that the tests hold the package against. NumPy only; nothing of hiermm is used.

Matrices come one a step: `A[t]` moves the state into step t, so `A[0]` of a sequence is never looked at.
"""

import itertools
from collections import namedtuple

import numpy as np

# xi[t] is the joint posterior of the states at t - 1 and t; xi[0] = 0.
Chain = namedtuple("Chain", "loglik filtered gamma xi")


def log(a):
    """Natural logarithm with log 0 = -inf and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(a)


def logsumexp(a, axis=None):
    """log sum exp that is exact for -inf."""
    top = np.max(a, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    total = log(np.sum(np.exp(a - top), axis=axis, keepdims=True)) + top
    return total.item() if axis is None else np.squeeze(total, axis=axis)


def per_step(A, index, start, stop):
    """Matrices (T, N, N) of the steps start..stop-1 under the kernels' conventions for `A` and `index`."""
    A = np.asarray(A)
    if index is not None:
        return A[np.asarray(index)[start:stop]]
    if len(A) == 1:
        return np.repeat(A, stop - start, axis=0)
    return A[start:stop]


def enumerate_chain(initial, A, ll):
    """Everything by summing over all N**T state paths, and the best path: returns (Chain, path, log_prob)."""
    T, N = ll.shape
    loglik = -np.inf
    filtered, gamma, xi = np.zeros((T, N)), np.zeros((T, N)), np.zeros((T, N, N))
    paths = np.array(list(itertools.product(range(N), repeat=T)))
    for length in range(1, T + 1):
        heads = np.array(list(itertools.product(range(N), repeat=length)))
        weights = _path_weights(initial, A, ll, heads)
        total = logsumexp(weights)
        if np.isfinite(total):
            np.add.at(filtered[length - 1], heads[:, -1], np.exp(weights - total))
    weights = _path_weights(initial, A, ll, paths)
    loglik = logsumexp(weights)
    if np.isfinite(loglik):
        probs = np.exp(weights - loglik)
        for t in range(T):
            np.add.at(gamma[t], paths[:, t], probs)
            if t:
                np.add.at(xi[t], (paths[:, t - 1], paths[:, t]), probs)
    best = int(np.argmax(weights))
    return Chain(loglik, filtered, gamma, xi), paths[best], weights[best]


def _path_weights(initial, A, ll, paths):
    weights = log(initial)[paths[:, 0]] + ll[0, paths[:, 0]]
    for t in range(1, paths.shape[1]):
        weights = weights + log(A[t])[paths[:, t - 1], paths[:, t]] + ll[t, paths[:, t]]
    return weights


def log_chain(initial, A, ll, message=None):
    """Forward-backward in log space; `message` (N,) is what later data say of the last state.

    Rows are normalised as they come, so that a long sequence does not round its posteriors to the size of its sum.
    """
    T, N = ll.shape
    log_A = log(np.asarray(A))
    a, b, totals = np.empty((T, N)), np.zeros((T, N)), np.empty(T)
    for t in range(T):
        a[t] = (logsumexp(a[t - 1][:, None] + log_A[t], axis=0) if t else log(initial)) + ll[t]
        totals[t] = logsumexp(a[t])
        a[t] -= totals[t]
    if message is not None:
        b[T - 1] = log(message)
    for t in range(T - 2, -1, -1):
        b[t] = logsumexp(log_A[t + 1] + (ll[t + 1] + b[t + 1])[None, :], axis=1)
        b[t] -= logsumexp(a[t] + b[t])
    gamma = np.exp(a + b - logsumexp(a + b, axis=1)[:, None])
    xi = np.zeros((T, N, N))
    for t in range(1, T):
        joint = a[t - 1][:, None] + log_A[t] + (ll[t] + b[t])[None, :]
        xi[t] = np.exp(joint - logsumexp(joint))
    return Chain(totals.sum(), np.exp(a), gamma, xi)


def log_viterbi(log_initial, log_A, ll):
    """Most likely path and its log-probability; `log_A` (T, N, N) as for the others; ties go to the lower state."""
    T, N = ll.shape
    delta, back = log_initial + ll[0], np.zeros((T, N), dtype=np.int64)
    for t in range(1, T):
        moves = delta[:, None] + log_A[t]
        back[t] = np.argmax(moves, axis=0)
        delta = np.max(moves, axis=0) + ll[t]
    path = np.empty(T, dtype=np.int64)
    path[T - 1] = np.argmax(delta)
    for t in range(T - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return path, np.max(delta)


def random_chain(rng, N, T, steps=1, concentration=1.0, spread=2.0):
    """Random (initial (N,), A (steps, N, N), ll (T, N))."""
    initial = rng.dirichlet(np.full(N, concentration))
    A = rng.dirichlet(np.full(N, concentration), size=(steps, N))
    return initial, A, spread * rng.standard_normal((T, N))


def softmax_rows(coef, intercept, inputs, w=None, stay=None):
    """Probabilities (n, G, M) of softmax groups; with `stay` (G,) that destination has probability `w`."""
    n, (G, M) = len(inputs), np.shape(intercept)
    out = np.empty((n, G, M))
    for k in range(n):
        for g in range(G):
            free = [j for j in range(M) if stay is None or j != stay[g]]
            z = np.array([intercept[g][j] + np.dot(coef[g][j], inputs[k]) for j in free])
            p = np.exp(z - z.max())
            p = p / p.sum()
            out[k, g, free] = p if stay is None else (1 - w) * p
            if stay is not None:
                out[k, g, stay[g]] = w
    return out


def central_differences(function, x, step):
    """Derivatives of a function of a vector (any shape of result) along each coordinate, stacked first."""
    rows = []
    for i in range(x.size):
        move = np.zeros(x.size)
        move[i] = step
        # Richardson: the errors of two central differences cancel to fourth order
        near = (function(x + move) - function(x - move)) / (2 * step)
        far = (function(x + 2 * move) - function(x - 2 * move)) / (4 * step)
        rows.append((4 * near - far) / 3)
    return np.array(rows)


def log_normal(rest, covariance):
    """Log density of a residual vector under Normal(0, covariance)."""
    sign, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    assert sign > 0
    return -0.5 * (log_det + rest @ np.linalg.solve(covariance, rest))


def completed(rest, covariance):
    """Conditional mean and covariance of a residual vector whose NaN entries were not observed."""
    m = np.isnan(rest)
    mean, spread = np.where(m, 0.0, rest), np.zeros_like(covariance)
    if m.any():
        gain = covariance[np.ix_(m, ~m)] @ np.linalg.inv(covariance[np.ix_(~m, ~m)])
        mean[m] = gain @ rest[~m]
        spread[np.ix_(m, m)] = covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(~m, m)]
    return mean, spread


def normal_q(y, gamma, means, covariances, old_means, old_covariances, complete):
    """Expected log-likelihood of normal emissions, step by step; means are (T, N, D), covariances (N, D, D).

    complete: entries not observed count with their conditional moments under the old parameters (EM for a full
    covariance); else they are left out of the density.
    """
    total = 0.0
    for t, k in itertools.product(*map(range, gamma.shape)):
        seen = ~np.isnan(y[t])
        if complete and seen.any():
            filled, spread = completed(y[t] - old_means[t, k], old_covariances[k])
            rest = filled + old_means[t, k] - means[t, k]
            fit = np.trace(np.linalg.solve(covariances[k], spread))
            total += gamma[t, k] * (log_normal(rest, covariances[k]) - 0.5 * fit)
        elif seen.any():
            total += gamma[t, k] * log_normal((y[t] - means[t, k])[seen], covariances[k][np.ix_(seen, seen)])
    return total
