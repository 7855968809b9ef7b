"""How the hidden state moves: levels with their own time scales, coupled or not.

A `Chain` is a frozen object of arrays with three verbs: compile inputs into `Transitions` for the kernels, add up
expected counts, and return the chain that maximises them. One level gives a flat chain; several give eq. 5 of
El Hihi & Bengio (1995), P(x_t | x_{t-1}) = prod_s P(x_t^s | x_{t-1}^s, x_{t-1}^{parent}).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hiermm.inference import Transitions
from hiermm.rows import SoftmaxRows, TableRows

PARENT = {"slower": -1, "faster": 1, "none": 0}
CLOCKS = ("sticky", "periodic")
MAX_DENSE_BYTES = 1 << 31


def parent_level(level, n_levels, coupling):
    """Return the level that steers `level`, or None."""
    parent = level + PARENT[coupling]
    return parent if coupling != "none" and 0 <= parent < n_levels else None


def parent_sizes(sizes, coupling):
    """Return R_s, the number of states of each level's parent (1 without a parent)."""
    parents = [parent_level(s, len(sizes), coupling) for s in range(len(sizes))]
    return [1 if parent is None else sizes[parent] for parent in parents]


def self_transitions(sizes, timescales, clock):
    """Return w_s = 1 - 1/n_s for each level of a sticky chain with n_s > 1 and K_s > 1, None for the others."""
    if timescales is None or clock == "periodic":
        return [None] * len(sizes)
    return [None if scale == 1 or size == 1 else 1 - 1 / scale for size, scale in zip(sizes, timescales)]


@dataclass(frozen=True)
class Chain:
    """A hidden chain of S levels.

    Attributes
    ----------
    initial : tuple of ndarray of shape (R_s, K_s)
        P(x_0^s | x_0^{parent}).
    rows : tuple of TableRows or SoftmaxRows
        How each level moves; all of one kind.
    periods : tuple of int
        Level s moves only into steps with t % periods[s] == 0 (1 everywhere but on a periodic clock).
    coupling : {"slower", "faster", "none"}
    emission_levels : tuple of int, or None
        Levels that the emission depends on; None: all.
    """

    initial: tuple
    rows: tuple
    periods: tuple
    coupling: str = "slower"
    emission_levels: tuple | None = None

    @cached_property
    def sizes(self):
        """States of each level, slowest first."""
        return tuple(initial.shape[1] for initial in self.initial)

    @property
    def n_states(self):
        """Number N of joint states."""
        return int(np.prod(self.sizes))

    @cached_property
    def levels(self):
        """State of each level in each joint state, shape (S, N)."""
        return np.indices(self.sizes).reshape(len(self.sizes), -1)

    def parent_states(self, level):
        """State of the parent of `level` in each joint state, shape (N,); zeros without a parent."""
        parent = parent_level(level, len(self.sizes), self.coupling)
        return np.zeros(self.n_states, dtype=np.int64) if parent is None else self.levels[parent]

    @cached_property
    def emit(self):
        """Emission row of each joint state, shape (N,), or None where it is the joint state."""
        if self.emission_levels is None:
            return None
        sizes = [self.sizes[s] for s in self.emission_levels]
        rows = np.ravel_multi_index([self.levels[s] for s in self.emission_levels], sizes)
        return None if np.array_equal(rows, np.arange(self.n_states)) else rows

    @cached_property
    def joint_initial(self):
        """Joint initial distribution, shape (N,)."""
        parts = [pi[self.parent_states(s), self.levels[s]] for s, pi in enumerate(self.initial)]
        return np.prod(parts, axis=0)

    @property
    def driven(self):
        """Whether the transitions are computed anew at every step (softmax rows)."""
        return isinstance(self.rows[0], SoftmaxRows)

    @cached_property
    def bounds(self):
        """Where each level's rows begin in a packed row of all levels, shape (S + 1,)."""
        sizes = zip(parent_sizes(self.sizes, self.coupling), self.sizes)
        return np.concatenate([[0], np.cumsum([r * k * k for r, k in sizes])])

    def level(self, packed, s):
        """View the rows of level s in a packed array (L, total) as (L, R, K, K)."""
        k = self.sizes[s]
        return packed[:, self.bounds[s] : self.bounds[s + 1]].reshape(len(packed), -1, k, k)

    @cached_property
    def _tables(self):
        return np.concatenate([rows.probs.reshape(len(rows.probs), -1) for rows in self.rows], axis=1)

    @cached_property
    def _structure(self):
        sizes, periods = np.array(self.sizes, dtype=np.int64), np.array(self.periods, dtype=np.int64)
        return {"sizes": sizes, "parent": PARENT[self.coupling], "periods": periods, "emit": self.emit}

    def compile(self, inputs):
        """Return the `Transitions` along `inputs` (n, P), at O(1) for tables, O(n sum_s R_s K_s^2 P) for softmax."""
        if self.driven:
            rows, index = np.empty((len(inputs), self.bounds[-1])), None
            for s, level in enumerate(self.rows):
                level.compile(inputs, self.level(rows, s))
        else:
            rows, index = self._tables, self.rows[0].index(inputs)
        return Transitions(self.joint_initial, rows, index, **self._structure)

    def statistics(self, inputs, first, xi, rows):
        """Return expected counts as a dict of arrays that add.

        Parameters
        ----------
        inputs : ndarray of shape (n, P)
        first : ndarray of shape (m, N)
            Posteriors of the first steps of sequences.
        xi : ndarray of shape (L, total) for tables, (n, total) for softmax rows
            Expected transitions.
        rows : ndarray of shape (L or n, total)
            The compiled rows.
        """
        stats = {"first": first.sum(axis=0)}
        for s, level in enumerate(self.rows):
            known = {"probs": self.level(rows, s)} if self.driven else {}
            for name, value in level.statistics(inputs, self.level(xi, s), **known).items():
                stats[f"{s}.{name}"] = value
        return stats

    def maximise(self, stats):
        """Return the chain that maximises the expected counts (for softmax rows: the Newton point)."""
        initial, rows = [], []
        for s, level in enumerate(self.rows):
            counts = np.zeros_like(self.initial[s])
            np.add.at(counts, (self.parent_states(s), self.levels[s]), stats["first"])
            total = counts.sum(axis=1, keepdims=True)
            initial.append(np.where(total > 0, counts / np.where(total > 0, total, 1), self.initial[s]))
            prefix = f"{s}."
            rows.append(level.maximise({k.removeprefix(prefix): v for k, v in stats.items() if k.startswith(prefix)}))
        return replace(self, initial=tuple(initial), rows=tuple(rows))

    @property
    def iterative(self):
        """Whether `maximise` returns a Newton point that wants a line search."""
        return any(rows.iterative for rows in self.rows)

    def objective(self, inputs, xi):
        """Return for each level the expected log-probability of the moves, shape (S,); softmax rows only."""
        return np.array([rows.objective(inputs, self.level(xi, s)) for s, rows in enumerate(self.rows)])

    def penalty(self):
        """Return the log prior of each level's rows, shape (S,)."""
        return np.array([rows.penalty() for rows in self.rows])

    def between(self, other, fractions):
        """Return the chain whose rows of level s lie `fractions[s]` of the way to those of `other`."""
        rows = [a.between(b, fraction) for a, b, fraction in zip(self.rows, other.rows, fractions)]
        return replace(other, rows=tuple(rows))

    @property
    def n_parameters(self):
        """Free parameters: zeros, fixed self-transitions and the softmax reference do not count."""
        free_initial = sum(int((pi > 0).sum()) - len(pi) for pi in self.initial)
        return free_initial + sum(rows.n_parameters for rows in self.rows)

    def dense(self, packed, ticks):
        """Return joint transition matrices (L, N, N) for packed rows (L, total).

        Parameters
        ----------
        packed : ndarray of shape (L, total)
        ticks : sequence of bool, one a level
            Which levels move; the others stay.

        Raises
        ------
        MemoryError
            If the result would exceed 2 GiB; the message states the size.
        """
        check_dense_size(len(packed), self.n_states)
        matrices = np.ones((len(packed), self.n_states, self.n_states))
        for s, own in enumerate(self.levels):
            if ticks[s]:
                matrices *= self.level(packed, s)[:, self.parent_states(s)[:, None], own[:, None], own]
            else:
                matrices *= own[:, None] == own
        return matrices

    def joint(self, inputs=None, steps=None):
        """Return joint transition matrices, shape (n, N, N), for the moves into `steps` (n,) with inputs (n, P).

        Without steps: one matrix, or for a periodic clock one whole period (the moves into steps 1, 2, ...).
        """
        if steps is None:
            steps = np.arange(1, np.lcm.reduce(self.periods) + 1)
        transitions = self.compile(np.empty((len(steps), 0)) if inputs is None else inputs)
        packed = transitions.rows if transitions.index is None else transitions.rows[transitions.index]
        if set(self.periods) == {1}:
            return self.dense(packed, [True] * len(self.periods))
        check_dense_size(len(steps), self.n_states)
        ticks = steps[:, None] % np.array(self.periods) == 0
        matrices = np.empty((len(steps), self.n_states, self.n_states))
        for pattern in np.unique(ticks, axis=0):
            rows = np.flatnonzero((ticks == pattern).all(axis=1))
            matrices[rows] = self.dense(packed if len(packed) == 1 else packed[rows], pattern)
        return matrices


def check_dense_size(n_matrices, n_states):
    """Raise MemoryError, stating the size, if n_matrices joint matrices would exceed 2 GiB."""
    size = 8 * n_matrices * n_states**2
    if size > MAX_DENSE_BYTES:
        raise MemoryError(
            f"{n_matrices} dense matrices of {n_states} x {n_states} joint states would take {size / 2**30:.1f} GiB "
            f"(limit {MAX_DENSE_BYTES / 2**30:.0f} GiB); ask for fewer steps or states."
        )


def random_initial(sizes, coupling, rng):
    """Return near-uniform initial distributions, one (R_s, K_s) a level."""
    return tuple(rng.dirichlet(np.full(k, 20.0), r) for r, k in zip(parent_sizes(sizes, coupling), sizes))


def random_table(n_parents, n_states, w, rng, stay=0.5):
    """Return random rows (R, K, K): self-transition w, or about `stay` when w is None, the rest spread by chance."""
    own = np.eye(n_states, dtype=bool)
    if n_states == 1:
        return np.ones((n_parents, 1, 1))
    moves = np.zeros((n_parents, n_states, n_states))
    moves[:, ~own] = rng.dirichlet(np.full(n_states - 1, 5.0), (n_parents, n_states)).reshape(n_parents, -1)
    stay = stay if w is None else w
    return moves * (1 - stay) + own * stay


def make_rows(tables, w, transition, n_inputs, n_symbols, alpha):
    """Return the rows of one level that start from tables (R, K, K).

    Parameters
    ----------
    tables : ndarray of shape (R, K, K)
    w : float or None
        Fixed self-transition.
    transition : {"constant", "table", "softmax", "shared"}
    n_inputs, n_symbols : int
        P for softmax rows; number of input symbols for a table.
    alpha : float
        L2 penalty on the slopes.
    """
    if transition in ("softmax", "shared"):
        return SoftmaxRows.from_table(tables, n_inputs, self_transition=w, shared=transition == "shared", alpha=alpha)
    return TableRows(np.repeat(tables[None], n_symbols, axis=0), w)
