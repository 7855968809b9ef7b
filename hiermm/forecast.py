"""Fit the rows of the registry to a series and judge them by what they forecast of its held-out part."""

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import get_tags
from tqdm import tqdm

from hiermm.analysis import Comparison, compare
from hiermm.registry import ROWS
from hiermm.series import Split

LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of the curves in the figure


@dataclass(frozen=True)
class Fitted:
    """A fitted row: its model, held-out score (nats per step), seconds of fitting, and warnings on the way."""

    model: Any
    held_out: float
    seconds: float
    notes: tuple[str, ...]


def fit_rows(split: Split, names: Iterable[str], seed: int = 0, *, progress: bool = True) -> dict[str, Fitted]:
    """Fit models by name and score them.

    Parameters
    ----------
    split : Split
    names : iterable of str
        Keys of `hiermm.registry.ROWS`.
    seed : int
        Every model's `random_state`.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict of str to Fitted
        In the order of `names`.
    """
    fitted = {}
    with tqdm(list(names), disable=not progress, unit="model", leave=False) as bar:
        for name in bar:
            bar.set_description(f"fitting {name}")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = ROWS[name](seed)
                start = time.perf_counter()
                model.fit(*_data(model, split.train()), lengths=split.train()[2])
                seconds = time.perf_counter() - start
                score = held_out_score(model, split)
            notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
            fitted[name] = Fitted(model, score, seconds, notes)
    return fitted


def held_out_score(model: Any, split: Split) -> float:
    """Return the mean log density of a held-out step given everything before it.

    For each group log p(held-out | training part) = log p(whole group) - log p(training part): the forecast of a
    held-out step continues from the state that the training part left. As every model sees the target of the step
    before, be it as an input or as an observation, the log densities of all of them are about the same thing.

    Parameters
    ----------
    model : fitted model
    split : Split

    Returns
    -------
    float
        Nats per observed held-out step, for the standardised target. (In the target's own units: subtract
        `log(split.scale)`.)
    """
    whole, past = (
        model.log_likelihood(*_data(model, part), lengths=part[2]) for part in (split.everything(), split.train())
    )
    return float(whole - past) / np.count_nonzero(~np.isnan(split.held_out()[1]))


def _data(model, part):
    """What the model reads of (inputs, outputs, lengths): both, or the outputs alone."""
    inputs, outputs, _ = part
    return (inputs, outputs) if get_tags(model).target_tags.required else (outputs[:, None], None)


def compare_rows(fitted: dict[str, Fitted], split: Split, lags: Iterable[int] = ()) -> Comparison:
    """Compare fitted rows on the held-out part.

    Parameters
    ----------
    fitted : dict of str to Fitted
    split : Split
    lags : iterable of int
        Lags to look at besides 1, 2, 4, ..., 256.

    Returns
    -------
    hiermm.analysis.Comparison
        With the forecasts' `score` (`held_out_score`) and a column `fit_seconds`.
    """
    inputs, outputs, lengths = split.held_out()
    return compare(
        {name: row.model for name, row in fitted.items()},
        inputs,
        outputs,
        lengths=lengths,
        lags=sorted({*LAGS, *lags}),
        extra={name: {"score": row.held_out, "fit_seconds": row.seconds} for name, row in fitted.items()},
    )


def format_table(comparison: Comparison, lags: Iterable[int]) -> str:
    """Return the table as text: one line a model, the figures right-aligned.

    Parameters
    ----------
    comparison : hiermm.analysis.Comparison
        From `compare_rows`.
    lags : iterable of int
        Lags whose contraction is shown; they are among the comparison's.

    Returns
    -------
    str
    """
    lags = list(lags)
    lines = [["model", "parameters", "held-out", "half-life", *(f"lag {lag}" for lag in lags), "seconds"]]
    for row in comparison.table:
        left = [_short(row[f"contraction_{lag}"]) for lag in lags]
        score, half_life = f"{row['score']:.4f}", _short(row["half_life"])
        lines.append([row["model"], str(row["parameters"]), score, half_life, *left, f"{row['fit_seconds']:.2f}"])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    )


def _short(value):
    """Three digits, or a dash for what a model does not have."""
    return "-" if value is None else f"{value:.3g}"
