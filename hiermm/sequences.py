"""The one door for data: every accepted form of X, y and lengths becomes a `Sequences`, or an error."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import _check_feature_names, _check_n_features

REPEATS = 16  # times that each symbol occurs, from which on it pays to look at symbols and not at steps
LARGEST = 1e140  # squares of larger numbers overflow where they are summed; those of numbers below 1 / LARGEST vanish
LEAST_VARIATION = 1e-5  # of an input, relative to its size: its square has half of a double's digits left
BLOCK = 1 << 16  # rows looked at together when values are checked, so that a check never copies the data


@dataclass(frozen=True, eq=False)
class Sequences:
    """Independent sequences, packed one after the other.

    Attributes
    ----------
    inputs : ndarray of shape (n_steps, P), float64, C order
        Inputs u_t; P = 0 for a model without inputs.
    outputs : ndarray of shape (n_steps, D), float64, C order, or None
        Outputs (or observations); NaN means "not observed".
    offsets : ndarray of shape (n_sequences + 1,), int64
        Sequence i holds the rows `offsets[i]:offsets[i + 1]`.
    form : {"array", "list", "stack"}
        How X came: one array, a list of arrays, or a 3-D array. Results are handed back in the same form.
    """

    inputs: np.ndarray
    outputs: np.ndarray | None
    offsets: np.ndarray
    form: str = "array"

    def __len__(self):
        return len(self.offsets) - 1

    @property
    def n_steps(self):
        """Total number of steps."""
        return int(self.offsets[-1])

    @property
    def lengths(self):
        """Steps of each sequence, shape (n_sequences,)."""
        return np.diff(self.offsets)

    @property
    def move_offsets(self):
        """Offsets of the moves from step to step, one fewer in each sequence than steps, shape (n_sequences + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths - 1)])

    @cached_property
    def square(self):
        """Sum of the squares of all outputs: finite only if none is missing or infinite, which is quickly known so."""
        return float(np.vdot(self.outputs, self.outputs))

    @cached_property
    def n_observed(self):
        """Number of steps at which at least one output is observed."""
        if np.isfinite(self.square):
            return self.n_steps
        missing = 0
        for lo in range(0, self.n_steps, BLOCK):
            unseen = np.isnan(self.outputs[lo : lo + BLOCK])
            if unseen.any():
                missing += int(unseen.all(axis=1).sum())
        return self.n_steps - missing

    @cached_property
    def n_symbols(self):
        """M if the outputs are one column of whole numbers 0..M-1 (or NaN) that repeat at least `REPEATS` times on
        average, else None."""
        if self.outputs is None or self.outputs.shape[1] != 1:
            return None
        largest, limit = -1, self.n_steps // REPEATS
        for lo in range(0, self.n_steps, BLOCK):
            part = self.outputs[lo : lo + BLOCK, 0]
            part = part[~np.isnan(part)]
            if len(part) and not (part.min() >= 0 and part.max() < limit and (part == np.floor(part)).all()):
                return None
            largest = max(largest, int(part.max(initial=-1)))
        return largest + 1 if largest >= 0 else None

    @cached_property
    def input_range(self):
        """Smallest and largest value of each input, two arrays of shape (P,)."""
        return column_ranges(self.inputs)

    def locate(self, row):
        """Return (sequence, step) of a packed row."""
        sequence = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return sequence, int(row - self.offsets[sequence])

    def restore(self, packed):
        """Return a packed result (n_steps, ...) in the form in which X came."""
        if self.form == "array":
            return packed
        parts = np.split(packed, self.offsets[1:-1])
        return np.stack(parts) if self.form == "stack" else parts

    def select(self, indices):
        """Return new Sequences with the sequences `indices`, in that order (a copy)."""
        rows = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[indices])])
        outputs = None if self.outputs is None else self.outputs[rows]
        return Sequences(self.inputs[rows], outputs, offsets, self.form)


def observations(X, lengths=None, labels=False):
    """Sequences of an HMM: X holds the observations and nothing is known from outside.

    Parameters
    ----------
    X : array (T, D), list of arrays (T_i, D), or array (n_sequences, T, D)
        NaN means "not observed", and so does a mask (`numpy.ma`).
    lengths : array-like of int, optional
        Lengths of the sequences that one array X holds; they sum to T.
    labels : bool
        X holds labels, which are packed as they are.

    Returns
    -------
    Sequences

    Raises
    ------
    ValueError
        For an empty sequence, lengths that do not sum to T, or an infinite value, naming sequence and step.
    """
    packed, offsets, form = _pack(X, lengths, missing=True, labels=labels)
    sequences = Sequences(np.empty((len(packed), 0)), packed, offsets, form)
    if not labels:
        _refuse_infinite(sequences, "X contains infinity: an infinite value")
    return sequences


def inputs_outputs(X, y=None, lengths=None, labels=False):
    """Sequences of an input-output model: X holds the inputs u_t, y the outputs.

    Parameters
    ----------
    X : array (T, P), list of arrays (T_i, P), or array (n_sequences, T, P)
        Finite numbers.
    y : array (T,) or (T, D), list of such arrays, or one target a sequence; optional
        In the form of X. NaN (or None, among labels) means "not observed", and so does a mask (`numpy.ma`). For a list
        or a 3-D X, one target a sequence belongs to its last step.
    lengths : array-like of int, optional
        Lengths of the sequences that one array X holds; they sum to T.
    labels : bool
        y holds labels, which are packed as they are (`hiermm.labels.encode` makes numbers of them).

    Returns
    -------
    Sequences

    Raises
    ------
    ValueError
        For an empty sequence, lengths that do not sum to T, a value that is infinite, a missing input, or X and y of
        unequal length, naming sequence and step.
    """
    packed, offsets, form = _pack(X, lengths, missing=False)
    if y is None:
        return Sequences(packed, None, offsets, form)
    outputs = pack_outputs(y, offsets, form != "array")
    if outputs.dtype.kind == "c":
        raise ValueError("Complex data not supported: y is complex.")
    if outputs.shape[1] == 0:
        raise ValueError("y has no columns: there is no output.")
    if labels:
        return Sequences(packed, outputs, offsets, form)
    sequences = Sequences(packed, _numbers(outputs, "y"), offsets, form)
    _refuse_infinite(sequences, "y is infinite")
    return sequences


def _plain(data, name):
    """Return an array without its mask: what is masked is missing (NaN among numbers, None among others)."""
    dtypes = data.dtypes if hasattr(data, "columns") else [getattr(data, "dtype", None)]
    if any(getattr(dtype, "kind", "") in ("M", "m") for dtype in dtypes):
        raise ValueError(f"{name} holds dates or times: turn them into numbers, or into text if they are labels.")
    if not isinstance(data, np.ma.MaskedArray):
        return data
    plain, number = data.data, data.dtype.kind in "fiu"
    if np.ma.is_masked(data):
        plain = plain.astype(np.float64 if number else object)
        plain[np.ma.getmaskarray(data)] = np.nan if number else None
    return plain


def check_features(model, X, n_features, reset):
    """Learn (`reset`) or check number and names of the columns of X, in every data frame that it holds."""
    several = form_of(X) != "array"
    first = X[0] if several else X
    if type(first) is not np.ndarray or hasattr(model, "feature_names_in_"):  # else there are no names
        _check_feature_names(model, first, reset=reset)
    for part in X[1:] if isinstance(X, (list, tuple)) else ():
        if several and hasattr(part, "columns"):
            _check_feature_names(model, part, reset=False)
    _check_n_features(model, np.empty((1, n_features)) if several else X, reset=reset)


def check_ranges(sequences):
    """Raise ValueError if the squares of a column would overflow or vanish, naming sequence, step and column.

    Warns of inputs that hardly vary beside their size: sums of their products lose the digits in which they vary.
    """
    for name, array in [("input", sequences.inputs), ("output", sequences.outputs)]:
        if name == "output" and sequences.square <= LARGEST**2 and np.abs(array[:9]).max(axis=0).min() >= 1 / LARGEST:
            continue  # as nearly always: no value is too large, and the first rows show that no column is too small
        if array.shape[1] == 0:
            continue
        low, high = sequences.input_range if name == "input" else column_ranges(array)
        largest = np.maximum(high, -low)
        for j in np.flatnonzero((largest > LARGEST) | ((largest > 0) & (largest < 1 / LARGEST))):
            row = int(np.argmax(np.abs(array[:, j]) == largest[j]))
            sequence, step = sequences.locate(row)
            raise ValueError(
                f"sequence {sequence}, step {step}: {name} {array[row, j]:g}, the largest of column {j}, is "
                "out of the range in which numbers can be squared: scale the data."
            )
        if name == "input":
            for j in np.flatnonzero((high > low) & (high - low < LEAST_VARIATION * largest)):
                warnings.warn(
                    f"input column {j} lies between {low[j]:.12g} and {high[j]:.12g}: it varies so little beside its "
                    "size that its effect may be lost to rounding. Subtract a constant from it.",
                    UserWarning,
                    stacklevel=4,
                )


def column_ranges(array):
    """Return the smallest and the largest value of each column of `array` (n, P), NaN aside: two arrays (P,)."""
    low, high = np.full(array.shape[1], np.inf), np.full(array.shape[1], -np.inf)
    for lo in range(0, len(array), BLOCK):
        for j, column in enumerate(array[lo : lo + BLOCK].T):  # one by one: reducing short rows is slow
            column = np.ascontiguousarray(column)
            low[j] = np.fmin(low[j], np.fmin.reduce(column))
            high[j] = np.fmax(high[j], np.fmax.reduce(column))
    return low, high


def pack_outputs(y, offsets, several):
    """Return y as one array (n_steps, D) of its own dtype, one target a sequence spread over its steps as missing."""
    lengths = np.diff(offsets)
    y = _plain(y, "y")
    if not several:
        array = _column(np.asarray(y, dtype=_dtype(y)))
        if len(array) != offsets[-1]:
            raise ValueError(f"X has {offsets[-1]} steps but y has {len(array)}: X and y must have the same length.")
        return array
    if not isinstance(y, (list, tuple)):
        y = np.asarray(y)  # a DataFrame would be iterated over by column
    size = "no length" if isinstance(y, np.ndarray) and y.ndim == 0 else len(y)
    if size != len(lengths):
        raise ValueError(f"X holds {len(lengths)} sequences, y {size}: they must agree.")
    y = [_plain(part, "y") for part in y]
    parts = [np.asarray(part, dtype=_dtype(part)) for part in y]
    if all(part.ndim == 0 for part in parts):
        targets = np.array([part.item() for part in parts], dtype=_dtype(list(y)))
        missing = np.nan if targets.dtype.kind in "fiu" else None
        dtype = np.float64 if missing is not None else object
        array = np.full((offsets[-1], 1), missing, dtype=dtype)
        array[offsets[1:] - 1, 0] = targets
        return array
    for i, (part, length) in enumerate(zip(parts, lengths)):
        if part.ndim == 0 or len(part) != length:
            found = "one target" if part.ndim == 0 else f"{len(part)} targets"
            raise ValueError(f"sequence {i}: X has {length} steps but y has {found}.")
    parts = [_column(part) for part in parts]
    if len({part.shape[1] for part in parts}) > 1:
        raise ValueError(f"y: the sequences have unequal numbers of columns: {[part.shape[1] for part in parts]}.")
    return np.concatenate(parts)


def _dtype(y):
    """Return object for labels, so that numpy never turns None or a number among strings into text."""
    try:
        array = np.asarray(y)
    except ValueError:
        raise ValueError(
            "y must follow X: one array (T,) or (T, D) for one array X, a list of arrays for a list of sequences."
        ) from None
    return object if array.dtype.kind in "OUS" else None


def _column(array):
    if array.ndim not in (1, 2):
        raise ValueError(f"y must have one or two dimensions for each sequence, got shape {array.shape}.")
    return array.reshape(len(array), -1)


def _numbers(array, name):
    try:
        return np.ascontiguousarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers for this model: {error}") from None


def _pack(X, lengths, missing, labels=False):
    """Return (packed (n, P), offsets, form) of X in any accepted form, values checked."""
    options = {
        "dtype": object if labels else np.float64,  # as text, numpy would turn a NaN among words into "nan"
        "order": "C",
        "ensure_all_finite": False,
        "ensure_min_features": int(missing),
        "input_name": "X",
    }
    form = form_of(X)
    if form == "array":
        packed = _checked(X, options)
        offsets = _offsets(lengths, len(packed))
    else:
        if lengths is not None:
            raise ValueError("lengths= goes with one array X; a list or a 3-D X already says where sequences end.")
        parts = [_part(part, i, options) for i, part in enumerate(X)]
        odd = [i for i, part in enumerate(parts) if part.shape[1] != parts[0].shape[1]]
        if odd:
            raise ValueError(
                f"sequence {odd[0]} of X has {parts[odd[0]].shape[1]} features but sequence 0 has {parts[0].shape[1]}."
            )
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        packed = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not missing:
        _refuse(packed, offsets, np.isinf, "X contains infinity: an infinite value")
        _refuse(packed, offsets, np.isnan, "X contains NaN: a missing input")
    return packed, offsets, form


def form_of(X):
    """Say how X holds its sequences: "array" (or a list of rows), "list" of 2-D arrays, or a 3-D "stack"."""
    if isinstance(X, (list, tuple)):
        if len(X) == 0:
            raise ValueError("X holds no sequence: 0 sample(s), a minimum of 1 is required.")
        shapes = {np.shape(part) for part in X}
        if any(len(shape) >= 2 for shape in shapes):
            return "list"
        if len(shapes) > 1 or hasattr(X[0], "dtype"):  # arrays of one dimension: sequences or rows?
            raise ValueError(
                "X: the sequences of a list have two dimensions (steps, features), the rows of one sequence equal "
                f"lengths; found the shapes {sorted(shapes)[:3]}. For one feature use x.reshape(-1, 1)."
            )
        return "array"
    if getattr(X, "ndim", 2) == 3:
        if len(X) == 0:
            raise ValueError("X holds no sequence: 0 sample(s), a minimum of 1 is required.")
        return "stack"
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1 and len(X) and np.ndim(X[0]) > 0:
        raise ValueError("X is an array of arrays: give the sequences as a list, list(X).")
    return "array"


def _part(part, i, options):
    """Check one sequence of a list."""
    if np.ndim(part) != 2:
        raise ValueError(f"sequence {i} of X must have two dimensions (steps, features), got {np.ndim(part)}.")
    if np.shape(part)[0] == 0:
        raise ValueError(f"sequence {i} of X is empty.")
    return _checked(part, options)


def _checked(data, options):
    """Return `check_array` of plain data; what that would return as it is does not wait for it, which takes a while."""
    ready = type(data) is np.ndarray and data.dtype == options["dtype"] == np.float64 and data.flags.c_contiguous
    if ready and data.ndim == 2 and len(data) > 0 and data.shape[1] >= options["ensure_min_features"]:
        return data
    return check_array(_plain(data, "X"), **options)


def _offsets(lengths, n_steps):
    if lengths is None:
        return np.array([0, n_steps], dtype=np.int64)
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or lengths.size == 0 or lengths.dtype.kind not in "iu":
        raise ValueError(f"lengths must be a one-dimensional sequence of integers, got {lengths!r}.")
    if (lengths <= 0).any():
        i = int(np.argmax(lengths <= 0))
        raise ValueError(f"lengths: sequence {i} has length {lengths[i]}; every length must be at least 1.")
    if lengths.sum() != n_steps:
        raise ValueError(f"lengths sum to {lengths.sum()} but X has {n_steps} steps.")
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _refuse_infinite(sequences, what):
    """Raise ValueError naming the first infinite output, if there is one."""
    if not np.isfinite(sequences.square):
        _refuse(sequences.outputs, sequences.offsets, np.isinf, what)


def _refuse(array, offsets, test, what):
    """Raise ValueError naming sequence, step and column of the first value for which `test` holds."""
    for lo in range(0, len(array), BLOCK):
        bad = test(array[lo : lo + BLOCK])
        if bad.any():
            row, column = np.argwhere(bad)[0]
            i = int(np.searchsorted(offsets, lo + row, side="right")) - 1
            raise ValueError(f"{what} at sequence {i}, step {lo + row - offsets[i]}, column {column}.")
