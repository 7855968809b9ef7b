"""What `MultiscaleRNN` accepts: its hyper-parameters, and what kind of outputs y holds."""

import numbers

import numpy as np
from sklearn.utils.multiclass import type_of_target

from hiermm.labels import is_missing
from hiermm.rnn.network import CLOCKS, COUPLINGS, INITIALIZATIONS
from hiermm.rnn.training import METHODS

OUTPUTS = ("auto", "regression", "classification")
CHOICES = {
    "clock": CLOCKS,
    "coupling": COUPLINGS,
    "output": OUTPUTS,
    "solver": tuple(METHODS),
    "initialization": INITIALIZATIONS,
}
COUNTS = ("max_iter", "n_iter_no_change", "n_init")
POSITIVE = ("learning_rate_init", "guess_range")
# Larger ones have no meaning left for any data, or no memory.
LARGEST = {"timescales": 2**53, "delays": 2**31, "guess_range": 1e300}
MAX_BYTES = 1 << 31  # of the recurrent weights


def _is_count(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def check_hyperparameters(model):
    """Raise ValueError naming the first hyper-parameter of a MultiscaleRNN that makes no sense."""
    for name, choices in CHOICES.items():
        if not isinstance(getattr(model, name), str) or getattr(model, name) not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {getattr(model, name)!r}.")
    for name in ("n_units", "timescales", "delays"):
        value = getattr(model, name)
        if not np.iterable(value) or len(value) == 0 or not all(_is_count(number) for number in value):
            raise ValueError(f"{name} must be a tuple of integers of at least 1, got {value!r}.")
        if max(value) > LARGEST.get(name, np.inf):
            raise ValueError(f"{name} must be at most {LARGEST[name]}, got {value!r}.")
    if len(model.timescales) != len(model.n_units):
        raise ValueError(f"timescales has {len(model.timescales)} entries for {len(model.n_units)} levels of n_units.")
    if len(set(model.delays)) < len(model.delays):
        raise ValueError(f"delays must be distinct, got {model.delays!r}.")
    size = 8 * len(model.delays) * sum(int(units) for units in model.n_units) ** 2
    if size > MAX_BYTES:
        raise ValueError(
            f"n_units={model.n_units!r} asks for recurrent weights of {size / 2**30:.3g} GiB (limit "
            f"{MAX_BYTES >> 30} GiB)."
        )
    for name in COUNTS:
        if not _is_count(getattr(model, name)):
            raise ValueError(f"{name} must be an integer of at least 1, got {getattr(model, name)!r}.")
    if not (isinstance(model.batch_size, str) and model.batch_size == "auto") and not _is_count(model.batch_size):
        raise ValueError(f'batch_size must be "auto" or an integer of at least 1, got {model.batch_size!r}.')
    for name in (*POSITIVE, "alpha", "tol", "momentum", "validation_fraction"):
        if not isinstance(getattr(model, name), numbers.Real):
            raise ValueError(f"{name} must be a number, got {getattr(model, name)!r}.")
    for name in POSITIVE:
        if not 0 < getattr(model, name) < LARGEST.get(name, np.inf):
            raise ValueError(f"{name} must be positive and finite, got {getattr(model, name)!r}.")
    for name in ("alpha", "tol"):
        if not 0 <= getattr(model, name) < np.inf:
            raise ValueError(f"{name} must be at least 0, got {getattr(model, name)!r}.")
    if not 0 <= model.momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {model.momentum!r}.")
    if model.clip_norm is not None and not (isinstance(model.clip_norm, numbers.Real) and model.clip_norm > 0):
        raise ValueError(f"clip_norm must be None or positive, got {model.clip_norm!r}.")
    if not 0 < model.validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1, got {model.validation_fraction!r}.")
    if model.callback is not None and not callable(model.callback):
        raise ValueError(f"callback must be None or a function, got {model.callback!r}.")


def looks_like_classes(labels):
    """Whether packed outputs (n, D) are class labels: one column of text, objects, integers, booleans or whole numbers.

    Floats are classes where scikit-learn's `type_of_target` says so, that is where all of them are whole numbers.
    """
    if labels.shape[1] != 1:
        return False
    if labels.dtype.kind == "O":
        observed = [label for label in labels[:, 0].tolist() if not is_missing(label)]
        if not all(isinstance(label, numbers.Number) for label in observed):
            return True
        labels = np.array(observed, dtype=np.float64)[:, None]
    if labels.dtype.kind in "biu":
        return True
    if labels.dtype.kind != "f":
        return False
    observed = labels[np.isfinite(labels)]
    with np.errstate(invalid="ignore"):  # numbers beyond the range of integers
        return len(observed) > 0 and type_of_target(observed) in ("binary", "multiclass")
