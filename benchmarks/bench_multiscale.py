"""Time of structured inference: against the joint matrix (own dense kernel, hmmlearn's scaling kernel), and its growth.

Everything runs in one thread and is timed in that thread's processor seconds, so that other work on the machine does
not count; runs of the contenders alternate. Before timing, log-likelihoods and posteriors are compared.
`rows()` yields one dict a measurement.
"""

import itertools
import statistics
import time

import numpy as np
from hmmlearn import _hmmc

from hiermm import MultiscaleHMM, chains
from hiermm._ext import load
from hiermm.emissions import Gaussian
from hiermm.expectation import Expectation
from hiermm.sequences import observations

structured, dense = load("multiscale"), load("dense")


class Work:
    """`m` sequences of `steps` steps of a random chain; level s has its slower neighbour for parent."""

    def __init__(self, sizes, steps, m=1, periods=None, last_only=False, row_per_step=False, seed=0):
        rng = np.random.default_rng(seed)
        self.sizes, self.periods = np.array(sizes), np.array(periods or [1] * len(sizes))
        self.N, self.n, self.m = int(np.prod(sizes)), steps * m, m
        parents = [1, *sizes[:-1]]
        self.levels = [rng.dirichlet(np.ones(k), size=(r, k)) for r, k in zip(parents, sizes, strict=True)]
        self.A = np.concatenate([level.ravel() for level in self.levels])[None]
        if row_per_step:
            self.A = np.repeat(self.A, self.n, axis=0)
        self.initial = rng.dirichlet(np.ones(self.N))
        self.emit = np.arange(self.N) % sizes[-1] if last_only else np.arange(self.N)
        self.ll = rng.standard_normal((self.n, self.emit.max() + 1))
        self.offsets = np.arange(m + 1) * steps
        self.gamma, self.loglik, self.status = np.empty((self.n, self.N)), np.empty(m), np.empty(m, int)
        self.xi = np.zeros_like(self.A)

    def joint(self):
        """The matrix (N, N) that the structured kernel never makes."""
        states = np.array(list(itertools.product(*[range(k) for k in self.sizes])))
        A = np.ones((self.N, self.N))
        for s, level in enumerate(self.levels):
            parent = states[:, s - 1] if s else np.zeros(self.N, int)
            A *= level[parent[:, None], states[:, s][:, None], states[:, s][None, :]]
        return A

    def smooth(self, counts=False, gamma=True):
        xi, gamma = (self.xi if counts else None), (self.gamma if gamma else None)
        structured.smooth(self.ll, self.offsets, self.initial, self.A, None, self.sizes, -1, self.periods, self.emit, 0,
                          None, None, gamma, self.loglik, self.status, xi=xi)  # fmt: skip
        return self.loglik[0], self.gamma

    def smooth_dense(self, A):
        dense.smooth(
            self.ll, self.offsets, self.initial, A[None], None, None, None, self.gamma, self.loglik, self.status
        )
        return self.loglik[0], self.gamma

    def smooth_hmmlearn(self, A):
        """hmmlearn's `implementation="scaling"` from given log-likelihoods, without its Python overhead."""
        likelihood = np.exp(self.ll)
        loglik, forward, scaling = _hmmc.forward_scaling(self.initial, A, likelihood)
        posterior = forward * _hmmc.backward_scaling(self.initial, A, likelihood, scaling)
        posterior /= posterior.sum(axis=1, keepdims=True)
        return loglik, posterior


def seconds(functions, repeats):
    """Median processor seconds of each function, their runs in turn."""
    taken = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, taken, strict=True):
            start = time.thread_time()
            function()
            times.append(time.thread_time() - start)
    return [statistics.median(times) for times in taken]


def against_the_joint_matrix(sizes, steps, repeats):
    work = Work(sizes, steps)
    A = work.joint()
    contenders = [work.smooth, lambda: work.smooth_dense(A), lambda: work.smooth_hmmlearn(A)]
    answers = [(value, gamma.copy()) for value, gamma in (contender() for contender in contenders)]
    for value, gamma in answers[1:]:
        assert abs(value / answers[0][0] - 1) < 1e-10
        assert np.abs(gamma - answers[0][1]).max() < 1e-9
    ours, own_dense, peer = seconds(contenders, repeats)
    counted = seconds([lambda: work.smooth(counts=True)], repeats)[0]
    return {
        "work": "posteriors, several levels, one sequence",
        "sizes": sizes,
        "steps": steps,
        "seconds": ours,
        "seconds_with_counts": counted,
        "dense_seconds": own_dense,
        "hmmlearn_seconds": peer,
        "times_dense": own_dense / ours,
        "times_hmmlearn": peer / ours,
    }


def growth(sizes, steps=2_000, periods=None):
    """Nanoseconds a step beside the multiply-adds of the law N * sum_s K_s / n_s (one direction)."""
    work = Work(sizes, steps, periods=periods)
    operations = work.N * float((work.sizes / work.periods).sum())
    taken = seconds([work.smooth], 9)[0]
    return {
        "work": "growth of posteriors",
        "sizes": sizes,
        "periods": tuple(work.periods.tolist()),
        "operations": operations,
        "dense_operations": work.N**2,
        "ns_per_step": 1e9 * taken / steps,
        "ps_per_operation": 1e12 * taken / steps / operations,
    }


def quickest(sizes, m, steps):
    """E-step of a chain of few joint states as fits run it, on the joint matrix, beside the same level by level."""
    work, rng = Work(sizes, 2), np.random.default_rng(1)
    model = MultiscaleHMM.from_parameters(
        initial=[rows[:, 0] for rows in work.levels],
        transition=work.levels,
        timescales=None,
        emission=Gaussian.from_parameters(means=rng.normal(size=(work.N, 1)), covariances=np.ones((work.N, 1))),
    )
    expectation = Expectation(observations(rng.normal(size=(m * steps, 1)), [steps] * m))
    wins, parameters = chains.DENSE_WINS, []
    for bounds in (wins, (0, 0)):
        chains.DENSE_WINS = bounds
        parameters.append(model._parameters())
        assert (parameters[-1].chain.matrix is None) == (bounds == (0, 0))
    chains.DENSE_WINS = wins
    contenders = [lambda one=one: expectation.statistics(one) for one in parameters]
    joint, levels = (contender() for contender in contenders)
    for name in joint[1]:
        np.testing.assert_allclose(joint[1][name], levels[1][name], rtol=1e-9)
    ours, by_level = seconds(contenders, 15)
    row = {"work": "E-step, few joint states", "sizes": sizes, "sequences": m, "steps": m * steps, "seconds": ours}
    return {**row, "by_level_seconds": by_level, "times_by_level": by_level / ours}


def fitting(name, counts=True, gamma=False, **chain):
    work = Work(**chain)
    return {
        "work": f"expected counts, {name}",
        "sizes": chain["sizes"],
        "steps": work.n,
        "seconds": seconds([lambda: work.smooth(counts, gamma)], 15)[0],
    }


def rows():
    """Yield the comparisons, the law of growth, and the work of fits."""
    yield against_the_joint_matrix((4, 4, 4), 10_000, 31)
    yield against_the_joint_matrix((4, 4, 4, 4), 10_000, 3)
    yield against_the_joint_matrix((3, 3, 3), 10_000, 31)
    for sizes, (m, steps) in itertools.product([(2, 2), (3, 3), (2, 2, 2), (4, 4)], [(200, 500), (1, 10_000)]):
        yield quickest(sizes, m, steps)
    for levels in range(1, 6):
        yield growth((4,) * levels)
    for size in (2, 3, 4, 6, 8, 12, 16):
        yield growth((size,) * 3 if size < 12 else (size,) * 2)
    yield growth((4, 4, 4, 4), periods=[64, 16, 4, 1])
    yield fitting("10 sequences, emission on the last level", sizes=(3, 3, 3), steps=500, m=10, last_only=True)
    yield fitting("one sequence", sizes=(2, 3), steps=10_000)
    yield fitting("10 sequences, rows driven by inputs", sizes=(2, 3), steps=1_000, m=10, row_per_step=True)


if __name__ == "__main__":
    for row in rows():
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
