"""Training a MultiscaleRNN: learning, history, restarts, stopping, going on."""

import itertools
import pickle

import numpy as np
import oracles_rnn as oracles
import pytest
from rnn_cases import QUICK, echo, known, quiet, signs
from sklearn.exceptions import ConvergenceWarning

from hiermm import MultiscaleRNN
from hiermm.rnn.network import COUPLINGS
from hiermm.rnn.training import Momentum
from hiermm.tasks import two_sequence


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
def test_warm_start_takes_up_new_options():
    X, y = echo(3, 12)
    model = MultiscaleRNN(**QUICK, warm_start=True).fit(X, y)
    before = model.recurrent_.copy()
    model.set_params(learning_rate_init=1e-13, max_iter=1).fit(X, y)
    np.testing.assert_allclose(model.recurrent_, before, atol=1e-9)
    model.set_params(solver="sgd", learning_rate_init=0.1, max_iter=3).fit(X, y)
    assert isinstance(model._training.optimiser, Momentum)
    assert np.abs(model.recurrent_ - before).max() > 1e-6
    model.set_params(alpha=1e4, solver="lbfgs", max_iter=50).fit(X, y)
    assert np.abs(model.recurrent_).max() < 0.1 * np.abs(before).max()  # not the best of those without a penalty


@quiet
@pytest.mark.parametrize(
    "change", [{"n_units": (3, 5)}, {"delays": (1, 2)}, {"coupling": "none"}, {"output": "classification"}]
)
def test_warm_start_with_another_shape_is_refused(change):
    X, y = echo(3, 12)
    model = MultiscaleRNN(**QUICK, warm_start=True).fit(X, y)
    before = model.score(X, y)
    with pytest.raises(ValueError, match=f"but {next(iter(change))} is now"):
        model.set_params(**change).fit(X, y)
    assert model.score(X, y) == before


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
    calmer = model.set_params(warm_start=True, learning_rate_init=1e-3, clip_norm=1.0, max_iter=5)
    before = model.score(X, y)
    with pytest.warns(ConvergenceWarning, match="max_iter=5"):
        calmer.fit(X, y)
    assert len(calmer.history_) == model.n_iter_ + 1 and calmer.score(X, y) > before, "it goes on from what was kept"


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
    again = model.set_params(warm_start=True)
    with pytest.warns(ConvergenceWarning, match="max_iter=8"):
        again.fit(X, y)
    assert again.n_iter_ == 12


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


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("make", [echo, signs])
def test_a_start_that_is_good_enough_is_kept(make, early_stopping):
    X, y = make(0, 6)
    model = MultiscaleRNN(**QUICK, solver="lbfgs", tol=1e9, early_stopping=early_stopping).fit(X, y)
    assert model.converged_ and model.n_iter_ == 0
    assert model.history_ == [model.score(X, y)]
