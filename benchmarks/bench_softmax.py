"""Softmax rows against plain NumPy: probabilities, sums for a Newton step, divergence, and the Newton point itself.

`python benchmarks/bench_softmax.py` prints a table; `rows()` yields the same as dicts. The NumPy twin is written with
einsum over whole arrays; its numbers are compared before anything is timed.
"""

import statistics
import time

import numpy as np

from hiermm.rows import SoftmaxRows

# name, steps n, parents R, states K, inputs P, shared slopes
WORK = [
    ("IOHMM K=4 P=3", 20_000, 1, 4, 3, False),
    ("IOHMM K=2 P=1", 20_000, 1, 2, 1, False),
    ("IOHMM K=8 P=8", 5_000, 1, 8, 8, False),
    ("level R=4 K=4 P=3", 10_000, 4, 4, 3, False),
    ("IOHMM K=16 P=3", 2_000, 1, 16, 3, False),
    ("IOHMM K=32 P=2", 500, 1, 32, 2, False),
    ("shared K=4 P=3", 20_000, 1, 4, 3, True),
]


def numpy_probabilities(coef, intercept, inputs):
    z = np.einsum("rijp,np->nrij", coef, inputs, optimize=True) + intercept
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def numpy_divergence(model, other, inputs, leaving):
    """Sum of leaving * KL(rows of model || rows of other)."""
    p, q = (numpy_probabilities(rows.coef, rows.intercept, inputs) for rows in (model, other))
    return float(np.sum(leaving * np.sum(p * np.log(p / q), axis=-1).reshape(leaving.shape)))


def numpy_sums(inputs, probs, xi):
    """Gradient and Hessian as the package lays them out, groups (parent, source) first; one matrix product a group."""
    n, R, K = probs.shape[:3]
    size = inputs.shape[1] + 1
    features = np.column_stack([np.ones(n), inputs])
    products = np.einsum("na,nb->nab", features, features).reshape(n, size * size)
    gradient, hessian = np.empty((R * K, K, size)), np.empty((R * K, K, size, K, size))
    for g in range(R * K):
        counts, p = xi.reshape(n, R * K, K)[:, g], probs.reshape(n, R * K, K)[:, g]
        total = counts.sum(axis=1, keepdims=True)
        gradient[g] = np.einsum("nj,na->ja", counts - total * p, features, optimize=True)
        weights = np.einsum("nj,jk->njk", p, np.eye(K)) - np.einsum("nj,nk->njk", p, p)
        sums = (total * weights.reshape(n, K * K)).T @ products
        hessian[g] = sums.reshape(K, K, size, size).swapaxes(1, 2)
    return gradient, hessian.reshape(R * K, K * size, K * size)


def problem(n, R, K, P, shared, seed=0):
    rng = np.random.default_rng(seed)
    coef = rng.normal(size=(R, K, K, P))
    if shared:
        coef = np.broadcast_to(coef[:1, :1], coef.shape)
    rows = SoftmaxRows(coef, rng.normal(size=(R, K, K)), shared=shared)
    return rows, rng.normal(size=(n, P)), rng.dirichlet(np.ones(K * K * R), n).reshape(n, R, K, K)


def times(function, repeats):
    """Milliseconds of `repeats` calls, after one that warms up."""
    function()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        spent.append(1e3 * (time.perf_counter() - start))
    return spent


def compare(model, inputs, xi):
    """Assert that kernels and twin give the same numbers."""
    probs = model.probabilities(inputs)
    leaving = np.empty((len(inputs), model.n_parents * model.n_states))
    sums = model.statistics(inputs, xi, probs, leaving)
    other = model.maximise(sums)
    expected = (
        numpy_probabilities(model.coef, model.intercept, inputs),
        numpy_divergence(model, other, inputs, leaving),
        *numpy_sums(inputs, probs, xi),
    )
    found = (probs, model.divergence(other, inputs, leaving), sums["gradient"], sums["hessian"])
    for got, wanted in zip(found, expected):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


def calls(model, inputs, xi):
    """Pairs (kernel, twin or None) of functions without arguments, by name."""
    probs = model.probabilities(inputs)
    out, leaving = np.empty_like(probs), np.empty((len(inputs), model.n_parents * model.n_states))
    sums = model.statistics(inputs, xi, probs, leaving)
    other = model.maximise(sums)

    return {
        "probabilities": (
            lambda: model.compile(inputs, out),
            lambda: numpy_probabilities(model.coef, model.intercept, inputs),
        ),
        "statistics": (lambda: model.statistics(inputs, xi, probs), lambda: numpy_sums(inputs, probs, xi)),
        "divergence": (
            lambda: model.divergence(other, inputs, leaving),
            lambda: numpy_divergence(model, other, inputs, leaving),
        ),
        "Newton point": (lambda: model.maximise(sums), None),
    }


def rows(repeats=21, peer_repeats=3):
    """Yield one dict for each kernel and workload: name, median and quartiles in ms, the twin's median, the ratio.

    Raises
    ------
    AssertionError
        If the numbers differ from the twin's by more than 1e-9 (relative).
    """
    for name, n, R, K, P, shared in WORK:
        data = problem(n, R, K, P, shared)
        compare(*data)
        for kernel, (ours, twin) in calls(*data).items():
            low, median, high = statistics.quantiles(times(ours, repeats), n=4)
            peer = statistics.median(times(twin, peer_repeats)) if twin else None
            yield {
                "work": name,
                "kernel": kernel,
                "steps": n,
                "median_ms": median,
                "low_ms": low,
                "high_ms": high,
                "numpy_ms": peer,
                "ratio": peer / median if peer else None,
            }


if __name__ == "__main__":
    print(f"{'work':20} {'kernel':14} {'steps':>6} {'ms':>8} {'quartiles':>17} {'NumPy ms':>9} {'ratio':>6}")
    for row in rows():
        peer = f"{row['numpy_ms']:9.2f} {row['ratio']:6.1f}" if row["ratio"] else ""
        print(
            f"{row['work']:20} {row['kernel']:14} {row['steps']:6} {row['median_ms']:8.3f} "
            f"{row['low_ms']:8.3f} {row['high_ms']:8.3f} {peer}"
        )
