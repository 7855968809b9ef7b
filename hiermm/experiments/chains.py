"""How the chains of the experiments are built and started: at random, latched, with restarts, or annealed."""

import copy
from typing import Any

import numpy as np

from hiermm.emissions import Categorical, Gaussian
from hiermm.markov import IOHMM
from hiermm.multiscale import MultiscaleIOHMM
from hiermm.structure import Structure

# States of every chain, 8 in all, by number of time scales.
SIZES = {1: (8,), 2: (2, 4), 3: (2, 2, 2)}
TOL = 1e-6
KEPT = (
    "timescales",
    "clock",
    "coupling",
    "init",
    "tol",
    "alpha",
)  # what a start from known parameters keeps of a model
CHUNK = 10  # EM iterations between looks at whether the training set is learnt


def with_blank_start(X: np.ndarray) -> np.ndarray:
    """Put a step of zeros before every sequence (n, T, P).

    In a chain the input acts on arrival, by steering the move into its step, and there is no move into the first step:
    its input would be lost.
    """
    return np.concatenate([np.zeros_like(X[:, :1]), X], axis=1)


def time_scales(n_scales: int, length: int) -> tuple[int, ...]:
    """Return the time scales of a chain for sequences of some length, slowest first.

    About length / 2, then (three levels) its square root, then 1, rounded to powers of two. They grow with the length,
    as a sticky level forgets within a few times its time scale.
    """
    octaves = np.log2(max(length / 2, 2))
    return tuple(int(2 ** round(octaves * (n_scales - 1 - s) / max(n_scales - 1, 1))) for s in range(n_scales))


def make(problem: Any, n_scales: int, **options: Any) -> Any:
    """Return an unfitted IOHMM, or a MultiscaleIOHMM with 2 or 3 levels, with 8 states in all.

    The emission does not look at the inputs: they reach the target through the state alone.
    """
    options = {"emission": "categorical" if problem.classes else "gaussian", "tol": TOL, **options}
    if n_scales == 1:
        return IOHMM(SIZES[1][0], **options)
    # Growing levels from blocks of the outputs (init="grow") has nothing to work on where only the end has a target.
    options = {"init": "random", **options}
    return MultiscaleIOHMM(SIZES[n_scales], **{"timescales": time_scales(n_scales, problem.X.shape[1]), **options})


def learn(model: Any, problem: Any, n_updates: int) -> tuple[Any, Any]:
    """Run EM until the training set is learnt with some margin, EM converges or `n_updates` iterations are made.

    Returns
    -------
    model, first
        The fitted model, and as it was after the first iteration.
    """
    X, enough = with_blank_start(problem.X), -np.log(2) / (4 * len(problem.y)) if problem.classes else np.inf
    first = copy.copy(model.set_params(warm_start=True, max_iter=1).fit(X, problem.y))
    for done in range(1, n_updates, CHUNK):
        model.set_params(max_iter=min(CHUNK, n_updates - done)).fit(X, problem.y)
        if model.converged_ or model.history_[-1] > enough:
            break
    return model, first


def random(problem: Any, n_scales: int, n_updates: int, seed: int, **options: Any) -> tuple[Any, Any]:
    """Fit from a random start, as the estimator makes it; returns what `learn` returns, as do all below."""
    return learn(make(problem, n_scales, random_state=seed, **options), problem, n_updates)


def patient(problem: Any, n_scales: int, n_updates: int, seed: int, **options: Any) -> tuple[Any, Any]:
    """Fit from a random start with ten times the updates, and without stopping where EM hardly gains."""
    return learn(make(problem, n_scales, random_state=seed, tol=0.0, **options), problem, 10 * n_updates)


def restarts(problem: Any, n_scales: int, n_updates: int, seed: int, **options: Any) -> tuple[Any, None]:
    """Fit from ten random starts, of which the likeliest is kept."""
    model = make(problem, n_scales, random_state=seed, n_init=10, max_iter=n_updates, **options)
    return model.fit(with_blank_start(problem.X), problem.y), None


def latched(
    problem: Any, n_scales: int, n_updates: int, seed: int, dwell: float | None = None, **options: Any
) -> tuple[Any, Any]:
    """Fit from a start that holds what it has: it stays unless a large input makes it move.

    While the input is 0, a level that moves freely stays with probability 1 - 1/dwell at each of its moves. By default
    the dwell is twice the number of its moves in a sequence, so that the state of the start is not lost by the end.
    The slopes are drawn large enough for an input of size 1/2 to overrule that. Half of the states begin with either
    class as the likely one.
    """
    rng = np.random.default_rng(seed)
    template = make(problem, n_scales, **options)
    sizes = SIZES[n_scales]
    length = problem.X.shape[1]
    scales = template.timescales if n_scales > 1 else (1,)
    periodic = n_scales > 1 and template.clock == "periodic"
    parents = Structure(sizes, coupling=template.coupling if n_scales > 1 else "none").parent_sizes
    initial, coef, intercept = [], [], []
    for size, scale, parent in zip(sizes, scales, parents):
        moves = length / scale if periodic else length
        hold = np.log(((dwell or 2 * max(moves, 1)) - 1) * (size - 1))
        initial.append(np.full((parent, size), 1 / size))
        coef.append(2 * hold * rng.standard_normal((parent, size, size, problem.X.shape[2])))
        intercept.append(np.broadcast_to(hold * np.eye(size), (parent, size, size)))
    if n_scales == 1:
        initial, coef, intercept = initial[0][0], coef[0][0], intercept[0][0]
    start = template.from_parameters(
        initial=initial,
        coef=coef,
        intercept=intercept,
        emission=_spread_emission(problem, int(np.prod(sizes)), rng),
        **{name: value for name, value in template.get_params().items() if name in KEPT},
    )
    return learn(start, problem, n_updates)


def _spread_emission(problem, n_states, rng):
    """Emission whose states differ from the first: alternating classes, or quantiles of the target."""
    order = rng.permutation(n_states)
    if problem.classes:
        return Categorical.from_parameters(probs=np.where(order[:, None] % 2 == np.arange(2), 0.9, 0.1))
    means = np.quantile(problem.y, (order + 0.5) / n_states)[:, None]
    return Gaussian.from_parameters(means=means, covariances=np.full((n_states, 1), problem.y.var()))


def annealed(problem: Any, n_scales: int, n_updates: int, seed: int, **options: Any) -> tuple[Any, Any]:
    """Fit with time scales that grow by doubling from 2 to their full length; each stage gets a tenth of the updates.

    On a sticky clock this anneals the self-transitions w_s = 1 - 1/n_s from 1/2 upwards.
    """
    full = time_scales(n_scales, problem.X.shape[1])
    model, top = make(problem, n_scales, random_state=seed, **options), 2
    while top < full[0]:
        model.set_params(timescales=tuple(min(scale, top) for scale in full))
        learn(model, problem, max(n_updates // 10, 1))
        top *= 2
    return learn(model.set_params(timescales=full), problem, n_updates)


def tempered(problem: Any, n_scales: int, n_updates: int, seed: int, **options: Any) -> tuple[Any, Any]:
    """Fit by deterministic annealing: first EM iterations in which all probabilities are softened.

    Before each E-step transition rows and class probabilities are raised to a power below 1 and normalised again; the
    power rises from 0.2 to 1 over half of the updates.
    """
    X = with_blank_start(problem.X)
    model = make(problem, n_scales, random_state=seed, max_iter=1, warm_start=True, **options).fit(X, problem.y)
    for power in np.geomspace(0.2, 1, max(n_updates // 2, 1)):
        model.coef_, model.intercept_ = power * model.coef_, power * model.intercept_
        if problem.classes:
            probs = model.emission_.probs_**power
            model.emission_ = Categorical.from_parameters(probs=probs / probs.sum(axis=1, keepdims=True))
        model.fit(X, problem.y)
    return learn(model, problem, n_updates)


STARTS = {
    "random": random,
    "patient": patient,
    "restarts": restarts,
    "latched": latched,
    "annealed": annealed,
    "tempered": tempered,
}
