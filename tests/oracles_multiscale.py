"""Slow and obvious references for chains of several levels: the joint chain by enumeration over all pairs of states.

Conventions of the kernels: sizes slowest first; `parent` -1 (next slower level), +1 (next faster), 0 (none); packed
rows hold A[parent, from, to] level after level; step t of a sequence moves level s only if t % periods[s] == 0.
"""

import itertools

import numpy as np
import oracles


def parent_of(s, S, parent):
    """Index of the parent of level s, or None."""
    return s + parent if parent and 0 <= s + parent < S else None


def row_shapes(sizes, parent):
    """Shape (R, K, K) of each level's rows."""
    parents = [parent_of(s, len(sizes), parent) for s in range(len(sizes))]
    return [(1 if p is None else sizes[p], k, k) for k, p in zip(sizes, parents)]


def unpack(row, sizes, parent):
    """The levels' arrays (R, K, K) as views of a packed row."""
    out, at = [], 0
    for shape in row_shapes(sizes, parent):
        n = int(np.prod(shape))
        out.append(row[at : at + n].reshape(shape))
        at += n
    return out


def random_rows(rng, L, sizes, parent, concentration=1.0):
    """Random packed rows (L, total)."""
    shapes = row_shapes(sizes, parent)
    steps = [[rng.dirichlet(np.full(k, concentration), size=(r, k)).ravel() for r, k, _ in shapes] for _ in range(L)]
    return np.array([np.concatenate(row) for row in steps])


def states_of(sizes):
    """Level states (N, S) of the joint states, in C order."""
    return np.array(list(itertools.product(*[range(k) for k in sizes])))


def joint_matrix(row, sizes, parent, periods, t):
    """Joint matrix (N, N) of the move into step t."""
    levels, states, S = unpack(row, sizes, parent), states_of(sizes), len(sizes)
    A = np.ones((len(states), len(states)))
    for (i, a), (j, b) in itertools.product(enumerate(states), enumerate(states)):
        for s in range(S):
            p = parent_of(s, S, parent)
            ticks = t % periods[s] == 0
            A[i, j] *= levels[s][0 if p is None else a[p], a[s], b[s]] if ticks else float(a[s] == b[s])
    return A


def joint_matrices(A, index, sizes, parent, periods, start, stop, t0=0):
    """Joint matrices (T, N, N) of the moves into packed rows start..stop-1, row `start` being step t0."""
    rows = oracles.per_step(A, index, start, stop)
    made = {}
    out = []
    for k, row in enumerate(rows):
        key = (row.tobytes(), tuple((t0 + k) % p == 0 for p in periods))
        if key not in made:
            made[key] = joint_matrix(row, sizes, parent, periods, t0 + k)
        out.append(made[key])
    return np.array(out)


def level_counts(xi, sizes, parent, periods, t0=0):
    """Packed counts (T, total) from joint ones (T, N, N): levels that do not move into a step have none."""
    states, S = states_of(sizes), len(sizes)
    out = np.zeros((len(xi), sum(int(np.prod(shape)) for shape in row_shapes(sizes, parent))))
    for t, joint in enumerate(xi):
        levels = unpack(out[t], sizes, parent)
        for s in range(S):
            if (t0 + t) % periods[s] == 0:
                p = parent_of(s, S, parent)
                of = np.zeros(len(states), dtype=int) if p is None else states[:, p]
                np.add.at(levels[s], (of[:, None], states[:, s][:, None], states[:, s][None, :]), joint)
    return out
