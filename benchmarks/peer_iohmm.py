"""Input-output HMMs of other packages, one package a process: `python peer_iohmm.py PACKAGE PROBLEM.npz ANSWER.npz`.

The process may run in another environment than hiermm's (two of the packages want old libraries), so this file imports
neither hiermm nor its helpers. The problem holds inputs X (m, T, P), outputs y (m, T), the starting parameters, how
often to repeat, and for how many iterations to fit. The answer holds the log-likelihood and the posteriors under the
starting parameters, times in seconds, and the log-likelihood that a fit reached.
"""

import importlib.metadata
import sys
import time
import types

import numpy as np


def seconds(function, repeats):
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        spent.append(time.perf_counter() - start)
    return spent


def ssm(problem):
    """Slopes that depend on the destination only ("inputdriven"), Gaussian outputs; M-step by L-BFGS."""
    import autograd.scipy.special

    moved = types.ModuleType("autograd.scipy.misc")  # where ssm looks for a function that autograd has moved
    moved.logsumexp = autograd.scipy.special.logsumexp
    sys.modules["autograd.scipy.misc"] = moved
    import ssm

    X, y = problem["X"], problem["y"]
    data, inputs = [part[:, None] for part in y], list(X)

    def model():
        K, P = len(problem["initial"]), X.shape[2]
        made = ssm.HMM(K, 1, M=P, transitions="inputdriven", observations="diagonal_gaussian")
        made.init_state_distn.log_pi0 = np.log(problem["initial"])
        made.transitions.log_Ps = problem["intercept"].copy()
        made.transitions.Ws = problem["coef"][0].copy()
        made.observations.mus = problem["means"][:, None].copy()
        made.observations._log_sigmasq = np.log(problem["variances"])[:, None].copy()
        return made

    def expect(made):
        return [made.expected_states(part, input=u) for part, u in zip(data, inputs)]

    def fit(iterations):
        made = model()
        made.fit(data, inputs=inputs, method="em", num_em_iters=iterations, initialize=False)
        return made

    held = model()
    expected = expect(held)
    yield sum(part[2] for part in expected), np.stack([part[0] for part in expected])
    yield lambda: expect(held), lambda: fit(1)
    yield lambda: sum(part[2] for part in expect(fit(int(problem["iterations"]))))


def iohmm(problem):
    """Package IOHMM: scikit-learn's multinomial logistic regressions and ordinary least squares."""
    np.inf = np.inf
    import pandas as pd
    from IOHMM import UnSupervisedIOHMM
    from IOHMM.linear_models import OLS, CrossEntropyMNL

    X, y = problem["X"], problem["y"]
    K, P = len(problem["initial"]), X.shape[2]
    names = [f"u{i}" for i in range(P)]
    frames = [pd.DataFrame({**{n: u[:, i] for i, n in enumerate(names)}, "y": part}) for u, part in zip(X, y)]

    def logit(coef):
        options = {"solver": "lbfgs", "reg_method": "l2", "alpha": 1e-4, "max_iter": 100}
        return CrossEntropyMNL(coef=coef, n_classes=K, **options)

    def model():
        made = UnSupervisedIOHMM(num_states=K)
        moves = [logit(np.column_stack([problem["intercept"][k], problem["coef"][k]])) for k in range(K)]
        lines = [
            [OLS(coef=np.append(intercept, slopes)[None], dispersion=np.array([[variance]]), n_targets=1)]
            for intercept, slopes, variance in zip(problem["means"], problem["slopes"], problem["variances"])
        ]
        first = logit(np.log(problem["initial"])[:, None])
        made.set_models(model_initial=first, model_transition=moves, model_emissions=lines, trained=True)
        made.set_inputs(covariates_initial=[], covariates_transition=names, covariates_emissions=[names])
        made.set_outputs([["y"]])
        made.set_data(frames)
        made.E_step()
        return made

    def iterate(made, iterations):
        for _ in range(iterations):
            made.M_step()
            made.E_step()
        return made.log_likelihood

    held = model()
    yield held.log_likelihood, np.exp(np.stack(held.log_gammas))
    yield held.E_step, lambda: iterate(held, 1)
    yield lambda: iterate(model(), int(problem["iterations"]))


def softmax_transitions():
    """Input-driven rows as dynamax wants a component to be; its own M-step (Adam) serves them."""
    from typing import NamedTuple

    import jax.numpy as jnp
    from dynamax.hidden_markov_model.models.abstractions import HMMTransitions
    from dynamax.parameters import ParameterProperties
    from tensorflow_probability.substrates.jax import distributions as tfd

    class Slopes(NamedTuple):
        intercept: object
        coef: object

    class SoftmaxTransitions(HMMTransitions):
        def __init__(self, n_states):
            super().__init__()
            self.num_states = n_states

        def initialize(self, key=None, method="prior", **values):
            parameters = Slopes(jnp.asarray(values["intercept"]), jnp.asarray(values["coef"]))
            return parameters, Slopes(ParameterProperties(), ParameterProperties())

        def distribution(self, params, state, inputs=None):
            return tfd.Categorical(logits=params.intercept[state] + params.coef[state] @ inputs)

        def log_prior(self, params):
            return -0.5e-4 * jnp.sum(params.coef**2)

    return SoftmaxTransitions


def dynamax(problem):
    """Components of dynamax put together; E- and M-step compiled as one function, as its `fit_em` does."""
    import jax
    from dynamax.hidden_markov_model.models.abstractions import HMM
    from dynamax.hidden_markov_model.models.initial import StandardHMMInitialState
    from dynamax.hidden_markov_model.models.linreg_hmm import LinearRegressionHMMEmissions, ParamsLinearRegressionHMM

    jax.config.update("jax_enable_x64", True)
    X, y = jax.numpy.asarray(problem["X"]), jax.numpy.asarray(problem["y"])[..., None]
    K, P = len(problem["initial"]), X.shape[2]
    parts = StandardHMMInitialState(K), softmax_transitions()(K), LinearRegressionHMMEmissions(K, P, 1)
    values = [
        {"initial_probs": jax.numpy.asarray(problem["initial"])},
        {"intercept": problem["intercept"], "coef": problem["coef"]},
        {
            "emission_weights": jax.numpy.asarray(problem["slopes"])[:, None],
            "emission_biases": jax.numpy.asarray(problem["means"])[:, None],
            "emission_covariances": jax.numpy.asarray(problem["variances"])[:, None, None],
        },
    ]
    held = [part.initialize(jax.random.PRNGKey(0), method="prior", **value) for part, value in zip(parts, values)]
    start, properties = (ParamsLinearRegressionHMM(*column) for column in zip(*held))
    model = HMM(K, *parts)
    posterior = jax.jit(jax.vmap(lambda y, u: model.smoother(start, y, u)))(y, X)
    yield posterior.marginal_loglik.sum(), posterior.smoothed_probs

    @jax.jit
    def expect(parameters):
        return jax.vmap(lambda y, u: model.e_step(parameters, y, u))(y, X)

    @jax.jit
    def step(parameters, state):
        statistics, logliks = jax.vmap(lambda y, u: model.e_step(parameters, y, u))(y, X)
        return *model.m_step(parameters, properties, statistics, state), logliks.sum()

    state = model.initialize_m_step_state(start, properties)
    jax.block_until_ready((expect(start), step(start, state)))  # compilation is not timed
    yield (
        lambda: jax.block_until_ready(expect(start)),
        lambda: jax.block_until_ready(step(start, state)),
    )

    def fit():
        parameters, memory = start, state
        for _ in range(int(problem["iterations"])):
            parameters, memory, _ = step(parameters, memory)
        return float(expect(parameters)[1].sum())

    yield fit


PEERS = {"ssm": ssm, "IOHMM": iohmm, "dynamax": dynamax}


def main(name, problem, answer):
    """Answer a problem with the package `name`."""
    problem = dict(np.load(problem))
    stages = PEERS[name](problem)
    loglik, gamma = next(stages)
    result = {"loglik": loglik, "gamma": gamma, "version": importlib.metadata.version(name)}
    repeats = int(problem["repeats"])
    for stage, function in zip(("expectation", "iteration"), next(stages)):
        result[stage] = seconds(function, repeats)
    fit, reached = next(stages), []
    result["fit"] = seconds(lambda: reached.append(fit()), 1)
    np.savez(answer, reached=reached[0], **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
