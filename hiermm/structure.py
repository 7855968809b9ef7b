"""The shape of a hidden chain: levels, time scales, clock, coupling."""

from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from math import prod

import numpy as np

PARENT = {"slower": -1, "faster": 1, "none": 0}
CLOCKS = ("sticky", "periodic")
MAX_BYTES = 1 << 31  # largest chain
LONGEST = 2.0**53  # time scales from here on would make 1 - 1 / n a 1, and steps are counted in integers of 64 bits


@dataclass(frozen=True)
class Structure:
    """Levels of a hidden chain, slowest first.

    Attributes
    ----------
    sizes : tuple of int
        States K_s of each level.
    timescales : tuple of numbers, or None
        Time scale n_s of each level in steps; None: all self-transitions are learned.
    clock : {"sticky", "periodic"}
    coupling : {"slower", "faster", "none"}
        Which level steers a level: the next slower one, the next faster one, or none.
    emission_levels : tuple of int, or None
        Levels that the emission depends on; None: all.
    """

    sizes: tuple
    timescales: tuple | None = None
    clock: str = "sticky"
    coupling: str = "none"
    emission_levels: tuple | None = None

    def __getstate__(self):
        """Keep the shape alone: what follows from it may be large beside a fitted model."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def n_states(self):
        """Number N of joint states."""
        return prod(self.sizes)

    @cached_property
    def levels(self):
        """State of each level in each joint state, shape (S, N)."""
        return np.indices(self.sizes).reshape(len(self.sizes), -1)

    @cached_property
    def emit(self):
        """Emission row of each joint state, shape (N,), or None where it is the joint state."""
        seen = self.emission_levels
        if seen is None:
            return None
        rows = np.ravel_multi_index([self.levels[s] for s in seen], [self.sizes[s] for s in seen])
        return None if np.array_equal(rows, np.arange(self.n_states)) else rows

    @cached_property
    def flat(self):
        """Whether there is one level, which moves at every step and is seen."""
        return len(self.sizes) == 1 and self.periods[0] == 1 and self.emit is None

    @cached_property
    def arrays(self):
        """What `hiermm.inference.Transitions` takes of it."""
        sizes, periods = np.array(self.sizes, dtype=np.int64), np.array(self.periods, dtype=np.int64)
        return {"sizes": sizes, "parent": PARENT[self.coupling], "periods": periods, "emit": self.emit}

    @cached_property
    def joint_arrays(self):
        """The same of one level of all joint states."""
        sizes, periods = np.array([self.n_states], dtype=np.int64), np.ones(1, dtype=np.int64)
        return {"sizes": sizes, "parent": 0, "periods": periods, "emit": self.emit}

    @cached_property
    def n_emission_rows(self):
        """Number of parameter rows of the emission."""
        levels = range(len(self.sizes)) if self.emission_levels is None else self.emission_levels
        return prod(self.sizes[s] for s in levels)

    def parent(self, level):
        """Return the level that steers `level`, or None."""
        parent = level + PARENT[self.coupling]
        return parent if self.coupling != "none" and 0 <= parent < len(self.sizes) else None

    def parent_states(self, level):
        """State of the parent of `level` in each joint state, shape (N,); zeros without a parent."""
        parent = self.parent(level)
        return np.zeros(self.n_states, dtype=np.int64) if parent is None else self.levels[parent]

    @cached_property
    def parent_sizes(self):
        """Number R_s of states of each level's parent; 1 without a parent."""
        parents = [self.parent(s) for s in range(len(self.sizes))]
        return [1 if parent is None else self.sizes[parent] for parent in parents]

    @cached_property
    def shapes(self):
        """Shape (R_s, K_s) of each level's initial distribution."""
        return list(zip(self.parent_sizes, self.sizes))

    @cached_property
    def bounds(self):
        """Where each level's transitions [parent, from, to] begin in a packed row of all levels, and where they end."""
        return list(accumulate((r * k * k for r, k in self.shapes), initial=0))

    @cached_property
    def groups(self):
        """Where each level's pairs of parent and source state begin among those of all levels, and where they end."""
        return list(accumulate((r * k for r, k in self.shapes), initial=0))

    @cached_property
    def sources(self):
        """For each level, which of its pairs [parent, own] of states each joint state holds, flattened (N,)."""
        return [self.parent_states(s) * self.sizes[s] + own for s, own in enumerate(self.levels)]

    @cached_property
    def moves(self):
        """For each level, which of its transitions [parent, from, to] each joint transition makes, flattened (N^2,)."""
        sources = enumerate(zip(self.sources, self.levels))
        return [(source[:, None] * self.sizes[s] + own).ravel() for s, (source, own) in sources]

    @cached_property
    def self_transitions(self):
        """Constant w_s = 1 - 1/n_s of each sticky level with n_s > 1 and K_s > 1; None for the other levels."""
        if self.timescales is None or self.clock == "periodic":
            return [None] * len(self.sizes)
        return [None if n == 1 or k == 1 else 1 - 1 / n for k, n in zip(self.sizes, self.timescales)]

    @cached_property
    def periods(self):
        """Level s moves only into steps t with t % periods[s] == 0."""
        return tuple(self.timescales) if self.clock == "periodic" else (1,) * len(self.sizes)

    def check(self):
        """Raise ValueError, naming the culprit, if this is not the shape of a chain."""
        check_counts("n_states", self.sizes)
        if self.clock not in CLOCKS:
            raise ValueError(f"clock must be one of {CLOCKS}, got {self.clock!r}.")
        if self.coupling not in tuple(PARENT):
            raise ValueError(f"coupling must be one of {tuple(PARENT)}, got {self.coupling!r}.")
        size = 8 * (self.n_states + sum(r * k * k for r, k in self.shapes))
        if size > MAX_BYTES:
            raise ValueError(
                f"n_states={self.sizes} makes {self.n_states} joint states, whose probabilities and rows would take "
                f"{size / 2**30:.3g} GiB (limit {MAX_BYTES / 2**30:.0f} GiB)."
            )
        self._check_timescales()
        levels = self.emission_levels
        known = range(len(self.sizes))
        if levels is not None and (
            not levels
            or any(not isinstance(s, int) or s not in known for s in levels)
            or list(levels) != sorted(set(levels))
        ):
            raise ValueError(
                f"emission_levels must be None or increasing level numbers below {len(self.sizes)}, got {levels!r}."
            )

    def _check_timescales(self):
        if self.timescales is None:
            if self.clock == "periodic":
                raise ValueError('clock="periodic" needs timescales; None (learned) goes with clock="sticky".')
            return
        if len(self.timescales) != len(self.sizes):
            raise ValueError(f"timescales has {len(self.timescales)} entries for {len(self.sizes)} levels.")
        for s, scale in enumerate(self.timescales):
            whole = isinstance(scale, (int, np.integer)) and not isinstance(scale, bool)
            if (
                not isinstance(scale, (int, float, np.number))
                or not 1 <= scale < LONGEST
                or (self.clock == "periodic" and not whole)
            ):
                kind = "whole numbers of steps" if self.clock == "periodic" else "numbers"
                raise ValueError(
                    f"timescales[{s}] = {scale!r}: a {self.clock} clock takes {kind} of at least 1 and below 2^53."
                )


def check_counts(name, values):
    """Raise ValueError unless every value is an integer of at least 1."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} takes integers of at least 1, got {value!r}.")
