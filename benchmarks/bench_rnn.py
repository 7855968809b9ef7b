"""Training epochs of the recurrent network against PyTorch's nn.RNN and a JAX scan, on one thread.

`python benchmarks/bench_rnn.py` prints a table; `rows()` yields the same as dicts. PyTorch and JAX take part where they
are installed. The parameters after an epoch of plain gradient descent over the same batches are compared before
anything is timed, and the contestants take turns, so that a disturbance of the machine meets all of them.
"""

import importlib.util
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np

from hiermm.rnn.network import Network
from hiermm.rnn.training import Momentum, Objective
from hiermm.sequences import Sequences

RATE, BATCH = 0.05, 32
# name, sequences, steps, levels' units, time scales, clock, delays; the first one is the workload of the comparison
WORK = [
    ("one scale, 20 units", 1000, 100, (20,), (1,), "periodic", (1,)),
    ("periodic 5+5+5+5, scales 8 4 2 1", 1000, 100, (5, 5, 5, 5), (8, 4, 2, 1), "periodic", (1,)),
    ("leaky 5+5+5+5, scales 8 4 2 1", 1000, 100, (5, 5, 5, 5), (8, 4, 2, 1), "leaky", (1,)),
    ("one scale, 20 units, delays 1 and 8", 1000, 100, (20,), (1,), "periodic", (1, 8)),
    ("one scale, 64 units", 1000, 100, (64,), (1,), "periodic", (1,)),
    ("one update: 30 sequences, T = 100, 16 units", 30, 100, (16,), (1,), "periodic", (1,)),
    ("one update: 30 sequences, T = 3,000, 16 units", 30, 3000, (16,), (1,), "periodic", (1,)),
    ("one update: 30 sequences, T = 3,000, 8+8, scales 16 1", 30, 3000, (8, 8), (16, 1), "periodic", (1,)),
    ("one update: one sequence, T = 10,000, 16 units", 1, 10_000, (16,), (1,), "periodic", (1,)),
]


def problem(n, steps, units, scales, clock, delays, seed=0):
    """A network, starting parameters and random sequences with a target at every step."""
    rng = np.random.default_rng(seed)
    network = Network(units, scales, clock, "full", delays, 1, 1)
    offsets = np.arange(n + 1) * steps
    sequences = Sequences(rng.normal(size=(n * steps, 1)), rng.normal(size=(n * steps, 1)), offsets)
    return network, network.draw(rng, "orthogonal"), sequences


def batches(n):
    return [np.arange(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]


def ours(network, theta, sequences):
    """Return a function that trains for an epoch and returns (mean loss of the last batch, parameters)."""
    objective = Objective(network, sequences, classes=False, alpha=0.0)
    optimiser = Momentum(len(theta), RATE, 0.0)
    state, order = theta.copy(), batches(len(sequences))

    def epoch():
        for batch in order:
            losses, gradient = objective.descend(state, batch)
            optimiser.step(state, gradient)
        return 0.5 * losses.sum() / objective.steps[batch].sum(), state

    return epoch


def pytorch(network, theta, sequences):
    """The same with torch.nn.RNN, torch.nn.Linear and torch.optim.SGD."""
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    parts, n = network.split(theta), len(sequences)
    rnn, linear = torch.nn.RNN(1, network.size, batch_first=True), torch.nn.Linear(network.size, 1)
    X, y = (torch.tensor(a.reshape(n, -1, 1)) for a in (sequences.inputs, sequences.outputs))
    names = ["recurrent", "inputs", "bias", "readout", "readout_bias"]
    held = [rnn.weight_hh_l0, rnn.weight_ih_l0, rnn.bias_ih_l0, linear.weight, linear.bias]
    with torch.no_grad():
        for name, parameter in zip(names, held):
            parameter.copy_(torch.tensor(parts[name].reshape(parameter.shape)))
        rnn.bias_hh_l0.zero_()
    rnn.bias_hh_l0.requires_grad_(False)
    optimiser = torch.optim.SGD(held, lr=RATE)

    def epoch():
        for start in range(0, n, BATCH):
            optimiser.zero_grad()
            states, _ = rnn(X[start : start + BATCH])
            loss = 0.5 * torch.nn.functional.mse_loss(linear(states), y[start : start + BATCH])
            loss.backward()
            optimiser.step()
        return loss.item(), np.concatenate([parameter.detach().numpy().ravel() for parameter in held])

    return epoch


def jax_scan(network, theta, sequences):
    """The same with a compiled jax.lax.scan; compilation is not timed."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp, n, size = jax.numpy, len(sequences), network.size
    X, y = (a.reshape(n, -1).T for a in (sequences.inputs, sequences.outputs))  # time first
    data = [(jnp.asarray(X[:, b][..., None]), jnp.asarray(y[:, b][..., None])) for b in batches(n)]
    held = {name: jnp.asarray(value) for name, value in network.split(theta).items()}

    def loss(p, u, target):
        def step(x, v):
            x = jnp.tanh(x @ p["recurrent"][0].T + v)
            return x, x

        _, states = jax.lax.scan(step, jnp.zeros((u.shape[1], size)), u @ p["inputs"].T + p["bias"])
        return 0.5 * jnp.mean((states @ p["readout"].T + p["readout_bias"] - target) ** 2)

    @jax.jit
    def update(p, u, target):
        value, gradient = jax.value_and_grad(loss)(p, u, target)
        return value, jax.tree.map(lambda a, g: a - RATE * g, p, gradient)

    def epoch():
        nonlocal held
        for u, target in data:
            value, held = update(held, u, target)
        return float(value), network.join(held)

    return epoch


PEERS = {"torch": pytorch, "jax": jax_scan}


def contestants(network, theta, sequences):
    """Functions by name; the peers know one scale only."""
    found = {"hiermm": ours(network, theta, sequences)}
    if len(network.n_units) == 1 and network.delays == (1,):
        for name, make in PEERS.items():
            if importlib.util.find_spec(name):
                found[name] = make(network, theta, sequences)
    return found


def compare(epochs):
    """Run one epoch of each; assert that losses and parameters agree."""
    results = {name: epoch() for name, epoch in epochs.items()}
    loss, theta = results["hiermm"]
    for name, (other, parameters) in results.items():
        assert abs(loss - other) < 1e-10 * abs(loss), (name, loss, other)
        np.testing.assert_allclose(theta, parameters, rtol=1e-8, atol=1e-10, err_msg=name)


def rows(repeats=15):
    """Yield one dict for each workload: medians and quartiles in ms, and the peers' medians and ratios to ours.

    Raises
    ------
    AssertionError
        If losses or parameters differ from a peer's after one epoch.
    """
    for name, *work in WORK:
        epochs = contestants(*problem(*work))
        compare(epochs)
        spent = {contestant: [] for contestant in epochs}
        for _ in range(repeats):
            for contestant, epoch in epochs.items():
                start = time.perf_counter()
                epoch()
                spent[contestant].append(1e3 * (time.perf_counter() - start))
        low, median, high = statistics.quantiles(spent["hiermm"], n=4)
        row = {"work": name, "median_ms": median, "low_ms": low, "high_ms": high}
        for peer in PEERS:
            row[f"{peer}_ms"] = statistics.median(spent[peer]) if peer in spent else None
            row[f"{peer}_ratio"] = row[f"{peer}_ms"] / median if peer in spent else None
        yield row


if __name__ == "__main__":
    print(f"{'work':54} {'ms':>8} {'quartiles':>17} {'PyTorch':>9} {'ratio':>6} {'JAX':>9} {'ratio':>6}")
    for row in rows():
        peers = "".join(
            f" {row[f'{peer}_ms']:9.2f} {row[f'{peer}_ratio']:6.1f}" if row[f"{peer}_ms"] else " " * 17
            for peer in PEERS
        )
        print(f"{row['work']:54} {row['median_ms']:8.3f} {row['low_ms']:8.3f} {row['high_ms']:8.3f}{peers}")
