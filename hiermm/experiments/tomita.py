"""The seven Tomita grammars on the IOHMM, beside the published accuracies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiermm.analysis import half_life
from hiermm.experiments import report as reports
from hiermm.experiments.trials import Trial, integer
from hiermm.markov import IOHMM
from hiermm.tasks import PUBLISHED, tomita

MAX_LENGTH = 12
ROWS = ALL_ROWS = tuple(f"tomita-{grammar}" for grammar in range(1, 8))
BUDGET = 200


def plan(rows: Sequence[str], n_trials: int, *, seed: int = 0, quick: bool = False) -> list[Trial]:
    """Return the trials: one IOHMM with the published number of states a trial and grammar."""
    settings = {"n_train": 200, "n_updates": BUDGET // 4 if quick else BUDGET, "seed": seed}
    return [
        Trial("tomita", row, number, {"n_states": PUBLISHED.n_states[ROWS.index(row)], **settings})
        for row in rows
        for number in range(n_trials)
    ]


def with_blank_start(strings: list) -> list:
    """Put a symbol 0 before each string: no move leads into the first step, so it has no effect but to make room."""
    return [np.concatenate([np.zeros((1, 1)), string]) for string in strings]


def run(trial: Trial) -> dict:
    """Fit an IOHMM with one transition table a symbol to random strings; test it on every string of 1 to 12 symbols.

    Returns
    -------
    dict
        `train_accuracy`, `accuracy`, `log_likelihood` (training, nats a string), `updates`, `n_parameters`,
        `half_life` along a random string of 200 symbols.
    """
    grammar = ROWS.index(trial.row) + 1
    train = tomita(grammar, trial.settings["n_train"], MAX_LENGTH, random_state=trial.seed("train"))
    every = tomita(grammar, max_length=MAX_LENGTH)
    model = IOHMM(
        trial.settings["n_states"],
        emission="categorical",
        transition="table",
        max_iter=trial.settings["n_updates"],
        random_state=integer(trial.seed("fit", row=True)),
    ).fit(with_blank_start(train.X), train.y)
    walk = np.random.default_rng(trial.seed("walk")).integers(0, 2, size=(200, 1)).astype(float)
    return {
        "train_accuracy": _accuracy(model, train),
        "accuracy": _accuracy(model, every),
        "log_likelihood": float(model.history_[-1]),
        "updates": model.n_iter_,
        "n_parameters": int(model.n_parameters_),
        "half_life": float(half_life(model.operators(walk))),
    }


def _accuracy(model, task):
    guesses = np.array([part[-1] for part in model.predict(with_blank_start(task.X))])
    return float(np.mean(guesses == task.y))


def report(outcomes: list[dict], folder: Path) -> None:
    """Write the results to `folder` and print the table beside the published figures."""
    reports.write_csv(folder / "results.csv", [{k: v for k, v in o.items() if k != "seconds"} for o in outcomes])
    table = []
    for row in dict.fromkeys(outcome["row"] for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome["row"] == row]
        accuracy, k = np.array([outcome["accuracy"] for outcome in mine]), ROWS.index(row)
        table.append(
            {
                "grammar": k + 1,
                "states": mine[0]["n_states"],
                "trials": len(mine),
                "mean accuracy": accuracy.mean(),
                "sd": accuracy.std(),
                "best": accuracy.max(),
                "published mean": PUBLISHED.mean_accuracy[k],
                "published best": PUBLISHED.best_accuracy[k],
                "train accuracy": np.mean([outcome["train_accuracy"] for outcome in mine]),
                "of the likeliest fit": max(mine, key=lambda outcome: outcome["log_likelihood"])["accuracy"],
            }
        )
    reports.write_csv(folder / "summary.csv", table)
    print(reports.text_table(table))
