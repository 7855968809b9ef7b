"""Rows of transition probabilities read from tables: one for ever, or one for each symbol of an input.

They compile inputs into arrays for the kernels, take expected transition counts back as statistics that add, and return
*new* rows that maximise them, as `SoftmaxRows` do.
"""

from dataclasses import dataclass, replace

import numpy as np

from hiermm._ext import load

mstep = load("mstep")
UNCERTAIN = 1e-90  # expected moves; the kernels' counts are exact to 1e-100


def diagonal(n_parents, n_states):
    """Mask (R, K, K) of the self-transitions."""
    return np.broadcast_to(np.eye(n_states, dtype=bool), (n_parents, n_states, n_states))


def frozen(values):
    """Return a read-only float64 copy."""
    values = np.array(values, dtype=np.float64, order="C")
    values.setflags(write=False)
    return values


def proportions(counts, before, free=None, least=0.0):
    """Return rows of probabilities: free entries share, in proportion to their counts, what the others leave of 1.

    Parameters
    ----------
    counts, before : ndarray (..., K)
        Expected counts, and the probabilities that they were counted under.
    free : ndarray (..., K) of bool, optional
        Entries to be set; the others stay as they were before. None: those above 0 before.
    least : float
        Rows whose free entries do not count more than this stay as they were.
    """
    out, rows = np.empty(before.shape), (-1, before.shape[-1])
    free = None if free is None else free.reshape(rows)
    counts = np.asarray(counts, dtype=np.float64)
    mstep.proportions(counts.reshape(rows), before.reshape(rows), free, least, out.reshape(rows))
    return out


def check_self_transition(w):
    """Raise ValueError unless w is None or in [0, 1)."""
    if w is not None and not 0.0 <= w < 1.0:
        raise ValueError(f"self_transition must be None or at least 0 and below 1, got {w}")


@dataclass(frozen=True, eq=False)
class TableRows:
    """Transition rows read from tables: one table, or one for each symbol of an integer input.

    Parameters
    ----------
    probs : array_like (L, R, K, K)
        Probabilities by [table, parent, from, to]; rows sum to 1. L > 1: the inputs hold one column, the number of
        the table (0..L-1) that moves the state into each step.
    self_transition : float, optional
        Constant w on every diagonal, in [0, 1); it is not estimated. Without meaning for K = 1.
    used : array_like (L,) of bool, optional
        Tables that are estimated; the others belong to symbols that no data held, and are no parameters. None: all.

    Raises
    ------
    ValueError
        If `probs` has not four axes, its last two differ, or `self_transition` is not in [0, 1).

    Notes
    -----
    `maximise` divides expected counts by their sum. Probabilities that are zero stay exactly zero, and rows without
    counts (fewer than 1e-90 moves, which underflow may have made up) keep their values.

    Examples
    --------
    >>> import numpy as np
    >>> rows = TableRows([[[[0.5, 0.5], [0.2, 0.8]]]])
    >>> rows.maximise({"counts": np.array([[[[3.0, 1.0], [0.0, 0.0]]]])}).probs[0, 0]
    array([[0.75, 0.25],
           [0.2 , 0.8 ]])
    """

    probs: np.ndarray
    self_transition: float | None = None
    used: np.ndarray | None = None

    iterative = False
    n_inputs = None

    def __post_init__(self):
        object.__setattr__(self, "probs", frozen(self.probs))
        if self.probs.ndim != 4 or self.probs.shape[2] != self.probs.shape[3]:
            raise ValueError(f"probs must have shape (L, R, K, K), got {self.probs.shape}")
        check_self_transition(self.self_transition)

    @property
    def n_parents(self):
        """Number of states R of the parent (1: no parent)."""
        return self.probs.shape[1]

    @property
    def n_states(self):
        """Number of states K."""
        return self.probs.shape[2]

    @property
    def free(self):
        """Mask (L, R, K, K) of the probabilities that are estimated: neither zero nor fixed nor of an unused table."""
        free = self.probs > 0
        if self.used is not None:
            free[~np.asarray(self.used)] = False
        if self.self_transition is not None and self.n_states > 1:
            free &= ~diagonal(self.n_parents, self.n_states)
        return free

    @property
    def n_parameters(self):
        """Number of free parameters."""
        return int(np.maximum(self.free.sum(axis=-1) - 1, 0).sum())

    def index(self, inputs):
        """Return the number of each step's table (n,) as int64, or None if there is one table.

        Raises
        ------
        ValueError
            If there are several tables and `inputs` is not one column of integers 0..L-1; the message names the row.
        """
        n_tables = len(self.probs)
        if n_tables == 1:
            return None
        if inputs is None or inputs.shape[1] != 1:
            raise ValueError(f"{n_tables} transition tables need inputs of one column, the number of the table")
        symbols = inputs[:, 0]
        known = (symbols >= 0) & (symbols < n_tables) & (symbols == np.floor(symbols))
        if not known.all():
            row = int(np.argmin(known))
            raise ValueError(f"inputs[{row}, 0] = {symbols[row]:g} is not one of the symbols 0..{n_tables - 1}")
        return symbols.astype(np.int64)

    def compile(self, inputs, out):
        """Write the L tables to `out` (L, R, K, K)."""
        out[...] = self.probs

    def probabilities(self, inputs=None):
        """Return the tables (L, R, K, K), whatever the inputs."""
        return self.probs

    def statistics(self, inputs, xi):
        """Return expected counts `xi` (L, R, K, K), already summed by table, as statistics."""
        return {"counts": xi}

    def maximise(self, stats):
        """Return the rows of highest likelihood given statistics."""
        w = self.self_transition
        free = None if w is None and self.used is None else self.free
        return TableRows(proportions(stats["counts"], self.probs, free, UNCERTAIN), w, self.used)

    def penalty(self):
        """Return the log prior: 0."""
        return 0.0

    def between(self, other, fraction):
        """Return the rows on the straight line from these (fraction 0) to `other` (fraction 1)."""
        return replace(self, probs=self.probs + fraction * (other.probs - self.probs))
