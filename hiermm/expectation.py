"""The E-step: posteriors of all the data under given parameters, in bounded memory and any number of threads.

The E-step of a piece of data is a pure function (parameters, piece) -> statistics that add. Pieces are fixed by the
data alone, and their statistics are summed in a fixed order, so the result does not depend on the number of threads.
"""

import os
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import NamedTuple

import numpy as np
from joblib import effective_n_jobs

from hiermm.inference import HAS_THREADS, filter, smooth, smooth_normal, smooth_symbols
from hiermm.pieces import ROOM, LostState, plan, settled, share_of

SCRATCH_BYTES = 16 << 20  # working memory of one thread in the E-step, small enough for caches
PIECE_NUMBERS = 1 << 18  # steps x states in one piece, when memory allows more: small enough for caches and threads
FEW_NUMBERS = 1 << 15  # the same where Python does little for a piece: a thread that comes late finds some left
TOGETHER = 8  # of these pieces are done in one call where the kernel has no threads of its own
TINY = 1e-290
LANES = 8  # doubles in the widest vector, to which the kernels' rows are padded


_forked = False


def _note_fork():
    """In a process forked from one that has used OpenMP its threads are gone, and waiting for them would never end."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@dataclass(frozen=True)
class Parameters:
    """A chain and an emission: all that inference needs."""

    chain: object
    emission: object

    @property
    def n_parameters(self):
        """Free parameters."""
        return self.chain.n_parameters + self.emission.n_parameters

    def log_prior(self):
        """Return the log prior density that EM adds to the log-likelihood (0 without priors)."""
        return float(sum(rows.penalty() for rows in self.chain.rows) + self.emission.log_prior())

    @property
    def iterative(self):
        """Whether some part of the M-step is a Newton step, which may go too far."""
        return self.chain.iterative or self.emission.iterative

    def between(self, goal, fractions):
        """Return the parameters that lie fractions (S + 1,) of the way to `goal`, by level and emission.

        Parts in closed form are at the goal.
        """
        chain, emission = goal.chain, goal.emission
        if chain.iterative:
            chain = self.chain.between(chain, fractions[:-1])
        if emission.iterative:
            emission = self.emission.between(emission, fractions[-1])
        return Parameters(chain, emission)

    def bytes_kept(self):
        """Return the memory that the posteriors of one step take."""
        rows = sum(r * k for r, k in self.chain.structure.shapes) if self.chain.driven else 0
        return 8 * (self.emission.n_states + rows)

    def bytes_per_step(self):
        """Return the working memory that the E-step takes for each step of a sequence alone."""
        joint, emit = self.chain.n_states, self.emission.n_states
        padded = -(-joint // LANES) * LANES
        rows = 3 * self.chain.bounds[-1] if self.chain.driven else 0
        return 8 * (3 * padded + 2 * joint + 2 * emit + rows + 8)

    def steps_at_once(self):
        """Return how many steps a piece should have, and the scratch holds: alone, and in a group side by side."""
        columns, alone = self.emission.n_states, self.bytes_per_step()
        in_group = alone
        if self.chain.matrix is not None:  # the dense kernels bound their own part; likelihoods and posteriors are left
            columns += self.chain.n_states if self.chain.emit is not None else 0  # spread over the joint states
            in_group = 8 * columns
        limit = max(SCRATCH_BYTES // alone, 2)
        numbers = FEW_NUMBERS if self.fused or self.emission.iterative else PIECE_NUMBERS
        return numbers // columns, limit, max(SCRATCH_BYTES // in_group, limit)

    @cached_property
    def fused(self):
        """Whether one kernel does likelihoods, recursion and sums."""
        return self.chain.matrix is not None and self.chain.emit is None and self.emission.normal is not None

    @property
    def pooled(self):
        """Whether steps of equal outputs look the same to chain and emission."""
        return self.chain.matrix is not None and self.emission.pooled


class Block(NamedTuple):
    """Posteriors of some rows, all that statistics are made of.

    inputs (n, P), outputs (n, D), gamma (n, M) posteriors of the emission's states, log_likelihood of the rows given
    those before them, moves the chain's statistics, leaving (see `Chain.smooth`); or xi, the expected transition
    counts of every step (n, total).
    """

    inputs: np.ndarray
    outputs: np.ndarray
    gamma: np.ndarray
    log_likelihood: float
    moves: dict | None
    leaving: np.ndarray | None
    xi: np.ndarray | None


class ImpossibleObservation(ValueError):
    """No state can have produced an observation (every state gives it probability zero)."""


def refuse_impossible(status, offsets, sequences):
    """Raise ImpossibleObservation naming sequence and step if a kernel found one; offsets are packed rows."""
    if status.min() < 0:
        bad = np.flatnonzero(status < 0)
        sequence, step = sequences.locate(int(offsets[bad[0]] - 1 - status[bad[0]]))
        raise ImpossibleObservation(
            f"sequence {sequence}, step {step}: this observation has probability zero in every state that the chain "
            "can be in."
        )


def emitted(parameters, sequences, lo, hi, room=None):
    """Return (transitions, log-likelihoods) of the rows [lo, hi), which may lie in a `Room`."""
    inputs, outputs, emission = sequences.inputs[lo:hi], sequences.outputs[lo:hi], parameters.emission
    out = None if room is None else room.empty("likelihoods", (hi - lo, emission.n_states))
    return parameters.chain.quickest(inputs, room), emission.log_likelihood(outputs, inputs, out)


def posteriors(parameters, sequences, piece, steps=False, room=None, leaving=False):
    """Yield the `Block` of a piece, or those of a long sequence from its last to its first.

    A long sequence takes two sweeps: the forward one leaves checkpoints, the backward one computes alpha again from
    them, so memory is that of one block.

    Parameters
    ----------
    parameters : Parameters
    sequences : Sequences
    piece : Piece
    steps : bool
        Whether `Block.xi` is wanted, in place of statistics.
    room : Room, optional
        Where `Block.gamma` may lie, then valid until the next block is asked for, and compiled rows.
    leaving : bool
        Whether `Block.leaving` is wanted.

    Raises
    ------
    LostState
        Where blocks will not do (see `settled`); those that came before do not count.
    """
    chain, emission = parameters.chain, parameters.emission
    ends, judge = _checkpoints(parameters, sequences, piece)
    beta = None
    for (lo, hi), alpha_in in zip(reversed(piece.blocks), reversed(ends)):
        inputs, outputs = sequences.inputs[lo:hi], sequences.outputs[lo:hi]
        out = None if room is None else room.empty("likelihoods", (hi - lo, emission.n_states))
        ll = emission.log_likelihood(outputs, inputs, out)
        offsets = piece.offsets if len(ends) == 1 else np.array([0, hi - lo])
        where = {"start": lo - piece.lo, "alpha_in": alpha_in, "beta_in": beta, "judge": judge}
        moves = left = None
        if steps:
            r = smooth(chain.compile(inputs), ll, offsets, counts="steps", merge=True, **where)
        else:
            r, moves, left = chain.smooth(inputs, ll, offsets, room, leaving, **where)
        refuse_impossible(r.status, lo + offsets[:-1], sequences)
        beta = r.before
        if len(ends) > 1 and r.status[0] > 0:  # then what a block was handed, or has handed on, may be made of dust
            raise LostState
        yield Block(inputs, outputs, r.gamma, r.log_likelihood.sum(), moves, left, r.xi)


def posteriors_by_symbol(parameters, sequences, piece):
    """Return the `Block` of a piece of symbols with one row for each symbol instead of each step.

    All that statistics are made of is the sum of the posteriors over the steps of each symbol.
    """
    outputs = np.arange(float(sequences.n_symbols))[:, None]
    inputs = np.empty((len(outputs), 0))
    transitions = parameters.chain.quickest(inputs)
    table = parameters.emission.log_likelihood(outputs, inputs)
    r = smooth_symbols(transitions, table, sequences.outputs[piece.lo : piece.hi, 0], piece.offsets)
    refuse_impossible(r.status, piece.lo + piece.offsets[:-1], sequences)
    moves = parameters.chain.statistics(inputs, r.first.sum(axis=0), r.xi)
    return Block(inputs, outputs, r.gamma, r.log_likelihood.sum(), moves, None, None)


def fused_statistics(parameters, sequences, share, threads=1):
    """Return (log-likelihood, statistics of the chain, statistics of the emission) of the sequences of a `Share`.

    For `Parameters.fused` and sequences that fit the scratch.
    """
    inputs, outputs = sequences.inputs[share.lo : share.hi], sequences.outputs[share.lo : share.hi]
    chain = parameters.chain
    arrays = chain.joint_initial, chain.matrix, parameters.emission.normal, outputs, inputs
    r = smooth_normal(*arrays, share.offsets, share.bounds, threads)
    if not isfinite(r.log_likelihood):
        refuse_impossible(r.status, share.lo + share.offsets, sequences)
    moves = chain.statistics(inputs, r.first, r.xi.reshape(1, -1))
    return r.log_likelihood, moves, {"gram": r.gram, "cross": r.cross, "scatter": r.scatter}


def _sweep(parameters, sequences, piece, judged=False):
    """Yield (last filtered distribution, log-likelihood, whether to `judge`) of the blocks of a long sequence.

    `judged`: the blocks will be smoothed afterwards, see `filter`.

    Raises
    ------
    LostState
        Where a block was redone in log space or has lost a reachable state: it cannot hand its state on.
    """
    alpha_in = None
    for lo, hi in piece.blocks:
        transitions, ll = emitted(parameters, sequences, lo, hi, ROOM)
        where = {"start": lo - piece.lo, "alpha_in": alpha_in, "judged": judged}
        alpha, loglik, status = filter(transitions, ll, np.array([0, hi - lo]), **where)
        refuse_impossible(status, np.array([lo]), sequences)
        before = alpha[-2] if hi - lo > 1 else alpha_in
        lost = not judged and _loses_state(transitions, ll, alpha[-1], before, hi - piece.lo)
        if lost or status[0] not in (0, 4):
            raise LostState
        alpha_in = alpha[-1].copy()
        yield alpha_in, loglik[0], status[0] == 4


def _checkpoints(parameters, sequences, piece):
    """Return the filtered distribution before each block (None for the first), and whether to `judge`."""
    ends, judge = [None], False
    for alpha, _, dusty in _sweep(parameters, sequences, piece._replace(blocks=piece.blocks[:-1]), judged=True):
        ends.append(alpha)
        judge |= dusty
    return ends, judge


def _loses_state(transitions, ll, last, before, stop):
    """Whether the filtered distribution `last` has lost to underflow a state that the chain could be in.

    `before` is that of the step before it, None at the first step.
    """
    if (last > TINY).all():
        return False
    predicted = transitions.initial
    if before is not None:
        where = {"start": stop - 1, "alpha_in": before}
        predicted = filter(transitions.last(), np.zeros_like(ll[-1:]), np.array([0, 1]), **where)[0][0]
    possible = (predicted > 0) & (ll[-1, transitions.columns] > -np.inf)
    return bool((possible & (last <= TINY)).any())


class Expectation:
    """The E-step over all the data, in threads, under parameters of one shape; use it as a context manager.

    Parameters
    ----------
    sequences : Sequences
    n_jobs : int or None
        Threads, as in joblib; None is 1.
    """

    def __init__(self, sequences, n_jobs=None):
        self.sequences = sequences
        self.n_observed = max(sequences.n_observed, 1)
        self._workers = effective_n_jobs(n_jobs)
        self._pool = None
        self._compiled_threads = HAS_THREADS and not _forked
        self._plans = {}
        self._kept = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _pieces(self, parameters):
        return self._plan(parameters)[0]

    def _plan(self, parameters):
        """Return the pieces, and the `Share` that all of them make or None where a sequence is cut into blocks."""
        kind = parameters.fused, parameters.chain.matrix is None  # all that EM can change of what the plan looks at
        if kind not in self._plans:
            pieces = plan(self.sequences.offsets, *parameters.steps_at_once())
            cut = any(len(piece.blocks) > 1 for piece in pieces)
            self._plans[kind] = pieces, None if cut else share_of(pieces, self.sequences.offsets)
        return self._plans[kind]

    def _visit(self, function, parameters):
        """Return the values of `function` for all pieces."""
        return self._map(lambda piece: settled(function, piece), self._pieces(parameters))

    def _map(self, function, items):
        """Return the values of `function` for all items, which this thread and those of the pool take in turn."""
        values, todo = [None] * len(items), iter(range(len(items)))

        def work():
            for number in todo:
                values[number] = function(items[number])

        n_helpers = min(self._workers, len(items)) - 1
        if n_helpers > 0 and self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers - 1)
        helpers = [self._pool.submit(work) for _ in range(n_helpers)]
        try:
            work()
        finally:
            for _ in todo:  # after an error or Ctrl-C: nothing is left for the others
                pass
            wait(helpers)
        for helper in helpers:
            helper.result()
        return values

    def statistics(self, parameters, keep=False):
        """Return (log-likelihood, statistics of the chain, statistics of the emission) of all sequences.

        `keep`: `objective` will be asked next, so posteriors are kept if they are small enough.
        """
        self._kept = {}
        pieces, share = self._plan(parameters)
        if share is None or not parameters.fused:
            parts = self._visit(self._visitor(parameters, keep), parameters)
        elif self._compiled_threads:
            return fused_statistics(parameters, self.sequences, share, min(self._workers, len(pieces)))
        else:
            some = [pieces[k : k + TOGETHER] for k in range(0, len(pieces), TOGETHER)]
            shares = [share_of(part, self.sequences.offsets) for part in some]
            parts = self._map(lambda share: fused_statistics(parameters, self.sequences, share), shares)
        loglik, moves, outputs = 0.0, {}, {}
        for part in parts:
            loglik += part[0]
            _add(moves, part[1])
            _add(outputs, part[2])
        return loglik, moves, outputs

    def _visitor(self, parameters, keep):
        """Return the function that makes `statistics` of a piece."""
        emission, fused = parameters.emission, parameters.fused
        by_symbol = parameters.pooled and self.sequences.n_symbols is not None
        keep = keep and self.sequences.n_steps * parameters.bytes_kept() <= SCRATCH_BYTES
        room = None if keep else ROOM

        def blocks(piece):
            if by_symbol and len(piece.blocks) == 1:
                return [posteriors_by_symbol(parameters, self.sequences, piece)]
            return posteriors(parameters, self.sequences, piece, room=room, leaving=keep)

        def visit(piece):
            if fused and len(piece.blocks) == 1:
                return fused_statistics(parameters, self.sequences, share_of([piece], self.sequences.offsets))
            loglik, moves, outputs, kept = 0.0, {}, {}, []
            for block in blocks(piece):
                loglik += block.log_likelihood
                _add(moves, block.moves)
                _add(outputs, emission.statistics(block.outputs, block.inputs, block.gamma))
                if keep:
                    kept.append(block._replace(moves=None))
            if keep:
                self._kept[piece.lo] = kept
            return loglik, moves, outputs

        return visit

    def objective(self, parameters, candidate, moves):
        """Return the expected complete log-likelihood of `candidate` under the posteriors of `parameters`.

        One value a level and one for the emission, shape (S + 1,), log priors included; 0 for parts in closed form.
        The levels' values are relative to those of `parameters`, which without the prior are 0.
        `parameters` are those of the last call of `statistics`, whose statistics of the chain are `moves`. Its
        posteriors are used again if they were kept, and computed again if not.
        """
        chain, emission = candidate.chain, candidate.emission
        moved = chain.iterative and chain is not parameters.chain

        def visit(piece):
            value = np.zeros(len(chain.rows) + 1)
            for block in self._kept.get(piece.lo) or posteriors(parameters, self.sequences, piece, leaving=moved):
                if moved:
                    value[:-1] -= parameters.chain.divergence(chain, block.inputs, block.leaving)
                if emission.iterative:
                    value[-1] += emission.objective(block.outputs, block.inputs, block.gamma)
            return value

        value = _penalties(candidate)
        if moved:
            value[:-1] += parameters.chain.slope(chain, moves)
        if moved or emission.iterative:
            value += sum(self._visit(visit, parameters))
        return value


def _penalties(parameters):
    chain, emission = parameters.chain, parameters.emission
    moves = chain.penalty() if chain.iterative else np.zeros(len(chain.rows))
    return np.append(moves, emission.log_prior() if emission.iterative else 0.0)


def _add(total, part):
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value


def log_likelihoods(parameters, sequences):
    """Return the log-likelihood of each sequence, shape (m,); -inf where an observation is impossible."""

    def forward(piece):
        return sum(loglik for _, loglik, _ in _sweep(parameters, sequences, piece))

    def both_ways(piece):
        return sum(block.log_likelihood for block in posteriors(parameters, sequences, piece))

    def of_blocks(piece):
        try:
            return forward(piece)
        except LostState:
            return settled(both_ways, piece)

    values = []
    for piece in plan(sequences.offsets, *parameters.steps_at_once()):
        if len(piece.blocks) == 1:
            transitions, ll = emitted(parameters, sequences, piece.lo, piece.hi, ROOM)
            values.append(filter(transitions, ll, piece.offsets, keep=False)[1])
            continue
        try:
            values.append([of_blocks(piece)])
        except ImpossibleObservation:
            values.append([-np.inf])
    return np.concatenate(values)
