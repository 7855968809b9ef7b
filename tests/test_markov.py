"""The models as users meet them: labels, counts of parameters, refusals, scikit-learn's tools."""

import numpy as np
import pandas as pd
import pytest
from markov_cases import driven_model, gaussian_model, quiet
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hiermm import HMM, IOHMM, MultiscaleHMM, MultiscaleIOHMM
from hiermm.emissions import Categorical, Gaussian, LinearGaussian, Logistic, Poisson, PoissonRegression, Product


def test_names_of_features_follow_the_last_fit(series):
    X = series[0]
    frame = pd.DataFrame(X, columns=["height"])
    model = quiet(HMM(2, max_iter=1, random_state=0), [frame[:300], frame[300:]])
    assert model.feature_names_in_.tolist() == ["height"]
    with pytest.raises(ValueError, match="feature names"):
        model.score([pd.DataFrame(X, columns=["weight"])])
    with pytest.raises(ValueError, match="feature names"):
        model.score([frame, pd.DataFrame(X, columns=["weight"])])
    assert not hasattr(quiet(model, [X[:300], X[300:]]), "feature_names_in_")


def test_numbers_are_no_words_and_words_no_numbers():
    words = quiet(HMM(2, emission="categorical", max_iter=2, random_state=0), np.array([["1"], ["2"], ["1"]]))
    with pytest.raises(ValueError, match=r"step 0: label 1.0 is not among the classes .'1', '2'. seen in fit"):
        words.score([[1], [2]])
    codes = np.array([[0.0], [2.0], [np.nan], [2.0], [0.0]])
    known = quiet(HMM(2, emission="categorical", max_iter=2, random_state=0), codes)
    objects = np.array([[0], [2], [None], [2], [0]], dtype=object)
    for X in [objects, objects.tolist(), pd.DataFrame(objects), pd.DataFrame({"code": objects[:, 0]}, dtype="Int64")]:
        model = quiet(HMM(2, emission="categorical", max_iter=2, random_state=0), X)
        assert not hasattr(model, "classes_")
        np.testing.assert_array_equal(model.emission_.probs_, known.emission_.probs_)
    assert known.score(objects) == known.score(codes)
    with pytest.raises(ValueError, match="X holds labels, but this model was fitted to symbol codes"):
        known.score([["a"]])


def test_shared_slopes_from_parameters():
    known = {"coef": np.ones((2, 2, 1)) * [[[1.0], [-1.0]]], "intercept": np.zeros((2, 2))}
    known |= {"initial": [0.5, 0.5], "emission": Gaussian.from_parameters(means=[[0], [1]], covariances=[[1], [1]])}
    shared, free = IOHMM.from_parameters(transition="shared", **known), IOHMM.from_parameters(**known)
    assert shared.n_parameters_ == free.n_parameters_ - 1
    assert shared.get_params()["transition"] == "shared"
    with pytest.raises(ValueError, match="not both"):
        IOHMM.from_parameters(transition=[np.eye(2)], **known)
    with pytest.raises(ValueError, match="not both"):
        IOHMM.from_parameters(transition="table", **known)


def test_only_models_of_classes_predict_probabilities():
    for emission in ["gaussian", "poisson", "poisson_regression", "linear_gaussian", Gaussian(), Poisson()]:
        assert not hasattr(IOHMM(emission=emission), "predict_proba"), emission
    for emission in ["categorical", "logistic", Categorical(), Logistic()]:
        assert hasattr(IOHMM(emission=emission), "predict_proba"), emission


def test_labels_and_classification(driven):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(40, 30, 1))
    words = np.where(u[:, :3].mean(axis=1)[:, 0] > 0, "up", "down")
    model = quiet(IOHMM(3, emission="logistic", max_iter=20, random_state=0), u, list(words))
    assert model.classes_.tolist() == ["down", "up"]
    proba = model.predict_proba(u)
    assert proba.shape == (40, 30, 2)
    np.testing.assert_allclose(proba.sum(axis=-1), 1, atol=1e-12)
    assert set(np.unique(model.predict(u))) <= {"up", "down"}
    outputs, states = model.sample(u[0], random_state=0)
    assert outputs.shape == states.shape == (30,)
    with pytest.raises(ValueError, match="label 'left'"):
        model.score(u[:1], ["left"])
    with pytest.raises(AttributeError, match="predict_proba"):
        driven_model().predict_proba(driven[0])


def test_hmm_of_words():
    X = np.array(list("abcabcabcaab"), dtype=object)[:, None]
    model = quiet(HMM(2, emission="categorical", random_state=0, max_iter=5), X)
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert set(model.sample(20, random_state=0)[0][:, 0]) <= {"a", "b", "c"}
    with pytest.raises(ValueError, match="label 'z'"):
        model.score(np.array([["z"]], dtype=object))


def test_hmm_of_words_some_missing():
    words, nothing = np.array([["a"], ["b"], ["a"]]), np.full((2, 1), np.nan)
    for X in [[nothing, words], [words, nothing], [words, np.array([[None], [np.nan]], dtype=object)]]:
        model = quiet(HMM(2, emission="categorical", random_state=0, max_iter=3), X)
        assert model.classes_.tolist() == ["a", "b"]
        assert model.score(X) == pytest.approx(model.score([words]), rel=1e-12)


def test_parameter_counts():
    emission = Gaussian.from_parameters(means=np.zeros((3, 1)), covariances=np.ones((3, 1)), covariance="diag")
    assert gaussian_model().n_parameters_ == 2 + 3 + 6  # three of nine transitions are zero: 6 - 3 are free
    free = HMM.from_parameters(initial=np.full(3, 1 / 3), transition=np.full((3, 3), 1 / 3), emission=emission)
    assert free.n_parameters_ == 2 + 6 + 6
    assert driven_model().n_parameters_ == 1 + 2 * 3 + (4 + 2 + 2)
    w = 0.75
    sticky = MultiscaleHMM.from_parameters(
        initial=[np.full((1, 3), 1 / 3), np.full((3, 1), 1.0)],
        transition=[np.where(np.eye(3, dtype=bool), w, (1 - w) / 2)[None], np.ones((3, 1, 1))],
        timescales=(4, 1), emission=emission,
    )  # fmt: skip
    assert sticky.n_parameters_ == 2 + 3 + 6
    X = np.zeros((10, 1))
    ll = free.log_likelihood(X)
    assert free.aic(X) == pytest.approx(-2 * ll + 28)
    assert free.bic(X) == pytest.approx(-2 * ll + 14 * np.log(10))


REFUSED = [
    (HMM(0), "n_states"),
    (HMM(2.5), "n_states"),
    (HMM(2, n_init=0), "n_init"),
    (HMM(2, max_iter=0), "max_iter"),
    (HMM(2, tol=-1), "tol"),
    (HMM(10**6), "10{6},.* makes 10{6} joint states, .* 7.45e.03 GiB"),
    (MultiscaleHMM((1000,) * 7, timescales=None), "makes 10{21} joint states"),
    (HMM(2, n_jobs="all"), "n_jobs must be None or an integer, got 'all'"),
    (HMM(2, emission=Gaussian(min_variance="small")), "^min_variance must hold numbers"),
    (HMM(2, emission=Gaussian(means_prior=[1, 2], means_weight=1)), r"means_prior must have shape \(1,\), got \(2,\)"),
    (HMM(2, emission=Gaussian(covariances_prior=-1, covariances_weight=1)), "covariances_prior is not .* semidefinite"),
    (HMM(2, emission=Gaussian(covariances_prior=[1, 2], covariances_weight=1)), "covariances_prior must have shape"),
    (HMM(2, emission=Categorical(10**9)), "n_symbols=1000000000 asks for .* 14.9 GiB"),
    (HMM(2, tol="small"), "tol must be a number of at least 0, got 'small'"),
    (HMM(2, algorithm="map"), 'algorithm must be "viterbi" or "posterior"'),
    (MultiscaleHMM((2, 2), algorithm="map"), 'algorithm must be "viterbi" or "posterior", got'),
    (HMM(2, emission="gauss"), "gauss"),
    (HMM(2, emission=Categorical(2.5)), "n_symbols must be None or an integer"),
    (IOHMM(2, emission=Logistic(0)), "n_symbols"),
    (IOHMM(2, alpha=-1.0), "alpha must be finite and at least 0, got -1.0"),
    (MultiscaleIOHMM((2, 2), alpha=np.inf), "alpha must be"),
    (MultiscaleHMM((2, 2), timescales=(16, 1.5), clock="periodic"), r"timescales\[1\] = 1.5: .* whole numbers"),
    (MultiscaleHMM((2, 2), timescales=("slow", 1)), r"timescales\[0\] = 'slow'"),
    (MultiscaleHMM((2, 2), timescales=(1e16, 1)), r"timescales\[0\] = 1e\+16: a sticky clock .* below 2\^53"),
    (MultiscaleHMM((2, 2), timescales=(2**53, 1), clock="periodic"), r"timescales\[0\] = 9007199254740992: a per"),
    (MultiscaleHMM((2, 2), emission_levels=(0.0,)), r"emission_levels must be .* got \(0.0,\)"),
    (MultiscaleHMM((2, 2), timescales=(4,)), "timescales has 1 entries for 2 levels"),
    (MultiscaleHMM((2, 2), timescales=(0.5, 1)), r"timescales\[0\] = 0.5"),
    (MultiscaleHMM((2, 2), timescales=(2.5, 1), clock="periodic"), "whole numbers"),
    (MultiscaleHMM((2, 2), timescales=None, clock="periodic"), "periodic"),
    (MultiscaleHMM((2, 2), clock="slow"), "clock must be one of"),
    (MultiscaleHMM((2, 2), coupling="full"), "coupling must be one of"),
    (MultiscaleHMM((2, 2), emission_levels=(2,)), "emission_levels"),
    (MultiscaleHMM((2, 2), emission_levels=(1, 0)), "emission_levels"),
    (IOHMM(2, transition="tables"), "transition must be"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_bad_hyperparameters_are_refused_in_fit(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((10, 1)), np.zeros(10))


def test_lengths_in_the_place_of_y_are_refused():
    X = np.zeros((10, 1))
    model = gaussian_model()
    for call in [HMM(2).fit, model.fit, model.score, model.decode]:
        with pytest.raises(ValueError, match="y, is ignored here, and looks like lengths: give lengths="):
            call(X, [4, 6])
    assert model.score(X, np.ones(10, dtype=int)) == model.score(X)  # labels of steps


def test_bad_parameters_are_refused():
    emission = Gaussian.from_parameters(means=np.zeros((2, 1)), covariances=np.ones((2, 1)), covariance="diag")
    half = np.full((2, 2), 0.5)
    for changes, message in [
        ({"initial": [1.5, -0.5]}, r"^initial_\[1\] = -0.5 is negative"),
        ({"initial": [0.5, 0.6]}, "^initial_ sums to 1.1"),
        ({"initial": 0.5}, r"^initial must have 1 axes, got shape \(\)"),
        ({"initial": "half"}, "^initial must hold numbers"),
        ({"transition": 0.5}, r"^transition_ must have shape \(2, 2\), got \(\)"),
        ({"transition": half * [[1.0], [1.1]]}, r"^transition_\[1\] sums to 1.1"),
        ({"transition": np.full((3, 3), 1 / 3)}, r"^transition_ must have shape \(2, 2\), got \(3, 3\)"),
        ({"initial": np.full(3, 1 / 3), "transition": np.full((3, 3), 1 / 3)}, "2 states, the chain wants 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            HMM.from_parameters(**({"initial": [0.5, 0.5], "transition": half, "emission": emission} | changes))
    near = HMM.from_parameters(initial=[0.5, 0.5 + 1e-8], transition=half, emission=emission)
    assert near._chain().joint_initial.sum() == pytest.approx(1, abs=1e-15)
    with pytest.raises(ValueError, match="level 0 is sticky"):
        MultiscaleHMM.from_parameters(
            initial=[[[0.5, 0.5]]], transition=[half[None]], timescales=(4,), emission=emission
        )
    for changes, message in [
        ({"initial": 0.5}, "^initial must be a list with one array a level, got 0.5"),
        ({"initial": [[0.5, 0.5]]}, r"^initial\[0\] must have two axes \(R, K\), got shape \(2,\)"),
        ({"initial": [[[0.5, 0.6]]]}, r"^initial_\[0\]\[0\] sums to 1.1"),
        ({"transition": [half[None], half[None]]}, "^transition_ must hold one array a level, 1 in all, got 2"),
        ({"transition": [half]}, r"^transition_\[0\] must have shape \(1, 2, 2\), got \(2, 2\)"),
    ]:
        known = {"initial": [[[0.5, 0.5]]], "transition": [half[None]], "emission": emission, "timescales": (1,)}
        with pytest.raises(ValueError, match=message):
            MultiscaleHMM.from_parameters(**(known | changes))
    for coef in [0.5, np.zeros((2, 2))]:
        with pytest.raises(ValueError, match=r"^coef_ must have shape"):
            IOHMM.from_parameters(initial=[0.5, 0.5], coef=coef, intercept=half, emission=emission)
    for unknown in ["gaussian", Gaussian(), Categorical(), None]:
        with pytest.raises(ValueError, match="emission must have parameters"):
            HMM.from_parameters(initial=[0.5, 0.5], transition=half, emission=unknown)
    three = {"coef": np.zeros((2, 2, 3)), "intercept": np.zeros((2, 2))}
    logistic = Logistic.from_parameters(**three)
    for unknown, message in [
        (Logistic(), "emission must have parameters"),
        (logistic, "takes 3 inputs, the trans.* 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            IOHMM.from_parameters(initial=[0.5, 0.5], coef=np.zeros((2, 2, 1)), intercept=half, emission=unknown)
    with pytest.raises(ValueError, match="takes 3 inputs, the transitions 0"):
        HMM.from_parameters(initial=[0.5, 0.5], transition=half, emission=logistic)
    alone = Logistic.from_parameters(coef=np.zeros((2, 4, 0)), intercept=np.zeros((2, 4)))
    model = HMM.from_parameters(initial=[0.5, 0.5], transition=half, emission=alone)
    assert model.score([[0], [3]]) == pytest.approx(-np.log(4))
    with pytest.raises(ValueError, match="give X, not a number of steps"):
        driven_model().sample(5)
    with pytest.raises(NotFittedError):
        HMM(2).score(np.zeros((3, 1)))
    for model in [IOHMM(2, emission="logistic"), IOHMM(2, emission="categorical")]:
        with pytest.raises(ValueError, match="nothing to learn"):
            model.fit(np.zeros((3, 1)), [None] * 3)
    with pytest.raises(ValueError, match="nothing to learn"):
        HMM(2).fit(np.full((5, 1), np.nan))


def test_grid_search_and_pipeline_split_by_sequence(series):
    X = series[0]
    parts = [X[i : i + 60] for i in range(0, 600, 60)]
    search = GridSearchCV(HMM(max_iter=30, tol=1e-3, random_state=0), {"n_states": [1, 3]}, cv=KFold(3)).fit(parts)
    assert search.best_params_ == {"n_states": 3}
    scores = cross_val_score(HMM(3, max_iter=20, tol=1e-3, random_state=0), parts, cv=2)
    assert scores.shape == (2,)
    pipe = make_pipeline(StandardScaler(), HMM(3, random_state=0, tol=1e-3))
    pipe.fit(X, np.arange(600))  # y is not lengths
    assert pipe.predict(X).shape == (600,)
    nested = clone(HMM(2, emission=Gaussian(covariance="full"))).set_params(emission__covariance="diag")
    assert nested.emission.covariance == "diag"


def test_nothing_observed_has_no_score():
    nothing = np.full((4, 1), np.nan)
    for model, data in [(gaussian_model(), (nothing,)), (driven_model(), (np.zeros((4, 2)), nothing))]:
        assert model.log_likelihood(*data) == pytest.approx(0, abs=1e-12)
        for call in [model.score, model.bic]:
            with pytest.raises(ValueError, match="needs an observed output: every output is missing"):
                call(*data)


def test_data_beyond_the_range_of_squares_are_refused():
    for size in (1e200, 1e-200):
        with pytest.raises(ValueError, match=r"^sequence 0, step 2: output .* scale the data"):
            HMM(2).fit(np.array([[0.0], [1.0], [2.0]]) * size)
        with pytest.raises(ValueError, match=r"^sequence 0, step 2: input .* scale the data"):
            IOHMM(2).fit(np.array([[0.0], [1.0], [2.0]]) * size, [1.0, 2.0, 3.0])


def test_outputs_that_cannot_be_are_named_by_sequence_and_step():
    X = [np.zeros((4, 1)), np.array([[0.0], [0.0], [2.0]])]
    known = Categorical.from_parameters(probs=np.full((2, 2), 0.5))
    model = HMM.from_parameters(initial=[0.5, 0.5], transition=np.full((2, 2), 0.5), emission=known)
    with pytest.raises(ValueError, match=r"^sequence 1, step 2: symbol 2 is not among 0\.\.1"):
        model.score(X)
    with pytest.raises(ValueError, match=r"^sequence 1, step 2: 2.5 is no symbol"):
        HMM(2, emission="categorical").fit([X[0], X[1] * 1.25])
    for model in [HMM(2, emission="poisson"), IOHMM(2, emission="poisson_regression")]:
        with pytest.raises(ValueError, match=r"^sequence 1, step 0: -1 in column 0 is not a count"):
            model.fit([X[0], X[1] - 1], [X[0], X[1] - 1])
    with pytest.raises(ValueError, match=r"^sequence 0, step 4: channel 1 \(columns \[1\]\): -1 in column 0 is not"):
        HMM(2, emission=Product([(Gaussian(), [0]), (Poisson(), [1])])).fit(np.array([[0, 1]] * 4 + [[0, -1]]))
    many = Poisson.from_parameters(rates=[[1.0, 2.0], [1.0, 1e25]])
    model = HMM.from_parameters(initial=[0, 1], transition=np.eye(2), emission=many)
    with pytest.raises(ValueError, match=r"^sequence 0, step 0: in state 1 the rate of column 1 is 1e\+25, too large"):
        model.sample(3)
    fast = PoissonRegression.from_parameters(coef=[[[1.0]], [[1.0]]], intercept=[[0.0], [1.0]])
    stay = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    model = IOHMM.from_parameters(initial=[0, 1], coef=np.zeros((2, 2, 1)), intercept=stay, emission=fast)
    with pytest.raises(
        ValueError, match=r"^sequence 1, step 1: in state 1 the rate of column 0 is exp\(45\), too large"
    ):
        model.sample([np.zeros((3, 1)), np.array([[1.0], [44.0]])])


def test_symbols_that_the_training_data_lack():
    """They are no parameters, and refused; one that asks for too many tables is named."""
    rng = np.random.default_rng(0)
    u, y = rng.choice([0, 1, 4], (300, 1)), rng.normal(size=300)
    model = quiet(IOHMM(2, emission="gaussian", transition="table", max_iter=3, random_state=0), u, y)
    assert model.transition_.shape == (5, 2, 2) and model.symbols_.tolist() == [0, 1, 4]
    dense = np.searchsorted([0, 1, 4], u)
    other = quiet(clone(model), dense, y)
    assert model.n_parameters_ == other.n_parameters_ == 1 + 3 * 2 + 4
    assert model.history_ == other.history_
    assert model.bic(u, y) == pytest.approx(other.bic(dense, y), rel=1e-14)
    for symbol in (2, 5, -1, 0.5):
        with pytest.raises(ValueError, match=f"sequence 1, step 1: input {symbol:g} is not a symbol .*symbols_"):
            model.predict([[[0.0], [1.0]], [[4.0], [symbol]]])
    with pytest.raises(
        ValueError, match=r"sequence 0, step 1: input 1000000000 as a symbol takes 1000000001 .* 29.8 GiB"
    ):
        clone(model).fit([[0], [1_000_000_000]], [0.0, 1.0])
    levels = MultiscaleIOHMM((2, 2), timescales=(4, 1), emission="gaussian", transition="table", max_iter=1)
    quiet(levels, u, y)
    assert [a.shape[0] for a in levels.transition_] == [5, 5]
    assert levels.n_parameters_ == (1 + 2) + 3 * (0 + 4) + 8


@pytest.mark.parametrize("kind", [Gaussian, LinearGaussian, Categorical, Poisson, Logistic, PoissonRegression, Product])
def test_emissions_without_parameters_say_so(kind):
    emission = kind([(Gaussian(), [0])]) if kind is Product else kind()
    row, nothing = np.zeros((1, 1)), np.empty((1, 0))
    for call in [
        lambda: emission.log_likelihood(row, nothing),
        lambda: emission.mean(nothing, 1),
        lambda: emission.sample(np.zeros(1, dtype=int), nothing, np.random.default_rng(0)),
        lambda: emission.n_states,
        lambda: emission.n_parameters,
    ]:
        with pytest.raises(NotFittedError, match=f"This {kind.__name__} emission has no parameters yet"):
            call()
    with pytest.raises(AttributeError, match="has no attribute 'colour'") as caught:
        emission.colour  # noqa: B018
    assert caught.type is AttributeError
    assert not emission.is_fitted and not hasattr(emission, "means_")
