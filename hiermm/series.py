"""A measured series and how it is cut for forecasting: what `hiermm compare` reads and every model is given.

One target, any number of inputs, one or several groups (sequences). A `Split` holds them standardised and cut in
time; its inputs carry the target of the step before as an extra column.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hiermm.datasets import load_new_york_weather
from hiermm.sequences import LARGEST

MIN_STEPS = 8  # usable steps that a group needs to be cut into two parts


@dataclass(frozen=True)
class Series:
    """A target with inputs, in groups that follow one another.

    Attributes
    ----------
    target : ndarray of shape (T,)
        NaN where it was not observed.
    inputs : ndarray of shape (T, P)
        Known at each step; P may be 0.
    lengths : tuple of int
        Steps of each group.
    target_name, input_names, group_names : str, tuple of str, tuple of str
    """

    target: np.ndarray
    inputs: np.ndarray
    lengths: tuple[int, ...]
    target_name: str
    input_names: tuple[str, ...]
    group_names: tuple[str, ...]

    @classmethod
    def shipped(cls, target: str = "humidity") -> Self:
        """Return the weather that comes with the package, see `hiermm.datasets.load_new_york_weather`."""
        weather = load_new_york_weather(target)
        names = tuple(weather.feature_names)
        return cls(weather.y, weather.X, tuple(weather.lengths), target, names, ("New York",))

    @classmethod
    def from_csv(cls, path: str | Path, target: str, inputs: tuple[str, ...] = (), group: str | None = None) -> Self:
        """Read a CSV file with a header line, one row a step, in the order of time.

        Parameters
        ----------
        path : str or Path
        target : str
            Column to forecast. An empty cell or `nan` is a step that was not observed.
        inputs : tuple of str
            Columns that are known at their step. Every cell must hold a number.
        group : str, optional
            Column that says which sequence a row belongs to; rows of different groups may be mixed.

        Raises
        ------
        ValueError
            For a column that is not there, a row of the wrong width, or a cell that is no finite number, naming
            line and column.
        OSError
            If the file cannot be read.
        """
        header, rows = _rows(path)
        wanted = [target, *inputs] + ([] if group is None else [group])
        for name in wanted:
            if name not in header:
                other = len(header) == 1 and any(mark in header[0] for mark in ";\t|")
                hint = ". Cells must be separated by commas" if other else ""
                raise ValueError(f"there is no column {name!r} in {path}; its columns are {', '.join(header)}{hint}")
            if header.count(name) > 1:
                raise ValueError(f"{path} has {header.count(name)} columns of the name {name!r}")
            if wanted.count(name) > 1:
                raise ValueError(f"column {name!r} is asked for twice, among target, inputs and group")
        columns = [header.index(name) for name in wanted]
        members: dict[str, list[int]] = {}
        values = np.empty((len(rows), 1 + len(inputs)))
        for i, (line, cells) in enumerate(rows):
            for k, name in enumerate(wanted[: values.shape[1]]):
                values[i, k] = _number(cells[columns[k]], line, name, missing=k == 0)
            members.setdefault("" if group is None else cells[columns[-1]].strip(), []).append(i)
        values = values[np.concatenate(list(members.values()))]
        lengths = tuple(len(member) for member in members.values())
        return cls(values[:, 0], values[:, 1:], lengths, target, tuple(inputs), tuple(members))


def _rows(path):
    """Return (header, [(line number, cells), ...]) of a CSV file; blank lines are left out."""
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            rows = [(reader.line_num, cells) for cells in reader if cells]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}") from None
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} of {path}: {error}") from None
    if not rows:
        raise ValueError(f"{path} is empty; a header line with the columns' names is needed")
    header = [name.strip() for name in rows.pop(0)[1]]
    if not rows:
        raise ValueError(f"{path} has a header but no rows")
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"line {line} of {path} has {len(cells)} cells, but the header names {len(header)} columns"
            )
    return header, rows


def _number(cell, line, name, missing):
    """One cell as a float; NaN for a missing one where that is allowed."""
    text = cell.strip()
    try:
        value = float(text.replace("_", "?")) if text else math.nan  # 1_000 is a number in Python alone
    except ValueError:
        raise ValueError(f"line {line}, column {name!r}: {cell!r} is not a number") from None
    if math.isnan(value) and not missing:
        raise ValueError(f"line {line}, column {name!r}: an input must not be missing")
    if abs(value) > LARGEST:
        what = "not finite" if math.isinf(value) else "too large to be squared: scale the data"
        raise ValueError(f"line {line}, column {name!r}: {cell!r} is {what}")
    return value


@dataclass(frozen=True)
class Split:
    """A series ready for models: standardised, lagged, and cut into a training and a held-out part.

    Each group's last part is held out. Everything is standardised by the training part's mean and standard deviation.
    The last input is the target of the step before (where that was not observed, the last one that was), so that a
    model of p(y_t | inputs) forecasts one step ahead like a model of the series itself. A group's first observed
    value has nothing before it: it only serves as the lag of the step after, and the steps up to it are left out.

    Attributes
    ----------
    inputs : ndarray of shape (T, P + 1)
        Standardised inputs, then the lagged target in the target's units.
    outputs : ndarray of shape (T,)
        Standardised target, NaN where not observed.
    lengths, n_train : tuple of int
        Steps of each group, and how many of them, from its start, are for training.
    center, scale : float
        Mean and standard deviation of the target in the training part.
    input_names : tuple of str
    """

    inputs: np.ndarray
    outputs: np.ndarray
    lengths: tuple[int, ...]
    n_train: tuple[int, ...]
    center: float
    scale: float
    input_names: tuple[str, ...]

    @classmethod
    def cut(cls, series: Series, held_out: float = 0.25) -> Self:
        """Cut a series in time.

        Parameters
        ----------
        series : Series
        held_out : float
            Fraction of each group's steps, its last ones, to hold out; at least two of them.

        Raises
        ------
        ValueError
            If a group is too short, nothing is observed in one of its parts, or the target does not vary.
        """
        if not 0 < held_out < 1:
            raise ValueError(f"the held-out fraction must lie between 0 and 1, got {held_out}")
        groups, n_train = [], []
        stops = np.cumsum(series.lengths)
        for name, stop, length in zip(series.group_names, stops, series.lengths):
            name = f"group {name!r}" if name or len(stops) > 1 else "the series"
            part = slice(stop - length, stop)
            groups.append(_lagged(series.target[part], series.inputs[part], name))
            n_train.append(_training_steps(groups[-1][1], held_out, name))
        inputs = np.concatenate([group[0] for group in groups])
        outputs = np.concatenate([group[1] for group in groups])
        lengths = tuple(len(group[1]) for group in groups)
        train = _selection(lengths, n_train)
        center, scale = np.nanmean(outputs[train]), np.nanstd(outputs[train])
        if not _varies(outputs[train], scale, f"target {series.target_name!r}"):
            raise ValueError(f"target {series.target_name!r} does not vary in the training part")
        mean, spread = inputs[train].mean(axis=0), inputs[train].std(axis=0)
        mean[-1], spread[-1] = center, scale
        for k, name in enumerate(series.input_names):
            if not _varies(inputs[train][:, k], spread[k], f"input {name!r}"):
                spread[k] = 1
        names = (*series.input_names, f"{series.target_name}[t-1]")
        outputs = (outputs - center) / scale
        return cls((inputs - mean) / spread, outputs, lengths, tuple(n_train), float(center), float(scale), names)

    def train(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return (inputs, outputs, lengths) of the training parts."""
        rows = _selection(self.lengths, self.n_train)
        return self.inputs[rows], self.outputs[rows], list(self.n_train)

    def everything(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return (inputs, outputs, lengths) of the whole groups."""
        return self.inputs, self.outputs, list(self.lengths)

    def held_out(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return (inputs, outputs, lengths) of the held-out parts."""
        rows = ~_selection(self.lengths, self.n_train)
        return self.inputs[rows], self.outputs[rows], [n - k for n, k in zip(self.lengths, self.n_train)]


def _varies(values, spread, name):
    """Whether the values vary; their standard deviation alone does not say, for that of a constant is rounding."""
    width = np.nanmax(values) - np.nanmin(values)
    if width > 0 and not spread > 0:
        raise ValueError(f"{name} varies by {width:.3g} in the training part, too little to be squared: scale it")
    return width > 0


def _lagged(target, inputs, name):
    """Inputs with the last observed target before each step as a further column, and the target, of one group."""
    seen = np.flatnonzero(~np.isnan(target))
    if len(seen) < 2:
        raise ValueError(f"{name}: the target is observed {len(seen)} times; that is too little to forecast")
    steps = np.arange(seen[0] + 1, len(target))
    last = np.maximum.accumulate(np.where(np.isnan(target), -1, np.arange(len(target))))
    return np.column_stack([inputs[steps], target[last[steps - 1]]]), target[steps]


def _training_steps(target, held_out, name):
    """How many of a group's steps are for training."""
    n = len(target)
    if n < MIN_STEPS:
        raise ValueError(f"{name} has {n} usable steps; at least {MIN_STEPS} are needed to hold some out")
    n_train = n - min(max(2, round(held_out * n)), n - 1)
    for part, what in [(target[:n_train], "training"), (target[n_train:], "held-out")]:
        if np.isnan(part).all():
            raise ValueError(f"{name}: nothing of the target is observed in the {what} part")
    return n_train


def _selection(lengths, n_train):
    """Mask over all steps: True in the training parts."""
    return np.concatenate([np.arange(n) < k for n, k in zip(lengths, n_train)])
