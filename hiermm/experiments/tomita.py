"""The seven Tomita grammars on the IOHMM, beside the published accuracies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiermm.analysis import half_life
from hiermm.emissions import Categorical
from hiermm.experiments import report as reports
from hiermm.experiments.trials import Trial, integer
from hiermm.markov import IOHMM
from hiermm.tasks import PUBLISHED, tomita

MAX_LENGTH = 12
# How the model learns: one target at the end from a random start; the same from a start whose tables are nearly
# deterministic; from such a start with a target at every step (is the string so far in the language?).
VARIANTS = {"end": "random start", "sharp": "sharp start", "every": "sharp start, target at every step"}
ROWS = ALL_ROWS = tuple(f"tomita-{grammar}-{variant}" for variant in VARIANTS for grammar in range(1, 8))
BUDGET = 200


def plan(rows: Sequence[str], n_trials: int, *, seed: int = 0, quick: bool = False) -> list[Trial]:
    """Return the trials: one IOHMM with the published number of states a trial and row."""
    settings = {"n_train": 200, "n_updates": BUDGET // 4 if quick else BUDGET, "seed": seed}
    return [
        Trial("tomita", row, number, {"n_states": PUBLISHED.n_states[_parse(row)[0] - 1], **settings})
        for row in rows
        for number in range(n_trials)
    ]


def _parse(row):
    """Grammar and variant of a row."""
    _, grammar, variant = row.split("-")
    return int(grammar), variant


def with_blank_start(strings: list) -> list:
    """Put a symbol 0 before each string: no move leads into the first step, so it has no effect but to make room."""
    return [np.concatenate([np.zeros((1, 1)), string]) for string in strings]


def unfitted(variant: str, n_states: int, n_updates: int, seed: int) -> Any:
    """Return the IOHMM that a trial starts from, with one transition table a symbol."""
    if variant == "end":
        return IOHMM(n_states, emission="categorical", transition="table", max_iter=n_updates, random_state=seed)
    rng = np.random.default_rng(seed)
    tables = 0.98 * rng.dirichlet(np.full(n_states, 0.3), (2, n_states)) + 0.02 / n_states
    return IOHMM.from_parameters(
        initial=np.full(n_states, 1 / n_states),
        transition=tables,
        emission=Categorical.from_parameters(probs=np.where(np.arange(n_states)[:, None] % 2 == [0, 1], 0.7, 0.3)),
        max_iter=n_updates,
        warm_start=True,
    )


def run(trial: Trial) -> dict:
    """Fit an IOHMM to random strings; test it on every string of 1 to 12 symbols.

    Returns
    -------
    dict
        `train_accuracy`, `accuracy` (of the verdicts at the ends), `log_likelihood` (training, nats a target),
        `updates`, `n_parameters`, `half_life` along a random string of 200 symbols.
    """
    grammar, variant = _parse(trial.row)
    train = tomita(grammar, trial.settings["n_train"], MAX_LENGTH, random_state=trial.seed("train", grammar))
    every = tomita(grammar, max_length=MAX_LENGTH)
    targets = [np.concatenate([[np.nan], prefixes]) for prefixes in train.answer] if variant == "every" else train.y
    settings = trial.settings["n_states"], trial.settings["n_updates"], integer(trial.seed("fit", row=True))
    model = unfitted(variant, *settings).fit(with_blank_start(train.X), targets)
    walk = np.random.default_rng(trial.seed("walk")).integers(0, 2, size=(200, 1)).astype(float)
    return {
        "train_accuracy": accuracy(model, train),
        "accuracy": accuracy(model, every),
        "log_likelihood": float(model.history_[-1]),
        "updates": model.n_iter_,
        "n_parameters": int(model.n_parameters_),
        "half_life": float(half_life(model.operators(walk))),
    }


def accuracy(model: Any, task: Any) -> float:
    """Return the share of strings whose last verdict is right."""
    guesses = np.array([part[-1] for part in model.predict(with_blank_start(task.X))])
    return float(np.mean(guesses == task.y))


def report(outcomes: list[dict], folder: Path) -> None:
    """Write the results to `folder` and print the table beside the published figures."""
    reports.write_csv(folder / "results.csv", [{k: v for k, v in o.items() if k != "seconds"} for o in outcomes])
    table = []
    for row in dict.fromkeys(outcome["row"] for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome["row"] == row]
        found, (grammar, variant) = np.array([outcome["accuracy"] for outcome in mine]), _parse(row)
        table.append(
            {
                "learning": VARIANTS[variant],
                "grammar": grammar,
                "states": mine[0]["n_states"],
                "trials": len(mine),
                "mean accuracy": found.mean(),
                "sd": found.std(),
                "best": found.max(),
                "published mean": PUBLISHED.mean_accuracy[grammar - 1],
                "published best": PUBLISHED.best_accuracy[grammar - 1],
                "train accuracy": np.mean([outcome["train_accuracy"] for outcome in mine]),
                "of the likeliest fit": max(mine, key=lambda outcome: outcome["log_likelihood"])["accuracy"],
            }
        )
    reports.write_csv(folder / "summary.csv", table)
    print(reports.text_table(table))
