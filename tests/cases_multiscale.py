"""Random chains of several levels with data, run through the structured kernels, for the tests of those kernels."""

import itertools

import numpy as np
import oracles
import oracles_multiscale as om
import pytest

from hiermm._ext import load

ms = load("multiscale")
PERIODS = {1: (3,), 2: (4, 1), 3: (6, 2, 1), 4: (6, 3, 3, 2)}


class Case:
    """A random chain with data: `kind` of rows is "one", "steps" (one a step) or "index" (three, by symbol)."""

    def __init__(self, sizes, parent=-1, periodic=False, kind="one", lengths=(9, 1, 5), seed=0, narrow=False):
        rng = np.random.default_rng([seed, *sizes, parent + 1, periodic])
        self.sizes, self.parent, self.N = sizes, parent, int(np.prod(sizes))
        self.periods = PERIODS[len(sizes)] if periodic else (1,) * len(sizes)
        self.offsets = np.cumsum([0, *lengths])
        self.n = int(self.offsets[-1])
        L = {"one": 1, "steps": self.n, "index": 3}[kind]
        self.A = om.random_rows(rng, L, sizes, parent)
        self.index = rng.integers(0, 3, self.n) if kind == "index" else None
        self.initial = rng.dirichlet(np.ones(self.N))
        self.emit = np.arange(self.N) % sizes[-1] if narrow else np.arange(self.N)
        self.ll = 2 * rng.standard_normal((self.n, int(self.emit.max()) + 1))
        self.ll[rng.random(self.n) < 0.25] = 0.0
        self.rng = rng

    def geometry(self):
        return np.array(self.sizes), self.parent, np.array(self.periods)

    def runs(self):
        return list(itertools.pairwise(self.offsets))

    def matrices(self, start, stop, t0=0):
        return om.joint_matrices(self.A, self.index, self.sizes, self.parent, self.periods, start, stop, t0)

    def reference(self, start, stop):
        return oracles.log_chain(self.initial, self.matrices(start, stop), self.ll[start:stop][:, self.emit])

    def forward(self, kernels=ms):
        m = len(self.offsets) - 1
        alpha, loglik, status = np.full((self.n, self.N), np.nan), np.full(m, np.nan), np.full(m, 9)
        kernels.forward(self.ll, self.offsets, self.initial, self.A, self.index, *self.geometry(), self.emit, 0, None,
                        alpha, loglik, status)  # fmt: skip
        return alpha, loglik, status

    def smooth(self, kernels=ms, gamma=None, **rest):
        m, total = len(self.offsets) - 1, self.A.shape[1]
        gamma = np.full((self.n, self.N), np.nan) if gamma is None else gamma
        out = {
            "gamma": gamma,
            "loglik": np.full(m, np.nan),
            "status": np.full(m, 9),
            "xi": np.zeros_like(self.A),
            "xi_steps": np.full((self.n, total), np.nan),
            "gamma_emit": np.full_like(self.ll, np.nan),
            "gamma_first": np.full((m, self.N), np.nan),
        } | rest
        kernels.smooth(self.ll, self.offsets, self.initial, self.A, self.index, *self.geometry(), self.emit, 0, None,
                       None, **out)  # fmt: skip
        return out

    def summed(self, xi_steps):
        """Counts by packed row, from counts by step."""
        xi = np.zeros_like(self.A)
        rows = self.index if self.index is not None else np.arange(self.n) if len(self.A) > 1 else np.zeros(self.n, int)
        np.add.at(xi, rows, xi_steps)
        return xi


def assert_exact(case, out, tol=1e-12):
    """`out` of smooth against the reference, all results; status is the caller's."""
    steps = np.zeros((case.n, case.A.shape[1]))
    for q, (start, stop) in enumerate(case.runs()):
        want = case.reference(start, stop)
        steps[start:stop] = om.level_counts(want.xi, case.sizes, case.parent, case.periods)
        assert out["loglik"][q] == pytest.approx(want.loglik, rel=tol, abs=tol)
        np.testing.assert_allclose(out["gamma"][start:stop], want.gamma, rtol=0, atol=tol)
        np.testing.assert_allclose(out["gamma_first"][q], want.gamma[0], rtol=0, atol=tol)
        by_column = np.zeros((stop - start, case.ll.shape[1]))
        np.add.at(by_column.T, case.emit, want.gamma.T)
        np.testing.assert_allclose(out["gamma_emit"][start:stop], by_column, rtol=0, atol=tol)
    np.testing.assert_allclose(out["xi_steps"], steps, rtol=0, atol=tol)
    np.testing.assert_allclose(out["xi"], case.summed(steps), rtol=0, atol=tol * case.n)
