"""The network's kernels against a plain recurrence, complex-step and finite differences, and PyTorch."""

import itertools

import numpy as np
import oracles_rnn as oracles
import pytest
from dense_calls import available

from hiermm import _ext
from hiermm.rnn.network import COUPLINGS, Network, Runner
from hiermm.sequences import Sequences

LEVELS = [((5,), (1,)), ((3, 4), (4, 1)), ((2, 2, 3), (6, 3, 1)), ((2, 9), (5, 2))]
DELAYS = [(1,), (1, 3), (2, 5)]


def problem(seed, lengths, n_inputs, n_outputs, classes=False):
    """Random sequences whose targets are partly missing."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    if classes:
        y = rng.integers(0, n_outputs, (n, 1)).astype(float)
    else:
        y = rng.normal(size=(n, n_outputs))
    y[rng.random(y.shape) < 0.3] = np.nan
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(rng.normal(size=(n, n_inputs)), y, offsets)


def parameters(network, seed):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=len(network.free)) * network.free
    theta[network.slices["recurrent"]] /= np.sqrt(network.size)
    return theta


def as_list(sequences):
    return list(
        zip(np.split(sequences.inputs, sequences.offsets[1:-1]), np.split(sequences.outputs, sequences.offsets[1:-1]))
    )


def reference_loss(network, theta, sequences, classes):
    parts = network.split(theta)
    return oracles.rnn_loss(
        *parts.values(), as_list(sequences), network.n_units, network.timescales, network.clock, network.delays, classes
    )


def complex_step(network, theta, sequences, classes):
    """Gradient of the reference loss, exact to rounding."""
    gradient = np.zeros(len(theta))
    for i in np.flatnonzero(network.free):
        moved = theta.astype(complex)
        moved[i] += 1e-30j
        gradient[i] = reference_loss(network, moved, sequences, classes).imag / 1e-30
    return gradient


def kernel_loss(network, theta, sequences, classes, block=None):
    runner = Runner(network, sequences, classes)
    runner.block = block or runner.block
    gradient = np.full(len(theta), np.nan)
    losses = runner.loss(theta, runner.order, gradient)
    return losses.sum() * (1.0 if classes else 0.5), gradient


CASES = list(itertools.product(["periodic", "leaky"], COUPLINGS, DELAYS, range(len(LEVELS)), [False, True]))


@pytest.mark.parametrize("clock, coupling, delays, levels, classes", CASES)
def test_loss_and_gradient(clock, coupling, delays, levels, classes):
    seed = CASES.index((clock, coupling, delays, levels, classes))
    n_inputs, n_outputs = seed % 3, 1 + seed % 2 + classes
    network = Network(*LEVELS[levels], clock, coupling, delays, n_inputs, n_outputs)
    sequences = problem(seed, [9, 1, 13, 4], n_inputs, n_outputs, classes)
    theta = parameters(network, seed)
    loss, gradient = kernel_loss(network, theta, sequences, classes)
    assert loss == pytest.approx(reference_loss(network, theta, sequences, classes), rel=1e-12)
    expected = complex_step(network, theta, sequences, classes)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())
    assert (gradient[~network.free] == 0).all()


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("clock", ["periodic", "leaky"])
def test_gradient_by_finite_differences(clock, classes):
    network = Network((3, 4), (3, 1), clock, "slower", (1, 2), 2, 3)
    sequences, theta = problem(1, [8, 12], 2, 3, classes), parameters(network, 1)
    _, gradient = kernel_loss(network, theta, sequences, classes)
    step = 1e-5
    for i in np.flatnonzero(network.free):
        move = np.zeros(len(theta))
        move[i] = step
        up, down = (kernel_loss(network, theta + s * move, sequences, classes)[0] for s in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize(
    "clock, coupling, delays, levels", list(itertools.product(["periodic", "leaky"], COUPLINGS, DELAYS, range(4)))
)
def test_states(clock, coupling, delays, levels):
    network = Network(*LEVELS[levels], clock, coupling, delays, 2, 1)
    sequences, theta = problem(levels, [30, 7, 18], 2, 1), parameters(network, 3)
    parts = network.split(theta)
    assert (parts["recurrent"][:, ~oracles.rnn_mask(network.n_units, coupling)] == 0).all()
    states = Runner(network, sequences).states(theta)
    expected = [
        oracles.rnn_states(parts["recurrent"], parts["inputs"], parts["bias"], X, *LEVELS[levels], clock, delays)
        for X, _ in as_list(sequences)
    ]
    np.testing.assert_allclose(states, np.concatenate(expected), rtol=0, atol=1e-12)
    out = Runner(network, sequences).outputs(theta)
    np.testing.assert_allclose(out, states @ parts["readout"].T + parts["readout_bias"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_mask(coupling):
    network = Network((2, 3, 4), (4, 2, 1), "periodic", coupling, (1,), 1, 1)
    assert np.array_equal(network.mask, oracles.rnn_mask((2, 3, 4), coupling))


@pytest.mark.parametrize("clock, delays", list(itertools.product(["periodic", "leaky"], DELAYS)))
def test_jacobians(clock, delays):
    """The map of the stacked state, by complex steps on the state that the recurrence continues from."""
    network = Network((2, 3), (3, 1), clock, "full", delays, 1, 1)
    sequences, theta = problem(5, [11, 1, 6], 1, 1), parameters(network, 5)
    parts, D, H = network.split(theta), max(delays), network.size
    maps = Runner(network, sequences).jacobians(theta)
    assert maps.shape == (10 + 0 + 5, D * H, D * H)
    n, k = np.repeat(network.timescales, network.n_units), 0
    for X, _ in as_list(sequences):
        history = np.zeros((D, H))  # row d - 1 is x_{t-d}
        for t, u in enumerate(X):

            def advance(stack, t=t, u=u):
                past = stack.reshape(D, H)
                z = (
                    parts["inputs"] @ u
                    + parts["bias"]
                    + sum(W @ past[d - 1] for W, d in zip(parts["recurrent"], delays))
                )
                rate = (t % n == 0).astype(float) if clock == "periodic" else 1 / n
                return np.concatenate([(1 - rate) * past[0] + rate * np.tanh(z), past[:-1].ravel()])

            if t > 0:
                columns = [advance(history.ravel() + 1e-30j * e).imag / 1e-30 for e in np.eye(D * H)]
                np.testing.assert_allclose(maps[k], np.array(columns).T, rtol=0, atol=1e-13)
                if clock == "periodic" and t % 3:
                    assert np.array_equal(maps[k][:2], np.eye(D * H)[:2]), "a level that holds has identity rows"
                k += 1
            history = advance(history.ravel()).reshape(D, H)


@pytest.mark.parametrize(
    "clock, delays, classes", list(itertools.product(["periodic", "leaky"], DELAYS, [False, True]))
)
def test_blocks_change_nothing(clock, delays, classes):
    """Blocks with checkpoints give the very same numbers as all states at once."""
    network = Network((3, 4), (4, 1), clock, "full", delays, 2, 2)
    sequences, theta = problem(7, [40, 3, 17, 33], 2, 2, classes), parameters(network, 7)
    whole = kernel_loss(network, theta, sequences, classes)
    for block in (5, 8, 16, 39):
        loss, gradient = kernel_loss(network, theta, sequences, classes, block)
        assert loss == pytest.approx(whole[0], rel=1e-14)
        np.testing.assert_allclose(gradient, whole[1], rtol=1e-12, atol=1e-13 * np.abs(whole[1]).max())
    runner = Runner(network, sequences)
    states = runner.states(theta)
    runner.block = 7
    assert np.array_equal(runner.states(theta), states)


@pytest.mark.parametrize("n_sequences", [1, 2, 7, 8, 9, 17, 32, 33, 75])
@pytest.mark.parametrize("n_units", [1, 13, 20, 31])
def test_batch_equals_one_by_one(n_sequences, n_units):
    rng = np.random.default_rng(n_sequences)
    lengths = rng.integers(1, 20, n_sequences)
    network = Network((n_units, 2), (3, 1), "periodic", "full", (1,), 1, 2)
    sequences, theta = problem(2, lengths, 1, 2), parameters(network, 2)
    runner = Runner(network, sequences)
    gradient, total = np.empty(len(theta)), np.zeros(len(theta))
    losses = runner.loss(theta, runner.order, gradient)
    for i in range(n_sequences):
        alone, part = sequences.select([i]), np.empty(len(theta))
        one = Runner(network, alone).loss(theta, np.array([0]), part)
        np.testing.assert_allclose(losses[list(runner.order).index(i)], one[0], rtol=1e-12)
        total += part
    np.testing.assert_allclose(gradient, total, rtol=1e-11, atol=1e-12 * np.abs(total).max())


def test_one_level_is_a_vanilla_network():
    network = Network((6,), (1,), "periodic", "none", (1,), 1, 1)
    leaky = Network((6,), (1,), "leaky", "full", (1,), 1, 1)
    sequences, theta = problem(3, [25], 1, 1), parameters(network, 3)
    parts, x, states = network.split(theta), np.zeros(6), []
    for u in sequences.inputs:
        x = np.tanh(parts["recurrent"][0] @ x + parts["inputs"] @ u + parts["bias"])
        states.append(x)
    np.testing.assert_allclose(Runner(network, sequences).states(theta), states, rtol=0, atol=1e-13)
    np.testing.assert_allclose(Runner(leaky, sequences).states(theta), states, rtol=0, atol=1e-13)


@pytest.mark.parametrize("variant", available())
def test_variants_agree(variant, monkeypatch):
    network = Network((3, 8), (3, 1), "leaky", "full", (1, 2), 2, 3)
    results = []
    for name in (variant, _ext.VARIANT):
        monkeypatch.setattr("hiermm.rnn.network.kernels", _ext.load("rnn", name))
        for classes in (False, True):
            sequences, theta = problem(4, [50] * 13, 2, 3, classes), parameters(network, 4)
            results.append(
                (*kernel_loss(network, theta, sequences, classes), Runner(network, sequences).outputs(theta))
            )
    for one, other in zip(results[:2], results[2:]):
        for a, b in zip(one, other):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("variant", available())
def test_tanh(variant):
    """Relative error of a few units in the last place everywhere, odd, saturating exactly, NaN kept."""
    kernels = _ext.load("rnn", variant)
    x = np.concatenate([np.linspace(-25, 25, 100001), np.logspace(-300, 2, 5001)])
    y, expected = kernels.tanh(x), np.tanh(x.astype(np.longdouble))
    assert np.max(np.abs(y - expected) / np.spacing(np.abs(y))) < 3
    assert np.array_equal(kernels.tanh(-x), -y)
    special = kernels.tanh(np.array([0.0, -0.0, np.inf, -np.inf, 40.0, np.nan, -1e300]))
    assert np.array_equal(special, [0, 0, 1, -1, 1, np.nan, -1], equal_nan=True) and np.signbit(special[1])


def test_nothing_observed_costs_and_teaches_nothing():
    network = Network((3,), (1,), "periodic", "full", (1,), 1, 2)
    for classes in (False, True):
        sequences = problem(6, [5, 9], 1, 2, classes)
        sequences.outputs[:] = np.nan
        loss, gradient = kernel_loss(network, parameters(network, 6), sequences, classes)
        assert loss == 0 and (gradient == 0).all()


def test_large_logits():
    """Certain and wrong by 1e4 nats: finite, exact."""
    network = Network((1,), (1,), "periodic", "full", (1,), 1, 2)
    theta = network.join(
        {"recurrent": [[[0]]], "inputs": [[100]], "bias": [0], "readout": [[1e4], [-1e4]], "readout_bias": [0, 0]}
    )
    sequences = Sequences(np.ones((2, 1)), np.array([[1.0], [0.0]]), np.array([0, 2]))
    loss, gradient = kernel_loss(network, theta, sequences, True)
    assert loss == 2e4 and np.isfinite(gradient).all()


def test_shapes_are_checked():
    network = Network((3,), (1,), "periodic", "full", (1,), 1, 1)
    sequences, theta = problem(0, [5], 1, 1), parameters(network, 0)
    runner = Runner(network, sequences)
    with pytest.raises(ValueError, match="theta has"):
        runner.loss(theta[:-1], runner.order)
    with pytest.raises(ValueError, match="order names sequence 1"):
        runner.loss(theta, np.array([1]))
    with pytest.raises(ValueError, match="gradient must be"):
        runner.loss(theta, runner.order, np.empty(3))
    with pytest.raises(ValueError, match="out has shape"):
        runner.run(theta, out=np.empty((4, 1)))
    runner._scratch[(1, False)] = np.empty(10)
    with pytest.raises(ValueError, match="scratch has 10"):
        runner.loss(theta, runner.order)


def test_against_pytorch():
    """PyTorch's nn.RNN with the same weights: the same loss and the same gradients."""
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    network = Network((20,), (1,), "periodic", "full", (1,), 2, 3)
    theta = parameters(network, 9)
    parts = {name: torch.tensor(value.copy(), requires_grad=True) for name, value in network.split(theta).items()}
    rng = np.random.default_rng(9)
    X, y = rng.normal(size=(12, 40, 2)), rng.normal(size=(12, 40, 3))
    rnn = torch.nn.RNN(2, 20, batch_first=True)
    weights = {
        "weight_ih_l0": parts["inputs"],
        "weight_hh_l0": parts["recurrent"][0],
        "bias_ih_l0": parts["bias"],
        "bias_hh_l0": torch.zeros(20),
    }
    states, _ = torch.func.functional_call(rnn, weights, (torch.tensor(X),))
    loss = 0.5 * ((states @ parts["readout"].T + parts["readout_bias"] - torch.tensor(y)) ** 2).sum()
    loss.backward()
    sequences = Sequences(X.reshape(-1, 2), y.reshape(-1, 3), np.arange(13) * 40)
    found, gradient = kernel_loss(network, theta, sequences, False)
    assert found == pytest.approx(loss.item(), rel=1e-12)
    expected = network.join({name: part.grad.numpy() for name, part in parts.items()})
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
