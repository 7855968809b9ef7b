"""Time of the analysis: spectra of long products. `rows()` yields one dict a measurement."""

import statistics
import time

import numpy as np

from hiermm import Operators, analysis

REPEATS = 3


def median_seconds(function):
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def chain(steps, n, seed=0):
    rng = np.random.default_rng(seed)
    return Operators.from_arrays(rng.dirichlet(np.full(n, 0.5), (steps, n)).transpose(0, 2, 1))


def network(steps, n, seed=0):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(steps, n, n)) / np.sqrt(n)
    return Operators.from_arrays(maps, kind="jacobian")


def numpy_exponents(ops):
    """The textbook loop: a QR decomposition a step in Python."""
    frame, total = np.eye(ops.n_states), np.zeros(ops.n_states)
    for matrix in ops.matrices:
        frame, upper = np.linalg.qr(matrix @ frame)
        total += np.log(np.abs(np.diag(upper)))
    return np.sort(total / len(ops))[::-1]


def rows():
    """Yield workload, seconds, the NumPy loop's seconds where there is one, and the ratio."""
    for kind, make in [("stochastic", chain), ("jacobian", network)]:
        for n in [4, 16, 64]:
            steps = 100_000 if n <= 16 else 5_000
            ops = make(steps, n)
            spectrum = median_seconds(lambda ops=ops, steps=steps: analysis.singular_values(ops, [steps], log=True))
            yield {"work": f"singular values of a product, {kind}", "n": n, "steps": steps, "seconds": spectrum}
            yield {
                "work": f"product, {kind}",
                "n": n,
                "steps": steps,
                "seconds": median_seconds(lambda ops=ops, steps=steps: analysis.product(ops, 0, steps)),
            }
            ours = median_seconds(lambda ops=ops: analysis.lyapunov(ops))
            row = {"work": f"Lyapunov exponents, {kind}", "n": n, "steps": steps, "seconds": ours}
            if kind == "jacobian":
                part = Operators.from_arrays(ops.matrices[:2000], kind=kind)
                start = time.perf_counter()
                theirs = numpy_exponents(part)
                row["numpy_seconds"] = (time.perf_counter() - start) * steps / 2000
                row["ratio"] = row["numpy_seconds"] / ours
                assert np.abs(theirs - analysis.lyapunov(part).exponents).max() < 0.2
            yield row
    ops = chain(5_000, 16)
    lags = [1, 4, 16, 64, 256]
    for name in ["contraction", "effective_rank"]:
        seconds = median_seconds(lambda name=name: getattr(analysis, name)(ops, lags))
        yield {"work": f"{name} at lags {lags}", "n": 16, "steps": 5_000, "seconds": seconds}
    yield {"work": "half-life", "n": 16, "steps": 5_000, "seconds": median_seconds(lambda: analysis.half_life(ops))}


if __name__ == "__main__":
    for row in rows():
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
