"""Time hiermm and every peer installed on the same work, in one run: `make bench`.

Numbers are compared first: where hiermm and a peer disagree, no time and no ratio is given, and the run ends with exit
status 1. Medians and ratios go to the screen, to `benchmarks/results.md` and to `benchmarks/results.csv`.

    python benchmarks/run.py [--quick] [--only em,iohmm] [--out DIRECTORY]
"""

from measure import Record, disagreement, machine, quartiles, single_thread, versions

single_thread()

import argparse
import csv
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import bench_analysis
import bench_dense
import bench_dynamax
import bench_em
import bench_growth
import bench_iohmm
import bench_multiscale
import bench_rnn
import bench_softmax
import memory
from profiles import profile
from report import markdown
from targets import RATIOS, verdict

FIELDS = ["section", "work", "ms", "low", "high", "peer", "peer_ms", "ratio", "target", "verdict", "note", "failed"]


def dense(quick):
    """Yield the records of `bench_dense`."""
    for row in bench_dense.rows(16 if quick else 256):
        times = {"ms": row["ms"], "low": row["low"], "high": row["high"]}
        peer = {"peer": "hmmlearn scaling", "peer_ms": row["hmmlearn_ms"]} if "ratio" in row else {}
        yield Record("Flat chains, kernels", f"{row['work']}, K = {row['n_states']}", **times, **peer)


def multiscale(quick):
    """Yield the records of `bench_multiscale`."""
    section = "Several levels, kernels (processor time of one thread)"
    for row in itertools.islice(bench_multiscale.rows(), 1 if quick else None):
        sizes = " x ".join(map(str, row["sizes"]))
        if "dense_seconds" in row:
            work = f"posteriors, levels {sizes}, one sequence of {row['steps']:,}"
            for peer, name in (("hmmlearn scaling", "hmmlearn_seconds"), ("hiermm, joint matrix", "dense_seconds")):
                yield Record(section, work, ms=1e3 * row["seconds"], peer=peer, peer_ms=1e3 * row[name])
            yield Record(section, f"{work}, with counts", ms=1e3 * row["seconds_with_counts"])
        elif "seconds" in row:
            work = f"{row['work']}, levels {sizes}, {row['steps']:,} steps in {row.get('sequences', 1)}"
            peer = {}
            if "by_level_seconds" in row:
                peer = {"peer": "hiermm, level by level", "peer_ms": 1e3 * row["by_level_seconds"]}
            yield Record(section, work, ms=1e3 * row["seconds"], **peer)


def rnn(quick):
    """Yield the records of `bench_rnn`, one a peer."""
    for row in itertools.islice(bench_rnn.rows(3 if quick else 9), 1 if quick else None):
        work = row["work"] if row["work"].startswith("one update") else f"epoch, 1,000 x 100, {row['work']}"
        times = {"ms": row["median_ms"], "low": row["low_ms"], "high": row["high_ms"]}
        peers = [peer for peer in bench_rnn.PEERS if row[f"{peer}_ms"]]
        for peer in peers:
            yield Record("Recurrent network", work, **times, peer=peer, peer_ms=row[f"{peer}_ms"])
        absent = [peer for peer in bench_rnn.PEERS if peer not in peers and (work, peer) in RATIOS]
        for peer in absent:
            yield Record("Recurrent network", work, **times, peer=peer, note="not installed")
        if not peers + absent:
            yield Record("Recurrent network", work, **times)


def softmax(quick):
    """Yield the records of `bench_softmax`."""
    for row in bench_softmax.rows(*((3, 1) if quick else (15, 3))):
        peer = {"peer": "NumPy", "peer_ms": row["numpy_ms"]} if row["numpy_ms"] else {}
        times = {"ms": row["median_ms"], "low": row["low_ms"], "high": row["high_ms"]}
        work = f"{row['kernel']}, {row['work']}, {row['steps']:,} steps"
        yield Record("Softmax rows, kernels", work, **times, **peer)


def analysis(quick):
    """Yield the records of `bench_analysis`."""
    for row in itertools.islice(bench_analysis.rows(), 2 if quick else None):
        peer = {"peer": "NumPy loop", "peer_ms": 1e3 * row["numpy_seconds"]} if "ratio" in row else {}
        yield Record("Analysis", f"{row['work']}, n = {row['n']}, {row['steps']:,} steps", 1e3 * row["seconds"], **peer)


def imports(quick):
    """Yield the times of importing scikit-learn and then hiermm, in fresh processes."""
    lines = [
        "import time",
        "begin = time.perf_counter(); import sklearn",
        "middle = time.perf_counter(); import hiermm",
        "print(middle - begin, time.perf_counter() - middle)",
    ]
    code = "\n".join(lines)
    spent = []
    for _ in range(3 if quick else 11):
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
        spent.append([1e3 * float(seconds) for seconds in done.stdout.split()])
    theirs, ours = zip(*spent, strict=True)
    yield Record("Import", "import sklearn", **quartiles(theirs))
    yield Record("Import", "import hiermm beyond import sklearn", **quartiles(ours))


SECTIONS = {
    "dense": dense,
    "dynamax": bench_dynamax.rows,
    "em": bench_em.rows,
    "multiscale": multiscale,
    "iohmm": bench_iohmm.rows,
    "rnn": rnn,
    "softmax": softmax,
    "analysis": analysis,
    "import": imports,
}


def collect(names, quick):
    """Run the sections; a disagreement ends its section with a record that says so."""
    records = []
    for name in names:
        start = time.perf_counter()
        try:
            for record in SECTIONS[name](quick):
                records.append(record)
                print(line(record), flush=True)
        except AssertionError as error:
            records.append(Record(name, "all", failed=disagreement(error)))
            print(line(records[-1]), flush=True)
        except Exception as error:  # a peer whose interface has changed must not cost the other sections' numbers
            reason = f"stopped by {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            records.append(Record(name, "all", failed=reason))
            print(line(records[-1]), flush=True)
        print(f"-- {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return records


def line(record):
    """One line for the screen."""
    if record.failed or record.ms is None:
        return f"{record.section}: {record.work}, {record.peer or 'all peers'}: {record.failed or record.note}"
    peer = f"{record.peer}: {record.peer_ms:10.2f} ms, {record.ratio:7.1f} times" if record.ratio else ""
    return f"{record.work:75} {record.ms:10.3f} ms  {peer}  {verdict(record)[1]}"


def write_csv(path, records):
    """Write every record as a row of a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for record in records:
            target, met = verdict(record)
            values = {**vars(record), "ratio": record.ratio, "target": target, "verdict": met}
            writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in values.items()})


def main():
    """Run, print, write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small work and few repeats: does everything still run?")
    sections = [*SECTIONS, "memory", "growth", "profile"]
    parser.add_argument("--only", default="", help=f"sections, by commas: {', '.join(sections)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name]
    if not set(chosen) <= set(sections):
        parser.error(f"--only takes {', '.join(sections)}")

    def wanted(name):
        return not chosen or name in chosen

    start = time.perf_counter()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    records = collect([name for name in SECTIONS if wanted(name)], arguments.quick)
    growth = list(bench_growth.rows(arguments.quick)) if wanted("growth") else []
    peaks = []
    if wanted("memory") and sys.platform == "linux":
        peaks = list(memory.rows([("HMM", 500_000)] if arguments.quick else memory.WORK))
    parts = list(profile()) if wanted("profile") else []
    about = {**machine(), "load when started": f"{load:.1f}", "minutes": f"{(time.perf_counter() - start) / 60:.1f}"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = markdown(about, versions(), records, growth, peaks, parts, arguments.quick)
    (arguments.out / "results.md").write_text(text)
    write_csv(arguments.out / "results.csv", records)
    print(f"wrote {arguments.out / 'results.md'} and results.csv in {about['minutes']} minutes")
    failed = [record for record in records if record.failed]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
