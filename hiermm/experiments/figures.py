"""Figures of the experiments: errors in the manner of the paper's Figure 2, and memory against error."""

import importlib.util
from pathlib import Path

import numpy as np

from hiermm.experiments.contestants import CONTESTANTS, DWELLS, LETTERS

# Panels: title and the rows in it.
CHAINS = ("iohmm", "sticky-2", "sticky-3", "periodic-2", "periodic-3")
PANELS = {
    **{
        f"RNN, {words}, {start} start": [
            f"rnn-{solver}-{n}{'' if start == 'uniform' else '-' + start}" for n in LETTERS
        ]
        for start in ("uniform", "orthogonal")
        for solver, words in (("sgd", "gradient descent"), ("adam", "Adam"))
    },
    **{
        f"chains, {words}, {way} levels steer": [
            f"{name}{'' if name == 'iohmm' else '-' + coupling}{suffix}" for name in CHAINS
        ]
        for suffix, words in (("", "random start"), ("-latched", "latched start"))
        for coupling, way in (("slower", "slow"), ("faster", "fast"))
    },
    "IOHMM, starts that dwell": ["iohmm", *(f"iohmm-dwell-{dwell}" for dwell in DWELLS), "iohmm-latched"],
    "baseline and other remedies": [
        "guessing",
        "iohmm-restarts",
        "iohmm-tempered",
        "sticky-2-annealed",
        "sticky-2-grown",
    ],
}
# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00", "#D55E00")
FAMILY_MARKS = {"network": ("o", "#0072B2", "RNN"), "guessing": ("x", "#000000", "random guessing")}
CHAIN_MARKS = {
    "iohmm": ("s", "#009E73", "IOHMM"),
    "sticky": ("^", "#D55E00", "MultiscaleIOHMM, sticky"),
    "periodic": ("v", "#CC79A7", "MultiscaleIOHMM, periodic"),
}


def available() -> bool:
    """Whether matplotlib, an optional package, is there."""
    return importlib.util.find_spec("matplotlib") is not None


def _figure(n_panels, size):
    """A figure that needs no display, and its axes."""
    from matplotlib.figure import Figure

    columns = min(n_panels, 2)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained", dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[n_panels:]:
        axis.remove()
    return figure, axes[:n_panels]


def _short(row):
    """Label of a row within its panel."""
    if row.startswith("rnn"):
        n = CONTESTANTS[row].n_scales
        return f"{n} scale{'s' if n > 1 else ''}"
    words = row.replace("iohmm", "IOHMM").split("-")
    return " ".join(word for word in words if word not in ("latched", "slower", "faster"))


def draw_errors(summary: list[dict], path: Path, error: str, chance: float) -> None:
    """Draw bars of the mean error on fresh sequences with standard deviations, by length and row.

    The lengths stand side by side as in the paper's Figure 2; a black line across a bar marks the training error.
    """
    found = {(row["row"], row["length"]): row for row in summary}
    lengths = sorted({row["length"] for row in summary})
    panels = {
        title: [name for name in rows if any((name, length) in found for length in lengths)]
        for title, rows in PANELS.items()
    }
    panels = {title: rows for title, rows in panels.items() if rows}
    figure, axes = _figure(len(panels), (6.6, 3.1))
    top = 1.15 * chance
    for axis, (title, rows) in zip(axes, panels.items()):
        width = 0.8 / len(rows)
        for k, name in enumerate(rows):
            here = [(i, found[name, length]) for i, length in enumerate(lengths) if (name, length) in found]
            x = np.array([i for i, _ in here]) + (k - (len(rows) - 1) / 2) * width
            height = np.array([row["fresh error"] for _, row in here])
            spread = np.array([row["fresh sd"] for _, row in here])
            train = np.array([row["train error"] for _, row in here])
            low = np.minimum(spread, height)
            axis.bar(x, height, width * 0.92, color=COLOURS[k], edgecolor="#555555", linewidth=0.4, label=_short(name))
            axis.errorbar(x, height, [low, spread], fmt="none", ecolor="#555555", elinewidth=0.8, capsize=1.5)
            axis.hlines(train, x - width * 0.46, x + width * 0.46, color="black", linewidth=1.6)
            top = max(top, min((height + spread).max(initial=0), 2 * chance))
        axis.axhline(chance, color="#888888", linewidth=0.8, linestyle="--")
        axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axis.set_xlabel("sequence length")
        axis.set_title(title, fontsize=11)
        axis.legend(fontsize=7.5, ncols=3, loc="upper left", framealpha=0.9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1.3 * top)
    for axis in axes[::2]:
        axis.set_ylabel(error)
    figure.suptitle(
        "Bars: fresh sequences, mean and sd over trials. Black lines: training error. Dashed: a constant answer.",
        fontsize=10,
    )
    figure.savefig(path)


def _mark(row):
    contestant = CONTESTANTS[row]
    return FAMILY_MARKS.get(contestant.family) or CHAIN_MARKS[row.split("-")[0]]


def draw_memory(outcomes: list[dict], path: Path, error: str, chance: float) -> None:
    """Draw the error on fresh sequences of every trial against half-life and against what is left at the end."""
    figure, axes = _figure(2, (6.2, 4.2))
    kinds: dict[tuple, list[dict]] = {_mark(outcome["row"]): [] for outcome in outcomes}
    for outcome in outcomes:
        kinds[_mark(outcome["row"])].append(outcome)
    jitter = np.random.default_rng(0)
    for (marker, colour, label), mine in kinds.items():
        length, half_life, left, errors = (
            np.array([outcome[key] for outcome in mine], dtype=float)
            for key in ("length", "half_life", "log_contraction", "test_error")
        )
        errors = errors + 0.01 * chance * jitter.uniform(-1, 1, len(errors))
        ratio = np.clip(np.where(np.isfinite(half_life), half_life, np.inf) / length, 1e-4, 10.0)
        for axis, x in ((axes[0], ratio), (axes[1], np.clip(left / np.log(10), -30, 5))):
            axis.scatter(x, errors, s=18, marker=marker, color=colour, alpha=0.55, linewidths=0.8, label=label)
    axes[0].set_xscale("log")
    axes[0].set_xlabel("half-life / sequence length (10: not halved within the sequence)")
    axes[1].set_xlabel("log10 of what is left at the end of a difference at the start\n(-30: that or less)")
    axes[0].set_ylabel(error)
    axes[0].legend(fontsize=8, loc="lower left")
    for axis in axes:
        axis.axhline(chance, color="#888888", linewidth=0.8, linestyle="--")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(-0.05 * chance, min(max(o["test_error"] for o in outcomes) * 1.05, 3 * chance))
    figure.savefig(path)
