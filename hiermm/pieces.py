"""Cutting data into pieces that fit memory, and memory that pieces share."""

import threading
from bisect import bisect_right
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np

MOST_HELD = 1 << 20  # doubles that a room keeps for a purpose
CACHE_LINE = 64  # bytes
GROUP = 16  # sequences that the kernels take side by side, so pieces hold multiples of it where they can


class Piece(NamedTuple):
    """Rows [lo, hi) of the data: whole sequences, the `first` of them and those behind it, or one sequence too long for
    the scratch (`blocks` cuts it)."""

    first: int
    lo: int
    hi: int
    ends: np.ndarray
    blocks: list

    @property
    def offsets(self):
        """Where its sequences begin and end, counted from `lo`."""
        return self.ends - self.lo


def plan(offsets, size, limit, wide):
    """Cut packed sequences into pieces that fit the scratch budget, given `Parameters.steps_at_once`.

    Pieces of several sequences are whole groups if possible, and as near to `size` as that allows.
    """
    m, total = len(offsets) - 1, int(offsets[-1])
    steps = min(total / -(-total // max(size, 1)), wide)
    long = [*np.flatnonzero(np.diff(offsets) > limit).tolist(), m]
    ends = offsets.tolist()
    pieces, i = [], 0
    while i < m:
        lo, stop = ends[i], long[bisect_right(long, i - 1)]
        if stop == i:
            j = i + 1
            cuts = np.linspace(lo, ends[j], -(-(ends[j] - lo) // limit) + 1).astype(np.int64).tolist()
            blocks = list(pairwise(cuts))
        else:
            count = stop - i
            if ends[stop] > lo + 1.25 * steps:
                near = bisect_right(ends, lo + steps, i, stop) - 1 - i
                count = max(round(near / GROUP), 1) * GROUP
            most = bisect_right(ends, lo + wide, i, stop + 1) - 1 - i
            j = i + max(min(count, most), 1)
            blocks = [(lo, ends[j])]
        pieces.append(Piece(i, lo, ends[j], offsets[i : j + 1], blocks))
        i = j
    return pieces


class Share(NamedTuple):
    """Pieces of whole sequences, one behind the other, as `hiermm.inference.smooth_normal` takes them.

    Rows [lo, hi) of the data; offsets (m + 1,) of the sequences in them; bounds (p + 1,): where in these the sequences
    of each piece begin, and where those of the last one end.
    """

    lo: int
    hi: int
    offsets: np.ndarray
    bounds: np.ndarray


def share_of(pieces, offsets):
    """Return the `Share` of some pieces, one behind the other; `offsets` are those of all the data."""
    lo, last = pieces[0].lo, pieces[-1]
    stops = np.array([*(piece.first for piece in pieces), last.first + len(last.ends) - 1])
    return Share(lo, last.hi, offsets[stops[0] : stops[-1] + 1] - lo, stops - stops[0])


class LostState(ArithmeticError):
    """The blocks of a long sequence cannot hand on a state that matters; the sequence is to be smoothed in one go."""


def settled(function, piece):
    """Return `function(piece)`, or that of the piece as one block if its blocks lose a state."""
    try:
        return function(piece)
    except LostState:
        return function(piece._replace(blocks=[(piece.lo, piece.hi)]))


class Room(threading.local):
    """Memory of each thread for arrays over the steps of a piece, handed out again and again: fresh memory costs more
    than filling it."""

    def __init__(self):
        self._held = {}

    def empty(self, purpose, shape):
        """Return an array of this shape; the one handed out before for this purpose must not be in use any more."""
        size = prod(shape)
        if size > MOST_HELD:
            return aligned(size).reshape(shape)
        if len(self._held.get(purpose, ())) < size:
            self._held[purpose] = aligned(size)
        return self._held[purpose][:size].reshape(shape)


def aligned(size):
    """Return an array (size,) that begins with a cache line; elsewhere the widest vectors would span two."""
    array = np.empty(size + CACHE_LINE // 8)
    first = -array.ctypes.data % CACHE_LINE // 8
    return array[first : first + size]


ROOM = Room()
