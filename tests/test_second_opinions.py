"""Other packages' answers at equal parameters."""

import numpy as np
import pytest
from hmmlearn.hmm import GMMHMM, CategoricalHMM, GaussianHMM, MultinomialHMM, PoissonHMM
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from hiermm import HMM, IOHMM
from hiermm.em import maximise
from hiermm.emissions import Categorical, Gaussian, LinearGaussian, Poisson
from hiermm.expectation import Expectation

RNG = np.random.default_rng(0)
LENGTHS = [60, 1, 39]
PI, A = RNG.dirichlet(np.ones(3)), RNG.dirichlet(np.ones(3), 3)


def gaussian(covariance):
    X = RNG.normal(size=(100, 2)) * 2
    means = RNG.normal(size=(3, 2))
    root = RNG.normal(size=(3, 2, 2))
    full = root @ root.transpose(0, 2, 1) + 0.5 * np.eye(2)
    values = {"diag": np.einsum("nii->ni", full), "full": full, "tied": full[0], "spherical": full[:, 0, 0]}[covariance]
    peer = GaussianHMM(
        3, covariance, init_params="", n_iter=1, tol=-np.inf, covars_prior=0, covars_weight=0, means_weight=0,
        min_covar=0,
    )  # fmt: skip
    peer.means_, peer.covars_ = means, values
    return peer, Gaussian.from_parameters(means=means, covariances=values, covariance=covariance), X


def categorical():
    probs = RNG.dirichlet(np.ones(4), 3)
    peer = CategoricalHMM(3, init_params="", n_iter=1, tol=-np.inf, n_features=4)
    peer.emissionprob_ = probs
    return peer, Categorical.from_parameters(probs=probs), RNG.integers(0, 4, (100, 1))


def poisson():
    rates = RNG.uniform(1, 8, (3, 2))
    peer = PoissonHMM(3, init_params="", n_iter=1, tol=-np.inf)
    peer.lambdas_ = rates
    return peer, Poisson.from_parameters(rates=rates), RNG.poisson(4, (100, 2))


CASES = [gaussian("diag"), gaussian("full"), gaussian("tied"), gaussian("spherical"), categorical(), poisson()]
NAMES = ["diag", "full", "tied", "spherical", "categorical", "poisson"]


@pytest.mark.parametrize(("peer", "emission", "X"), CASES, ids=NAMES)
def test_hmmlearn_agrees_on_scores_posteriors_and_paths(peer, emission, X):
    peer.startprob_, peer.transmat_ = PI, A
    model = HMM.from_parameters(initial=PI, transition=A, emission=emission)
    log_likelihood, gamma = peer.score_samples(X, LENGTHS)
    assert model.log_likelihood(X, lengths=LENGTHS) == pytest.approx(log_likelihood, rel=1e-9)
    np.testing.assert_allclose(model.posterior(X, lengths=LENGTHS), gamma, atol=1e-9)
    log_prob, path = peer.decode(X, LENGTHS)
    mine, states = model.decode(X, lengths=LENGTHS)
    assert mine == pytest.approx(log_prob, rel=1e-9)
    np.testing.assert_array_equal(states, path)


@pytest.mark.parametrize(("peer", "emission", "X"), CASES, ids=NAMES)
def test_models_from_hmmlearn_answer_alike(peer, emission, X):
    peer = clone(peer).set_params(init_params="stmcel", n_iter=3, random_state=0).fit(X, LENGTHS)
    model = HMM.from_hmmlearn(peer)
    assert model.log_likelihood(X, lengths=LENGTHS) == pytest.approx(peer.score(X, LENGTHS), rel=1e-9)
    assert model.score(X, lengths=LENGTHS) == pytest.approx(peer.score(X, LENGTHS) / len(X), rel=1e-9)
    np.testing.assert_allclose(model.predict_proba(X, lengths=LENGTHS), peer.predict_proba(X, LENGTHS), atol=1e-9)
    np.testing.assert_array_equal(model.predict(X, lengths=LENGTHS), peer.predict(X, LENGTHS))
    assert type(model.emission_) is type(emission) and model.n_states == 3
    peer.algorithm = "map"
    np.testing.assert_array_equal(HMM.from_hmmlearn(peer).predict(X, lengths=LENGTHS), peer.predict(X, LENGTHS))
    assert HMM.from_hmmlearn(peer, algorithm="viterbi", max_iter=7).get_params()["max_iter"] == 7


def test_other_models_of_hmmlearn_are_refused():
    mixture = GMMHMM(2, n_mix=2, random_state=0).fit(RNG.normal(size=(50, 1)))
    for model in [mixture, MultinomialHMM(2), HMM(2), None]:
        with pytest.raises(
            TypeError, match=f"GaussianHMM, CategoricalHMM, PoissonHMM, fitted; got {type(model).__name__}"
        ):
            HMM.from_hmmlearn(model)
    for model in [GaussianHMM(2), CategoricalHMM(2), PoissonHMM(2)]:
        with pytest.raises(NotFittedError, match=f"this {type(model).__name__} has not been fitted"):
            HMM.from_hmmlearn(model)


@pytest.mark.parametrize(
    ("peer", "emission", "X"), [CASES[k] for k in (0, 1, 4, 5)], ids=[NAMES[k] for k in (0, 1, 4, 5)]
)
def test_one_em_step_equals_hmmlearn(peer, emission, X):
    peer.startprob_, peer.transmat_ = PI.copy(), A.copy()
    model = HMM.from_parameters(initial=PI, transition=A, emission=emission)
    sequences = model._read_outputs(X, None, LENGTHS)
    with Expectation(sequences) as expectation:
        parameters = model._parameters()
        after = maximise(parameters, *expectation.statistics(parameters)[1:])
    peer.fit(X, LENGTHS)
    np.testing.assert_allclose(after.chain.initial[0][0], peer.startprob_, rtol=1e-9)
    np.testing.assert_allclose(after.chain.rows[0].probs[0, 0], peer.transmat_, rtol=1e-9)
    if isinstance(peer, GaussianHMM):
        np.testing.assert_allclose(after.emission.means_, peer.means_, rtol=1e-9)
        covariances = peer.covars_ if peer.covariance_type == "full" else np.einsum("nii->ni", peer.covars_)
        np.testing.assert_allclose(after.emission.covariances_, covariances, rtol=1e-8)
    elif isinstance(peer, CategoricalHMM):
        np.testing.assert_allclose(after.emission.probs_, peer.emissionprob_, rtol=1e-9)
    else:
        np.testing.assert_allclose(after.emission.rates_, peer.lambdas_, rtol=1e-9)


def test_statsmodels_agrees_on_driven_transitions():
    markov = pytest.importorskip("statsmodels.tsa.regime_switching.markov_regression")
    T = 120
    u = np.column_stack([np.ones(T), RNG.normal(size=T)])
    y = RNG.normal(size=T) + np.where(np.arange(T) % 40 < 20, 0.0, 3.0)
    peer = markov.MarkovRegression(y, k_regimes=2, exog_tvtp=u, switching_variance=True)
    slopes = np.array([[1.0, 0.7], [-1.5, 0.4]])  # P(to state 0 | from state i) = expit(slopes[i] . u)
    params = np.concatenate([slopes.T.ravel(), [0.1, 2.7], [0.8, 1.3]])
    assert [name.split("[")[0] for name in peer.param_names[-2:]] == ["sigma2", "sigma2"]
    start = expit(slopes @ u[0])
    steady = (start[1]) / (1 - start[0] + start[1])
    peer.initialize_known([steady, 1 - steady])
    coef, intercept = np.zeros((2, 2, 1)), np.zeros((2, 2))
    coef[:, 0, 0], intercept[:, 0] = slopes[:, 1], slopes[:, 0]
    emission = LinearGaussian.from_parameters(
        coef=np.zeros((2, 1, 1)), intercept=[[0.1], [2.7]], covariances=[[0.8], [1.3]]
    )
    # statsmodels moves the state into the first step too, so its first distribution is one move later
    P = np.array([[start[0], 1 - start[0]], [start[1], 1 - start[1]]])
    initial = np.array([steady, 1 - steady]) @ P
    model = IOHMM.from_parameters(initial=initial, coef=coef, intercept=intercept, emission=emission)
    mine = model.log_likelihood(u[:, 1:], y)
    assert mine == pytest.approx(peer.loglike(params, transformed=True), rel=1e-9)
