"""Expectation-maximisation for any chain with any emission; knows no model by name.

Where a part of the M-step has no closed form it is a Newton step. EM goes all the way and lets the next E-step, which
is due anyway, say whether the objective has risen; only if it has not is a line searched for a point nearer by.
"""

import warnings
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from hiermm.expectation import ImpossibleObservation, Parameters

MAX_HALVINGS = 30
ROUNDING = 1e-12


def maximise(parameters, moves, outputs):
    """Return the parameters of the M-step: parts in closed form at their maximum, the others at their Newton point."""
    return Parameters(parameters.chain.maximise(moves), parameters.emission.maximise(outputs))


def shortened(expectation, start, goal):
    """Return a point on the way to the M-step's `goal` at which the expected complete log-likelihood of no part falls.

    Parts in closed form are at the goal. Of the others each goes all the way, or half, a quarter, ... of it. It takes
    an E-step at `start` and looks at the data again for each point tried.
    """
    _, moves, _ = expectation.statistics(start, keep=True)
    before = expectation.objective(start, start, moves)
    floor = before - ROUNDING * np.maximum(expectation.sequences.n_steps, np.abs(before))
    fractions, trial = np.ones(len(before)), goal
    for _ in range(MAX_HALVINGS):
        fell = ~(expectation.objective(start, trial, moves) >= floor)
        if not fell.any():
            return trial
        fractions[fell] /= 2
        trial = start.between(goal, fractions)
    return start.between(goal, np.where(fell, 0.0, fractions))


class Step(NamedTuple):
    """An E-step: parameters, log_likelihood, objective (see `run`), and the statistics of chain and emission."""

    parameters: Parameters
    log_likelihood: float
    objective: float
    moves: dict
    outputs: dict


def e_step(expectation, parameters):
    """Return the `Step` at some parameters."""
    loglik, moves, outputs = expectation.statistics(parameters)
    objective = (loglik + parameters.log_prior()) / expectation.n_observed
    return Step(parameters, loglik, objective, moves, outputs)


def advance(expectation, before, tol):
    """Return the `Step` after an M-step: at its goal, or nearer by if that gains less than `tol` and may be too far."""
    goal = maximise(before.parameters, before.moves, before.outputs)
    if not goal.iterative:
        return e_step(expectation, goal)
    after = None
    try:
        after = e_step(expectation, goal)
        gain = after.objective - before.objective
        if gain >= tol or (gain >= 0 and _surely_rises(expectation, before.parameters, goal)):
            return after
    except ImpossibleObservation:
        pass
    nearer = shortened(expectation, before.parameters, goal)
    return after if after is not None and nearer is goal else e_step(expectation, nearer)


def _surely_rises(expectation, parameters, goal):
    """Whether it is known without a look at the data that Newton steps lower the objective of no part."""
    chain, emission = parameters.chain, parameters.emission
    return not emission.iterative and chain.surely_rises(goal.chain, *expectation.sequences.input_range)


@dataclass(frozen=True)
class Fit:
    """Result of `run`.

    parameters; history: mean log-likelihood per observed step at each E-step, the last that of `parameters`;
    objective: the same with the log prior, what EM raises; converged; interrupted: by Ctrl-C.
    """

    parameters: Parameters
    history: list
    objective: float
    converged: bool
    interrupted: bool = False


def run(expectation, start, *, max_iter, tol, progress=None):
    """Run EM from `start`: M-step, E-step, test for convergence.

    The objective is the mean over observed steps of log-likelihood plus log prior.

    Parameters
    ----------
    expectation : Expectation
    start : Parameters
    max_iter : int
        M-steps at the most.
    tol : float
        Converged when an iteration gains less, in nats per observed step.
    progress : callable, optional
        Called with the score after every E-step.

    Returns
    -------
    Fit
        With the last complete iteration's parameters, also when interrupted, or when the objective falls or is not
        finite (a RuntimeWarning says so).
    """
    good, history, objectives = None, [], []
    converged = False
    try:
        for iteration in range(max_iter + 1):
            step = advance(expectation, good, tol) if good else e_step(expectation, start)
            if not _acceptable(step.objective, objectives):
                break
            good = step
            history.append(step.log_likelihood / expectation.n_observed)
            objectives.append(step.objective)
            if progress is not None:
                progress(history[-1])
            converged = iteration > 0 and step.objective - objectives[-2] < tol
            if converged:
                break
    except KeyboardInterrupt:
        if not history:
            raise
        return Fit(good.parameters, history, objectives[-1], False, interrupted=True)
    return Fit(good.parameters, history, objectives[-1], converged)


def _acceptable(objective, before):
    """Whether EM may go on from here; a fall beyond rounding or a NaN is named in a warning."""
    if not isfinite(objective):
        if not before:
            raise FloatingPointError(f"the log-likelihood of the starting parameters is {objective}.")
        warnings.warn(
            f"EM stopped: the objective became {objective}; the last good parameters are kept.", RuntimeWarning, 4
        )
        return False
    if before and objective < before[-1] - 1e-9 * max(1.0, abs(before[-1])):
        warnings.warn(
            f"EM stopped: the objective fell from {before[-1]:.12g} to {objective:.12g}; the parameters before the "
            "fall are kept.",
            RuntimeWarning,
            4,
        )
        return False
    return True


def best_of(fits):
    """Return the fit with the highest objective; the first of equals."""
    return max(fits, key=lambda fit: fit.objective)


def warn_unconverged(name, max_iter):
    """Issue scikit-learn's ConvergenceWarning."""
    warnings.warn(
        f"{name}: EM did not converge in max_iter={max_iter} iterations. Raise max_iter or tol, or scale the data.",
        ConvergenceWarning,
        stacklevel=3,
    )
