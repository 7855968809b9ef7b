"""The tasks: seeded, of the stated shapes, balanced, and with an answer that holds when computed by other means."""

import itertools
import re

import numpy as np
import pytest

from hiermm import tasks

MAKERS = {
    "two_sequence": lambda seed: tasks.two_sequence(20, 12, random_state=seed),
    "latch": lambda seed: tasks.latch(20, 12, random_state=seed),
    "parity": lambda seed: tasks.parity(20, 12, random_state=seed),
    "network_generated": lambda seed: tasks.network_generated(20, 12, random_state=seed),
    "multiscale_generated": lambda seed: tasks.multiscale_generated(20, 12, random_state=seed),
    "tomita": lambda seed: tasks.tomita(5, 20, 12, random_state=seed),
}


@pytest.mark.parametrize("name", MAKERS)
def test_seeds(name):
    first, again, other = MAKERS[name](3), MAKERS[name](3), MAKERS[name](4)
    assert np.array_equal(np.concatenate(first.X), np.concatenate(again.X))
    assert np.array_equal(first.y, again.y)
    assert not np.array_equal(np.concatenate(first.X), np.concatenate(other.X))
    assert len(first.X) == len(first.y) == len(first.answer) == 20 and first.DESCR
    assert all(np.isfinite(x).all() for x in first.X) and first.X[0].dtype == np.float64


@pytest.mark.parametrize("name", MAKERS)
def test_a_generator_is_taken_as_a_seed(name):
    rng = np.random.default_rng(0)
    assert not np.array_equal(np.concatenate(MAKERS[name](rng).X), np.concatenate(MAKERS[name](rng).X))


@pytest.mark.parametrize("name", ["two_sequence", "latch", "parity", "tomita"])
def test_classes_are_balanced_and_shuffled(name):
    y = np.concatenate([MAKERS[name](seed).y for seed in range(20)]).reshape(20, 20)
    assert (y.sum(axis=1) == 10).all()
    assert (y.std(axis=0) > 0).all(), "a sequence's place does not tell its class"


# two sequences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 10, 40])
def test_two_sequence_is_answered_by_the_nearest_pattern(length):
    task = tasks.two_sequence(400, length, random_state=1)
    assert task.X.shape == (400, length, 1) and task.bayes_error == 0
    head = task.X[:, :3, 0]
    distance = np.abs(head[:, None] - task.patterns).max(axis=2)
    assert np.array_equal(distance.argmin(axis=1), task.y)
    assert distance.min(axis=1).max() <= 0.1 and (np.abs(task.patterns) <= 1).all()
    assert np.abs(task.X[:, 3:]).max(initial=0) <= 0.1


def test_two_sequence_uniform_noise():
    task = tasks.two_sequence(500, 43, noise=0.5, pattern_noise=0.2, random_state=1)
    tail = task.X[:, 3:].ravel()
    assert abs(tail.var() - 0.5**2 / 3) < 5 * 0.5**2 / np.sqrt(len(tail)) and np.abs(tail).max() > 0.499
    head = (task.X[:, :3, 0] - task.patterns[task.y]).ravel()
    assert 0.19 < np.abs(head).max() <= 0.2


def test_two_sequence_fresh_sequences_share_the_patterns():
    task = tasks.two_sequence(10, 10, random_state=0)
    fresh = tasks.two_sequence(10, 10, patterns=task.patterns, random_state=1)
    assert np.array_equal(fresh.patterns, task.patterns) and not np.array_equal(fresh.X, task.X)


@pytest.mark.parametrize(("gap", "noise"), [((0.1, 0.05, 0.3), 0.2), ((0, 0, 0), 0.1), ((0.5, 0, 0), 0.1)])
def test_two_sequence_bayes_error_by_counting(gap, noise):
    """A sequence whose head fits both boxes is a coin toss; count those."""
    patterns = np.array([[0.0, 0.0, 0.0], gap])
    task = tasks.two_sequence(20_000, 3, noise=noise, patterns=patterns, random_state=0)
    both = (np.abs(task.X[:, None, :, 0] - patterns).max(axis=2) <= noise).all(axis=1).mean()
    assert abs(both / 2 - task.bayes_error) < 0.01
    assert (task.bayes_error == 0) == (both == 0)


def test_two_sequence_markers():
    plain = tasks.two_sequence(6, 8, random_state=2)
    for marker, width in [("start", 1), ("steps", 3)]:
        task = tasks.two_sequence(6, 8, marker=marker, random_state=2)
        assert task.X.shape == (6, 8, 1 + width) and len(task.feature_names) == 1 + width
        assert np.array_equal(task.X[..., :1], plain.X)
        assert np.array_equal(task.X[:, :, 1:], np.broadcast_to(np.eye(8)[:, :width], (6, 8, width)))


# latch and parity ----------------------------------------------------------------------------------------------------


def test_latch_answer_and_noise():
    task = tasks.latch(300, 50, noise=0.3, random_state=0)
    assert task.X.shape == (300, 50, 1)
    assert np.array_equal(task.X[:, 0, 0], np.where(task.y, 1.0, -1.0))
    noise = task.X[:, 1:]
    assert abs(noise.std() - 0.3) < 0.01
    correlation = np.corrcoef(noise.mean(axis=(1, 2)), task.y)[0, 1]
    assert abs(correlation) < 0.2, "the noise tells nothing of the class"


@pytest.mark.parametrize("length", [1, 2, 9])
def test_parity_answer_by_the_product_of_signs(length):
    task = tasks.parity(200, length, random_state=0)
    assert set(np.unique(task.X)) == {-1.0, 1.0}
    odd_minus = np.prod(task.X[..., 0], axis=1) < 0
    assert np.array_equal(task.y, (length - odd_minus) % 2)  # odd number of +1
    assert np.array_equal(task.answer[:, -1], task.y)
    assert np.array_equal(task.answer[:, 0], task.X[:, 0, 0] > 0)
    if length > 1:
        assert abs(task.X[:, -1].mean()) < 0.3, "the last step stays a fair coin"


# grammars ------------------------------------------------------------------------------------------------------------


def odd_zeros_after_odd_ones(text):
    runs = [(symbol, len(list(run))) for symbol, run in itertools.groupby(text)]
    return any(a == ("1", n) and n % 2 and b[1] % 2 for a, b in itertools.pairwise(runs) for n in [a[1]])


BY_OTHER_MEANS = {
    1: lambda text: "0" not in text,
    2: lambda text: text == "10" * (len(text) // 2),
    3: lambda text: not odd_zeros_after_odd_ones(text),
    4: lambda text: "000" not in text,
    5: lambda text: text.count("0") % 2 == text.count("1") % 2 == 0,
    6: lambda text: (text.count("0") - text.count("1")) % 3 == 0,
    7: lambda text: re.fullmatch("0*1*0*1*", text) is not None,
}


def text_of(x):
    return "".join(str(int(u)) for u in x[:, 0])


@pytest.mark.parametrize("grammar", BY_OTHER_MEANS)
def test_tomita_every_string(grammar):
    task = tasks.tomita(grammar, max_length=9)
    strings = [text_of(x) for x in task.X]
    assert sorted(strings) == sorted("".join(s) for k in range(1, 10) for s in itertools.product("01", repeat=k))
    for string, label, prefixes in zip(strings, task.y, task.answer):
        assert label == BY_OTHER_MEANS[grammar](string), string
        assert prefixes.tolist() == [BY_OTHER_MEANS[grammar](string[: k + 1]) for k in range(len(string))]


@pytest.mark.parametrize("grammar", BY_OTHER_MEANS)
def test_tomita_drawn_strings(grammar):
    task = tasks.tomita(grammar, 300, 10, random_state=0)
    assert all(BY_OTHER_MEANS[grammar](text_of(x)) == label for x, label in zip(task.X, task.y))
    assert task.y.sum() == 150 and max(len(x) for x in task.X) == 10
    accepted = {text_of(x) for x, label in zip(task.X, task.y) if label}
    possible = [string for string in accepted if BY_OTHER_MEANS[grammar](string)]
    assert len(possible) >= (5 if grammar == 2 else 10)


def test_tomita_draws_uniformly_among_the_strings_of_a_length():
    """Grammar 4 has 7 strings of 3 symbols: all but 000."""
    task = tasks.tomita(4, 60_000, 3, random_state=0)
    strings = [text_of(x) for x, label in zip(task.X, task.y) if label and len(x) == 3]
    counts = np.array([strings.count("".join(s)) for s in itertools.product("01", repeat=3)])
    assert counts[0] == 0 and np.abs(counts[1:] / counts.sum() - 1 / 7).max() < 5 / np.sqrt(7 * counts.sum())


def test_tomita_published_figures():
    assert len(tasks.PUBLISHED.n_states) == len(tasks.PUBLISHED.mean_accuracy) == 7


# sampled models ------------------------------------------------------------------------------------------------------


def test_network_states_one_unit_at_a_time():
    task = tasks.network_generated(3, 17, n_units=(2, 3), timescales=(4, 1), n_inputs=2, random_state=0)
    net = task.network
    scale = [4, 4, 1, 1, 1]
    for i in range(3):
        x = [0.0] * 5
        for t in range(17):
            u = [np.tanh(net["feedback"][p] @ x + net["feedback_bias"][p]) for p in range(2)]
            if task.clamped[i, t]:
                assert (np.abs(task.X[i, t]) <= 1).all()
                u = task.X[i, t]
            np.testing.assert_allclose(task.X[i, t], u, atol=1e-12)
            drive = [net["recurrent"][0, h] @ x + net["inputs"][h] @ u + net["bias"][h] for h in range(5)]
            x = [np.tanh(drive[h]) if t % scale[h] == 0 else x[h] for h in range(5)]
            np.testing.assert_allclose(task.states[i, t], x, atol=1e-12)
            np.testing.assert_allclose(task.answer[i, t], net["readout"][0] @ x, atol=1e-12)
        assert task.y[i] == task.answer[i, -1]


def test_network_is_clamped_at_the_first_and_at_a_share_of_the_steps():
    task = tasks.network_generated(100, 100, random_state=0)
    assert task.clamped[:, 0].all() and abs(task.clamped[:, 1:].mean() - 0.05) < 0.01
    assert task.y.std() > 0.1, "the network does not settle"
    fresh = tasks.network_generated(5, 100, network=task.network, random_state=1)
    assert fresh.network is task.network and not np.array_equal(fresh.X, task.X[:5])
    free = tasks.network_generated(5, 30, clamped=0, random_state=1)
    assert free.clamped.sum() == 5


def joint_rows(model, u, t):
    """The joint transition matrix of the step into t by enumeration over the states of the levels."""
    sizes = [pi.shape[1] for pi in model["initial"]]
    states = list(itertools.product(*map(range, sizes)))
    A = np.ones((len(states), len(states)))
    for (i, a), (j, b), s in itertools.product(enumerate(states), enumerate(states), range(len(sizes))):
        r, scale = a[s - 1] if s else 0, model["timescales"][s]
        z = model["intercept"][s][r, a[s]] + model["coef"][s][r, a[s]] @ u
        if model["clock"] == "periodic" or scale == 1:
            A[i, j] *= float(a[s] == b[s]) if t % scale else np.exp(z[b[s]]) / np.exp(z).sum()
        elif a[s] == b[s]:
            A[i, j] *= 1 - 1 / scale
        else:
            A[i, j] *= np.exp(z[b[s]]) / (np.exp(z).sum() - np.exp(z[a[s]])) / scale
    return A


@pytest.mark.parametrize("clock", ["sticky", "periodic"])
def test_multiscale_moves_as_often_as_its_matrix_says(clock):
    """With equal inputs for all sequences the counts of moves follow one matrix a step."""
    options = {"n_states": (2, 3), "timescales": (4, 1), "clock": clock, "sharpness": 1.0}
    model = tasks.multiscale_generated(1, 1, random_state=5, **options).model
    model["coef"] = [0 * coef for coef in model["coef"]]
    task = tasks.multiscale_generated(40_000, 6, model=model, random_state=0)
    for t in range(1, 6):
        A = joint_rows(model, np.zeros(1), t)
        counts = np.zeros((6, 6))
        np.add.at(counts, (task.states[:, t - 1], task.states[:, t]), 1)
        n = counts.sum(axis=1, keepdims=True)
        assert n.min() > 500
        assert (np.abs(counts - n * A) <= 5 * np.sqrt(n * A * (1 - A)) + 1e-9).all(), t
    np.testing.assert_allclose(np.bincount(task.states[:, 0]) / 40_000, 1 / 6, atol=0.01)


def test_multiscale_inputs_steer_the_moves():
    """The surprise at the drawn moves is the entropy of the matrix at that step's inputs, and of no other's."""
    task = tasks.multiscale_generated(4000, 2, n_states=(2, 2), timescales=(3, 1), n_inputs=2, random_state=3)
    levels, u = task.answer, task.X[:, 1]
    before = np.ravel_multi_index((levels[:, 0, 0], levels[:, 0, 1]), (2, 2))
    rows = np.array([joint_rows(task.model, u[k], 1)[before[k]] for k in range(4000)])
    surprise = -np.log(rows[np.arange(4000), task.states[:, 1]])
    entropy = -(rows * np.log(rows)).sum(axis=1)
    error = (surprise - entropy).std() / np.sqrt(4000)
    assert abs((surprise - entropy).mean()) < 4 * error < 0.1
    others = np.array([joint_rows(task.model, u[k - 1], 1)[before[k]] for k in range(4000)])
    assert -np.log(others[np.arange(4000), task.states[:, 1]]).mean() > entropy.mean() + 4 * error


def test_multiscale_outputs():
    task = tasks.multiscale_generated(20, 300, n_states=(2, 3), timescales=(16, 1), variance=0.3, random_state=0)
    noise = task.y - 2 * (task.answer[..., 1] - 1.0)
    assert abs(noise.mean()) < 0.05 and abs(noise.var() - 0.3) < 0.03
    assert np.array_equal(task.states, task.answer[..., 0] * 3 + task.answer[..., 1])
    dwell = (np.diff(task.answer[..., 0], axis=1) != 0).mean()
    assert abs(dwell - 1 / 16) < 0.02
    again = tasks.multiscale_generated(2, 10, model=task.model, random_state=1)
    assert again.model is task.model


def test_tomita_strings_of_more_symbols_than_floats_can_count():
    task = tasks.tomita(4, 4, 1500, random_state=0)
    texts = ["".join(str(int(u)) for u in x[:, 0]) for x in task.X]
    assert max(map(len, texts)) > 1024 and [("000" not in text) for text in texts] == task.y.astype(bool).tolist()


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tasks.two_sequence(0, 10), "n_sequences must be a positive integer, got 0"),
        (lambda: tasks.two_sequence(3, 2), "length must be at least 3"),
        (lambda: tasks.two_sequence(3, 4.0), "length must be a positive integer"),
        (lambda: tasks.two_sequence(3, 4, noise=-1), "noise must be finite"),
        (lambda: tasks.two_sequence(3, 4, pattern_noise=np.nan), "pattern_noise must be finite"),
        (lambda: tasks.two_sequence(3, 4, patterns=np.zeros((2, 4))), r"patterns must have shape \(2, 3\)"),
        (lambda: tasks.two_sequence(3, 4, noise="much"), "noise must be finite and at least 0, got 'much'"),
        (lambda: tasks.two_sequence(3, 4, patterns=np.full((2, 3), np.nan)), "patterns must be finite"),
        (lambda: tasks.two_sequence(3, 4, marker="end"), "marker must be"),
        (lambda: tasks.two_sequence(3, 4, marker=["start"]), "marker must be"),
        (lambda: tasks.latch(3, 4, noise=np.inf), "noise must be finite"),
        (lambda: tasks.parity(3, True), "length must be a positive integer, got True"),
        (lambda: tasks.tomita(8), "grammar must be one of 1 to 7, got 8"),
        (lambda: tasks.tomita(1, max_length=21), "up to 20 symbols only"),
        (lambda: tasks.tomita(5, 10, 1), "no string of 1 to 1 symbols is accepted"),
        (lambda: tasks.network_generated(3, 4, clamped=1.5), r"clamped must lie in \[0, 1\]"),
        (lambda: tasks.network_generated(3, 4, n_units=(), timescales=()), "n_units must hold a number for each level"),
        (lambda: tasks.network_generated(3, 4, n_units=4), "n_units must hold a number for each level, got 4"),
        (lambda: tasks.network_generated(3, 4, n_units=(2, 2), timescales=(1,)), "n_units has 2 levels"),
        (lambda: tasks.multiscale_generated(3, 4, n_states=(2,), timescales=(2, 1)), "n_states has 1 levels"),
        (lambda: tasks.multiscale_generated(3, 4, n_states=(), timescales=()), "n_states must hold a number"),
        (lambda: tasks.multiscale_generated(3, 4, variance="a"), "variance must be positive, got 'a'"),
        (lambda: tasks.multiscale_generated(3, 4, variance=0), "variance must be positive"),
        (lambda: tasks.multiscale_generated(3, 4, clock="leaky"), "clock must be"),
        (lambda: tasks.multiscale_generated(3, 4, timescales=(2.5, 1)), "timescales must be a positive integer"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
