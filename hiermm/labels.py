"""Labels of any hashable kind to symbol codes 0..M-1 and back."""

import numbers

import numpy as np


def is_missing(label):
    """Whether a label means "not observed": None, NaN, or pandas' NaT or NA."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # NA: neither equal to itself nor not
        return True


def holds_labels(data):
    """Whether an array-like holds labels: text, or objects that are neither numbers nor signs of a missing value."""
    array = np.asarray(data)
    if array.dtype.kind != "O":
        return array.dtype.kind in "US"
    return any(
        hasattr(value, "__len__") or not (isinstance(value, numbers.Number) or is_missing(value))
        for value in array.ravel().tolist()
    )


def learn_classes(labels, n_symbols=None):
    """Return the sorted distinct labels of an array (n, 1), missing ones left out.

    Parameters
    ----------
    labels : ndarray of shape (n, 1)
    n_symbols : int, optional
        Size of the alphabet; whole numbers below it are then classes 0..n_symbols - 1, seen or not.

    Raises
    ------
    ValueError
        If there is not exactly one column, the labels are numbers of which one is not whole (a quantity, as for
        scikit-learn's classifiers), or the number of other labels is not `n_symbols`.
    """
    if labels.shape[1] != 1:
        raise ValueError(f"class labels take one column, y has {labels.shape[1]}.")
    if labels.dtype.kind == "O":
        found = {label for label in labels[:, 0].tolist() if not is_missing(label)}
        try:
            ordered = sorted(found)
        except TypeError:
            ordered = sorted(found, key=lambda label: (type(label).__name__, str(label)))
        classes = np.empty(len(ordered), dtype=object)
        classes[:] = ordered
        kinds = {type(label) for label in ordered}
        if len(kinds) == 1 and kinds <= {str, bool, int, float}:
            classes = np.array(ordered)
    else:
        classes = np.unique(labels[~np.isnan(labels)] if labels.dtype.kind == "f" else labels)
        # Beyond 2^53 floats have no integers of their own.
        if classes.dtype.kind == "f" and ((classes == np.floor(classes)) & (np.abs(classes) < 2.0**53)).all():
            classes = classes.astype(np.int64)
    _refuse_quantities(classes.tolist())
    if n_symbols is not None:
        if classes.dtype.kind in "iu" and len(classes) and classes[0] >= 0 and classes[-1] < n_symbols:
            return np.arange(n_symbols)
        if len(classes) != n_symbols:
            raise ValueError(
                f"y has {len(classes)} distinct labels but n_symbols is {n_symbols}; symbols not seen count only "
                "among labels that are the whole numbers 0..n_symbols - 1."
            )
    return classes


def _refuse_quantities(classes):
    """Raise ValueError if the classes are real numbers of which one is not whole."""
    if all(isinstance(label, numbers.Number) and not isinstance(label, complex) for label in classes):
        for label in classes:
            if label % 1 != 0:
                raise ValueError(
                    "Unknown label type: continuous. Class labels that are numbers must be whole, but y holds "
                    f"{label}: fit a model of quantities, or give labels as text."
                )


def encode(labels, classes, offsets):
    """Return the codes of labels (n, 1) as floats, NaN where missing.

    Raises
    ------
    ValueError
        For a label that is not among the classes, naming sequence and step.
    """
    if labels.shape[1] != 1:
        raise ValueError(f"class labels take one column, y has {labels.shape[1]}.")
    column = labels[:, 0]
    if len(classes) == 0:  # every label of the training data is missing, which `fit` will refuse
        return np.full((len(column), 1), np.nan)
    if column.dtype.kind == "O" or classes.dtype.kind not in "iufb":
        codes = {label: float(code) for code, label in enumerate(classes.tolist())}
        found = np.array([np.nan if is_missing(x) else codes.get(x, -1.0) for x in column.tolist()], dtype=float)
    else:
        missing = np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), dtype=bool)
        order = np.argsort(classes)  # known classes may come in any order
        place = np.searchsorted(classes, np.where(missing, classes[0], column), sorter=order)
        place = order[np.minimum(place, len(classes) - 1)]
        found = np.where(classes[place] == column, place, -1.0)
        found[missing] = np.nan
    if (found == -1.0).any():
        row = int(np.argmax(found == -1.0))
        i = int(np.searchsorted(offsets, row, side="right")) - 1
        label = column[row : row + 1].tolist()[0]
        raise ValueError(
            f"sequence {i}, step {row - offsets[i]}: label {label!r} is not among the classes "
            f"{classes.tolist()!r} seen in fit."
        )
    return found[:, None]
