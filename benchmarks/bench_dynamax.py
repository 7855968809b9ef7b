"""Posteriors and most likely paths of flat chains beside dynamax's compiled functions, where it is installed.

`rows()` yields records; the numbers are compared before anything is timed.
"""

from measure import Record, disagreement, in_turn, quartiles, single_thread

if __name__ == "__main__":
    single_thread()

import importlib.util

import numpy as np
from bench_dense import chain, smooth

from hiermm._ext import load

dense = load("dense")
SECTION = "Flat chains, kernels, beside dynamax (clock on the wall)"


def jax_arrays(ll, initial, A):
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax, jax.numpy.asarray(initial), jax.numpy.asarray(A[0]), jax.numpy.asarray(ll)


def posteriors(lengths, n_states):
    """Return functions by name; sequences are of one length, which dynamax needs to take them together."""
    from dynamax.hidden_markov_model import hmm_smoother

    ll, offsets, initial, A = chain(lengths, n_states)
    ours, (gamma, loglik) = smooth(ll, offsets, initial, A, counts=False)
    jax, pi, matrix, emitted = jax_arrays(ll.reshape(len(lengths), -1, n_states), initial, A)

    def one(part):
        found = hmm_smoother(pi, matrix, part)
        return found.marginal_loglik, found.smoothed_probs

    together = jax.jit(jax.vmap(one))
    logliks, probs = together(emitted)
    ours()
    np.testing.assert_allclose(loglik, logliks, rtol=1e-9)
    np.testing.assert_allclose(gamma, probs.reshape(gamma.shape), rtol=0, atol=1e-9)
    return {"hiermm": ours, "dynamax": lambda: jax.block_until_ready(together(emitted))}


def path(steps, n_states):
    """Return functions by name."""
    from dynamax.hidden_markov_model import hmm_posterior_mode

    ll, offsets, initial, A = chain([steps], n_states)
    states, log_prob = np.empty(steps, np.int64), np.empty(1)
    arguments = (ll, offsets, np.log(initial), np.log(A), None, states, log_prob)
    jax, pi, matrix, emitted = jax_arrays(ll, initial, A)
    mode = jax.jit(lambda part: hmm_posterior_mode(pi, matrix, part))
    found = np.asarray(mode(emitted))
    dense.viterbi(*arguments)
    assert (found == states).mean() > 0.999, "the most likely paths differ"  # ties may differ
    return {"hiermm": lambda: dense.viterbi(*arguments), "dynamax": lambda: jax.block_until_ready(mode(emitted))}


def works(quick):
    """Yield (name, function that makes the contenders)."""
    for n_states in [4] if quick else [4, 16, 64, 256]:
        name = f"posteriors, one sequence of 10,000, K = {n_states}"
        yield name, lambda n_states=n_states: posteriors([10_000], n_states)
    for n_states in [4] if quick else [4, 16, 64]:
        name = f"posteriors, 200 sequences of 500, K = {n_states}"
        yield name, lambda n_states=n_states: posteriors([500] * 200, n_states)
    for n_states in [8] if quick else [8, 64]:
        name = f"most likely path, one sequence of 100,000, K = {n_states}"
        yield name, lambda n_states=n_states: path(100_000, n_states)


def rows(quick=False):
    """Yield the records; one without times where dynamax is not installed."""
    if importlib.util.find_spec("dynamax") is None:
        yield Record(SECTION, "all", peer="dynamax", note="not installed")
        return
    for name, make in works(quick):
        try:
            functions = make()
        except AssertionError as error:
            yield Record(SECTION, name, peer="dynamax", failed=disagreement(error))
            continue
        spent = in_turn(functions, {"hiermm": 3 if quick else 11, "dynamax": 2 if quick else 3})
        theirs = quartiles(spent["dynamax"])["ms"]
        yield Record(SECTION, name, **quartiles(spent["hiermm"]), peer="dynamax", peer_ms=theirs)


if __name__ == "__main__":
    for row in rows():
        print(row.work, row.ms, row.peer_ms, row.ratio, row.note, row.failed)
