"""The arrays behind `MultiscaleRNN`: structure, parameters in one flat vector, and calls of the kernels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hiermm._ext import load

kernels = load("rnn")

CLOCKS = ("periodic", "leaky")
COUPLINGS = ("full", "slower", "faster", "none")
INITIALIZATIONS = ("orthogonal", "uniform", "identity")
BUDGET = 4_000_000  # doubles of scratch a call may take for states; longer sequences are computed in blocks


@dataclass(frozen=True)
class Network:
    """Structure of a tanh network whose levels (slowest first) work at their own time scales.

    Parameters
    ----------
    n_units, timescales : tuple of int
        Units H_s and time scale n_s of each level.
    clock : {"periodic", "leaky"}
    coupling : {"full", "slower", "faster", "none"}
    delays : tuple of int
        Delays d of the recurrences; the first is that of `recurrent[0]`.
    n_inputs, n_outputs : int

    Notes
    -----
    All parameters live in one vector `theta`: recurrent (K, H, H) [delay, to, from], inputs (H, P), bias (H,),
    readout (D, H), readout_bias (D,). Blocks that the coupling forbids are zero and their gradients are zero.
    """

    n_units: tuple
    timescales: tuple
    clock: str
    coupling: str
    delays: tuple
    n_inputs: int
    n_outputs: int

    @cached_property
    def starts(self):
        """First unit of each level and, last, the number of units H; shape (S + 1,)."""
        return np.concatenate([[0], np.cumsum(self.n_units)]).astype(np.int64)

    @property
    def size(self):
        """Number of hidden units H."""
        return int(self.starts[-1])

    @cached_property
    def sources(self):
        """Units [lo, hi) that each level listens to; two arrays of shape (S,)."""
        lo, hi = self.starts[:-1].copy(), self.starts[1:].copy()
        if self.coupling == "full":
            lo[:], hi[:] = 0, self.size
        elif self.coupling == "slower":
            lo[1:] = self.starts[:-2]
        elif self.coupling == "faster":
            hi[:-1] = self.starts[2:]
        return lo, hi

    @cached_property
    def plan(self):
        """The structure as the kernels read it."""
        header = [self.clock == "leaky", len(self.n_units), len(self.delays), self.n_inputs, self.n_outputs, self.size]
        parts = [header, self.n_units, self.starts[:-1], self.timescales, *self.sources, self.delays]
        return np.concatenate(parts).astype(np.int64)

    @cached_property
    def mask(self):
        """Recurrent weights that the coupling allows, bool (H, H) [to, from]."""
        level = np.repeat(np.arange(len(self.n_units)), self.n_units)
        unit, (lo, hi) = np.arange(self.size), self.sources
        return (lo[level][:, None] <= unit) & (unit < hi[level][:, None])

    @cached_property
    def shapes(self):
        """Names and shapes of the parts of `theta`, in order."""
        size, n_out = self.size, self.n_outputs
        return {
            "recurrent": (len(self.delays), size, size),
            "inputs": (size, self.n_inputs),
            "bias": (size,),
            "readout": (n_out, size),
            "readout_bias": (n_out,),
        }

    @cached_property
    def slices(self):
        """Where each part lies in `theta`."""
        stops = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        return {
            name: slice(stop - int(np.prod(shape)), stop) for (name, shape), stop in zip(self.shapes.items(), stops)
        }

    @cached_property
    def decayed(self):
        """1.0 where `theta` holds a weight, 0.0 where it holds a bias."""
        weights = np.ones(self.slices["readout_bias"].stop)
        weights[self.slices["bias"]] = 0.0
        weights[self.slices["readout_bias"]] = 0.0
        return weights

    @cached_property
    def free(self):
        """True where `theta` holds a parameter that the coupling allows."""
        allowed = np.ones(self.slices["readout_bias"].stop, dtype=bool)
        allowed[self.slices["recurrent"]] = np.tile(self.mask.ravel(), len(self.delays))
        return allowed

    def split(self, theta):
        """Return the parts of `theta` by name (views)."""
        return {name: theta[self.slices[name]].reshape(shape) for name, shape in self.shapes.items()}

    def join(self, parts):
        """Return `theta` with the arrays `parts`, given by name."""
        return np.concatenate([np.asarray(parts[name], dtype=np.float64).ravel() for name in self.shapes])

    def draw(self, rng, initialization):
        """Return starting parameters (see `MultiscaleRNN`, `initialization`)."""
        theta = np.zeros(len(self.free))
        parts, size = self.split(theta), self.size
        for matrix in parts["recurrent"]:
            if initialization == "uniform":
                bound = 1.0 / np.sqrt(self.mask.sum(axis=1, keepdims=True) * len(self.delays))
                matrix[:] = rng.uniform(-bound, bound, (size, size))
            else:
                q, r = np.linalg.qr(rng.normal(size=(size, size)))
                matrix[:] = q * np.sign(np.diag(r)) * self.mask
                matrix /= np.linalg.norm(matrix, axis=1, keepdims=True) * np.sqrt(len(self.delays))
            matrix *= self.mask
            if initialization == "identity":
                for n, start, stop in zip(self.timescales, self.starts[:-1], self.starts[1:]):
                    if n > 1:
                        matrix[start:stop, start:stop] = np.eye(stop - start) / len(self.delays)
        if self.n_inputs:
            bound = 1.0 / np.sqrt(self.n_inputs)
            parts["inputs"][:] = rng.uniform(-bound, bound, parts["inputs"].shape)
        bound = 1.0 / np.sqrt(size)
        parts["readout"][:] = rng.uniform(-bound, bound, parts["readout"].shape)
        return theta

    def guess(self, rng, bound):
        """Return parameters drawn uniformly from [-bound, bound] (random weight guessing)."""
        return rng.uniform(-bound, bound, len(self.free)) * self.free


class Runner:
    """Kernel calls of one network over one set of sequences; keeps the scratch memory between calls.

    Parameters
    ----------
    network : Network
    sequences : Sequences
        The outputs are targets: numbers, or class codes in one column (`classes=True`).
    classes : bool
        Cross-entropy over classes instead of squared error.
    """

    def __init__(self, network, sequences, classes=False):
        self.network, self.sequences = network, sequences
        self.kind = kernels.SOFTMAX if classes else kernels.SQUARED
        self.n_losses = 1 if classes else network.n_outputs
        self.order = np.argsort(-sequences.lengths, kind="stable")
        self.offsets = np.ascontiguousarray(sequences.offsets, dtype=np.int64)
        longest = int(sequences.lengths.max())
        lanes = min(kernels.LANES, 8 * -(-len(sequences) // 8))
        row = lanes * (network.size * (1 + (network.clock == "leaky")) + 1 + network.n_inputs + 2 * network.n_outputs)
        self.block = int(min(longest, max(BUDGET // row, 4 * max(network.delays), 16)))
        self.longest = longest
        self._scratch = {}

    def scratch(self, n_sequences, backward):
        """Return scratch memory for a call with `n_sequences` sequences, made once."""
        key = (min(n_sequences, kernels.LANES), backward)
        if key not in self._scratch:
            need = kernels.scratch_size(self.network.plan, self.longest, n_sequences, self.block, backward)
            held = [array for array in self._scratch.values() if len(array) >= need]
            try:
                self._scratch[key] = held[0] if held else np.empty(need)
            except MemoryError:
                raise MemoryError(
                    f"{self.network.size} units with delays={self.network.delays} need {need / 2**27:.3g} GiB of "
                    "memory for their past states."
                ) from None
        return self._scratch[key]

    def loss(self, theta, order, gradient=None):
        """Return losses (len(order), D or 1) of the sequences `order`; write the gradient of their sum if asked to.

        Regression: sums of squared errors per output, and the gradient of half their total. Classification: -log
        probabilities in nats. Steps without a target count nothing.
        """
        losses = np.empty((len(order), self.n_losses))
        kernels.loss(
            self.network.plan, theta, self.sequences.inputs, self.sequences.outputs, self.offsets, order, self.kind,
            self.block, self.scratch(len(order), gradient is not None), losses, gradient,
        )  # fmt: skip
        return losses

    def run(self, theta, **wanted):
        """Fill the arrays `out` (n, D), `states` (n, H) and `slopes` (n, H) that are asked for."""
        kernels.run(
            self.network.plan, theta, self.sequences.inputs, self.offsets, self.order,
            min(self.block, 256), self.scratch(len(self.sequences), False), **wanted,
        )  # fmt: skip

    def outputs(self, theta):
        """Return the read-outs (n, D)."""
        out = np.empty((self.sequences.n_steps, self.network.n_outputs))
        self.run(theta, out=out)
        return out

    def states(self, theta):
        """Return the hidden states (n, H)."""
        states = np.empty((self.sequences.n_steps, self.network.size))
        self.run(theta, states=states)
        return states

    def jacobians(self, theta):
        """Return the maps dX_t/dX_{t-1}, (n - m, D H, D H), on the stacked state of the last D = max(delays) steps."""
        slopes = np.empty((self.sequences.n_steps, self.network.size))
        self.run(theta, slopes=slopes)
        n = max(self.network.delays) * self.network.size
        maps = np.empty((self.sequences.n_steps - len(self.sequences), n, n))
        kernels.jacobians(self.network.plan, theta, slopes, self.offsets, maps)
        return maps
