"""MultiscaleRNN inside scikit-learn: its own checks, clones, pipelines, searches over lists of sequences, pickles."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hiermm import MultiscaleRNN

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL = {"n_units": (2, 2), "timescales": (2, 1), "max_iter": 3, "random_state": 0}
EXPECTED_FAILURES = {
    "check_methods_sample_order_invariance": "rows are steps of a sequence: their order is what the model looks at",
    "check_methods_subset_invariance": "the prediction of a step depends on the steps before it",
    "check_estimators_empty_data_messages": "a network without inputs (X of shape (T, 0)) is a legal model",
}


@parametrize_with_checks(
    [MultiscaleRNN(**SMALL), MultiscaleRNN(**SMALL, output="regression", clock="leaky", delays=(1, 3))],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def sequences(n=12, seed=0):
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(rng.integers(5, 12), 2)) for _ in range(n)]
    return X, ["up" if x[0, 0] > 0 else "down" for x in X], [x[:, 0] + 1 for x in X]


def test_clone_and_parameters():
    model = MultiscaleRNN((3, 5), timescales=(8, 2), delays=(1, 4), clip_norm=None)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(max_iter=7).max_iter == 7
    assert not any(name.endswith("_") for name in vars(model)), "the constructor stores arguments and nothing else"


@pytest.mark.parametrize("labels", [True, False])
def test_pickle(labels):
    X, names, numbers = sequences()
    y = names if labels else numbers
    model = MultiscaleRNN(**SMALL).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    assert copy.score(X, y) == model.score(X, y)
    assert all(np.array_equal(a, b) for a, b in zip(copy.predict(X), model.predict(X)))


@pytest.mark.parametrize("labels", [True, False])
def test_cross_validation_over_a_list_of_sequences(labels):
    X, names, numbers = sequences()
    y = names if labels else numbers
    scores = cross_val_score(MultiscaleRNN(**SMALL), X, y, cv=3, error_score="raise")
    assert scores.shape == (3,) and np.isfinite(scores).all()
    train = MultiscaleRNN(**SMALL).fit(X[4:], y[4:])
    assert scores[0] == pytest.approx(train.score(X[:4], y[:4]), rel=1e-12), "folds are whole sequences"


def test_grid_search():
    X, _, y = sequences()
    grid = {"clock": ["periodic", "leaky"], "timescales": [(2, 1), (4, 1)]}
    search = GridSearchCV(MultiscaleRNN(**SMALL), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_ in [
        dict(zip(grid, pair)) for pair in [(c, t) for c in grid["clock"] for t in grid["timescales"]]
    ]
    assert search.score(X, y) == pytest.approx(search.best_estimator_.score(X, y))


def test_pipeline_does_not_take_y_for_lengths():
    rng = np.random.default_rng(0)
    X, y = rng.normal(3.0, 5.0, (60, 2)), rng.normal(size=60)
    pipeline = make_pipeline(StandardScaler(), MultiscaleRNN(**SMALL)).fit(X, y)
    alone = MultiscaleRNN(**SMALL).fit(StandardScaler().fit_transform(X), y)
    assert pipeline.score(X, y) == alone.score(StandardScaler().fit_transform(X), y)
    by_length = pipeline.fit(X, y, multiscalernn__lengths=[20, 40])
    assert by_length.predict(X).shape == (60,)


def test_input_forms():
    """float32, integers, Fortran order, read-only and strided memory give the same answer."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(-3, 4, (40, 2)).astype(float), rng.integers(-9, 9, 40) / 4
    model = MultiscaleRNN(**SMALL).fit(X, y)
    expected = model.score(X, y)
    frozen, wide = X.copy(), np.repeat(X, 2, axis=1)
    frozen.flags.writeable = False
    for form in (X.astype(np.float32), X.astype(int), np.asfortranarray(X), frozen, wide[:, ::2], X.tolist()):
        assert model.score(form, y) == expected
        assert np.array_equal(clone(model).fit(form, y).recurrent_, model.recurrent_)


def test_names_of_features_hold_for_every_frame_of_a_list():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 2)), columns=["speed", "turn"])
    model = MultiscaleRNN(**SMALL).fit([frame, frame], [frame["speed"]] * 2)
    assert model.feature_names_in_.tolist() == ["speed", "turn"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict([frame, frame[["turn", "speed"]]])
