"""Figures of the experiments: errors in the manner of the paper's Figure 2, and memory against error."""

import importlib.util
from pathlib import Path

import numpy as np

from hiermm.experiments.contestants import CONTESTANTS, DWELLS, LETTERS

# Panels: title and the rows in it.
STARTS = {"": "random start", "-patient": "ten times the iterations", "-latched": "latched start"}
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
        for suffix, words in STARTS.items()
        for coupling, way in (("slower", "slow"), ("faster", "fast"))
    },
    "IOHMM, starts that dwell": ["iohmm", *(f"iohmm-dwell-{dwell}" for dwell in DWELLS), "iohmm-latched"],
    "baseline": ["guessing"],
    "chains, other remedies": [
        "iohmm-restarts",
        "iohmm-tempered",
        "sticky-2-annealed",
        "sticky-2-grown",
    ],
}
# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00", "#D55E00")
LEFT = (-30, 5)  # range shown of log10 of what is left
FAMILY_MARKS = {"network": ("o", "#0072B2", "RNN"), "guessing": ("x", "#000000", "random guessing")}
CHAIN_MARKS = {
    "iohmm": ("s", "#009E73", "IOHMM"),
    "sticky": ("^", "#D55E00", "MultiscaleIOHMM, sticky"),
    "periodic": ("v", "#CC79A7", "MultiscaleIOHMM, periodic"),
}


def available() -> bool:
    """Whether matplotlib, an optional package, is there."""
    return importlib.util.find_spec("matplotlib") is not None


def _figure(n_panels, columns, size):
    """A figure that needs no display, and its axes."""
    from matplotlib.figure import Figure

    columns = min(n_panels, columns)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained", dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[n_panels:]:
        axis.remove()
    for axis in axes[:n_panels]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:n_panels]


def _short(row, title):
    """Label of a row within its panel: what the title does not say already."""
    if row.startswith("rnn"):
        n = CONTESTANTS[row].n_scales
        return f"{n} scale{'s' if n > 1 else ''}"
    words = row.replace("iohmm", "IOHMM").replace("guessing", "random guessing").split("-")
    said = ("slower", "faster") if "dwell" in title else ("slower", "faster", "latched", "patient")
    return " ".join(word for word in words if word not in said)


def _panels(found, lengths):
    """Panels with the rows that there are; none that shows only what another one shows too."""
    here = {
        title: [name for name in names if any((name, length) in found for length in lengths)]
        for title, names in PANELS.items()
    }
    sets = [set(names) for names in here.values()]
    return {
        title: names
        for k, (title, names) in enumerate(here.items())
        if names and not any(sets[k] < other for other in sets) and sets[k] not in sets[:k]
    }


def draw_errors(summary: list[dict], path: Path, error: str, chance: float) -> None:
    """Draw bars of the mean error on fresh sequences with standard deviations, by length and row.

    The lengths stand side by side as in the paper's Figure 2; a black line across a bar marks the training error.
    """
    found = {(row["row"], row["length"]): row for row in summary}
    lengths = sorted({row["length"] for row in summary})
    panels = _panels(found, lengths)
    figure, axes = _figure(len(panels), 2, (6.6, 2.9))
    for axis, (title, rows) in zip(axes, panels.items()):
        width = 0.8 / len(rows)
        for k, name in enumerate(rows):
            here = [(i, found[name, length]) for i, length in enumerate(lengths) if (name, length) in found]
            x = np.array([i for i, _ in here]) + (k - (len(rows) - 1) / 2) * width
            label = _short(name, title)
            _bars(axis, x, width, [row for _, row in here], {"color": COLOURS[k], "label": label})
        axis.axhline(chance, color="#888888", linewidth=0.8, linestyle="--")
        axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axis.set_xlim(-0.6, len(lengths) - 0.4)
        axis.set_title(title, fontsize=11)
        axis.legend(fontsize=7.5, ncols=3, loc="upper left", framealpha=0.9)
    for axis in axes[-2:]:
        axis.set_xlabel("sequence length")
    for axis in axes[::2]:
        axis.set_ylabel(error, fontsize=9)
    highest = max(row["fresh error"] + row["fresh sd"] for row in summary)
    axes[0].set_ylim(0, 1.35 * min(max(highest, chance), 1.6 * chance))
    says = "Bars: fresh sequences, mean and sd over trials. Black lines: training error. Dashed: a constant answer."
    figure.suptitle(says, fontsize=10)
    figure.savefig(path)


def _bars(axis, x, width, rows, style):
    """Bars of the fresh error with whiskers of one standard deviation, and lines at the training error."""
    height, spread, train = (np.array([row[key] for row in rows]) for key in ("fresh error", "fresh sd", "train error"))
    axis.bar(x, height, 0.92 * width, edgecolor="#555555", linewidth=0.4, **style)
    whiskers = [np.minimum(spread, height), spread]
    axis.errorbar(x, height, whiskers, fmt="none", ecolor="#555555", elinewidth=0.8, capsize=1.5)
    axis.hlines(train, x - 0.46 * width, x + 0.46 * width, color="black", linewidth=1.6)


def _mark(row):
    contestant = CONTESTANTS[row]
    return FAMILY_MARKS.get(contestant.family) or CHAIN_MARKS[row.split("-")[0]]


def draw_memory(outcomes: list[dict], path: Path, error: str, chance: float) -> None:
    """Draw the error on fresh sequences of every trial against three measures of the model's memory."""
    figure, axes = _figure(3, 3, (4.8, 4.2))
    jitter = np.random.default_rng(0)  # so that equal errors do not hide one another
    for marker, colour, label in dict.fromkeys(_mark(outcome["row"]) for outcome in outcomes):
        mine = [outcome for outcome in outcomes if _mark(outcome["row"])[2] == label]
        length, half_life, left, before, errors = (
            np.array([outcome[key] for outcome in mine], dtype=float)
            for key in ("length", "half_life", "log_contraction", "start_log_contraction", "test_error")
        )
        errors = errors + 0.012 * chance * jitter.uniform(-1, 1, len(errors))
        xs = np.clip(half_life / length, 1e-4, 10.0), *(np.clip(x / np.log(10), *LEFT) for x in (left, before))
        for axis, x in zip(axes, xs):
            axis.scatter(x, errors, s=16, marker=marker, color=colour, alpha=0.5, linewidths=0.8, label=label)
    axes[0].set_xscale("log")
    axes[0].set_xlabel("half-life / length\n(10: not halved within the sequence)")
    axes[1].set_xlabel(f"log10 of what is left at the end\nof a difference at the start ({LEFT[0]}: or less)")
    axes[2].set_xlabel("the same after the first update")
    axes[0].set_ylabel(error)
    for axis in axes:
        axis.axhline(chance, color="#888888", linewidth=0.8, linestyle="--")
    axes[0].set_ylim(-0.05 * chance, min(1.05 * max(outcome["test_error"] for outcome in outcomes), 2 * chance))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    figure.savefig(path)
