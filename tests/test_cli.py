"""The command line by subprocess: what it prints, what it writes, and every refusal."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hiermm
from hiermm.registry import ROWS

QUICK = "hmmlearn,HMM,IOHMM"


def hiermm_command(*args, cwd=None):
    """Run `python -m hiermm` with this same hiermm."""
    env = {**os.environ, "PYTHONPATH": str(Path(hiermm.__file__).parent.parent), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "hiermm", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two groups of a switching autoregression on one input, with a few missing targets."""
    rng = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("cli") / "data.csv"
    lines = ["site,level,drive,constant"]
    for site, steps in [("north", 400), ("south", 300)]:
        state, y = 0, 0.0
        for t in range(steps):
            state = state if rng.random() < 0.95 else 1 - state
            u = rng.normal()
            y = (0.9 * y + 0.5 * u if state else -0.5 * y + 2.0) + 0.2 * rng.normal()
            lines.append(f"{site},{'' if t % 97 == 50 else f'{y:.6f}'},{u:.6f},1")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_version():
    done = hiermm_command("--version")
    assert done.returncode == 0 and done.stdout.strip() == f"hiermm {hiermm.__version__}"


def test_help_lists_the_models():
    done = hiermm_command("compare", "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for name in ROWS:
        assert name in words


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["compare", "--models", "HMM,Oracle"], "there is no model 'Oracle'; the models are linear, hmmlearn, HMM"),
        (["compare", "--models", "HMM,,IOHMM"], "'HMM,,IOHMM' has an empty name"),
        (["compare", "--lags", "1,two"], "'1,two' is not a list of whole numbers"),
        (["compare", "--lags", "0,4"], "a lag must be at least 1, got 0"),
        (["compare", "--seed", "-1"], "expected one argument|not a whole number"),
        (["compare", "--seed", "1.5"], "'1.5' is not a whole number"),
        (["compare", "--held-out", "1"], "1 does not lie between 0 and 1"),
        (["compare", "--held-out", "half"], "'half' is not a number"),
        (["compare", "--target", "snow"], "target is 'snow'; the columns are temperature"),
        (["compare", "--inputs", "a"], r"--inputs goes with DATA\.csv"),
        (["compare", "--group", "a"], r"--group goes with DATA\.csv"),
        (["compare", "DATA"], "say which column of .* to forecast, with --target"),
        (["compare", "DATA", "--target", "depth"], "there is no column 'depth' in .*; its columns are site, level"),
        (["compare", "DATA", "--target", "level", "--inputs", "drive,wind"], "there is no column 'wind'"),
        (["compare", "DATA", "--target", "level", "--inputs", "level"], "column 'level' is asked for twice"),
        (["compare", "DATA", "--target", "level", "--group", "town"], "there is no column 'town'"),
        (["compare", "DATA", "--target", "site"], "line 2, column 'site': 'north' is not a number"),
        (["compare", "DATA", "--target", "drive", "--inputs", "level"], "column 'level': an input must not be missing"),
        (["compare", "DATA", "--target", "constant"], "target 'constant' does not vary in the training part"),
        (["compare", "nowhere.csv", "--target", "x"], r"No such file or directory: .*nowhere\.csv"),
        (["compare", ".", "--target", "x"], "Is a directory"),
        (["compare", "--out", "DATA"], "--out: .* is a file, not a folder"),
    ],
)
def test_refusals(args, message, data, tmp_path):
    done = hiermm_command(*[data if arg == "DATA" else arg for arg in args], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.search(message, " ".join(done.stderr.split())), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not list(tmp_path.iterdir()), "a refusal leaves nothing behind"


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    """One run on the CSV: (finished process, output folder)."""
    out = tmp_path_factory.mktemp("out") / "deep" / "er"
    args = ["--target", "level", "--inputs", "drive", "--group", "site", "--models", QUICK.lower(), "--lags", "4,1,9"]
    done = hiermm_command("compare", data, *args, "--seed", 3, "--out", out)
    assert done.returncode == 0, done.stderr
    return done, out


def test_compare_prints_the_table(compared):
    done, _ = compared
    lines = done.stdout.splitlines()
    for name in QUICK.split(","):
        (row,) = [line for line in lines if line.split()[:1] == [name]]
        numbers = [float(word) for word in row.split()[1:]]
        assert np.isfinite(numbers).all()
    header = next(line for line in lines if "parameters" in line)
    for word in ("model", "parameters", "held-out", "half-life", "seconds"):
        assert word in header
    assert "fitting" in done.stderr, "a progress bar shows while it works"


def test_compare_writes_table_and_figure(compared):
    _, out = compared
    kinds = {path.suffix for path in out.iterdir()}
    assert {".csv", ".png", ".svg", ".html"} <= kinds
    for path in out.iterdir():
        assert path.stat().st_size > 0
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")


def test_the_right_model_wins(compared):
    """The data switch between two input-driven regimes: an IOHMM must see far more than chains over the levels."""
    _, out = compared
    (path,) = out.glob("*.csv")
    score = {row["model"]: float(row["score"]) for row in table(path)}
    assert score["IOHMM"] > score["HMM"] + 0.5
    assert abs(score["HMM"] - score["hmmlearn"]) < 0.3


def test_a_seed_gives_the_same_table_twice(data, tmp_path, compared):
    _, out = compared
    args = ["--target", "level", "--inputs", "drive", "--group", "site", "--models", QUICK, "--lags", "1,4,9"]
    done = hiermm_command("compare", data, *args, "--seed", 3, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (table(next(folder.glob("*.csv"))) for folder in (out, tmp_path))
    for row in first + second:
        row.pop("fit_seconds")
    assert first == second
