"""MultiscaleRNN as a user meets it: labels, forms of data, known parameters, operators, refusals."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from rnn_cases import QUICK, echo, known, quiet, signs
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from hiermm import MultiscaleRNN


@quiet
@pytest.mark.parametrize(
    "labels",
    [["a", "b"], [0, 1], [-1, 1], [True, False], [("x", 1), ("y", 2)], [1.0, 2.0], [None, "b", "c"]],
    ids=str,
)
def test_labels(labels):
    X, _ = signs(2)
    rng = np.random.default_rng(0)
    y = []
    for x in X:
        part = np.empty(len(x), dtype=object)
        part[:] = [labels[i] for i in rng.integers(0, len(labels), len(x))]
        y.append(part if isinstance(labels[-1], (str, tuple)) else np.array(part.tolist()))
    model = MultiscaleRNN(**QUICK).fit(X, y)
    observed = {label for label in labels if label is not None}
    assert model.output_ == "classification" and set(model.classes_.tolist()) == observed
    assert set(np.concatenate(model.predict(X)).tolist()) <= observed
    proba = model.predict_proba(X)[0]
    assert proba.shape == (len(X[0]), len(observed))
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-14)
    code = {label: k for k, label in enumerate(model.classes_.tolist())}
    expected = [
        sum(np.log(p[code[label]]) for p, label in zip(part, target.tolist()) if label is not None)
        for part, target in zip(model.predict_proba(X), y)
    ]
    np.testing.assert_allclose(model.sequence_log_likelihoods(X, y), expected, rtol=1e-10)


@quiet
def test_numbers_of_any_type_are_quantities_unless_whole():
    X = np.zeros((4, 1))
    for kind in (float, Decimal, Fraction):
        mixed, whole = [kind(1) / 2, None, kind(2), kind(1)], [kind(0), None, kind(2), kind(1)]
        outputs = [MultiscaleRNN(**{**QUICK, "max_iter": 1}).fit(X, y).output_ for y in (mixed, whole)]
        assert outputs == ["regression", "classification"]


@quiet
def test_one_target_a_sequence_belongs_to_the_last_step():
    X, y = signs(3)
    spread = [[None] * (len(x) - 1) + [label] for x, label in zip(X, y)]
    short, long = MultiscaleRNN(**QUICK).fit(X, y), MultiscaleRNN(**QUICK).fit(X, spread)
    assert np.array_equal(short.readout_, long.readout_)
    numbers = np.random.default_rng(0).normal(size=len(X))
    model = MultiscaleRNN(**QUICK).fit(X, numbers)
    last = np.array([part[-1] for part in model.predict(X)])
    assert model.noise_variance_[0] == pytest.approx(np.mean((last - numbers) ** 2), rel=1e-9)
    assert model.output_ == "regression"


@quiet
def test_forms_of_data_agree():
    X, y = echo(7, 6, unequal=False)
    as_list = MultiscaleRNN(**QUICK).fit(X, y)
    stacked = MultiscaleRNN(**QUICK).fit(np.stack(X), np.stack(y))
    packed = MultiscaleRNN(**QUICK).fit(np.concatenate(X), np.concatenate(y), lengths=[30] * 6)
    assert np.array_equal(as_list.readout_, stacked.readout_) and np.array_equal(as_list.readout_, packed.readout_)
    assert np.array_equal(np.stack(as_list.predict(X)), stacked.predict(np.stack(X)))
    assert np.array_equal(stacked.predict(np.stack(X)).ravel(), packed.predict(np.concatenate(X), lengths=[30] * 6))
    assert stacked.hidden_states(np.stack(X)).shape == (6, 30, 7)
    total = packed.log_likelihood(np.concatenate(X), np.concatenate(y), lengths=[30] * 6)
    assert total == pytest.approx(as_list.sequence_log_likelihoods(X, y).sum(), rel=1e-12)


def test_filtering_only():
    """What is said at t does not change with later inputs."""
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = known(1, 3, output="classification")
    assert np.array_equal(model.predict_proba(X)[:12], model.predict_proba(X[:12]))


def test_operators():
    X = [np.random.default_rng(0).normal(size=(n, 2)) for n in (9, 1, 5)]
    ops = known(2).operators(X)
    assert ops.kind == "jacobian" and ops.runs() == [(0, 8), (8, 8), (8, 12)] and ops.n_states == 7
    assert np.array_equal(ops.take(0, 1)[0][:3], np.eye(7)[:3])
    with pytest.raises(MemoryError, match="GiB"):
        known(2).operators(np.zeros((6_000_000, 2)))
    with pytest.raises(ValueError, match="needs X"):
        known(2).operators()


def test_long_sequences_need_little_memory():
    """Gradients of 200,000 steps by blocks: the scratch stays far below what all states would take."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200_000, 2)), rng.normal(size=200_000)
    model = known(3).set_params(warm_start=True, max_iter=1)
    from hiermm.rnn.network import BUDGET, Runner, kernels
    from hiermm.sequences import inputs_outputs

    network, theta = model._fitted()
    runner = Runner(network, inputs_outputs(X, y))
    runner.loss(theta, runner.order, np.empty(len(theta)))
    assert max(len(s) for s in runner._scratch.values()) < 1.2 * BUDGET < 200_000 * 7 * 8 * kernels.LANES


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clock": "sticky"}, "clock must be one of"),
        ({"coupling": "all"}, "coupling must be one of"),
        ({"solver": "newton"}, "solver must be one of"),
        ({"output": "both"}, "output must be one of"),
        ({"initialization": "zeros"}, "initialization must be one of"),
        ({"n_units": (3,)}, "timescales has 2 entries for 1 levels"),
        ({"n_units": (3, 0)}, "n_units must be"),
        ({"n_units": 3}, "n_units must be"),
        ({"timescales": (2.5, 1)}, "timescales must be"),
        ({"delays": ()}, "delays must be"),
        ({"delays": (1, 1)}, "delays must be distinct"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"learning_rate_init": 0.0}, "learning_rate_init must be"),
        ({"alpha": -1.0}, "alpha must be"),
        ({"tol": np.nan}, "tol must be"),
        ({"momentum": 1.0}, "momentum must"),
        ({"clip_norm": 0.0}, "clip_norm must be"),
        ({"validation_fraction": 1.0}, "validation_fraction must"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"n_init": True}, "n_init must be"),
        ({"learning_rate_init": "fast"}, "learning_rate_init must be a number, got 'fast'"),
        ({"clip_norm": "a"}, "clip_norm must be None or positive"),
        ({"callback": 3}, "callback must be None or a function, got 3"),
        ({"clock": np.array(["periodic", "leaky"])}, "clock must be one of"),
        ({"batch_size": np.array([2, 3])}, "batch_size must be"),
        ({"timescales": (10**30, 1)}, "timescales must be at most"),
        ({"delays": (1, 10**12)}, "delays must be at most"),
        ({"n_units": (10**6, 1)}, r"n_units=.* asks for recurrent weights of 7.45e\+03 GiB"),
        ({"guess_range": 1e308}, "guess_range must be positive and finite"),
    ],
)
def test_hyperparameters_are_checked_in_fit(options, message):
    model = MultiscaleRNN(**{**QUICK, **options})
    with pytest.raises(ValueError, match=message):
        model.fit(*echo(0, 3))


@quiet
def test_data_are_checked():
    X, y = signs(0, 4)
    model = MultiscaleRNN(**QUICK)
    with pytest.raises(ValueError, match="requires y"):
        model.fit(X)
    with pytest.raises(ValueError, match="every output is missing"):
        model.fit(X, [None] * 4)
    with pytest.raises(ValueError, match="every output is missing"):
        model.fit(X, [np.full(len(x), np.nan) for x in X])
    with pytest.raises(ValueError, match="two with observed"):
        MultiscaleRNN(**QUICK, early_stopping=True).fit(X[0], np.arange(len(X[0])) / 7)
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.fit(X, y)
    with pytest.raises(ValueError, match="'sideways' is not among the classes"):
        model.score(X, ["up", "down", "up", "sideways"])
    with pytest.raises(ValueError, match="features"):
        model.predict([x[:, :1] for x in X])
    with pytest.raises(ValueError, match=r"^sequence 0, step 1: output 1e\+200"):
        MultiscaleRNN(**QUICK).fit(np.zeros((3, 1)), [0.5, 1e200, -1.0])
    with pytest.raises(ValueError, match="every output is missing"):
        model.score(X, [None] * 4)
    with pytest.raises(ValueError, match="column 1 of the outputs has no observed value"):
        MultiscaleRNN(**QUICK).fit(np.zeros((3, 1)), np.array([[0.5, np.nan], [1.0, np.nan], [2.0, np.nan]]))
    numbers = MultiscaleRNN(**QUICK).fit(*echo(0, 3))
    with pytest.raises(ValueError, match="y has 2 columns"):
        numbers.score(echo(0, 3)[0][0], np.zeros((len(echo(0, 3)[0][0]), 2)))
    assert not hasattr(numbers, "predict_proba")


def test_known_parameters_are_checked():
    zeros = {"recurrent": (1, 2, 2), "inputs": (2, 1), "bias": (2,), "readout": (1, 2), "readout_bias": (1,)}
    zeros = {name: np.zeros(shape) for name, shape in zeros.items()} | {"n_units": (2,), "timescales": (1,)}
    MultiscaleRNN.from_parameters(**zeros)
    with pytest.raises(ValueError, match="inputs must have shape"):
        MultiscaleRNN.from_parameters(**zeros | {"inputs": np.zeros((3, 1))})
    for name in ("recurrent", "inputs", "bias", "readout", "readout_bias"):
        for value in (np.nan, np.inf):
            with pytest.raises(ValueError, match=rf"^{name}\[0.* is not finite"):
                MultiscaleRNN.from_parameters(**zeros | {name: zeros[name] + value})
    with pytest.raises(ValueError, match="noise_variance must hold 1 positive"):
        MultiscaleRNN.from_parameters(**zeros, noise_variance=[np.inf])
    with pytest.raises(ValueError, match="noise_variance"):
        known(0, noise_variance=[-1.0])
    with pytest.raises(ValueError, match="classes has 2 labels"):
        known(0, 3, classes=["a", "b"])
    with pytest.raises(ValueError, match="classes must be distinct"):
        known(0, 3, classes=["a", "b", "a"])
    model = known(0, 3, classes=["a", "b", "c"])
    assert model.predict(np.zeros((4, 2))).tolist()[0] in "abc"
    assert model.n_parameters_ == 49 + 14 + 7 + 2 * 8
    turned, u = known(0, 3, classes=[7, 1, 3]), np.zeros((1, 2))
    for column, label in enumerate([7, 1, 3]):
        assert turned.score(u, [label]) == pytest.approx(np.log(turned.predict_proba(u)[0, column]), rel=1e-12)


def test_constant_and_perfect_outputs_are_finite():
    X = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.warns(ConvergenceWarning):
        model = MultiscaleRNN(**QUICK).fit(X, np.full(50, 3.5))
    assert np.isfinite(model.score(X, np.full(50, 3.5))) and (model.noise_variance_ > 0).all()
