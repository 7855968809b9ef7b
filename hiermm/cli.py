"""The command line. Each command is a function that adds its own subparser; `COMMANDS` lists them.

A command's subparser sets `run`, a function of the parsed arguments. A ValueError or an OSError that it raises is the
user's to mend and is shown as one line; exit status 2.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hiermm
from hiermm.experiments.command import add_experiment

LAGS = (1, 4, 16, 64)
EXPLANATION = """
held-out   mean log density of a held-out step given everything before it, in nats, of the standardised target
half-life  steps until half of a difference in context is left, in the worst case
lag L      the share of such a difference that is left after L steps (contraction)
seconds    time to fit"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; None: those of the process.

    Returns
    -------
    int
        Exit status: 0, or 2 for a refusal, or 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="hiermm", description="Hierarchical HMMs, IOHMMs and recurrent networks.")
    parser.add_argument("--version", action="version", version=f"hiermm {hiermm.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"hiermm {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hiermm {args.command}: stopped", file=sys.stderr)
        return 130
    return 0


def _names(text: str) -> tuple[str, ...]:
    """Comma-separated names; an empty one is refused."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return names


def _lags(text: str) -> tuple[int, ...]:
    """Comma-separated positive whole numbers, ascending once parsed."""
    try:
        lags = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,4,16,64") from None
    if lags[0] < 1:
        raise argparse.ArgumentTypeError(f"a lag must be at least 1, got {lags[0]}")
    return tuple(lags)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^32 - 1")
    return int(text)


def add_compare(commands: argparse._SubParsersAction) -> None:
    """Add `hiermm compare`."""
    from hiermm.registry import ROWS

    parser = commands.add_parser(
        "compare",
        help="fit the models to one series: what they forecast and how long they remember",
        description="Fit models to the first part of a series and judge them on the rest: one-step-ahead held-out "
        "log-likelihood, half-life of context and contraction. Without DATA.csv: the shipped weather of New York.",
        epilog=f"Models: {', '.join(ROWS)}.",
    )
    parser.add_argument("data", nargs="?", metavar="DATA.csv", type=Path, help="a header line, then one row a step")
    parser.add_argument(
        "--target", metavar="C", help="column to forecast; empty cells are missing (needed with DATA.csv)"
    )
    parser.add_argument("--inputs", metavar="A,B", type=_names, help="columns that are known at their step")
    parser.add_argument("--group", metavar="G", help="column that says which sequence a row belongs to")
    parser.add_argument(
        "--held-out", metavar="F", type=_fraction, default=0.25, help="last part to hold out (%(default)s)"
    )
    parser.add_argument("--models", metavar="M,...", type=_names, default=tuple(ROWS), help="rows of the table (all)")
    parser.add_argument("--lags", metavar="L,...", type=_lags, default=LAGS, help="lags of contraction (1,4,16,64)")
    parser.add_argument("--seed", metavar="S", type=_seed, default=0, help="seed of every model (%(default)s)")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("hiermm-compare"), help="results (%(default)s/)"
    )
    parser.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> None:
    """Read, cut, fit, compare, print and write."""
    from hiermm import forecast
    from hiermm.series import Split

    names = _rows_named(args.models)
    series = _read(args)
    split = Split.cut(series, args.held_out)
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out: {args.out} is a file, not a folder")
    fitted = forecast.fit_rows(split, names, args.seed)
    comparison = forecast.compare_rows(fitted, split, args.lags)
    held = split.held_out()[2]
    groups = f"{len(held)} sequence{'s' * (len(held) > 1)}"
    print(f"{series.target_name}: {groups}, {sum(split.n_train):,} steps to learn from, {sum(held):,} held out")
    print(f"inputs: {', '.join(split.input_names)}\n")
    print(forecast.format_table(comparison, args.lags))
    print(EXPLANATION)
    for name, row in fitted.items():
        for note in (*row.notes, *comparison.notes.get(name, ())):
            print(f"note, {name}: {note.removeprefix(type(row.model).__name__ + ': ')}")
    print(f"\nwritten: {', '.join(str(path) for path in _save(comparison, args.out))}")


def _save(comparison, out):
    """Write the results; without matplotlib the table alone. Returns the files."""
    try:
        comparison.save(out)
    except ImportError as error:
        print(f"no figure: {error}", file=sys.stderr)
    return sorted(path for path in out.iterdir() if path.stem == "comparison")


def _read(args):
    """The series that the arguments ask for."""
    from hiermm.series import Series

    if args.data is None:
        for option in ("inputs", "group"):
            if getattr(args, option) is not None:
                raise ValueError(f"--{option} goes with DATA.csv")
        return Series.shipped() if args.target is None else Series.shipped(args.target)
    if args.target is None:
        raise ValueError(f"say which column of {args.data} to forecast, with --target")
    return Series.from_csv(args.data, args.target, args.inputs or (), args.group)


def _rows_named(models):
    """Keys of the registry for the names given, whatever their case, each once."""
    from hiermm.registry import ROWS

    known = {name.lower(): name for name in ROWS}
    for model in models:
        if model.lower() not in known:
            raise ValueError(f"there is no model {model!r}; the models are {', '.join(ROWS)}")
    return list(dict.fromkeys(known[model.lower()] for model in models))


COMMANDS: tuple[Callable[..., None], ...] = (add_compare, add_experiment)
