"""Calls of the flat-chain kernels with fresh outputs, and their comparison with the log-space reference."""

import numpy as np
from oracles import log_chain, per_step

from hiermm._ext import _cpu

VARIANTS = ["base", "v3", "v4"]


def available():
    """The variants of the kernels that this machine can run."""
    return VARIANTS[: VARIANTS.index(_cpu.best()) + 1]


def offsets_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def smooth(
    dense, ll, offsets, initial, A, index=None, alpha_in=None, beta_in=None, steps=True, alias=False, counts=True
):
    n, N = ll.shape
    ll = np.ascontiguousarray(ll)
    gamma = ll if alias else np.full((n, N), np.nan)
    out = {
        "gamma": gamma,
        "loglik": np.full(len(offsets) - 1, np.nan),
        "status": np.full(len(offsets) - 1, 99),
        "xi": np.zeros(A.shape) if counts else None,
        "xi_steps": np.full((n, N, N), np.nan) if steps else None,
        "beta_out": np.full(N, np.nan) if alpha_in is not None else None,
    }
    dense.smooth(ll, offsets, initial, A, index, alpha_in, beta_in, *out.values())
    return out


def forward(dense, ll, offsets, initial, A, index=None, alpha_in=None):
    alpha = np.full(ll.shape, np.nan)
    loglik, status = np.full(len(offsets) - 1, np.nan), np.full(len(offsets) - 1, 99)
    dense.forward(np.ascontiguousarray(ll), offsets, initial, A, index, alpha_in, alpha, loglik, status)
    return alpha, loglik, status


REFERENCES = {}  # the same for every variant of the kernels


def reference(initial, A, index, a, b, ll):
    parts = (initial, A, np.zeros(0) if index is None else index, ll[a:b])
    key = (a, b, *(hash(part.tobytes()) for part in parts))
    if key not in REFERENCES:
        REFERENCES[key] = log_chain(initial, per_step(A, index, a, b), ll[a:b])
    return REFERENCES[key]


def assert_sequence(out, filtered, s, offsets, initial, A, index, ll, tolerance):
    """Sequence s of the kernels' answers equals the log-space reference; returns its counts by step."""
    a, b = offsets[s], offsets[s + 1]
    truth = reference(initial, A, index, a, b, ll)
    np.testing.assert_allclose(out["loglik"][s], truth.loglik, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(out["gamma"][a:b], truth.gamma, rtol=0, atol=tolerance)
    np.testing.assert_allclose(filtered[a:b], truth.filtered, rtol=0, atol=tolerance)
    if out["xi_steps"] is not None:
        np.testing.assert_allclose(out["xi_steps"][a:b], truth.xi, rtol=0, atol=tolerance)
    return truth.xi
