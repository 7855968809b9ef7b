"""The rows of the experiments: networks and chains behind one face, fitted to one target at the end of a sequence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiermm.analysis import contraction, half_life
from hiermm.experiments import chains
from hiermm.operators import Operators
from hiermm.rnn import MultiscaleRNN

# Architectures A to E: number of time scales -> (units, scales), slowest first. With full coupling the number of
# weights depends on the sum of the units alone, 16, so all five have exactly as many.
ARCHITECTURES = {
    1: ((16,), (1,)),
    2: ((8, 8), (2, 1)),
    3: ((5, 5, 6), (4, 2, 1)),
    4: ((4, 4, 4, 4), (8, 4, 2, 1)),
    6: ((2, 2, 3, 3, 3, 3), (32, 16, 8, 4, 2, 1)),
}
LETTERS = dict(zip(ARCHITECTURES, "ABCDE"))
DWELLS = (2, 8, 32, 128)  # steps that the start of an IOHMM stays in a state, to see what start is slow enough
PROBES = 4  # sequences along which memory is measured


@dataclass(frozen=True)
class Problem:
    """What a contestant is to learn: one target at the end of every sequence.

    Attributes
    ----------
    X : ndarray of shape (n, T, P)
    y : ndarray of shape (n,)
        Classes 0 and 1, or numbers.
    classes : bool
    """

    X: np.ndarray
    y: np.ndarray
    classes: bool


@dataclass(frozen=True)
class Fitted:
    """A fitted contestant.

    Attributes
    ----------
    model : object
        The hiermm estimator.
    last : callable
        From inputs (n, T, P) to predictions at the last step (n,): the number, or for classes a number that is above
        1/2 where class 1 is more likely.
    operators : callable
        From inputs (n, T, P) to `Operators`.
    first_operators : callable or None
        The same for the model as it was after the first update, where that is known.
    updates : int
        Parameter updates made: gradient steps, draws, or EM iterations.
    learnt_at : int or None
        Updates after which every training sequence was sure to be classified rightly; None: never.
    """

    model: Any
    last: Callable[[np.ndarray], np.ndarray]
    operators: Callable[[np.ndarray], Operators]
    first_operators: Callable[[np.ndarray], Operators] | None
    updates: int
    learnt_at: int | None


@dataclass(frozen=True)
class Contestant:
    """One row of the experiments.

    Attributes
    ----------
    name : str
        As on the command line.
    label : str
        As in tables and figures.
    family : {"network", "guessing", "chain", "remedy"}
        "remedy": a chain that does not start as `fit` would start it.
    n_scales : int
        Number of time scales.
    group : str
        Rows that differ in their structure alone, not in how they start and learn.
    fit : callable
        fit(problem, n_updates, seed) -> Fitted.
    """

    name: str
    label: str
    family: str
    n_scales: int
    group: str
    fit: Callable[[Problem, int, int], Fitted]


def memory(fitted: Fitted, X: np.ndarray) -> dict:
    """Measure how long a fitted model remembers along inputs X (n, T, P), and how long it did after its first update.

    Returns
    -------
    dict
        `half_life` : steps until the contraction has halved, the geometric mean over start times (inf: never within
        the sequence); `log_contraction` : the logarithm of what is left at the last step of a difference made at the
        first (Dobrushin's coefficient for chains, spectral norm for networks); -inf: nothing. `start_half_life`,
        `start_log_contraction` : the same after the first update (NaN where that model is not known).
    """
    return {**_memory(fitted.operators, X, ""), **_memory(fitted.first_operators, X, "start_")}


def _memory(operators_along, X, prefix):
    if operators_along is None:
        return {f"{prefix}half_life": np.nan, f"{prefix}log_contraction": np.nan}
    operators = operators_along(X[:PROBES])
    whole = min(stop - start for start, stop in operators.runs())
    return {
        f"{prefix}half_life": float(half_life(operators)),
        f"{prefix}log_contraction": float(contraction(operators, [whole], log=True)[0]),
    }


class Watch:
    """Callback that keeps the model after its first update and stops training once the training set is learnt.

    A sequence on the wrong side of the boundary costs at least some amount: 1/2 in half a squared error with the
    classes at -1 and +1, log 2 in cross-entropy. A mean loss below that amount over n says that no sequence is.
    Training goes on to a quarter of it, so that margins are not razor-thin.

    Parameters
    ----------
    bound : float
        The amount over n; 0: never stop.
    """

    def __init__(self, bound: float):
        self.bound = bound
        self.first: Any = None
        self.learnt_at: int | None = None

    def __call__(self, progress: Any) -> bool:
        """Return whether to stop."""
        if self.first is None:
            self.first = progress.model()
        if self.learnt_at is None and progress.loss < self.bound:
            self.learnt_at = progress.n_updates
        return progress.loss < self.bound / 4

    def fitted(self, model: Any, last: Callable[[np.ndarray], np.ndarray]) -> Fitted:
        """Return the network that was watched."""
        return Fitted(model, last, model.operators, self.first.operators, model.n_updates_, self.learnt_at)


def network(n_scales: int, **options: Any) -> Callable[[Problem, int, int], Fitted]:
    """Return a `fit` for `MultiscaleRNN` with squared error at the last step, as in the paper."""
    n_units, timescales = ARCHITECTURES[n_scales]

    def fit(problem, n_updates, seed):
        watch = Watch(0.5 / len(problem.y) if problem.classes else 0.0)
        model = MultiscaleRNN(
            n_units,
            timescales=timescales,
            output="regression",
            batch_size=len(problem.y),
            alpha=0.0,
            max_iter=n_updates,
            n_iter_no_change=n_updates,
            random_state=seed,
            callback=watch,
            **options,
        ).fit(problem.X, problem.y.astype(np.float64))
        return watch.fitted(model, last_step(model))

    return fit


def guessing(problem: Problem, n_updates: int, seed: int) -> Fitted:
    """Fit by guessing the weights of 3 fully connected units at random, after Hochreiter & Schmidhuber (1996)."""
    watch = Watch(np.log(2) / len(problem.y) if problem.classes else 0.0)
    model = MultiscaleRNN(
        (3,),
        timescales=(1,),
        output="classification" if problem.classes else "regression",
        solver="random",
        guess_range=100.0 if problem.classes else 3.0,
        alpha=0.0,
        max_iter=n_updates,
        random_state=seed,
        callback=watch,
    ).fit(problem.X, problem.y)
    return watch.fitted(model, last_probability(model) if problem.classes else last_step(model))


def chain(n_scales: int, start: str = "random", **options: Any) -> Callable[[Problem, int, int], Fitted]:
    """Return a `fit` for an IOHMM (one scale) or a MultiscaleIOHMM; `start` is a key of `chains.STARTS`."""

    def fit(problem, n_updates, seed):
        model, first = chains.STARTS[start](problem, n_scales, n_updates, seed, **options)
        predict = last_probability(model) if problem.classes else last_step(model)
        right = np.array(model.history_) > -np.log(2) / len(problem.y) if problem.classes else np.zeros(1, bool)
        return Fitted(
            model,
            lambda X: predict(chains.with_blank_start(X)),
            lambda X: model.operators(chains.with_blank_start(X)),
            None if first is None else lambda X: first.operators(chains.with_blank_start(X)),
            model.n_iter_,
            int(right.argmax()) if right.any() else None,
        )

    return fit


def last_step(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from inputs (n, T, P) to the predictions at the last step."""
    return lambda X: np.array([part[-1] for part in model.predict(X)])


def last_probability(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from inputs (n, T, P) to the probability of class 1 at the last step."""
    column = model.classes_.tolist().index(1) if 1 in model.classes_ else None
    return lambda X: np.zeros(len(X)) if column is None else np.array([p[-1, column] for p in model.predict_proba(X)])


def _rows():
    plain = {"momentum": 0.0, "clip_norm": None, "learning_rate_init": 0.05}
    solvers = {"sgd": ("gradient descent", plain), "adam": ("Adam", {"clip_norm": 1.0, "learning_rate_init": 5e-3})}
    for start in ("uniform", "orthogonal"):
        for solver, (words, options) in solvers.items():
            for n in ARCHITECTURES:
                suffix = "" if start == "uniform" else f"-{start}"
                group = f"RNN, {words}, {start} start"
                fit = network(n, solver=solver, initialization=start, **options)
                label = group.replace("RNN", f"RNN {LETTERS[n]}")
                yield Contestant(f"rnn-{solver}-{n}{suffix}", label, "network", n, group, fit)
    yield Contestant("guessing", "random guessing", "guessing", 1, "random guessing", guessing)
    for start, family in [("random", "chain"), ("patient", "remedy"), ("latched", "remedy")]:
        suffix, group = "" if start == "random" else f"-{start}", f"chains, {start} start"
        yield Contestant(f"iohmm{suffix}", f"IOHMM, {start} start", family, 1, group, chain(1, start))
        for coupling, way in [("slower", "slow steers fast"), ("faster", "fast steers slow")]:
            for clock in ("sticky", "periodic"):
                for n in (2, 3):
                    label = f"MultiscaleIOHMM {n}, {clock}, {way}, {start} start"
                    fit = chain(n, start, clock=clock, coupling=coupling)
                    yield Contestant(f"{clock}-{n}-{coupling}{suffix}", label, family, n, group, fit)
    for dwell in DWELLS:
        label, fit = f"IOHMM, start dwells {dwell} steps", chain(1, "latched", dwell=dwell)
        yield Contestant(f"iohmm-dwell-{dwell}", label, "remedy", 1, "chains, dwelling start", fit)
    for name, label, n, fit in [
        ("iohmm-restarts", "IOHMM, best of 10 starts", 1, chain(1, "restarts")),
        ("iohmm-tempered", "IOHMM, deterministic annealing", 1, chain(1, "tempered")),
        ("sticky-2-annealed", "MultiscaleIOHMM 2, sticky, w annealed", 2, chain(2, "annealed")),
        ("sticky-2-grown", "MultiscaleIOHMM 2, sticky, grown start", 2, chain(2, "random", init="grow")),
    ]:
        yield Contestant(name, label, "remedy", n, "chains, other remedies", fit)


CONTESTANTS = {row.name: row for row in _rows()}
