"""EM iterations and whole fits of HMMs beside hmmlearn and dynamax; two threads beside one.

`python benchmarks/bench_em.py` prints records. An iteration is an E-step and an M-step from given parameters; the
parameters after it are compared with hmmlearn's before anything is timed.
"""

from measure import Record, disagreement, in_turn, milliseconds, quartiles, single_thread

if __name__ == "__main__":
    single_thread()

import importlib.util
import logging
import multiprocessing
import os
import warnings
from contextlib import contextmanager

import numpy as np
from hmmlearn.hmm import CategoricalHMM, GaussianHMM
from sklearn.exceptions import ConvergenceWarning

from hiermm import HMM, em
from hiermm.emissions import Categorical, Gaussian
from hiermm.expectation import Expectation
from hiermm.sequences import observations

SECTION = "EM iterations"


class GaussianWork:
    """Gaussian emissions with diagonal covariances, D = 2, 200 sequences of 500 steps."""

    name = "EM iteration, Gaussian diag D = 2, 200 x 500"

    def __init__(self, n_states):
        rng = np.random.default_rng(0)
        self.n_states, self.lengths = n_states, [500] * 200
        n = sum(self.lengths)
        self.X = 0.05 * np.cumsum(rng.normal(size=(n, 2)), axis=0) + rng.normal(size=(n, 2))
        self.initial = np.full(n_states, 1 / n_states)
        self.transition = rng.dirichlet(np.ones(n_states), n_states)
        self.means, self.variances = 3 * rng.normal(size=(n_states, 2)), np.ones((n_states, 2))

    def emission(self):
        return Gaussian.from_parameters(means=self.means, covariances=self.variances, covariance="diag")

    def hmmlearn(self, implementation, n_iter):
        model = GaussianHMM(
            self.n_states, "diag", n_iter=n_iter, tol=-np.inf, init_params="", implementation=implementation,
            covars_prior=0, covars_weight=0, means_weight=0,
        )  # fmt: skip
        model.startprob_, model.transmat_, model.means_ = self.initial, self.transition, self.means
        model.covars_ = self.variances
        return model

    def agree(self, emission, peer):
        np.testing.assert_allclose(emission.means_, peer.means_, rtol=1e-7, atol=1e-9)
        covariances = np.diagonal(peer.covars_, axis1=1, axis2=2)
        np.testing.assert_allclose(emission.covariances_, covariances, rtol=1e-6, atol=1e-9)


class LateWork(GaussianWork):
    """The same after 15 iterations, when EM has driven transitions below 1e-95 and products of them underflow."""

    name = "EM iteration late in a fit, Gaussian diag D = 2, 200 x 500"
    iterations = 15

    def __init__(self, n_states):
        super().__init__(n_states)
        parameters = model_of(self)._parameters()
        with Expectation(observations(self.X, self.lengths)) as expectation:
            for _ in range(self.iterations):
                _, parameters = iteration(expectation, parameters)
        self.initial, self.transition = parameters.chain.initial[0][0], parameters.chain.rows[0].probs[0, 0]
        self.means, self.variances = parameters.emission.means_, parameters.emission.covariances_
        assert self.transition.min() < 1e-95


class CategoricalWork:
    """27 symbols, 100 sequences of 10,000 steps."""

    name = "EM iteration, 27 symbols, 100 x 10,000"

    def __init__(self, n_states):
        rng = np.random.default_rng(1)
        self.n_states, self.lengths = n_states, [10_000] * 100
        self.X = rng.integers(27, size=(sum(self.lengths), 1))
        self.initial = np.full(n_states, 1 / n_states)
        self.transition = rng.dirichlet(np.ones(n_states), n_states)
        self.probs = rng.dirichlet(np.ones(27), n_states)

    def emission(self):
        return Categorical.from_parameters(probs=self.probs)

    def hmmlearn(self, implementation, n_iter):
        model = CategoricalHMM(
            self.n_states, n_iter=n_iter, tol=-np.inf, init_params="", implementation=implementation, n_features=27
        )
        model.startprob_, model.transmat_, model.emissionprob_ = self.initial, self.transition, self.probs
        return model

    def agree(self, emission, peer):
        np.testing.assert_allclose(emission.probs_, peer.emissionprob_, rtol=1e-7, atol=1e-10)


WORKS = [(GaussianWork, 4), (GaussianWork, 16), (GaussianWork, 64), (CategoricalWork, 8), (LateWork, 16)]


def model_of(work, **options):
    return HMM.from_parameters(
        initial=work.initial, transition=work.transition, emission=work.emission(), n_init=1, **options
    )


def iteration(expectation, parameters):
    """One E-step and one M-step: (log-likelihood, new parameters)."""
    loglik, *statistics = expectation.statistics(parameters)
    return loglik, em.maximise(parameters, *statistics)


def compare(work, expectation, parameters):
    """Assert that one EM iteration gives hmmlearn's log-likelihood and parameters."""
    loglik, after = iteration(expectation, parameters)
    peer = work.hmmlearn("scaling", 1).fit(work.X, work.lengths)
    np.testing.assert_allclose(loglik, peer.monitor_.history[0], rtol=1e-9)
    np.testing.assert_allclose(after.chain.rows[0].probs[0, 0], peer.transmat_, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(after.chain.initial[0][0], peer.startprob_, rtol=1e-6, atol=1e-9)
    work.agree(after.emission, peer)


def beside_hmmlearn(work, repeats):
    """Yield a record for each implementation of hmmlearn."""
    name = f"{work.name}, K = {work.n_states}"
    parameters = model_of(work)._parameters()
    with Expectation(observations(work.X.astype(float), work.lengths)) as expectation:
        compare(work, expectation, parameters)
        functions = {"hiermm": lambda: iteration(expectation, parameters)}
        for implementation in ("scaling", "log"):
            functions[implementation] = lambda i=implementation: work.hmmlearn(i, 1).fit(work.X, work.lengths)
        few = 3 if work.n_states < 64 and repeats > 3 else 1
        spent = in_turn(functions, {"hiermm": repeats, "scaling": few, "log": few if work.n_states == 4 else 1})
    ours = quartiles(spent["hiermm"])
    for implementation in ("scaling", "log"):
        peer = quartiles(spent[implementation])["ms"]
        yield Record(SECTION, name, **ours, peer=f"hmmlearn {implementation}", peer_ms=peer)
    if importlib.util.find_spec("dynamax") and type(work) is GaussianWork:
        yield Record(SECTION, name, **ours, peer="dynamax", peer_ms=dynamax(work, parameters, repeats))


def dynamax(work, parameters, repeats):
    """Median ms of an EM iteration of dynamax's DiagonalGaussianHMM (with its priors), compiled beforehand."""
    import jax
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    model = DiagonalGaussianHMM(work.n_states, 2)
    start, properties = model.initialize(
        initial_probs=work.initial, transition_matrix=work.transition, emission_means=work.means,
        emission_scale_diags=np.sqrt(work.variances),
    )  # fmt: skip
    data = jax.numpy.asarray(work.X.reshape(200, 500, 2))

    @jax.jit
    def step(held, state):
        statistics, logliks = jax.vmap(lambda y: model.e_step(held, y))(data)
        return model.m_step(held, properties, statistics, state), logliks.sum()

    state = model.initialize_m_step_state(start, properties)
    with Expectation(observations(work.X, work.lengths)) as expectation:
        np.testing.assert_allclose(step(start, state)[1], expectation.statistics(parameters)[0], rtol=1e-9)
    spent = in_turn({"dynamax": lambda: jax.block_until_ready(step(start, state))}, min(repeats, 3))
    return quartiles(spent["dynamax"])["ms"]


class Fitting:
    """A `fit` of `max_iter` iterations from the start of a work, again and again."""

    def __init__(self, work, max_iter, n_jobs):
        self.work = work
        self.model = model_of(work, warm_start=True, max_iter=max_iter, tol=0.0, n_jobs=n_jobs)
        self.start = self.model._parameters()

    def __call__(self):
        self.model._keep(self.start, [])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return self.model.fit(self.work.X, lengths=self.work.lengths)


def fit_on_demand(pipe, kind, n_states, max_iter):
    """Another process: a fit in one thread whenever it is told to."""
    fit = Fitting(kind(n_states), max_iter, n_jobs=1)
    pipe.send("ready")
    while pipe.recv():
        pipe.send(milliseconds(fit))


@contextmanager
def two_at_once(work, max_iter, fit):
    """Yield a function that does `fit` here and the same in another process at once, and returns the times of both."""
    here, there = multiprocessing.Pipe()
    arguments = there, type(work), work.n_states, max_iter
    other = multiprocessing.get_context("spawn").Process(target=fit_on_demand, args=arguments, daemon=True)
    other.start()
    there.close()
    here.recv()

    def both():
        here.send(True)
        return milliseconds(fit), here.recv()

    try:
        yield both
    finally:
        here.send(False)
        other.join()


def threads(work, repeats, max_iter=10):
    """Return the record of `fit` with n_jobs=2 beside n_jobs=1; the results are the same to the last bit.

    Its note says what the two processors were worth meanwhile: how many fits, in processes of their own that wait for
    nothing, they did at once in the time of one (a bit less, as the slower ends alone). Threads can hardly gain more.
    """
    one, two = (Fitting(work, max_iter, n_jobs) for n_jobs in (1, 2))
    assert one().history_ == two().history_, "n_jobs changes the result"
    at_once = []
    with two_at_once(work, max_iter, one) as both:
        spent = in_turn({"one": one, "two": two, "both": lambda: at_once.append(both())}, repeats)
    name = work.name.replace("EM iteration", f"fit of {max_iter} iterations")
    alone = quartiles(spent["one"])["ms"]
    worth = sum(alone / quartiles(times)["ms"] for times in zip(*at_once, strict=True))
    note = f"two fits at once, a process each: {worth:.2f} in the time of one"
    peer = {"peer": "hiermm, n_jobs = 1", "peer_ms": alone}
    return Record("Threads", f"{name}, K = {work.n_states}, n_jobs = 2", **quartiles(spent["two"]), **peer, note=note)


def rows(quick=False):
    """Yield the records."""
    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)
    works = [WORKS[0], WORKS[1], WORKS[4]] if quick else WORKS
    for kind, n_states in works:
        work = kind(n_states)
        try:
            yield from beside_hmmlearn(work, 3 if quick else 15)
        except AssertionError as error:
            yield Record(SECTION, f"{work.name}, K = {n_states}", failed=disagreement(error))
        if (os.cpu_count() or 1) > 1 and kind is not LateWork:
            # Several seconds each: so long one processor of a shared machine may be quicker than the other.
            repeats = 3 if quick else {4: 401, 16: 101, 8: 21, 64: 21}[n_states]
            yield threads(work, repeats, max_iter=10 if n_states < 64 else 3)


if __name__ == "__main__":
    for row in rows():
        print(row.work, "|", row.peer, row.ms, row.peer_ms, row.ratio)
