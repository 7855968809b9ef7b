"""Flat chains: time of the kernels beside hmmlearn's, on the same log-likelihoods and parameters, one thread.

`rows()` yields one dict a measurement, after comparing the numbers. hmmlearn is taken at its fastest: its compiled
"scaling" routines, called as its `score_samples` and `fit` call them, without the emission model.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import time

import numpy as np
from hmmlearn import _hmmc
from measure import in_turn, quartiles

from hiermm._ext import VARIANT, load

dense = load("dense")


def chain(lengths, n_states, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    initial = rng.dirichlet(np.ones(n_states))
    A = 0.5 * np.eye(n_states) + 0.5 * rng.dirichlet(np.ones(n_states), (1, n_states))
    return rng.normal(scale=1.5, size=(offsets[-1], n_states)), offsets, initial, A


def smooth(ll, offsets, initial, A, counts):
    gamma, xi = np.empty_like(ll), np.zeros_like(A) if counts else None
    loglik, status = np.empty(len(offsets) - 1), np.empty(len(offsets) - 1, np.int64)
    return lambda: dense.smooth(ll, offsets, initial, A, None, None, None, gamma, loglik, status, xi), (gamma, loglik)


def hmmlearn_smooth(ll, offsets, initial, A, counts):
    gamma, loglik = np.empty_like(ll), np.empty(len(offsets) - 1)

    def run():
        for s, (a, b) in enumerate(itertools.pairwise(offsets)):
            likelihood = np.exp(ll[a:b])
            loglik[s], forward, scaling = _hmmc.forward_scaling(initial, A[0], likelihood)
            backward = _hmmc.backward_scaling(initial, A[0], likelihood, scaling)
            posterior = forward * backward
            np.divide(posterior, posterior.sum(1, keepdims=True), out=gamma[a:b])
            if counts:
                _hmmc.compute_scaling_xi_sum(forward, A[0], backward, likelihood)

    return run, (gamma, loglik)


def compare(work, n_states, steps, ours, theirs, repeats, slow_repeats):
    """Processor time of this thread, which a busy machine disturbs less than the clock on the wall."""
    functions = {"ours": ours, "theirs": theirs}
    spent = in_turn(functions, {"ours": repeats, "theirs": slow_repeats}, clock=time.thread_time)
    mine, peer = quartiles(spent["ours"]), quartiles(spent["theirs"])["ms"]
    return {
        "work": work, "n_states": n_states, "steps": int(steps), **mine, "hmmlearn_ms": peer,
        "ratio": peer / mine["ms"],
    }  # fmt: skip


def smoothing_rows(largest):
    rng = np.random.default_rng(1)
    cases = [
        ("posteriors, 200 sequences of 300-700", rng.integers(300, 701, 200), [4, 8, 16, 64, 256], False),
        ("posteriors, one sequence of 10,000", [10_000], [4, 16, 64, 256], False),
        ("posteriors and counts, 200 sequences of 500", [500] * 200, [3, 4, 5, 12, 16, 27, 64], True),
        ("posteriors and counts, 100 sequences of 10,000", [10_000] * 100, [8], True),
    ]
    for work, lengths, sizes, counts in cases:
        for n_states in sizes:
            if n_states > largest:
                continue
            data = chain(lengths, n_states)
            ours, mine = smooth(*data, counts)
            theirs, other = hmmlearn_smooth(*data, counts)
            ours(), theirs()
            np.testing.assert_allclose(mine[1], other[1], rtol=1e-9)
            np.testing.assert_allclose(mine[0], other[0], rtol=0, atol=1e-9)
            yield compare(work, n_states, data[1][-1], ours, theirs, 15, 5 if n_states <= 64 else 1)


def viterbi_rows():
    for n_states in [8, 64]:
        ll, offsets, initial, A = chain([100_000], n_states)
        path, log_prob = np.empty(len(ll), np.int64), np.empty(1)
        with np.errstate(divide="ignore"):
            pi, log_A = np.log(initial), np.log(A)

        def ours(args=(ll, offsets, pi, log_A, None, path, log_prob)):
            dense.viterbi(*args)

        def theirs(args=(initial, A[0], ll)):
            return _hmmc.viterbi(*args)

        ours()
        score, states = theirs()
        np.testing.assert_allclose(log_prob[0], score, rtol=1e-11)
        assert (path == states).mean() > 0.999  # ties may differ
        yield compare("most likely path, one sequence of 100,000", n_states, len(ll), ours, theirs, 9, 3)


def steps_rows():
    """A matrix a step, as in an input-output chain; no peer has such a kernel."""
    for n_states in [3, 4, 8]:
        lengths = [1_000] * 20
        ll, offsets, initial, _ = chain(lengths, n_states)
        A = np.random.default_rng(2).dirichlet(np.ones(n_states), (len(ll), n_states))
        gamma, steps = np.empty_like(ll), np.empty_like(A)
        loglik, status = np.empty(20), np.empty(20, np.int64)
        args = (ll, offsets, initial, A, None, None, None, gamma, loglik, status, None, steps)
        spent = in_turn({"": lambda args=args: dense.smooth(*args)}, 15, clock=time.thread_time)
        yield {
            "work": "posteriors and moves of each step, 20 sequences of 1,000, a matrix a step",
            "n_states": n_states, "steps": len(ll), **quartiles(spent[""]),
        }  # fmt: skip


def rows(largest=256):
    """Yield every measurement; `largest` leaves out chains of more states (hmmlearn takes long over 256)."""
    yield from smoothing_rows(largest)
    yield from viterbi_rows()
    yield from steps_rows()


if __name__ == "__main__":
    print("variant", VARIANT)
    for row in rows():
        peer = f"{row['hmmlearn_ms']:10.2f} ms hmmlearn  {row['ratio']:6.1f} x" if "ratio" in row else ""
        print(f"{row['work']:75s} N {row['n_states']:4d} {row['ms']:9.3f} ms {peer}", flush=True)
