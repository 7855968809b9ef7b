"""The files of a comparison: CSV, PNG, SVG and one self-contained HTML page that explains itself."""

import csv
import html
import io
from pathlib import Path

import numpy as np

from hiermm.analysis.figure import draw
from hiermm.analysis.wording import MEANING, PANELS

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 1280px; margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; margin-bottom: .3rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: .92rem; width: 100% }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
td { white-space: nowrap }
th { vertical-align: bottom; border-bottom: 2px solid #888; font-weight: 600 }
th:first-child, td:first-child { text-align: left } td.best { font-weight: 700; background: #e8f3ec }
dt { font-weight: 600; margin-top: .7rem } dd { margin: .1rem 0 0 1.2rem; color: #333 }
figure { margin: 1rem 0 } figure svg { width: 100%; height: auto } .scroll { overflow-x: auto }
.summary { background: #f3f6fa; border-left: 4px solid #0072B2; padding: .7rem 1rem }
.note { color: #555; font-size: .92rem }
details { margin-top: 1rem } summary { cursor: pointer; font-weight: 600 }
"""


def write(comparison, directory):
    """Write comparison.csv, comparison.png, comparison.svg and comparison.html; returns the directory as a Path."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "comparison.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(key for row in comparison.table for key in row)), restval="")
        table.writeheader()
        table.writerows(comparison.table)
    figure = draw(comparison)
    figure.savefig(directory / "comparison.png", dpi=150)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    (directory / "comparison.svg").write_text(drawing.getvalue(), encoding="utf-8")
    (directory / "comparison.html").write_text(page(comparison, drawing.getvalue()), encoding="utf-8")
    return directory


def page(comparison, drawing):
    """Return the HTML page: summary, table, figure, and what every column and panel means.

    Parameters
    ----------
    comparison : Comparison
    drawing : str
        The figure as SVG; it becomes part of the page.
    """
    fitting, memory = (_filled(comparison, columns) for columns in _columns(comparison))
    used = [name for name in MEANING if any(head.startswith(name.split(" L ")[0]) for head, _, _ in fitting + memory)]
    meaning = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(MEANING[name])}</dd>" for name in used)
    panels = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in PANELS.items())
    svg = drawing[drawing.index("<svg") :]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of models</title><style>{STYLE}</style></head><body>
<h1>Which model predicts best, and which remembers longest?</h1>
<p>Every model below reads a sequence step by step and keeps a state: a summary of the past. Each step transforms that
state, and every transformation blurs it. After many steps the product of all these transformations decides what is
left of an early event. This page measures both sides: how well each model predicts data it has not seen, and how long
a difference in its past stays visible.</p>
<p class="summary">{_summary(comparison)}</p>
<h2>How well they predict</h2><div class="scroll">{_table(comparison, fitting)}</div>
<h2>How long they remember</h2><div class="scroll">{_table(comparison, memory)}</div>{_notes(comparison)}
<h2>The figure</h2><figure role="img" aria-label="The panels described below">{svg}</figure>
<dl>{panels}</dl>
<h2>What the columns mean</h2><dl>{meaning}</dl>
<p class="note">Chains and networks are measured alike: what always survives in a chain, the fact that probabilities sum
to one, says nothing about the past and is left out of every number here.</p>
{_details(comparison)}
</body></html>
"""


def _columns(comparison):
    """(heading, key, format) of the columns of the two tables."""
    fixed = {"model", "kind", "n_states", "parameters", "score", "half_life", "notes"}
    extra = [key for row in comparison.table for key in row if key not in fixed and not _measured(key)]
    lags = _few([lag for lag in comparison.lags if lag > 0])
    far = lags[-1:]
    fitting = [("Model", "model", str), ("Kind", "kind", str), ("States", "n_states", _whole)]
    fitting += [("Parameters", "parameters", _whole), ("Held-out score", "score", _four_decimals)]
    fitting += [(key.replace("_", " ").capitalize(), key, _number) for key in dict.fromkeys(extra)]
    memory = [("Model", "model", str), ("Half-life", "half_life", _number)]
    memory += [("Slowest time scale", "timescale_1", _number)]
    memory += [(f"Left after {lag} {_steps(lag)}", f"contraction_{lag}", _share) for lag in lags]
    memory += [(f"Directions left after {lag}", f"effective_rank_{lag}", _number) for lag in far]
    memory += [(f"Credit left after {lag}", f"credit_{lag}", _share) for lag in far]
    memory += [(f"Shortest path over {lag}", f"path_length_{lag}", _number) for lag in far]
    return fitting, memory


def _filled(comparison, columns):
    """The columns in which some model has a value."""
    return [column for column in columns if any(row.get(column[1]) is not None for row in comparison.table)]


def _steps(lag):
    return "step" if lag == 1 else "steps"


def _measured(key):
    return key.startswith(("timescale_", "contraction_", "effective_rank_", "credit_", "path_length_"))


def _few(lags):
    """At most four of the lags: 1, 4, 16 and 64 where they are all there, else evenly spread ones."""
    if {1, 4, 16, 64} <= set(lags):
        return [1, 4, 16, 64]
    return [lags[k] for k in np.unique(np.linspace(0, len(lags) - 1, min(4, len(lags))).round().astype(int))]


def _whole(value):
    return f"{value:,.0f}"


def _four_decimals(value):
    return _minus(f"{value:.4f}")


def _share(value):
    return "< 1e-6" if 0 < value < 1e-6 else _number(value)


def _number(value):
    """Three digits: 0.000123, 0.0123, 12.3, 1,230, 4.5e-07."""
    if isinstance(value, str) or not np.isfinite(value):
        return _minus(str(value))
    if value == 0 or 1e-6 <= abs(value) < 1000:
        return _minus(np.format_float_positional(value, precision=3, fractional=False, trim="-"))
    return _minus(f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.1e}")


def _minus(text):
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def _table(comparison, columns):
    scores = [row["score"] for row in comparison.table if row["score"] is not None]
    best = max(scores) if len(scores) > 1 else None
    head = "".join(f"<th>{html.escape(title)}</th>" for title, _, _ in columns)
    body = []
    for row in comparison.table:
        cells = []
        for _, key, shape in columns:
            value = row.get(key)
            mark = ' class="best"' if key == "score" and best is not None and value == best else ""
            cells.append(f"<td{mark}>{'–' if value is None else html.escape(shape(value))}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _summary(comparison):
    """Two or three sentences with the findings."""
    rows, found = comparison.table, []
    scored = sorted((row for row in rows if row["score"] is not None), key=lambda row: -row["score"])
    if len(scored) > 1:
        first, second = scored[:2]
        found.append(
            f"<b>{html.escape(first['model'])}</b> predicts best: {_four_decimals(first['score'])} nats per held-out "
            f"step, {first['score'] - second['score']:.4f} more than {html.escape(second['model'])}."
        )
    halved = sorted((row for row in rows if row["half_life"] < np.inf), key=lambda row: row["half_life"])
    if len(halved) > 1:
        found.append(
            f"A difference in the past is half gone after {_number(halved[-1]['half_life'])} steps in "
            f"<b>{html.escape(halved[-1]['model'])}</b>, the longest half-life, and after "
            f"{_number(halved[0]['half_life'])} in {html.escape(halved[0]['model'])}, the shortest."
        )
    for row in rows:
        if row["half_life"] == np.inf:
            found.append(f"In <b>{html.escape(row['model'])}</b> such a difference was not seen to halve.")
    return " ".join(found) or "One model, no held-out score: see the table."


def _notes(comparison):
    items = [
        f"<li><b>{html.escape(name)}</b>: {html.escape(' '.join(notes))}</li>"
        for name, notes in comparison.notes.items()
    ]
    return f'<ul class="note">{"".join(items)}</ul>' if items else ""


def _details(comparison):
    """Every number of the table, folded away."""
    keys = list(dict.fromkeys(key for row in comparison.table for key in row if key not in ("model", "notes")))
    head = "".join(f"<th>{html.escape(row['model'])}</th>" for row in comparison.table)
    lines = []
    for key in keys:
        values = [row.get(key) for row in comparison.table]
        if any(value is not None for value in values):
            cells = "".join(
                f"<td>{'–' if v is None else html.escape(v if isinstance(v, str) else f'{v:.6g}')}</td>" for v in values
            )
            lines.append(f"<tr><td>{html.escape(key)}</td>{cells}</tr>")
    table = f"<table><thead><tr><th>Quantity</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<details><summary>All numbers</summary><div class="scroll">{table}</div></details>'
