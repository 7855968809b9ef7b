"""A plain recurrence to hold the recurrent network against. NumPy only; nothing of hiermm is used."""

import numpy as np


def rnn_mask(n_units, coupling):
    """Allowed recurrent connections (H, H) [to, from] of a network with levels, slowest first."""
    level = np.repeat(np.arange(len(n_units)), n_units)
    to, source = level[:, None], level[None, :]
    extra = {"full": to != source, "slower": source == to - 1, "faster": source == to + 1, "none": to < -1}[coupling]
    return (to == source) | extra


def rnn_states(W, V, b, X, n_units, timescales, clock, delays=(1,)):
    """States (T, H) of a tanh network with levels, from zero; W (n_delays, H, H) [to, from]; complex numbers too."""
    n = np.repeat(timescales, n_units)
    history = [np.zeros(len(b), dtype=W.dtype) for _ in range(max(delays))]
    for t, u in enumerate(X):
        z = V @ u + b
        for k, d in enumerate(delays):
            z = z + W[k] @ history[-d]
        if clock == "periodic":
            history.append(np.where(t % n == 0, np.tanh(z), history[-1]))
        else:
            history.append((1 - 1 / n) * history[-1] + np.tanh(z) / n)
    return np.array(history[max(delays) :])


def rnn_loss(W, V, b, U, c, sequences, n_units, timescales, clock, delays=(1,), classes=False):
    """Half the squared error, or the cross-entropy, summed over the observed targets of sequences [(X, y), ...]."""
    total = 0.0
    for X, y in sequences:
        out = rnn_states(W, V, b, X, n_units, timescales, clock, delays) @ U.T + c
        for o, target in zip(out, y):
            if classes:
                if not np.isnan(target[0]):
                    total = total + np.log(np.sum(np.exp(o))) - o[int(target[0])]
            else:
                seen = ~np.isnan(target)
                total = total + 0.5 * np.sum((o[seen] - target[seen]) ** 2)
    return total
