"""How the hidden state moves: levels with their own time scales, coupled or not.

A `Chain` is a frozen object of arrays with three verbs: compile inputs into `Transitions` for the kernels, add up
expected counts, and return the chain that maximises them. One level gives a flat chain; several give eq. 5 of
El Hihi & Bengio (1995), P(x_t | x_{t-1}) = prod_s P(x_t^s | x_{t-1}^s, x_{t-1}^{parent}).
"""

from dataclasses import dataclass
from functools import cached_property
from math import lcm

import numpy as np

from hiermm.inference import Smoothed, Transitions, smooth
from hiermm.operators import check_dense_size
from hiermm.rows import LEFT_OUT, MOST_STATES, SoftmaxRows
from hiermm.structure import Structure
from hiermm.tables import TableRows, proportions

# Up to so many times the levels' multiply-adds the dense kernels are quicker: all levels seen, or only some.
DENSE_WINS = (5, 2)
SMALLEST = 1e-290  # products below lose digits


@dataclass(frozen=True)
class Chain:
    """A hidden chain of S levels.

    Attributes
    ----------
    initial : tuple of ndarray of shape (R_s, K_s)
        P(x_0^s | x_0^{parent}).
    rows : tuple of TableRows or SoftmaxRows
        How each level moves; all of one kind.
    structure : Structure
        Levels, time scales, clock and coupling.
    """

    initial: tuple
    rows: tuple
    structure: Structure

    @property
    def sizes(self):
        """States of each level, slowest first."""
        return self.structure.sizes

    @property
    def periods(self):
        """Level s moves only into steps t with t % periods[s] == 0."""
        return self.structure.periods

    @property
    def n_states(self):
        """Number N of joint states."""
        return self.structure.n_states

    @property
    def levels(self):
        """State of each level in each joint state, shape (S, N)."""
        return self.structure.levels

    @property
    def emit(self):
        """Emission row of each joint state, shape (N,), or None where it is the joint state."""
        return self.structure.emit

    @property
    def bounds(self):
        """Where each level's rows begin in a packed row of all levels, and where they end."""
        return self.structure.bounds

    @cached_property
    def joint_initial(self):
        """Joint initial distribution, shape (N,)."""
        if len(self.initial) == 1:
            return self.initial[0][0]
        parts = [pi[self.structure.parent_states(s), self.levels[s]] for s, pi in enumerate(self.initial)]
        return np.prod(parts, axis=0)

    @property
    def driven(self):
        """Whether the transitions are computed anew at every step (softmax rows)."""
        return isinstance(self.rows[0], SoftmaxRows)

    @property
    def flat(self):
        """Whether there is one level, which moves at every step and is seen."""
        return self.structure.flat

    @property
    def constant(self):
        """Whether one table serves all inputs."""
        return not self.driven and len(self.rows[0].probs) == 1

    @cached_property
    def matrix(self):
        """The matrix (N, N) with which the dense kernels do best, or None where the levels' kernels do.

        A step costs N^2 multiply-adds with it and N sum_s K_s level by level, but the dense kernels have little else to
        do. (Where not all levels are seen, likelihoods are spread over the joint states first.) Entries that are
        products too small for a double are left to the levels.
        """
        if not self.constant:
            return None
        if self.flat:
            return self.rows[0].probs[0, 0]
        if set(self.periods) != {1} or self.n_states > DENSE_WINS[self.emit is not None] * sum(self.sizes):
            return None
        moves = [True] * len(self.sizes)
        matrix = self.dense(self._tables, moves)[0]
        lost = (matrix < SMALLEST) & (self.dense(self._tables > 0, moves)[0] > 0)
        return None if lost.any() else matrix

    def level(self, packed, s):
        """View the rows of level s in a packed array (L, total) as (L, R, K, K)."""
        (r, k), bounds = self.structure.shapes[s], self.structure.bounds
        return packed[:, bounds[s] : bounds[s + 1]].reshape(len(packed), r, k, k)

    @cached_property
    def _tables(self):
        tables = [rows.probs.reshape(len(rows.probs), -1) for rows in self.rows]
        return tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1)

    def compile(self, inputs, room=None):
        """Return the `Transitions` along `inputs` (n, P), at O(1) for tables, O(n sum_s R_s K_s^2 P) for softmax.

        Level by level; `quickest` for all that does not need the levels. The rows may lie in a `Room`.
        """
        if self.driven:
            shape, index = (len(inputs), self.bounds[-1]), None
            rows = np.empty(shape) if room is None else room.empty("rows", shape)
            for s, level in enumerate(self.rows):
                level.compile(inputs, self.level(rows, s))
        else:
            rows, index = self._tables, self.rows[0].index(inputs)
        return Transitions(self.joint_initial, rows, index, **self.structure.arrays)

    def quickest(self, inputs, room=None):
        """Return the same as a flat chain of joint states, if that takes less time than level by level (`matrix`)."""
        if self.matrix is None:
            return self.compile(inputs, room)
        return Transitions(self.joint_initial, self.matrix.reshape(1, -1), None, **self.structure.joint_arrays)

    def smooth(self, inputs, ll, offsets, room=None, leaving=False, **block):
        """Smooth packed sequences and add up what the M-step needs to know of the moves.

        Parameters
        ----------
        inputs : ndarray of shape (n, P)
        ll, offsets
            As for `hiermm.inference.smooth`, of the emission's rows; `ll` may be overwritten.
        room : Room, optional
            Where compiled rows may lie.
        leaving : bool
            Softmax rows: whether `leaving` is wanted.
        **block
            Other arguments of `hiermm.inference.smooth`, for a block of one sequence.

        Returns
        -------
        Smoothed
            Without expected counts.
        dict
            Statistics: arrays that add.
        leaving : ndarray of shape (n, sum_s R_s K_s) or None
            Softmax rows: expected number of moves into each step, from each state of a level to its free destinations.
        """
        if self._side_by_side and len(offsets) > 2:
            return self._smooth_lanes(inputs, ll, offsets, leaving)
        transitions = self.quickest(inputs, room)
        counts = "steps" if self.driven else "sum"
        r = smooth(transitions, ll, offsets, counts=counts, merge=True, **block)
        first = r.first.sum(axis=0) if block.get("alpha_in") is None else np.zeros(self.n_states)
        left = np.empty((len(inputs), self.structure.groups[-1])) if leaving else None
        return r._replace(xi=None), self.statistics(inputs, first, r.xi, transitions.rows, left), left

    def statistics(self, inputs, first, xi, rows=None, leaving=None):
        """Return expected counts as a dict of arrays that add.

        Parameters
        ----------
        inputs : ndarray of shape (n, P)
        first : ndarray of shape (N,)
            Posteriors of first steps, summed over sequences.
        xi : ndarray of shape (L, total) for tables, (n, total) for softmax rows
            Expected transitions; (1, N^2) of the joint state where there is a `matrix`.
        rows : ndarray of shape (n, total), optional
            Softmax rows: the compiled rows.
        leaving : ndarray of shape (n, sum_s R_s K_s), optional
            Softmax rows: is set to what `smooth` returns by this name.
        """
        if self.matrix is not None:
            xi = self._by_level(xi)
        stats = {"first": first}
        for s, level in enumerate(self.rows):
            known = {}
            if self.driven:
                mine = slice(self.structure.groups[s], self.structure.groups[s + 1])
                known = {"probs": self.level(rows, s), "leaving": None if leaving is None else leaving[:, mine]}
            for name, value in level.statistics(inputs, self.level(xi, s), **known).items():
                stats[f"{s}.{name}"] = value
        return stats

    def _by_level(self, xi):
        """Return expected transitions (1, total) of the levels from those of the joint state (1, N^2)."""
        if len(self.sizes) == 1:
            return xi
        parts = [np.bincount(moves, xi[0], size) for moves, size in zip(self.structure.moves, np.diff(self.bounds))]
        return np.concatenate(parts)[None]

    def _first_by_level(self, first, s):
        """Return the same of first states: those of level s by parent and own state, from the joint ones (N,)."""
        if len(self.sizes) == 1:
            return first
        return np.bincount(self.structure.sources[s], first, self.initial[s].size)

    @cached_property
    def _side_by_side(self):
        """Whether one kernel can smooth many sequences and add up their moves without writing them out."""
        return self.flat and self.driven and 2 <= self.n_states <= MOST_STATES

    def _smooth_lanes(self, inputs, ll, offsets, leaving):
        """`smooth` for many sequences; those that the lanes leave out come one by one."""
        left = np.empty_like(ll) if leaving else None
        loglik, status, stats = self.rows[0].smooth(inputs, ll, offsets, self.joint_initial, left)
        stats, first = {f"0.{name}": value for name, value in stats.items()}, ll[offsets[:-1]]
        for i in np.flatnonzero(status == LEFT_OUT):
            rows = slice(offsets[i], offsets[i + 1])
            part, more, apart = self.smooth(inputs[rows], ll[rows], offsets[i : i + 2] - offsets[i], None, leaving)
            if leaving:
                left[rows] = apart
            loglik[i], status[i], first[i] = part.log_likelihood[0], part.status[0], part.first[0]
            for name in stats:
                stats[name] += more[name]
        stats["first"] = first.sum(axis=0)
        return Smoothed(ll, loglik, status, None, first, None), stats, left

    def maximise(self, stats):
        """Return the chain that maximises the expected counts (for softmax rows: the Newton point)."""
        initial, rows = [], []
        for s, level in enumerate(self.rows):
            before = self.initial[s]
            counts = self._first_by_level(stats["first"], s).reshape(before.shape)
            initial.append(proportions(counts, before))
            rows.append(level.maximise(self._of_level(stats, s)))
        return Chain(tuple(initial), tuple(rows), self.structure)

    @staticmethod
    def _of_level(stats, s):
        prefix = f"{s}."
        return {name.removeprefix(prefix): value for name, value in stats.items() if name.startswith(prefix)}

    @property
    def iterative(self):
        """Whether `maximise` returns a Newton point that wants a line search."""
        return any(rows.iterative for rows in self.rows)

    def surely_rises(self, goal, low, high):
        """Whether going all the way to `goal` = `maximise(...)` cannot lower the objective of any level.

        `low` and `high` are the smallest and largest value of each input; rows in closed form always rise.
        """
        return not self.iterative or all(a.surely_rises(b, low, high) for a, b in zip(self.rows, goal.rows))

    def slope(self, other, stats):
        """Return for each level the gradient of the expected log-probability of the moves times the way to `other`."""
        return np.array([a.slope(b, self._of_level(stats, s)) for s, (a, b) in enumerate(zip(self.rows, other.rows))])

    def divergence(self, other, inputs, leaving):
        """Return for each level the expected divergence of its moves from those of `other`, shape (S,), in nats.

        Softmax rows only. The expected log-probability of the moves rises by `slope` less `divergence` on the way.
        """
        return np.array([a.divergence(b, inputs, part) for a, b, part in self._levels_of(other, leaving)])

    def _levels_of(self, other, leaving):
        return zip(self.rows, other.rows, np.split(leaving, self.structure.groups[1:-1], axis=1))

    def penalty(self):
        """Return the log prior of each level's rows, shape (S,)."""
        return np.array([rows.penalty() for rows in self.rows])

    def between(self, other, fractions):
        """Return the chain whose rows of level s lie `fractions[s]` of the way to those of `other`."""
        rows = [a.between(b, fraction) for a, b, fraction in zip(self.rows, other.rows, fractions)]
        return Chain(other.initial, tuple(rows), other.structure)

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
                matrices *= self.level(packed, s)[:, self.structure.parent_states(s)[:, None], own[:, None], own]
            else:
                matrices *= own[:, None] == own
        return matrices

    def joint(self, inputs=None, steps=None):
        """Return joint transition matrices, shape (n, N, N), for the moves into `steps` (n,) with inputs (n, P).

        Without steps: one matrix, or for a periodic clock one whole period (the moves into steps 1, 2, ...).
        """
        if steps is None:
            period = lcm(*self.periods)
            check_dense_size(period, self.n_states)
            steps = np.arange(1, period + 1)
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


def random_chain(structure, rng):
    """Return (initial, tables), lists with one (R, K) and one (R, K, K) array a level, drawn by chance.

    Initial distributions are nearly uniform; a level without a fixed self-transition stays with probability 1/2.
    """
    initial = [rng.dirichlet(np.full(k, 20.0), r) for r, k in structure.shapes]
    tables = [random_table(r, k, w, rng) for (r, k), w in zip(structure.shapes, structure.self_transitions)]
    return initial, tables


def random_table(n_parents, n_states, w, rng, stay=0.5):
    """Return random rows (R, K, K): self-transition w, or about `stay` when w is None, the rest spread by chance."""
    own = np.eye(n_states, dtype=bool)
    if n_states == 1:
        return np.ones((n_parents, 1, 1))
    moves = np.zeros((n_parents, n_states, n_states))
    moves[:, ~own] = rng.dirichlet(np.full(n_states - 1, 5.0), (n_parents, n_states)).reshape(n_parents, -1)
    stay = stay if w is None else w
    return moves * (1 - stay) + own * stay


def chain_from_tables(structure, initial, tables, transition="constant", n_inputs=0, n_symbols=1, alpha=0.0):
    """Return the chain that starts from tables.

    Parameters
    ----------
    structure : Structure
    initial : list of ndarray of shape (R, K)
    tables : list of ndarray of shape (R, K, K)
    transition : {"constant", "table", "softmax", "shared"}
        Kind of rows; those driven by inputs start without slopes, tables the same for every symbol.
    n_inputs, n_symbols : int
        P for softmax rows; number of input symbols for tables.
    alpha : float
        L2 penalty on the slopes.
    """
    if transition in ("softmax", "shared"):
        options = {"shared": transition == "shared", "alpha": alpha}
        rows = [
            SoftmaxRows.from_table(table, n_inputs, self_transition=w, **options)
            for table, w in zip(tables, structure.self_transitions)
        ]
    else:
        repeated = [np.repeat(table[None], n_symbols, axis=0) for table in tables]
        rows = [TableRows(table, w) for table, w in zip(repeated, structure.self_transitions)]
    return Chain(tuple(initial), tuple(rows), structure)
