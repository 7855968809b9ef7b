"""Problems with a known answer and known networks, for several test modules."""

import numpy as np
import pytest

from hiermm import MultiscaleRNN

QUICK = {"n_units": (3, 4), "timescales": (4, 1), "max_iter": 8, "random_state": 0}


quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def echo(seed, n_sequences=40, delay=3, unequal=True):
    """Regression with a known answer: y_t = u_{t-delay}."""
    rng = np.random.default_rng(seed)
    X = [rng.uniform(-1, 1, (rng.integers(20, 40) if unequal else 30, 1)) for _ in range(n_sequences)]
    return X, [np.concatenate([np.full(delay, np.nan), x[:-delay, 0]]) for x in X]


def signs(seed, n_sequences=60):
    """Classification with a known answer: the sign of the first input, asked for at the end."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(rng.integers(8, 16), 2)) for _ in range(n_sequences)]
    return X, ["up" if x[0, 0] > 0 else "down" for x in X]


def known(seed, n_outputs=1, **options):
    rng = np.random.default_rng(seed)
    arrays = {
        "recurrent": rng.normal(size=(1, 7, 7)) / 3,
        "inputs": rng.normal(size=(7, 2)),
        "bias": rng.normal(size=7),
        "readout": rng.normal(size=(n_outputs, 7)),
        "readout_bias": rng.normal(size=n_outputs),
    }
    return MultiscaleRNN.from_parameters(**arrays, n_units=(3, 4), timescales=(4, 1), **options)
