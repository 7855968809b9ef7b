"""Tables of the experiments: outcomes as CSV, a summary by row and length, and whether memory predicts error."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from hiermm.experiments import figures
from hiermm.experiments.contestants import CONTESTANTS

# Measures of memory and what they are called in the table of correlations.
MEMORY = {
    "half_life": "half-life",
    "log_contraction": "left",
    "start_half_life": "half-life at the start",
    "start_log_contraction": "left at the start",
}


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write dicts with the same keys as CSV; numbers in full, so that equal results make equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def text_table(rows: list[dict]) -> str:
    """Return dicts with the same keys as a table of aligned columns."""
    cells = [list(rows[0]), *([_show(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    left = [isinstance(value, str) for value in rows[0].values()]
    lines = (
        "  ".join(cell.ljust(width) if ragged else cell.rjust(width) for cell, width, ragged in zip(row, widths, left))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _show(value):
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def groups(outcomes: list[dict]) -> dict[tuple, list[dict]]:
    """Return the outcomes by (length, row), in the order of first appearance."""
    found: dict[tuple, list[dict]] = {}
    for outcome in outcomes:
        found.setdefault((outcome["length"], outcome["row"]), []).append(outcome)
    return found


def summarise(outcomes: list[dict]) -> list[dict]:
    """Return one dict for each length and row: errors, share solved, updates, half-life and contraction.

    `updates` is the median over the solved trials of the updates until the training set was learnt (None: no such
    trial); `half-life` and `log10 left` (what is left at the last step of a difference at the first one, for the fitted
    model and after the first update) are medians.
    """
    table = []
    for (length, row), mine in groups(outcomes).items():
        values = {key: np.array([outcome[key] for outcome in mine], dtype=float) for key in mine[0] if key != "row"}
        learnt = values["learnt_at"][(values["solved"] == 1) & (values["learnt_at"] >= 0)]
        table.append(
            {
                "row": row,
                "length": length,
                "trials": len(mine),
                "weights": int(np.median(values["n_parameters"])),
                "train error": values["train_error"].mean(),
                "train sd": values["train_error"].std(),
                "fresh error": values["test_error"].mean(),
                "fresh sd": values["test_error"].std(),
                "solved": values["solved"].mean(),
                "updates": float(np.median(learnt)) if len(learnt) else None,
                "half-life": float(np.median(values["half_life"])),
                "log10 left": float(np.median(values["log_contraction"])) / np.log(10),
                "log10 left at start": float(np.median(values["start_log_contraction"])) / np.log(10),
            }
        )
    return table


def markdown(summary: list[dict]) -> str:
    """Return a Markdown table with a line for each row and a column for each length.

    A cell holds the mean error on fresh sequences, its standard deviation and, in brackets, the share of the trials
    that were solved.
    """
    lengths = sorted({row["length"] for row in summary})
    found = {(row["row"], row["length"]): row for row in summary}
    lines = ["| row | " + " | ".join(f"T = {length:,}" for length in lengths) + " |", "|---" * (len(lengths) + 1) + "|"]
    for name in dict.fromkeys(row["row"] for row in summary):
        cells = [found.get((name, length)) for length in lengths]
        shown = [
            f"{c['fresh error']:.3f} ± {c['fresh sd']:.3f} ({c['solved']:.1f})" if c is not None else "" for c in cells
        ]
        lines.append(f"| `{name}` | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rank correlation, ties sharing their mean rank; None where x or y is constant.

    Infinite values have a rank like any other; pairs with a NaN are left out.

    Examples
    --------
    >>> import numpy as np
    >>> round(rank_correlation(np.array([1.0, 5.0, np.inf]), np.array([3.0, 2.0, 1.0])), 6)
    -1.0
    """
    known = ~(np.isnan(x) | np.isnan(y))
    if not known.any():
        return None
    x, y = rankdata(x[known]), rankdata(y[known])
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else None


def correlations(outcomes: list[dict]) -> list[dict]:
    """Return, by group of rows and by length, how the error on fresh sequences goes with memory, over trials.

    Memory is the half-life (in units of the length) and what is left at the end of a difference at the start, both of
    the fitted model and of the model after its first update. If memory explains the error the correlations are near
    -1; None where one of the two is the same in every trial.
    """
    table = []
    kinds = dict.fromkeys(kind for outcome in outcomes for kind in _kinds(outcome))
    lengths = list(dict.fromkeys(outcome["length"] for outcome in outcomes))
    for kind in sorted(kinds, key=lambda kind: (kind.startswith("all"), kind)):
        for chosen in [*([length] for length in lengths if len(lengths) > 1), lengths]:
            mine = [outcome for outcome in outcomes if kind in _kinds(outcome) and outcome["length"] in chosen]
            if mine:
                table.append({"rows": kind, "length": str(chosen[0]) if len(chosen) == 1 else "all", **_related(mine)})
    return table


def _kinds(outcome):
    """Names of the groups that an outcome counts in."""
    contestant = CONTESTANTS[outcome["row"]]
    return contestant.group, {"network": "all RNNs", "guessing": "random guessing"}.get(contestant.family, "all chains")


def _related(outcomes):
    """Rank correlations of each measure of memory with the error."""
    length, error = (np.array([outcome[key] for outcome in outcomes]) for key in ("length", "test_error"))
    row = {"trials": len(outcomes)}
    for key, name in MEMORY.items():
        values = np.array([outcome[key] for outcome in outcomes], dtype=float)
        row[name] = rank_correlation(values / length if "half_life" in key else values, error)
    return row


def write(outcomes: list[dict], folder: Path, error: str, chance: float, say: Callable[[str], None] = print) -> None:
    """Write the tables (results, timings, summary, correlations, errors.md) and figures to a folder, and print them.

    Parameters
    ----------
    outcomes : list of dict
        As `run_trials` returns them.
    folder : Path
    error : str
        What the errors are, for the figure's axis.
    chance : float
        Error of a constant answer.
    say : callable
        Takes the text to print.
    """
    write_csv(folder / "results.csv", [{k: v for k, v in row.items() if k != "seconds"} for row in outcomes])
    write_csv(folder / "timings.csv", [{k: row[k] for k in ("row", "length", "trial", "seconds")} for row in outcomes])
    summary, related = summarise(outcomes), correlations(outcomes)
    write_csv(folder / "summary.csv", summary)
    write_csv(folder / "correlations.csv", related)
    (folder / "errors.md").write_text(markdown(summary), encoding="utf-8")
    say(text_table(summary))
    say("\nDoes the half-life predict the error? Rank correlations with the error on fresh sequences, over trials.")
    say(text_table(related))
    if figures.available():
        figures.draw_errors(summary, folder / "errors.png", error, chance)
        figures.draw_memory(outcomes, folder / "memory.png", error, chance)
        say(f"\nTables and figures are in {folder}/")
    else:
        say(f"\nTables are in {folder}/; figures need matplotlib: pip install 'hiermm[plot]'")
