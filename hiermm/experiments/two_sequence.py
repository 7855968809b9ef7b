"""Experiment 1 of the paper, the two-sequence problem, on every model family."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiermm.experiments import report as reports
from hiermm.experiments.contestants import CONTESTANTS, Problem, memory
from hiermm.experiments.trials import Trial, integer
from hiermm.tasks import two_sequence

LENGTHS = (10, 20, 40, 100)
QUICK_LENGTHS = (10, 40, 100)
ALL_ROWS = tuple(CONTESTANTS)
ROWS = tuple(name for name, row in CONTESTANTS.items() if row.family != "remedy")
SHORTEST = 3
SOLVED = 0.05  # error on fresh sequences, beyond what no solver can avoid, up to which a trial counts as solved
# Most updates of a trial by family: gradient steps, guesses, EM iterations.
BUDGET = {"network": 1000, "guessing": 3000, "chain": 100, "remedy": 100}


def plan(
    rows: Sequence[str], lengths: dict[int, int], *, seed: int = 0, noise: float = 0.1, quick: bool = False
) -> list[Trial]:
    """Return the trials of the experiment.

    Parameters
    ----------
    rows : sequence of str
        Keys of `CONTESTANTS`.
    lengths : dict of int to int
        Number of trials for each length.
    seed : int
    noise : float
        Half-width of the noise after the pattern; on the pattern itself it is 0.1 as in the paper.
    quick : bool
        A quarter of the budget.
    """
    share = 4 if quick else 1
    return [
        Trial(
            "two-sequence",
            row,
            number,
            {
                "length": length,
                "noise": noise,
                "pattern_noise": 0.1,
                "n_train": 30,
                "n_test": 200,
                "n_updates": BUDGET[CONTESTANTS[row].family] // share,
                "seed": seed,
            },
        )
        for length, n_trials in lengths.items()
        for row in rows
        for number in range(n_trials)
    ]


def draw(trial: Trial) -> tuple:
    """Return (training task, test task) of a trial; they depend on its number and settings, not on its row."""
    settings = trial.settings
    noise = {"noise": settings["noise"], "pattern_noise": settings["pattern_noise"]}
    # The patterns are the same at every length, so that lengths are compared on equal terms.
    patterns = two_sequence(1, 3, random_state=trial.seed("patterns")).patterns
    train, test = (
        two_sequence(
            settings[f"n_{part}"],
            settings["length"],
            patterns=patterns,
            random_state=trial.seed(part, settings["length"]),
            **noise,
        )
        for part in ("train", "test")
    )
    return train, test


def error_rate(scores: np.ndarray, y: np.ndarray) -> float:
    """Return the share of sequences whose score lies on the wrong side of 1/2.

    Examples
    --------
    >>> import numpy as np
    >>> error_rate(np.array([0.9, 0.2, 0.4]), np.array([1, 0, 1]))
    0.3333333333333333
    """
    return float(np.mean((np.asarray(scores) > 0.5) != np.asarray(y)))


def run(trial: Trial) -> dict:
    """Fit one contestant to one training set and test it on fresh sequences.

    Returns
    -------
    dict
        `train_error`, `test_error`, `bayes_error`, `solved` (0 or 1), `updates`, `learnt_at` (-1: never),
        `n_parameters`, `half_life`, `log_contraction`.
    """
    row, (train, test) = CONTESTANTS[trial.row], draw(trial)
    problem = Problem(train.X, train.y, classes=True)
    fitted = row.fit(
        problem, trial.settings["n_updates"], integer(trial.seed("fit", trial.settings["length"], row=True))
    )
    error = error_rate(fitted.last(test.X), test.y)
    return {
        "train_error": error_rate(fitted.last(train.X), train.y),
        "test_error": error,
        "bayes_error": train.bayes_error,
        "solved": int(error <= train.bayes_error + SOLVED),
        "updates": fitted.updates,
        "learnt_at": -1 if fitted.learnt_at is None else fitted.learnt_at,
        "n_parameters": int(fitted.model.n_parameters_),
        **memory(fitted, test.X),
    }


def report(outcomes: list[dict], folder: Path) -> None:
    """Write results, summary and figures to `folder` and print the tables."""
    reports.write(outcomes, folder, "classification error", 0.5)
