"""Expectation-maximisation for any chain with any emission; knows no model by name."""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from hiermm.expectation import Parameters

MAX_HALVINGS = 30
ROUNDING = 1e-12


def maximise(expectation, parameters, moves, outputs):
    """Return the parameters of the M-step; the expected complete log-likelihood of no part falls.

    Parts in closed form go to their maximum. The others go to their Newton point, or to the first of the points half,
    a quarter, ... of the way at which their objective does not fall; where a bound proves that the Newton point is
    good, as it does in most iterations, nothing is evaluated.
    """
    chain, emission = parameters.chain, parameters.emission
    goal = Parameters(chain.maximise(moves), emission.maximise(outputs))
    if not emission.iterative and expectation.surely_rises(parameters, goal.chain, moves):
        return goal
    start = expectation.objective(parameters, parameters, moves)
    floor = start - ROUNDING * np.maximum(expectation.sequences.n_steps, np.abs(start))
    fractions, trial = np.ones(len(start)), goal
    for _ in range(MAX_HALVINGS):
        fell = ~(expectation.objective(parameters, trial, moves) >= floor)
        if not fell.any():
            return trial
        fractions[fell] /= 2
        trial = parameters.between(goal, fractions)
    return parameters.between(goal, np.where(fell, 0.0, fractions))


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
    """Run EM from `start`: E-step, test for convergence, then M-step.

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
    n, parameters = expectation.n_observed, start
    good, history, objectives = start, [], []
    converged = False
    try:
        for iteration in range(max_iter + 1):
            loglik, moves, outputs = expectation.statistics(parameters)
            objective = (loglik + parameters.log_prior()) / n
            if not _acceptable(objective, objectives):
                break
            good = parameters
            history.append(loglik / n)
            objectives.append(objective)
            if progress is not None:
                progress(history[-1])
            converged = iteration > 0 and objective - objectives[-2] < tol
            if converged or iteration == max_iter:
                break
            parameters = maximise(expectation, parameters, moves, outputs)
    except KeyboardInterrupt:
        if not history:
            raise
        return Fit(good, history, objectives[-1], False, interrupted=True)
    return Fit(good, history, objectives[-1], converged)


def _acceptable(objective, before):
    """Whether EM may go on from here; a fall beyond rounding or a NaN is named in a warning."""
    if not np.isfinite(objective):
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
