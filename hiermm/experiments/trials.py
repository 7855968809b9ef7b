"""Trials: what one is, running many of them in parallel, and going on where a stopped run ended."""

import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from hiermm.analysis import AnalysisWarning


@dataclass(frozen=True)
class Trial:
    """One fit of one row of an experiment.

    Attributes
    ----------
    experiment, row : str
        Names of the experiment and of the row (the model).
    number : int
        Which of the repeated trials; equal numbers see equal data, whatever the row.
    settings : dict
        All else that decides the outcome, as plain numbers and strings. A stored outcome counts only if they agree.
    """

    experiment: str
    row: str
    number: int
    settings: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the trial's file, without suffix."""
        digest = crc32(json.dumps(asdict(self), sort_keys=True).encode())
        return f"{self.experiment}-{self.row}-{self.number:02d}-{digest:08x}"

    def seed(self, *purpose: int | str, row: bool = False) -> np.random.SeedSequence:
        """Return a seed for one purpose within the trial.

        Parameters
        ----------
        *purpose : int or str
            What the seed is for: equal purposes get equal seeds in trials of equal number.
        row : bool
            Whether rows get seeds of their own (for a model's start) or share one (for the data).
        """
        words = [self.experiment, self.settings["seed"], self.number, *purpose, self.row if row else ""]
        return np.random.SeedSequence([crc32(str(word).encode()) for word in words])


def integer(seed: np.random.SeedSequence) -> int:
    """Return a seed as an integer that `random_state=` takes."""
    return int(seed.generate_state(1)[0])


def run_trials(
    run: Callable[[Trial], dict], trials: list[Trial], folder: Path, n_jobs: int = 1, progress: bool = True
) -> list[dict]:
    """Run the trials that have no stored outcome yet and return the outcomes of all, in the order of `trials`.

    Parameters
    ----------
    run : callable
        From a trial to a flat dict of numbers and strings.
    trials : list of Trial
    folder : Path
        Where outcomes are stored, one JSON file a trial, written at once as the trial ends: whatever stops the run
        loses the unfinished trials only.
    n_jobs : int
        Processes.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of dict
        Row, trial number, the settings and what `run` returned, with the `seconds` it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = [_load(folder, trial) for trial in trials]
    missing = [trial for trial, outcome in zip(trials, stored) if outcome is None]
    jobs = (delayed(_run_and_store)(run, trial, folder) for trial in missing)
    done = Parallel(n_jobs=n_jobs, return_as="generator", batch_size=1)(jobs)
    bar = tqdm(done, total=len(trials), initial=len(trials) - len(missing), disable=not progress, unit="trial")
    fresh = {trial.name: outcome for outcome, trial in zip(bar, missing)}
    return [fresh[trial.name] if outcome is None else outcome for trial, outcome in zip(trials, stored)]


def _path(folder, trial):
    return folder / f"{trial.name}.json"


def _load(folder, trial):
    """The stored outcome of a trial, or None. A file that was cut short while written never bears the final name."""
    try:
        stored = json.loads(_path(folder, trial).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{_path(folder, trial)} holds no outcome of a trial ({error}): remove it") from None
    return stored["outcome"] if stored["trial"] == json.loads(json.dumps(asdict(trial))) else None


def _run_and_store(run, trial, folder):
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a budget that runs out is a finding, not an accident
        warnings.simplefilter("ignore", AnalysisWarning)  # so is a memory that does not fade
        found = run(trial)
    seconds = {"seconds": round(time.perf_counter() - start, 2)}
    outcome = {"row": trial.row, "trial": trial.number, **trial.settings, **found, **seconds}
    path = _path(folder, trial)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    text = json.dumps({"trial": asdict(trial), "outcome": outcome}, indent=1)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return json.loads(text)["outcome"]
