"""`hiermm experiment`: the command line of the experiments."""

import argparse
from pathlib import Path

import numpy as np

QUICK_TRIALS = {"two-sequence": 3, "network": 2, "tomita": 3}
TRIALS = {"two-sequence": 10, "network": 10, "tomita": 20}


def add_experiment(commands: argparse._SubParsersAction) -> None:
    """Add `hiermm experiment`."""
    parser = commands.add_parser(
        "experiment",
        help="the source paper's experiments, on networks and chains alike",
        description="Run an experiment of El Hihi & Bengio (1995) on every model family: errors on training and on "
        "fresh sequences, how many trials are solved, and how long each fitted model remembers. A run that is stopped "
        "goes on from its finished trials when it is started again with the same folder.",
    )
    parser.add_argument("experiment", choices=list(TRIALS))
    parser.add_argument(
        "--lengths",
        metavar="T[:N],...",
        type=_lengths,
        help="sequence lengths, each with a number of trials of its own if wanted (10,20,40,100)",
    )
    parser.add_argument(
        "--trials", metavar="N", type=_positive, help="trials for each model and length (10; tomita 20)"
    )
    parser.add_argument("--models", metavar="M,...", type=_names, help="rows, or all (all but remedies)")
    parser.add_argument("--noise", metavar="A", type=_noise, help="noise after the pattern, two-sequence only (0.1)")
    parser.add_argument("--seed", metavar="S", type=_whole, default=0, help="seed of data and models (%(default)s)")
    parser.add_argument("--jobs", metavar="J", type=_positive, default=2, help="processes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="short lengths, few trials and updates: about two minutes")
    parser.add_argument("--out", metavar="DIR", type=Path, help="results (hiermm-EXPERIMENT/)")
    parser.set_defaults(run=run_experiment)


def run_experiment(args: argparse.Namespace) -> None:
    """Run the trials that are missing, then write and print the report."""
    from hiermm.experiments import EXPERIMENTS, run_trials

    experiment = EXPERIMENTS[args.experiment]
    folder = args.out or Path(f"hiermm-{args.experiment}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out: {folder} is a file, not a folder")
    options = {"seed": args.seed, "quick": args.quick}
    if args.noise is not None:
        if args.experiment != "two-sequence":
            raise ValueError("--noise goes with two-sequence")
        options["noise"] = args.noise
    trials = experiment.plan(_rows(experiment, args.models), _amount(experiment, args), **options)
    outcomes = run_trials(experiment.run, trials, folder / "trials", args.jobs)
    experiment.report(outcomes, folder)


def _rows(experiment, names):
    if names is None or names == ["all"]:
        return experiment.ROWS if names is None else experiment.ALL_ROWS
    unknown = [name for name in names if name not in experiment.ALL_ROWS]
    if unknown:
        raise ValueError(f"there is no row {unknown[0]!r}; the rows are {', '.join(experiment.ALL_ROWS)}")
    return tuple(dict.fromkeys(names))


def _amount(experiment, args):
    """Trials by length, or for grammars their number."""
    n_trials = args.trials or (QUICK_TRIALS if args.quick else TRIALS)[args.experiment]
    if args.experiment == "tomita":
        if args.lengths is not None:
            raise ValueError("--lengths does not go with tomita: it tests every string of up to 12 symbols")
        return n_trials
    chosen = args.lengths or dict.fromkeys(experiment.QUICK_LENGTHS if args.quick else experiment.LENGTHS)
    short = [length for length in chosen if length < experiment.SHORTEST]
    if short:
        raise ValueError(f"--lengths: {args.experiment} needs at least {experiment.SHORTEST} steps, got {short[0]}")
    return {length: own or n_trials for length, own in chosen.items()}


def _names(text):
    return [name.strip() for name in text.split(",")]


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _whole(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _lengths(text):
    """Lengths with their own numbers of trials, where given, else None."""
    chosen = {}
    for part in text.split(","):
        length, *own = part.split(":", 1)
        chosen[_positive(length)] = _positive(own[0]) if own else None
    return chosen


def _noise(text):
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (np.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"noise must be finite and at least 0, got {text}")
    return value
