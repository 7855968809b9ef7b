"""Covariance matrices of normal emissions: their four forms, densities and moments with entries missing, floors.

Residuals are y - mean with the mean linear in x = [1, u]. Blocks without missing entries go through the kernels of
independent outputs; the others are taken by state and by pattern of missing entries, one (n, D) array at a time.
"""

import numpy as np

from hiermm._ext import load
from hiermm.emissions.base import as_parameter, check_shape

kernels = load("emission")

FORMS = ("diag", "full", "tied", "spherical")


def check_form(covariance):
    """Raise ValueError unless `covariance` names one of the four forms."""
    if covariance not in FORMS:
        raise ValueError(f"covariance must be one of {', '.join(FORMS)}, got {covariance!r}")


def as_covariances(form, value, n_states, n_outputs):
    """Return `value` as covariances of the given form, or raise ValueError naming the entry that is not positive.

    Shapes: diag (N, D), full (N, D, D), tied (D, D), spherical (N,).
    """
    N, D = n_states, n_outputs
    shape = {"diag": (N, D), "full": (N, D, D), "tied": (D, D), "spherical": (N,)}[form]
    array = as_parameter("covariances", value, len(shape))
    check_shape("covariances", array, shape)
    if form in ("diag", "spherical"):
        if (array <= 0).any():
            where = [int(k) for k in np.argwhere(array <= 0)[0]]
            raise ValueError(f"covariances{where} = {array[tuple(where)]:g} is not positive")
        return array
    for k, matrix in enumerate(array.reshape(-1, D, D)):
        name = "covariances" if form == "tied" else f"covariances[{k}]"
        if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-10 * np.abs(matrix).max()):
            raise ValueError(f"{name} is not symmetric")
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            raise ValueError(f"{name} is not positive definite") from None
    return (array + np.swapaxes(array, -1, -2)) / 2


def count(form, n_states, n_outputs):
    """Return the number of free covariance parameters."""
    N, D = n_states, n_outputs
    return {"diag": N * D, "full": N * D * (D + 1) // 2, "tied": D * (D + 1) // 2, "spherical": N}[form]


def spread(form, variances, n_states):
    """Return covariances of the given form with the same `variances` (D,) in every state."""
    if form == "diag":
        return np.tile(variances, (n_states, 1))
    if form == "spherical":
        return np.full(n_states, variances.mean())
    matrix = np.diag(variances)
    return matrix if form == "tied" else np.repeat(matrix[None], n_states, axis=0)


def whiteners(covariances):
    """Return (W, log_norm): W = inverse Cholesky factors (K, D, D), log_norm (K,) = -log det(2 pi covariance) / 2."""
    factors = np.linalg.cholesky(covariances)
    log_norm = -np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1)
    return np.linalg.inv(factors), log_norm - 0.5 * covariances.shape[-1] * np.log(2 * np.pi)


def patterns(outputs):
    """Yield (rows, seen): the rows that share a pattern of observed entries, and those entries' indices."""
    missing = np.isnan(outputs)
    if not missing.any():
        yield slice(None), np.arange(outputs.shape[1])
        return
    kinds, kind_of_row = np.unique(missing, axis=0, return_inverse=True)
    for kind, mask in enumerate(kinds):
        yield np.flatnonzero(kind_of_row == kind), np.flatnonzero(~mask)


def residuals(outputs, inputs, intercept, coef):
    """Return outputs - intercept - coef u, (n, D), for one state."""
    rest = outputs - intercept
    if coef.shape[-1]:
        rest -= inputs @ coef.T
    return rest


def chain_rule(coef, intercept, covariances):
    """Return (centre, coef, intercept, variances): each output regressed on the inputs and the outputs before it.

    With r = y - mean, W the inverse Cholesky factor and V = W / diag(W), the elements of V r are independent with
    variances 1 / diag(W)^2: the density is a product of one-dimensional normals whose means are linear in u and y.
    The outputs are to be taken about `centre`; coef is (N, D, P + D).
    """
    W, _ = whiteners(covariances)
    scale = np.diagonal(W, axis1=-2, axis2=-1)
    V = W / scale[:, :, None]
    centre = intercept.mean(axis=0)
    slopes = np.concatenate([V @ coef, np.eye(W.shape[-1]) - V], axis=2)
    return centre, slopes, np.einsum("kde,ke->kd", V, intercept - centre), 1.0 / scale**2


def dense_log_likelihood(outputs, inputs, coef, intercept, covariances, out):
    """Fill out (n, N) with log Normal of the observed entries; covariances (N, D, D)."""
    if not np.isnan(outputs).any():
        centre, *regressions = chain_rule(coef, intercept, covariances)
        centred = outputs - centre
        kernels.linear_loglik(centred, np.concatenate([inputs, centred], axis=1), *regressions, out)
        return
    for rows, seen in patterns(outputs):
        if len(seen) == 0:
            out[rows] = 0.0
            continue
        W, log_norm = whiteners(covariances[:, seen[:, None], seen])
        y, u = outputs[rows][:, seen], inputs[rows]
        for k in range(len(W)):
            z = residuals(y, u, intercept[k, seen], coef[k, seen]) @ W[k].T
            out[rows, k] = log_norm[k] - 0.5 * np.einsum("td,td->t", z, z)


def dense_moments(outputs, inputs, gamma, coef, intercept, covariances):
    """Return (gram, cross, scatter) of the completed residuals r: the expected sums of EM.

    gram (N, F, F) = sum gamma x x', cross (N, F, D) = sum gamma x E[r]', scatter (N, D, D) = sum gamma E[r r'].

    Notes
    -----
    With m the missing and o the observed entries of a step, under state k,
    E[r_m | r_o] = S_mo S_oo^-1 r_o and Cov[r_m | r_o] = S_mm - S_mo S_oo^-1 S_om, which scatter includes.

    References
    ----------
    Little & Rubin, "Statistical analysis with missing data", ch. 11.
    """
    if not np.isnan(outputs).any():
        return complete_moments(outputs, inputs, gamma, coef, intercept)
    N, D, P = coef.shape
    gram, cross, scatter = np.zeros((N, P + 1, P + 1)), np.zeros((N, P + 1, D)), np.zeros((N, D, D))
    for rows, seen in patterns(outputs):
        if len(seen) == 0:
            continue
        y, g = outputs[rows][:, seen], gamma[rows]
        x = np.concatenate([np.ones((len(g), 1)), inputs[rows]], axis=1)
        for k in range(N):
            rest = residuals(y, x[:, 1:], intercept[k, seen], coef[k, seen])
            weighted = g[:, k, None] * x
            gram[k] += x.T @ weighted
            to_full, spread = completion(covariances[k], seen)
            cross[k] += weighted.T @ rest @ to_full.T
            scatter[k] += to_full @ (rest.T @ (g[:, k, None] * rest)) @ to_full.T + g[:, k].sum() * spread
    return gram, cross, scatter


def complete_moments(outputs, inputs, gamma, coef, intercept):
    """Return what `dense_moments` does, without missing entries: from the sums of z z' with z = [1, u, y - centre]."""
    N, D, P = coef.shape
    centre = intercept.mean(axis=0)
    regressors = np.concatenate([inputs, outputs - centre], axis=1)
    second, first, rest = np.zeros((N, 1, P + D + 1, P + D + 1)), np.zeros((N, 1, P + D + 1)), np.zeros((N, 1))
    none = np.zeros((len(outputs), 1))
    kernels.linear_moments(none, regressors, gamma, np.zeros((N, 1, P + D)), np.zeros((N, 1)), second, first, rest)
    second = second[:, 0]
    gram, mixed, squares = second[:, : P + 1, : P + 1], second[:, : P + 1, P + 1 :], second[:, P + 1 :, P + 1 :]
    theta = np.concatenate([(intercept - centre)[:, :, None], coef], axis=2)
    explained = theta @ mixed
    scatter = squares - explained - np.swapaxes(explained, 1, 2) + theta @ gram @ np.swapaxes(theta, 1, 2)
    return gram.copy(), mixed - gram @ np.swapaxes(theta, 1, 2), scatter


def completion(covariance, seen):
    """Return (B (D, o), C (D, D)): E[r | r_o] = B r_o and Cov[r | r_o] = C for observed entries `seen`."""
    D = len(covariance)
    if len(seen) == D:
        return np.eye(D), np.zeros((D, D))
    unseen = np.setdiff1d(np.arange(D), seen)
    to_full, spread = np.zeros((D, len(seen))), np.zeros((D, D))
    to_full[seen, np.arange(len(seen))] = 1.0
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, unseen)]).T
    to_full[unseen] = gain
    rest = covariance[np.ix_(unseen, unseen)] - gain @ covariance[np.ix_(seen, unseen)]
    spread[np.ix_(unseen, unseen)] = (rest + rest.T) / 2
    return to_full, spread


def lift(covariances, floor):
    """Return the matrices (K, D, D) with every eigenvalue, in units of `floor` (D,), raised to at least 1.

    This maximises -log det S - tr(S^-1 C) over S >= diag(floor), so that a floored M-step is still an M-step.
    """
    unit = np.sqrt(floor)
    values, vectors = np.linalg.eigh(covariances / unit[:, None] / unit)
    low = values[:, 0] < 1.0
    if not low.any():
        return covariances
    lifted = covariances.copy()
    vectors = vectors[low] * unit[:, None]
    lifted[low] = (vectors * np.maximum(values[low], 1.0)[:, None, :]) @ np.swapaxes(vectors, -1, -2)
    return (lifted + np.swapaxes(lifted, -1, -2)) / 2
