"""Which chains can never forget: closed classes and cycles, read off the zeros of the transition matrices."""

import warnings
from dataclasses import dataclass
from math import gcd

import numpy as np
from scipy.sparse.csgraph import connected_components

from hiermm.analysis._named import PeriodicWarning, ReducibleWarning


@dataclass(frozen=True)
class Structure:
    """Closed classes (sets of states that are never left) of a chain and the period of each.

    Attributes
    ----------
    classes : list of ndarray
        States of every closed class.
    periods : list of int
        Period of each; 1 is aperiodic. For maps that repeat with a period of L steps, counted in units of L steps.
    """

    classes: list
    periods: list

    @property
    def forgets(self):
        """Whether all differences between initial distributions die out."""
        return len(self.classes) == 1 and self.periods[0] == 1


def structure(ops):
    """Return the `Structure` of maps that repeat for ever; None for finite runs and Jacobians.

    Cost O(L n^3) for the pattern of one period, O(n^2) for its graph.
    """
    if not ops.forever or ops.kind != "stochastic":
        return None
    pattern = np.eye(ops.n_states)
    for matrix in ops.matrices:
        pattern = ((matrix > 0).astype(float) @ pattern > 0).astype(float)
    arcs = pattern.T > 0  # arcs[i, j]: from state i to state j
    _, label = connected_components(arcs, directed=True, connection="strong")
    classes = [np.flatnonzero(label == c) for c in np.unique(label)]
    closed = [members for members in classes if not arcs[members][:, label != label[members[0]]].any()]
    return Structure(closed, [_period(arcs[np.ix_(members, members)]) for members in closed])


def _period(arcs):
    """Greatest common divisor of the cycle lengths of a strongly connected graph, by breadth-first levels."""
    level = np.full(len(arcs), -1)
    level[0], frontier, depth = 0, np.array([0]), 0
    while len(frontier):
        depth += 1
        reached = arcs[frontier].any(axis=0) & (level < 0)
        level[reached] = depth
        frontier = np.flatnonzero(reached)
    period = 0
    for i, j in np.argwhere(arcs):
        period = gcd(period, int(level[i] + 1 - level[j]))
    return period


def forgets(ops, stacklevel=3):
    """Whether `ops` is free of structure that keeps context for ever; if not, warn by name.

    Finite runs and Jacobians give True: for them only the numbers can tell.
    """
    found = structure(ops)
    if found is None or found.forgets:
        return True
    if len(found.classes) > 1:
        warnings.warn(
            f"the chain has {len(found.classes)} closed classes of states; which of them it is in is never forgotten.",
            ReducibleWarning,
            stacklevel=stacklevel,
        )
    cycles = [period for period in found.periods if period > 1]
    if cycles:
        warnings.warn(
            f"the chain cycles with period {' and '.join(map(str, cycles))}; its phase is never forgotten.",
            PeriodicWarning,
            stacklevel=stacklevel,
        )
    return False
