"""The results as Markdown."""

import itertools

from targets import MEMORY, verdict

INTRODUCTION = """\
Written by `make bench`. Times are medians in milliseconds of one thread, with the quartiles in brackets; a ratio is the
peer's median over hiermm's in this same run. Before a peer is timed its numbers are compared with hiermm's: posteriors
and log-likelihoods under equal parameters, parameters after an iteration of EM or an epoch. Where they differ, no time
and no ratio is given. Compiled peers (dynamax, JAX) are compiled before they are timed. Peers that are not installed
are not measured, and no number is quoted for them; `make peers` installs all of them.

Flat chains and several levels are timed by the kernel alone, in processor time of the one thread; EM iterations by the
E-step and M-step that `fit` runs, input-output models likewise, threads by `fit` as a whole, all three by the clock on
the wall. hiermm and most peers take turns; beside a peer with a process of its own half of hiermm's E-steps and
iterations are timed before that process, half behind it. A fit of an input-output model lasts until it has the
likelihood that the peer reached from the same start.
"""


def number(value):
    """Three significant figures, without exponents."""
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def table(header, rows, right=()):
    """Return a Markdown table; columns whose number is in `right` are set flush right."""
    rule = ["---:" if i in right else "---" for i in range(len(header))]
    cells = [header, rule, *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells) + "\n"


def comparison(records):
    """Return the table of one section."""
    rows = []
    for record in records:
        if record.failed:
            rows.append([record.work, "", record.peer or "", "", "", "", f"**{record.failed.replace('|', '/')}**"])
            continue
        ours = "" if record.ms is None else number(record.ms)
        if record.low is not None:
            ours += f" [{number(record.low)}, {number(record.high)}]"
        peer = number(record.peer_ms) if record.peer_ms else ""
        ratio = number(record.ratio) if record.ratio else ""
        goal, met = verdict(record)
        remark = f"**{met}**" if met == "not met" else met
        remarks = "; ".join(filter(None, [remark, record.note]))
        rows.append([record.work, ours, record.peer or "", peer, ratio, goal, remarks])
    return table(["work", "hiermm ms", "peer", "peer ms", "ratio", "target", ""], rows, {1, 3, 4})


def growth_table(rows):
    """Return a table for each growth curve."""
    text = ""
    for curve, members in itertools.groupby(rows, key=lambda row: row["curve"]):
        cells = [
            [f"{m['size']:,}", f"{number(m['ms'])} [{number(m['low'])}, {number(m['high'])}]",
             "" if m["exponent"] is None else f"{m['exponent']:.2f}"]
            for m in members
        ]  # fmt: skip
        text += f"\nTime against {curve}\n\n" + table(["size", "ms", "exponent"], cells, {0, 1, 2})
    return text


def memory_table(rows):
    """Return the table of memory against T."""
    cells = []
    for row in rows:
        limit = MEMORY.get((row["model"], row["steps"]))
        met = "" if limit is None else "met" if row["added_mb"] < limit else "**not met**"
        goal = "" if limit is None else f"< {limit:.0f} MB"
        cells.append([row["model"], f"{row['steps']:,}", f"{row['held_mb']:.0f}", f"{row['added_mb']:.1f}", goal, met])
    return table(["model (N = 4)", "steps T", "held before, MB", "`fit` adds, MB", "target", ""], cells, {1, 2, 3})


def profile_table(rows):
    """Return a table of the parts of each fit."""
    text = ""
    for work, members in itertools.groupby(rows, key=lambda row: row["work"]):
        members = list(members)
        first = members[0]
        text += f"\n{work}: {number(first['total_ms'])} ms, {first['iterations']} iterations\n\n"
        cells = [[m["part"], number(m["ms"]), f"{m['share']:.1%}"] for m in members]
        text += table(["part", "ms", "share"], cells, {1, 2})
    return text


def summary(records, peaks):
    """Count the targets that are met."""
    met = [verdict(record)[1] for record in records]
    for row in peaks:
        limit = MEMORY.get((row["model"], row["steps"]))
        if limit is not None:
            met.append("met" if row["added_mb"] < limit else "not met")
    counts = {word: met.count(word) for word in ("met", "not met", "not measured")}
    return "Targets: " + ", ".join(f"{count} {word}" for word, count in counts.items()) + ".\n"


def markdown(about, packages, records, growth, peaks, parts, quick):
    """Return the whole document."""
    text = "# Benchmarks\n\n" + INTRODUCTION
    if quick:
        text += "\n**A quick run: few repeats of small work. It shows that everything runs, not how fast.**\n"
    text += "\n" + "".join(f"- {name}: {value}\n" for name, value in about.items())
    text += "- " + ", ".join(f"{name} {version or '(not installed)'}" for name, version in packages.items()) + "\n"
    text += "\n" + summary(records, peaks)
    for section in dict.fromkeys(record.section for record in records):
        text += f"\n## {section}\n\n" + comparison([r for r in records if r.section == section])
    if peaks:
        text += "\n## Memory against T\n\nOne sequence, three EM iterations, the peak of resident memory.\n\n"
        text += memory_table(peaks)
    if growth:
        text += "\n## Growth\n\nOne EM iteration; the exponent is the slope of log time against log size.\n"
        text += growth_table(growth)
    if parts:
        text += "\n## Where the time of `fit` goes\n\nEach part is charged for itself alone, tracing included.\n"
        text += profile_table(parts)
    return text
