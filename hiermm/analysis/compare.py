"""Several models side by side: how well each predicts and how long each remembers."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from sklearn.utils import get_tags

from hiermm.analysis._named import AnalysisWarning
from hiermm.analysis._optional import pandas
from hiermm.analysis.credit import path_lengths, relative_credit
from hiermm.analysis.figure import draw
from hiermm.analysis.memory import contraction, half_life
from hiermm.analysis.products import as_operators, check_count, check_lags, longest_run
from hiermm.analysis.report import write
from hiermm.analysis.spectra import effective_rank, lyapunov
from hiermm.operators import Operators
from hiermm.sequences import form_of

LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MEMORY = 2**28  # bytes of operators held for one model
CURVES = ("contraction", "effective_rank", "credit", "path_length")


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    table : list of dict
        One row a model: `model`, `kind` ("chain" or "network"), `n_states`, `parameters`, `score`, the caller's extra
        columns, `half_life`, `timescale_1..3`, then `contraction_L`, `effective_rank_L`, `credit_L` and `path_length_L`
        for every lag L, and `notes`. None where a quantity does not exist for that model.
    lags : tuple of int
    notes : dict
        Warnings of the analysis by model.
    """

    table: list
    lags: tuple
    notes: dict = field(default_factory=dict)

    def curve(self, model, quantity):
        """Return (lags, values) of one of the quantities in `CURVES` for a model, without the gaps."""
        if quantity not in CURVES:
            raise KeyError(f"no quantity {quantity!r}; there are {list(CURVES)}.")
        row = next((row for row in self.table if row["model"] == model), None)
        if row is None:
            raise KeyError(f"no model {model!r} here; there are {[row['model'] for row in self.table]}.")
        pairs = [(lag, row[f"{quantity}_{lag}"]) for lag in self.lags if row.get(f"{quantity}_{lag}") is not None]
        return np.array([lag for lag, _ in pairs], dtype=int), np.array([value for _, value in pairs], dtype=float)

    def to_frame(self):
        """Return the table as a pandas DataFrame, indexed by model."""
        return pandas().DataFrame(self.table).set_index("model")

    def plot(self):
        """Draw all panels; returns the matplotlib figure."""
        return draw(self)

    def save(self, directory):
        """Write comparison.csv, .png, .svg and a self-contained comparison.html into a directory; return its path."""
        return write(self, directory)


def compare(models, X=None, y=None, *, lengths=None, lags=LAGS, data=None, extra=None, analysis_steps=5000):
    """Compare models on the same held-out data and by the same measures of memory.

    Parameters
    ----------
    models : dict of str to model
        Fitted hiermm models, fitted hmmlearn models as they are, anything with `.operators(X)` (and, for the score,
        `.score(X, y)`), or `Operators` alone.
    X, y, lengths
        Held-out data. Input-output models get X as inputs and y as outputs. Models of observations alone get X, or y if
        it is given: then all models are judged on y. (A model counts as input-output unless its scikit-learn tags say
        that it does not require a target.)
    lags : sequence of int
        Steps at which contraction, effective rank, credit and path length are taken. Lags longer than a model's longest
        run stay empty.
    data : dict of str to tuple, optional
        Other data for the models named: (X, y) or (X, y, lengths).
    extra : dict of str to dict, optional
        Further columns for the models named, e.g. {"HMM": {"fit_seconds": 1.2}}.
    analysis_steps : int
        The memory of models with inputs is measured along this many steps from the beginning of the data at most (fewer
        where the operators would take more than 256 MiB); the score uses all of them.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there is no model, a name is no text, or one in `data` or `extra` is not among the models. Errors of a model
        carry its name.

    Notes
    -----
    A chain's trivial direction is set apart everywhere: see docs/why-the-comparison-is-fair.md. Warnings of the
    analysis become notes of the model they concern. The score is the mean log-likelihood per observed step; hmmlearn's
    total is divided by the number of steps. Credit is given relative to lag 0.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> from hiermm.analysis import compare
    >>> fast, slow = (np.array([[1 - p, p], [p, 1 - p]]) for p in (0.2, 0.01))
    >>> result = compare({"fast": Operators.from_arrays(fast), "slow": Operators.from_arrays(slow)}, lags=[1, 10])
    >>> [round(row["half_life"], 1) for row in result.table]
    [1.4, 34.3]
    """
    lags = tuple(int(lag) for lag in check_lags(list(lags)))
    check_count("analysis_steps", analysis_steps)
    data, extra = data or {}, extra or {}
    if not isinstance(models, Mapping):
        raise ValueError(f"models must be a dict of names and models, got a {type(models).__name__}.")
    if not models:
        raise ValueError("there is no model to compare.")
    odd = [name for name in models if not isinstance(name, str)]
    if odd:
        raise ValueError(f"names of models must be text, got {odd[0]!r}.")
    for name in [*data, *extra]:
        if name not in models:
            raise ValueError(f"{name!r} is not among the models {list(models)}.")
    table, notes = [], {}
    for name, model in models.items():
        try:
            given = (*data[name], None)[:3] if name in data else _data_for(model, X, y, lengths)
            row, notes[name] = _row(model, given, lags, analysis_steps, extra.get(name, {}))
        except Exception as error:
            error.add_note(f"This happened while comparing the model {name!r}.")
            raise
        table.append({"model": name} | row)
    return Comparison(table, lags, {name: found for name, found in notes.items() if found})


def _row(model, given, lags, analysis_steps, extra):
    """Everything about one model, and the analysis' warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AnalysisWarning)
        driven = _needs_outputs(model)
        head = _head(*given, _affordable(model, given, analysis_steps) if driven else analysis_steps)
        ops = as_operators(model, head[0], lengths=head[2]) if driven else as_operators(model)
        fit = [lag for lag in lags if ops.forever or lag <= longest_run(ops)]
        row = {
            "kind": "chain" if ops.kind == "stochastic" else "network",
            "n_states": ops.n_states,
            "parameters": getattr(model, "n_parameters_", None),
            "score": _score(model, *given),
            **extra,
            "half_life": half_life(ops),
        }
        scales = lyapunov(ops).timescales
        row |= {f"timescale_{k + 1}": float(scales[k]) if k < len(scales) else None for k in range(3)}
        curves = {
            "contraction": contraction(ops, fit) if fit else [],
            "effective_rank": effective_rank(ops, fit, keep_trivial=False) if fit else [],
            "credit": relative_credit(model, *head[:2], fit, lengths=head[2]),
            "path_length": path_lengths(model, fit) if fit and not isinstance(model, Operators) else [None] * len(fit),
        }
        for quantity in CURVES:
            known = dict(zip(fit, curves[quantity]))
            row |= {f"{quantity}_{lag}": _plain(known.get(lag)) for lag in lags}
    messages = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, AnalysisWarning)))
    for w in caught:
        if not issubclass(w.category, AnalysisWarning):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    return row | {"notes": " ".join(messages)}, messages


def _plain(value):
    return None if value is None else float(value)


def _needs_outputs(model):
    """Whether the model predicts y from X, rather than describing observations."""
    if isinstance(model, Operators):
        return True
    if not hasattr(model, "operators"):
        return False
    return bool(get_tags(model).target_tags.required) if hasattr(model, "__sklearn_tags__") else True


def _data_for(model, X, y, lengths):
    if y is None or _needs_outputs(model):
        return X, y, lengths
    return _column(y) if form_of(X) == "array" else [_column(one) for one in y], None, lengths


def _column(y):
    y = np.asanyarray(y)  # a mask says what is missing
    return y[:, None] if y.ndim == 1 else y


def _affordable(model, given, analysis_steps):
    """How many steps of operators to ask for, judged by the size of the first two."""
    if given[0] is None or isinstance(model, Operators):
        return analysis_steps
    X, _, lengths = _head(*given, 2)
    n = as_operators(model, X, lengths=lengths).n_states
    return int(min(analysis_steps, max(64, MEMORY // (8 * n * n))))


def _head(X, y, lengths, n_steps):
    """The first sequences up to n_steps steps in all, the last one cut."""
    if X is None:
        return X, y, lengths
    if form_of(X) != "array":
        sizes = _cut([len(one) for one in X], n_steps)
        if y is not None and any(np.ndim(target) == 0 or len(target) != len(one) for one, target in zip(X, y)):
            whole = max(1, sum(size == len(one) for one, size in zip(X, sizes)))
            return list(X[:whole]), list(y[:whole]), None  # one target a sequence belongs to its last step
        heads = [one[:size] for one, size in zip(X, sizes)]
        return heads, None if y is None else [target[:size] for target, size in zip(y, sizes)], None
    sizes = _cut([len(X)] if lengths is None else lengths, n_steps)
    total = int(np.sum(sizes))
    return X[:total], None if y is None else y[:total], None if lengths is None else sizes


def _cut(sizes, n_steps):
    kept = []
    for size in sizes:
        kept.append(min(int(size), n_steps - sum(kept)))
        if sum(kept) == n_steps:
            break
    return kept


def _score(model, X, y, lengths):
    """Mean log-likelihood per observed step; None for operators alone or without data."""
    if X is None or not hasattr(model, "score"):
        return None
    if hasattr(model, "transmat_") and not hasattr(model, "operators"):
        if form_of(X) != "array":
            X, lengths = np.concatenate(list(X)), [len(one) for one in X]
        return float(model.score(X, lengths) / len(X))
    return float(model.score(X, y) if lengths is None else model.score(X, y, lengths=lengths))
