"""MultiscaleRNN as a user meets it: learning, stopping, likelihoods, labels, known parameters."""

import itertools
import pickle

import numpy as np
import oracles_rnn as oracles
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from hiermm import MultiscaleRNN
from hiermm.rnn.network import COUPLINGS
from hiermm.tasks import two_sequence

QUICK = {"n_units": (3, 4), "timescales": (4, 1), "max_iter": 8, "random_state": 0}
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def echo(seed, n_sequences=40, delay=3, unequal=True):
    """Regression with a known answer: y_t = u_{t-delay}."""
    rng = np.random.default_rng(seed)
    X = [rng.uniform(-1, 1, (rng.integers(20, 40) if unequal else 30, 1)) for _ in range(n_sequences)]
    return X, [np.concatenate([np.full(delay, np.nan), x[:-delay, 0]]) for x in X]


def signs(seed, n_sequences=60):
    """Classification with a known answer: the sign of the first input, asked for at the end."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(rng.integers(8, 16), 2)) for _ in range(n_sequences)]
    return X, ["up" if x[0, 0] > 0 else "down" for x in X]


def known(seed, n_outputs=1, **options):
    rng = np.random.default_rng(seed)
    arrays = {
        "recurrent": rng.normal(size=(1, 7, 7)) / 3,
        "inputs": rng.normal(size=(7, 2)),
        "bias": rng.normal(size=7),
        "readout": rng.normal(size=(n_outputs, 7)),
        "readout_bias": rng.normal(size=n_outputs),
    }
    return MultiscaleRNN.from_parameters(**arrays, n_units=(3, 4), timescales=(4, 1), **options)


# -- learning --------------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_learns_to_remember(solver):
    """An echo three steps old is learnt, and held-out data show it; a few epochs do not suffice."""
    X, y = echo(0)
    fresh, wanted = echo(1)
    rate = {"adam": 1e-2, "sgd": 5e-2, "lbfgs": 1.0}[solver]
    options = {"n_units": (4, 8), "timescales": (2, 1), "solver": solver, "learning_rate_init": rate, "random_state": 0}
    early = MultiscaleRNN(**options, max_iter=2).fit(X, y)
    model = MultiscaleRNN(**options, max_iter=400).fit(X, y)
    error = np.nanmean((np.concatenate(model.predict(fresh)) - np.concatenate(wanted)) ** 2)
    first = np.nanmean((np.concatenate(early.predict(fresh)) - np.concatenate(wanted)) ** 2)
    variance = 1 / 3
    assert error < 0.05 * variance < 0.3 * variance < first
    assert model.score(fresh, wanted) > early.score(fresh, wanted) + 1.0


def test_two_sequence_problem():
    """The paper's first experiment at T = 100: solved on fresh sequences, by its levels and not by its start."""
    task = two_sequence(30, 100, random_state=0)
    X, y = task.X, task.y
    model = MultiscaleRNN((8, 8), timescales=(16, 1), max_iter=300, random_state=0)
    before = MultiscaleRNN((8, 8), timescales=(16, 1), max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning):
        before.fit(X, y)
    model.fit(X, y)
    right = np.mean([p[-1] == t for p, t in zip(model.predict(X), y)])
    assert right == 1 and model.score(X, y) > -0.05 > before.score(X, y) + 0.3


@quiet
@pytest.mark.parametrize("coupling, solver", list(itertools.product(COUPLINGS, ["adam", "sgd", "lbfgs", "random"])))
def test_forbidden_connections_stay_zero(coupling, solver):
    X, y = echo(2, 10)
    model = MultiscaleRNN((2, 3, 3), timescales=(4, 2, 1), coupling=coupling, delays=(1, 2), solver=solver, max_iter=5)
    model.fit(X, y)
    mask = oracles.rnn_mask((2, 3, 3), coupling)
    assert (model.recurrent_[:, ~mask] == 0).all()
    assert (model.recurrent_[:, mask] != 0).all()
    weights = 2 * mask.sum() + 8 * 1 + 8 + 8 + 1
    assert model.n_parameters_ == weights + 1, "with the noise variance"


@quiet
@pytest.mark.parametrize("initialization", ["orthogonal", "uniform", "identity"])
def test_starts(initialization):
    X, y = echo(2, 10)
    options = {"timescales": (8, 1), "learning_rate_init": 1e-12, "max_iter": 1}
    model = MultiscaleRNN((4, 4), initialization=initialization, **options)
    W = model.fit(X, y).recurrent_[0]
    if initialization == "orthogonal":
        np.testing.assert_allclose(W @ W.T, np.eye(8), atol=1e-9)
    elif initialization == "identity":
        np.testing.assert_allclose(W[:4, :4], np.eye(4), atol=1e-9)
    else:
        assert np.abs(W).max() < 1 / np.sqrt(8)


# -- what a fit leaves behind ----------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs", "random"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"early_stopping": True}, {"n_init": 2}])
@pytest.mark.parametrize("make", [echo, signs])
def test_history_ends_with_the_score(solver, options, make):
    X, y = make(0)
    model = MultiscaleRNN(**QUICK, solver=solver, **options).fit(X, y)
    assert len(model.history_) == model.n_iter_ + 1
    assert model.history_[-1] == model.score(X, y)
    assert np.isfinite(model.history_).all()
    assert len(model.validation_history_) == (model.n_iter_ if options.get("early_stopping") else 0)


@quiet
@pytest.mark.parametrize("make", [echo, signs])
def test_full_batch_history_is_exact(make):
    """With one batch an epoch, the history holds the scores of the parameters that each epoch started from."""
    X, y = make(0)
    visited = []
    options = {**QUICK, "batch_size": 10**6, "callback": lambda progress: visited.append(progress.model())}
    model = MultiscaleRNN(**options).fit(X, y)
    assert len(visited) == model.n_iter_
    for k, start in enumerate(visited):
        if start.output_ == "regression":  # the history knows each epoch's own noise variance
            residual = np.concatenate(start.predict(X)) - np.concatenate(y)
            start.noise_variance_ = np.array([np.nanmean(residual**2)])
        assert model.history_[k] == pytest.approx(start.score(X, y), rel=1e-10)


@quiet
def test_noise_variance_is_the_mean_squared_error():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) * [1.0, 50.0] + [0.0, 1e4]
    y[3, 0] = y[7] = np.nan
    model = MultiscaleRNN(**QUICK).fit(X, y)
    residual = model.predict(X) - y
    np.testing.assert_allclose(model.noise_variance_, np.nanmean(residual**2, axis=0), rtol=1e-10)
    logs = -0.5 * (residual**2 / model.noise_variance_ + np.log(2 * np.pi * model.noise_variance_))
    assert model.log_likelihood(X, y) == pytest.approx(np.nansum(logs), rel=1e-12)
    assert model.score(X, y) == pytest.approx(np.nansum(logs) / 199, rel=1e-12)
    assert model.n_parameters_ == 49 + 14 + 7 + 14 + 2 + 2


@quiet
@pytest.mark.parametrize("options", [{}, {"batch_size": 5}, {"early_stopping": True}, {"solver": "sgd"}])
def test_warm_start_equals_the_uninterrupted_run(options):
    X, y = echo(3, 12)
    options = {**QUICK, "tol": 0, "n_iter_no_change": 1000, **options}
    once = MultiscaleRNN(**{**options, "max_iter": 12}).fit(X, y)
    twice = MultiscaleRNN(**{**options, "max_iter": 6}, warm_start=True).fit(X, y)
    twice = pickle.loads(pickle.dumps(twice)).fit(X, y)
    assert np.array_equal(once.recurrent_, twice.recurrent_)
    assert once.history_[-1] == twice.history_[-1] and twice.n_iter_ == 12


@quiet
def test_warm_start_from_known_parameters():
    X, y = np.random.default_rng(0).normal(size=(2, 100, 2))
    model = known(0, 2)
    before = model.predict(X)
    model.set_params(warm_start=True, max_iter=1, learning_rate_init=1e-13).fit(X, y)
    np.testing.assert_allclose(model.predict(X), before, atol=1e-9)


@quiet
def test_seeds():
    X, y = signs(0)
    fits = [MultiscaleRNN(**{**QUICK, "random_state": s}, batch_size=8).fit(X, y) for s in (0, 0, 1)]
    assert np.array_equal(fits[0].readout_, fits[1].readout_)
    assert not np.array_equal(fits[0].readout_, fits[2].readout_)
    runs = [MultiscaleRNN(**QUICK, n_init=3, n_jobs=n).fit(X, y) for n in (1, 2)]
    assert np.array_equal(runs[0].readout_, runs[1].readout_)


@quiet
def test_restarts_keep_the_best():
    X, y = signs(0)
    several = MultiscaleRNN(**QUICK, n_init=4).fit(X, y)
    assert several.score(X, y) > MultiscaleRNN(**QUICK).fit(X, y).score(X, y) - 1e-12
    assert several.n_iter_ == 8


@quiet
def test_random_guessing_keeps_the_best_draw():
    X, y = signs(0)
    scores = [MultiscaleRNN(**{**QUICK, "max_iter": n}, solver="random").fit(X, y).score(X, y) for n in (1, 10, 100)]
    assert scores[0] < scores[1] < scores[2]


def test_training_that_diverges_says_so_and_keeps_the_best():
    X, y = echo(4, 10)
    model = MultiscaleRNN(**{**QUICK, "max_iter": 100}, solver="sgd", learning_rate_init=100.0, clip_norm=None)
    with pytest.warns(ConvergenceWarning, match="diverged in epoch"):
        model.fit(X, y)
    assert not model.converged_ and np.isfinite(model.score(X, y))
    assert model.score(X, y) >= model.history_[0]


def test_convergence():
    X, y = echo(5, 10)
    model = MultiscaleRNN(**{**QUICK, "max_iter": 500}, tol=1.0, n_iter_no_change=3).fit(X, y)
    assert model.converged_ and model.n_iter_ == 4
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        assert not MultiscaleRNN(**{**QUICK, "max_iter": 2}).fit(X, y).converged_


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_early_stopping_keeps_what_was_best_on_held_out_sequences(solver):
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(10, 1)) for _ in range(20)]
    y = [rng.normal(size=10) for _ in X]  # nothing to learn: training longer only overfits
    options = {
        "n_units": (10, 10),
        "timescales": (2, 1),
        "solver": solver,
        "learning_rate_init": 0.02,
        "max_iter": 400,
        "random_state": 0,
    }
    model = MultiscaleRNN(**options, early_stopping=True, validation_fraction=0.3, n_iter_no_change=10).fit(X, y)
    assert model.n_iter_ < 400
    assert np.argmax(model.validation_history_) == pytest.approx(model.n_iter_ - 11, abs=1)


@quiet
def test_callback_stops_and_sees_the_model():
    X, y = signs(1)
    seen = []

    def callback(progress):
        seen.append((progress.n_iter, progress.n_updates, progress.model()))
        return progress.n_iter == 3

    model = MultiscaleRNN(**QUICK, batch_size=20, callback=callback).fit(X, y)
    assert [s[:2] for s in seen] == [(1, 3), (2, 6), (3, 9)] and model.n_updates_ == 9
    assert np.array_equal(seen[-1][2].readout_, model.readout_) and model.converged_


def test_interruption_leaves_a_model():
    X, y = signs(1)

    def callback(progress):
        if progress.n_iter == 4:
            raise KeyboardInterrupt

    model = MultiscaleRNN(**QUICK, callback=callback)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == 4 and model.history_[-1] == model.score(X, y)


@quiet
def test_progress_bar(capsys):
    X, y = signs(1)
    MultiscaleRNN(**QUICK, verbose=1).fit(X, y)
    assert "MultiscaleRNN" in capsys.readouterr().err
    MultiscaleRNN(**QUICK).fit(X, y)
    assert capsys.readouterr().err == ""


@quiet
def test_penalty_shrinks_weights_and_spares_biases():
    X, y = echo(6, 20)
    y = [part + 100.0 for part in y]
    sizes, biases = [], []
    for alpha in (0.0, 1e6):
        model = MultiscaleRNN(**{**QUICK, "max_iter": 300}, alpha=alpha, solver="lbfgs").fit(X, y)
        sizes.append(np.abs(model.readout_).max())
        biases.append(model.readout_bias_[0])
    assert sizes[1] < 1e-2 * sizes[0] and biases[1] == pytest.approx(np.nanmean(np.concatenate(y)), rel=1e-6)


# -- outputs of every kind -------------------------------------------------------------------------------------------


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


# -- refusals --------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="every output is missing"):
        model.score(X, [None] * 4)
    numbers = MultiscaleRNN(**QUICK).fit(*echo(0, 3))
    with pytest.raises(ValueError, match="y has 2 columns"):
        numbers.score(echo(0, 3)[0][0], np.zeros((len(echo(0, 3)[0][0]), 2)))
    assert not hasattr(numbers, "predict_proba")


def test_known_parameters_are_checked():
    with pytest.raises(ValueError, match="inputs must have shape"):
        MultiscaleRNN.from_parameters(
            recurrent=np.zeros((1, 2, 2)), inputs=np.zeros((3, 1)), bias=np.zeros(2), readout=np.zeros((1, 2)),
            readout_bias=np.zeros(1), n_units=(2,), timescales=(1,),
        )  # fmt: skip
    with pytest.raises(ValueError, match="noise_variance"):
        known(0, noise_variance=[-1.0])
    with pytest.raises(ValueError, match="classes has 2 labels"):
        known(0, 3, classes=["a", "b"])
    model = known(0, 3, classes=["a", "b", "c"])
    assert model.predict(np.zeros((4, 2))).tolist()[0] in "abc"
    assert model.n_parameters_ == 49 + 14 + 7 + 2 * 8


def test_constant_and_perfect_outputs_are_finite():
    X = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.warns(ConvergenceWarning):
        model = MultiscaleRNN(**QUICK).fit(X, np.full(50, 3.5))
    assert np.isfinite(model.score(X, np.full(50, 3.5))) and (model.noise_variance_ > 0).all()
