"""Where EM starts: multi-scale chains grown from their fastest level to their slowest."""

from dataclasses import replace

import numpy as np

from hiermm import em
from hiermm.chains import chain_from_tables, random_chain
from hiermm.emissions.base import standardise
from hiermm.expectation import Expectation, Parameters, posteriors
from hiermm.pieces import plan, settled
from hiermm.sequences import BLOCK, Sequences

GROW_STEPS = 50_000  # steps of data that growing looks at
GROW_ITERATIONS = 30  # EM iterations at most for each stage
SOFTNESS = 0.1  # share of a cluster assignment that is spread evenly
GLANCE = 0.01  # weight of all the data beside the part that levels grew from


def can_grow(structure):
    """Whether `grown_chain` applies: several levels, coupling "slower", an emission that sees the fastest level."""
    seen = structure.emission_levels
    several = len(structure.sizes) > 1
    return several and structure.coupling == "slower" and (seen is None or len(structure.sizes) - 1 in seen)


def grown_chain(sequences, emission, structure, rng):
    """Return (initial, tables, emission) of a chain grown level by level.

    The fastest level is fitted alone. Then, for each slower level in turn: the data are cut into blocks as long as
    that level's time scale; each block is described by how the level below moved in it (the mean of its expected
    transitions) and, if the emission sees the new level, by the mean of its outputs; k-means over the blocks gives
    the new level's states, each with its own transition rows for the level below; a few EM iterations refine the
    levels so far.

    Parameters
    ----------
    sequences : Sequences
        Levels grow from the first 50,000 steps at most. A symbol or a column may show itself only after them, so
        emissions start from all steps and see all of them evenly, with little weight, once more at the end.
    emission : Emission
    structure : Structure
        One that `can_grow`. Without timescales blocks grow by a factor 8 a level.
    rng : numpy.random.Generator
    """
    data = _head(sequences, GROW_STEPS)
    sizes, fixed, leaf = structure.sizes, structure.self_transitions, len(structure.sizes) - 1
    scales = structure.timescales or [8 ** (leaf - s) for s in range(leaf + 1)]
    seen = range(leaf + 1) if structure.emission_levels is None else structure.emission_levels
    part = _from_level(structure, leaf)
    start = emission.initialise(sequences.outputs, sequences.inputs, sizes[leaf], rng)
    model = Parameters(chain_from_tables(part, *random_chain(part, rng)), start)
    for s in range(leaf - 1, -1, -1):
        model = _refine(model, data)
        gamma, xi = _moves(model, data)
        labels, first = _contexts(data, xi, round(scales[s]), s in seen, sizes[s], rng)
        context = np.full((data.n_steps, sizes[s]), SOFTNESS / sizes[s])
        context[np.arange(data.n_steps), labels] += 1 - SOFTNESS
        rows = [level.probs[0] for level in model.chain.rows]
        rows[0] = _split_rows(context, xi, rows[0], fixed[s + 1])
        initial = [np.full((1, sizes[s]), 1 / sizes[s]), np.repeat(model.chain.initial[0], sizes[s], axis=0)]
        emission = model.emission
        if s in seen:
            gamma = (context[:, :, None] * gamma[:, None, :]).reshape(len(gamma), -1)
            emission = emission.initialise(sequences.outputs, sequences.inputs, gamma.shape[1], rng)
            emission = emission.maximise(emission.statistics(data.outputs, data.inputs, gamma))
        sequence = np.searchsorted(data.offsets, first, side="right")
        root = _root_table(labels[first], sequence, sizes[s], fixed[s], scales[s])
        initial += model.chain.initial[1:]
        model = Parameters(chain_from_tables(_from_level(structure, s), initial, [root[None], *rows]), emission)
    if data.n_steps < sequences.n_steps:
        emission = _acquainted(emission, gamma, data, sequences)
    return list(model.chain.initial), [level.probs[0] for level in model.chain.rows], emission


def _from_level(structure, first):
    """Return the structure of the levels `first` and faster."""
    scales, seen = structure.timescales, structure.emission_levels
    return replace(
        structure,
        sizes=structure.sizes[first:],
        timescales=None if scales is None else scales[first:],
        emission_levels=None if seen is None else tuple(s - first for s in seen if s >= first),
    )


def _head(sequences, limit):
    """Return the sequences that fit into `limit` steps, the last one cut."""
    stop = min(sequences.n_steps, limit)
    offsets = np.append(sequences.offsets[sequences.offsets < stop], stop)
    return Sequences(sequences.inputs[:stop], sequences.outputs[:stop], offsets)


def _refine(model, data):
    with Expectation(data) as expectation:
        fit = em.run(expectation, model, max_iter=GROW_ITERATIONS, tol=1e-4)
    if fit.interrupted:
        raise KeyboardInterrupt
    return fit.parameters


def _acquainted(emission, gamma, data, sequences):
    """Return the emission after an M-step on its part of the data and, with little weight, on all, spread evenly."""
    stats = emission.statistics(data.outputs, data.inputs, gamma)
    share = GLANCE * data.n_steps / sequences.n_steps / emission.n_states
    for lo in range(0, sequences.n_steps, BLOCK):
        outputs, inputs = sequences.outputs[lo : lo + BLOCK], sequences.inputs[lo : lo + BLOCK]
        part = emission.statistics(outputs, inputs, np.full((len(outputs), emission.n_states), share))
        stats = {name: value + part[name] for name, value in stats.items()}
    return emission.maximise(stats)


def _moves(model, data):
    """Return posteriors of the emission rows (n, M) and expected moves of the slowest level (n, K, K)."""
    gamma = np.empty((data.n_steps, model.emission.n_states))
    k = model.chain.sizes[0]
    xi = np.empty((data.n_steps, k, k))

    def visit(piece):
        stop = piece.hi
        for block in posteriors(model, data, piece, steps=True):
            rows = slice(stop - len(block.gamma), stop)
            gamma[rows], xi[rows] = block.gamma, model.chain.level(block.xi, 0)[:, 0]
            stop = rows.start

    for piece in plan(data.offsets, *model.steps_at_once()):
        settled(visit, piece)
    return gamma, xi


def _contexts(data, xi, length, see_outputs, n_states, rng):
    """Cluster blocks of `length` steps; return each step's label (n,) and the first row of each block."""
    steps = np.arange(data.n_steps) - np.repeat(data.offsets[:-1], data.lengths)
    first = np.flatnonzero(steps % length == 0)
    size = np.diff(np.append(first, data.n_steps))
    flat = xi.reshape(len(xi), -1)
    features = [np.sqrt(np.maximum(np.add.reduceat(flat, first, axis=0) / size[:, None], 0.0))]
    if see_outputs:
        features.append(np.add.reduceat(standardise(data.outputs), first, axis=0) / size[:, None])
    features = np.concatenate(features, axis=1)
    if len(np.unique(features, axis=0)) < n_states:
        labels = rng.integers(n_states, size=len(first))
    else:
        from sklearn.cluster import KMeans  # a slow import that most uses of the package never need

        kmeans = KMeans(n_states, n_init=3, random_state=int(rng.integers(1 << 31)))
        labels = kmeans.fit_predict(features)
    return np.repeat(labels, size), first


def _split_rows(context, xi, pooled, w):
    """Return rows (R, K, K) of a level for each new context, drawn a little towards its pooled rows (1, K, K)."""
    counts = np.einsum("tr,tij->rij", context, xi)
    own = np.eye(xi.shape[1], dtype=bool)
    if w is not None:
        counts[:, own] = 0.0
        pooled = np.where(own, 0.0, pooled) / (1 - w)
    counts += pooled * (pooled > 0)
    rows = counts / counts.sum(axis=-1, keepdims=True)
    return rows if w is None else np.where(own, w, (1 - w) * rows)


def _root_table(labels, sequence, n_states, w, length):
    """Return the table (K, K) of a new slowest level from the labels of successive blocks and their sequences."""
    if n_states == 1:
        return np.ones((1, 1))
    counts = np.ones((n_states, n_states))
    follows = sequence[1:] == sequence[:-1]
    np.add.at(counts, (labels[:-1][follows], labels[1:][follows]), 1.0)
    own = np.eye(n_states, dtype=bool)
    moves = np.where(own, 0.0, counts)
    stay = max(1 - 1 / length, 0.5) if w is None else w
    return np.where(own, stay, (1 - stay) * moves / moves.sum(axis=1, keepdims=True))
