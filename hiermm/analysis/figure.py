"""The figure of a comparison: six panels, one colour and one marker a model."""

import numpy as np

from hiermm.analysis._optional import pyplot

# Okabe & Ito's colours, told apart by people with every kind of colour vision; yellow is left out (faint on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")
FAINTEST = 1e-6  # curves are cut off below this
LOOK = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.titlepad": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "hiermm",
}


def draw(comparison):
    """Draw a `Comparison`: held-out score, half-life, contraction, effective rank, time scales, credit.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        Without matplotlib, naming the extra that brings it.
    """
    plt = pyplot()
    rows = comparison.table
    styles = {row["model"]: style(k) for k, row in enumerate(rows)}
    top = 1.3 + 0.36 * len(rows)
    with plt.rc_context(LOOK):
        figure = plt.figure(figsize=(14, top + 4.6), layout="constrained")
        axes = figure.subplots(2, 3, height_ratios=[top, 3.9])
        figure.get_layout_engine().set(h_pad=0.12, w_pad=0.1)
        _scores(axes[0, 0], rows, styles)
        _half_lives(axes[0, 1], rows, styles)
        _time_scales(axes[0, 2], rows, styles)
        for axis in axes[0]:
            _place_rows(axis, rows, named=axis is axes[0, 0])
        _curves(axes[1, 0], comparison, styles, "contraction", "What is left of a difference", "share left")
        _curves(
            axes[1, 1], comparison, styles, "effective_rank", "How many directions the rest spans", "effective rank"
        )
        _curves(axes[1, 2], comparison, styles, "credit", "How far back credit reaches", "credit, relative to lag 0")
        handles = [plt.Line2D([], [], label=_plain(name), **look) for name, look in styles.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(rows), 4), frameon=False)
    plt.close(figure)  # keep it out of pyplot's list; the figure itself stays usable
    return figure


def style(k):
    """Colour, marker and line of the k-th model; colours repeat with another line and marker."""
    return {
        "color": COLOURS[k % len(COLOURS)],
        "marker": MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
        "linestyle": LINES[(k + k // len(COLOURS)) % len(LINES)],
        "markersize": 6,
        "linewidth": 1.8,
    }


def log_ticks(axis):
    """Label a logarithmic x axis with plain numbers: decades, and 2 and 5 between them where there is room."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _plain(name):
    """The name of a model as matplotlib writes it, without reading formulas out of it."""
    return name.replace("$", r"\$")


def _empty(axis, text):
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="0.4")
    axis.set_xticks([])


def _place_rows(axis, rows, named):
    axis.set_yticks(range(len(rows)), [_plain(row["model"]) for row in rows] if named else [""] * len(rows))
    axis.set_ylim(len(rows) - 0.4, -0.7)
    axis.grid(axis="both", color="0.92")
    axis.set_axisbelow(True)


def _scores(axis, rows, styles):
    axis.set_title("Held-out prediction (right is better)")
    known = [(place, row) for place, row in enumerate(rows) if row["score"] is not None]
    if not known:
        return _empty(axis, "no held-out score")
    for place, row in known:
        look = styles[row["model"]]
        axis.plot(row["score"], place, color=look["color"], marker=look["marker"], markersize=9, linestyle="none")
        text = f"{row['score']:.3f}".replace("-", "\N{MINUS SIGN}")
        axis.annotate(text, (row["score"], place), (-9, 0), textcoords="offset points", ha="right", va="center")
    scores = [row["score"] for _, row in known]
    room = max(np.ptp(scores), 0.01)
    axis.set_xlim(min(scores) - 0.35 * room, max(scores) + 0.1 * room)
    axis.set_xlabel("mean log-likelihood per step (nats)")


def _half_lives(axis, rows, styles):
    axis.set_title("Half-life of a difference")
    finite = [row["half_life"] for row in rows if 0 < row["half_life"] < np.inf]
    low, high = min([0.5, *(value / 2 for value in finite)]), max([10, *(value * 5 for value in finite)])
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    for place, row in enumerate(rows):
        value, colour = row["half_life"], styles[row["model"]]["color"]
        if value == np.inf:
            axis.barh(place, high, color=colour, height=0.55, alpha=0.3)
            text, end = ("longer than the data" if "not seen" in row["notes"] else "never"), low
        else:
            end = max(value, low)
            axis.barh(place, end, color=colour, height=0.55)
            text = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
        axis.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center")
    log_ticks(axis)
    axis.set_xlabel("steps until half of it is left")


def _time_scales(axis, rows, styles):
    axis.set_title("Time scales (faint: second and third)")
    shown = []
    for place, row in enumerate(rows):
        look = styles[row["model"]]
        for k, alpha in ((3, 0.3), (2, 0.55), (1, 1.0)):
            value = row.get(f"timescale_{k}")
            if value is not None and 0 < value < np.inf:
                axis.plot(value, place, color=look["color"], marker=look["marker"], markersize=9, alpha=alpha, mew=0)
                shown.append(value)
    if not shown:
        return _empty(axis, "nothing decays")
    axis.set_xscale("log")
    axis.set_xlim(min(shown) / 2, max(shown) * 2)
    log_ticks(axis)
    axis.set_xlabel("steps in which a direction decays to 37%")


def _curves(axis, comparison, styles, quantity, title, label):
    axis.set_title(title)
    drawn = []
    for row in comparison.table:
        lags, values = comparison.curve(row["model"], quantity)
        shown = (lags > 0) & (values >= FAINTEST) & (values < np.inf)
        if shown.any():
            axis.plot(lags[shown], values[shown], **styles[row["model"]])
            drawn.append(values[shown])
    if not drawn:
        axis.set_yticks([])
        return _empty(axis, "no model here offers it")
    ticks = [lag for lag in comparison.lags if lag > 0]
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks[:: 1 + len(ticks) // 12], [str(lag) for lag in ticks[:: 1 + len(ticks) // 12]])
    axis.minorticks_off()
    axis.set_xlabel("lag (steps)")
    axis.set_ylabel(label)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    spread = np.concatenate(drawn)
    if quantity == "effective_rank":
        axis.set_ylim(0, 1.08 * spread.max())
    elif spread.min() < 0.1:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.05 * max(spread.max(), 1))
    if quantity == "contraction":
        axis.axhline(0.5, color="0.5", linewidth=1, zorder=0)
        axis.annotate("half", (0.01, 0.5), xycoords=("axes fraction", "data"), va="top", color="0.4", fontsize=9)
