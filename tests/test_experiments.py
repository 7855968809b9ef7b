"""The experiments: fair to all rows, resumable to the bit, and measured by what they say they measure."""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import hiermm
from hiermm.experiments import chains, command, contestants, figures, network, report, tomita, two_sequence
from hiermm.experiments.contestants import ARCHITECTURES, CONTESTANTS, Problem
from hiermm.experiments.trials import Trial, integer, run_trials
from hiermm.operators import Operators
from hiermm.tasks import two_sequence as two_sequence_task

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::hiermm.analysis.AnalysisWarning"),
]

TINY = {6: 2, 9: 1}  # trials by length
SOME = ("rnn-sgd-2", "guessing", "iohmm-latched")


def plan(rows=SOME, lengths=TINY, **options):
    return two_sequence.plan(rows, lengths, quick=True, **options)


# trials and seeds ----------------------------------------------------------------------------------------------------


def test_rows_see_the_same_data_and_trials_do_not():
    first, other_row, other_number = (
        Trial("two-sequence", row, number, plan()[0].settings)
        for row, number in [("iohmm", 0), ("guessing", 0), ("iohmm", 1)]
    )
    (train, test), (same, _), (different, _) = map(two_sequence.draw, (first, other_row, other_number))
    assert np.array_equal(train.X, same.X) and np.array_equal(train.y, same.y)
    assert not np.array_equal(train.patterns, different.patterns)
    assert np.array_equal(train.patterns, test.patterns) and not np.array_equal(train.X, test.X[: len(train.X)])
    assert integer(first.seed("fit", row=True)) != integer(other_row.seed("fit", row=True))
    assert integer(first.seed("train")) == integer(other_row.seed("train")) != integer(other_number.seed("train"))


@pytest.mark.parametrize("experiment", [two_sequence, network])
def test_lengths_share_the_trial_s_patterns_or_network(experiment):
    short, long = experiment.plan(("guessing",), {5: 1, 8: 1}, quick=True)
    a, b = experiment.draw(short)[0], experiment.draw(long)[0]
    assert a.X.shape[1] == 5 and b.X.shape[1] == 8
    if experiment is two_sequence:
        assert np.array_equal(a.patterns, b.patterns)
    else:
        assert np.array_equal(a.network["recurrent"], b.network["recurrent"])


def test_other_settings_are_another_trial():
    names = {trial.name for seed in (0, 1) for noise in (0.1, 0.5) for trial in plan(seed=seed, noise=noise)}
    assert len(names) == 4 * len(plan())


def read(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(folder, outcomes):
    report.write(outcomes, folder, "classification error", 0.5, say=lambda text: None)
    return {name: (folder / name).read_bytes() for name in ("results.csv", "summary.csv", "correlations.csv")}


def test_resuming_after_an_interruption_gives_the_same_tables(tmp_path):
    trials = plan()
    whole = run_trials(two_sequence.run, trials, tmp_path / "whole", progress=False)
    calls = []

    def interrupted(trial):
        calls.append(trial.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return two_sequence.run(trial)

    with pytest.raises(KeyboardInterrupt):
        run_trials(interrupted, trials, tmp_path / "cut", progress=False)
    assert len(list((tmp_path / "cut").glob("*.json"))) == 3
    (tmp_path / "cut" / f"{trials[5].name}.999.partial").write_text('{"trial": ')
    counted = []
    cut = run_trials(
        lambda trial: counted.append(trial.name) or two_sequence.run(trial), trials, tmp_path / "cut", progress=False
    )
    assert counted == [trial.name for trial in trials[3:]], "finished trials are not run again"
    assert written(tmp_path / "a", whole) == written(tmp_path / "b", cut)


def test_resuming_after_a_kill_gives_the_same_tables(tmp_path):
    code = f"""
import time
from pathlib import Path
from hiermm.experiments import run_trials, two_sequence
def slow(trial):
    time.sleep(0.3)
    return two_sequence.run(trial)
run_trials(slow, two_sequence.plan({SOME!r}, {TINY!r}, quick=True), Path("cut"), progress=False)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(hiermm.__file__).parent.parent), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "cut").glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list((tmp_path / "cut").glob("*.json")))
    assert 2 <= finished < len(plan()), "the run was killed in its midst"
    cut = run_trials(two_sequence.run, plan(), tmp_path / "cut", progress=False)
    whole = run_trials(two_sequence.run, plan(), tmp_path / "whole", progress=False)
    assert written(tmp_path / "a", whole) == written(tmp_path / "b", cut)


def test_two_processes_give_the_same_tables(tmp_path):
    one = run_trials(two_sequence.run, plan(), tmp_path / "one", n_jobs=1, progress=False)
    two = run_trials(two_sequence.run, plan(), tmp_path / "two", n_jobs=2, progress=False)
    assert written(tmp_path / "a", one) == written(tmp_path / "b", two)


def test_a_stored_outcome_counts_only_for_its_own_settings(tmp_path):
    (trial, *_) = plan()
    run_trials(lambda _: {"value": 1}, [trial], tmp_path, progress=False)
    path = tmp_path / f"{trial.name}.json"
    stored = json.loads(path.read_text())
    stored["trial"]["settings"]["length"] = 7
    path.write_text(json.dumps(stored))
    (outcome,) = run_trials(lambda _: {"value": 2}, [trial], tmp_path, progress=False)
    assert outcome["value"] == 2 and outcome["length"] == trial.settings["length"]
    path.write_text("{}}")
    with pytest.raises(ValueError, match=rf"{trial.name}\.json holds no outcome of a trial"):
        run_trials(lambda _: {"value": 3}, [trial], tmp_path, progress=False)


# the rows ------------------------------------------------------------------------------------------------------------


def test_error_rate_of_a_perfect_and_of_a_constant_predictor():
    y = two_sequence_task(40, 10, random_state=0).y
    assert two_sequence.error_rate(y.astype(float), y) == 0
    assert two_sequence.error_rate(np.zeros(40), y) == two_sequence.error_rate(np.ones(40), y) == 0.5
    assert two_sequence.error_rate(1 - y, y) == 1


def test_architectures_have_as_many_scales_as_they_say_and_equal_weights():
    assert list(ARCHITECTURES) == [1, 2, 3, 4, 6]
    for n, (units, scales) in ARCHITECTURES.items():
        assert len(units) == len(scales) == n and sum(units) == 16
        assert scales == tuple(2**s for s in reversed(range(n)))
    assert all(np.prod(sizes) == 8 and len(sizes) == n for n, sizes in chains.SIZES.items())


def test_time_scales_of_chains_grow_with_the_length():
    assert [chains.time_scales(1, T) for T in (10, 1000)] == [(1,), (1,)]
    assert chains.time_scales(2, 128) == (64, 1) and chains.time_scales(3, 128) == (64, 8, 1)
    assert chains.time_scales(3, 3) == (2, 1, 1)


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("classes", [True, False])
def test_every_row_fits_predicts_and_is_measured(name, classes):
    task = two_sequence_task(8, 6, random_state=0)
    y = task.y if classes else task.X[:, 0, 0] + 0.01 * np.arange(8)
    fitted = CONTESTANTS[name].fit(Problem(task.X, y, classes), 4, 0)
    last = fitted.last(task.X)
    assert last.shape == (8,) and np.isfinite(last).all()
    if classes and CONTESTANTS[name].family != "network":
        assert (last >= 0).all() and (last <= 1).all()
    found = contestants.memory(fitted, task.X)
    assert found["half_life"] >= 0 and found["log_contraction"] < 10
    assert np.isnan(found["start_half_life"]) == (name == "iohmm-restarts")
    assert 1 <= fitted.updates <= 40
    assert (CONTESTANTS[name].n_scales == 1) == (len(np.atleast_1d(getattr(fitted.model, "timescales", (1,)))) == 1)


@pytest.mark.parametrize("name", ["rnn-adam-2", "iohmm", "sticky-2-slower", "guessing"])
def test_seeds_decide_the_outcome(name):
    task = two_sequence_task(8, 6, random_state=0)
    a, b, c = (CONTESTANTS[name].fit(Problem(task.X, task.y, True), 3, seed).last(task.X) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_learnt_training_set_is_learnt():
    """The loss at which `learnt_at` is set is too low for any training sequence to be on the wrong side."""
    task = two_sequence_task(30, 8, random_state=1)
    for name in ("rnn-adam-1-orthogonal", "guessing", "iohmm-latched"):
        fitted = CONTESTANTS[name].fit(Problem(task.X, task.y, True), 500, 0)
        assert fitted.learnt_at is not None and fitted.learnt_at <= fitted.updates < 500
        assert two_sequence.error_rate(fitted.last(task.X), task.y) == 0


def test_without_a_blank_start_the_first_input_is_lost():
    task = two_sequence_task(10, 5, random_state=0)
    other = task.X.copy()
    other[:, 0] += 1
    fitted = CONTESTANTS["iohmm-latched"].fit(Problem(task.X, task.y, True), 5, 0)
    assert not np.allclose(fitted.last(task.X), fitted.last(other))
    bare = [[part[-1, 1] for part in fitted.model.predict_proba(X)] for X in (task.X, other)]
    np.testing.assert_allclose(bare[0], bare[1], atol=1e-12)


def test_a_latched_start_remembers_and_solves_what_the_default_start_forgets():
    task = two_sequence_task(30, 60, random_state=0)
    fresh = two_sequence_task(200, 60, patterns=task.patterns, random_state=1)
    problem = Problem(task.X, task.y, True)
    latched, default = (CONTESTANTS[name].fit(problem, 60, 0) for name in ("iohmm-latched", "iohmm"))
    assert two_sequence.error_rate(latched.last(fresh.X), fresh.y) == 0
    assert two_sequence.error_rate(default.last(fresh.X), fresh.y) > 0.3
    before = contestants.memory(latched, fresh.X), contestants.memory(default, fresh.X)
    assert before[0]["start_log_contraction"] > np.log(0.3) and before[1]["start_log_contraction"] < np.log(1e-6)


def test_memory_of_known_operators():
    A = np.array([[0.9, 0.1], [0.1, 0.9]])
    steps = Operators.from_arrays(np.repeat(A.T[None], 30, axis=0))
    fitted = contestants.Fitted(None, None, lambda X: steps, None, 1, None)
    found = contestants.memory(fitted, np.zeros((1, 31, 1)))
    np.testing.assert_allclose(found["half_life"], np.log(2) / -np.log(0.8), rtol=0.02)
    np.testing.assert_allclose(found["log_contraction"], 30 * np.log(0.8), rtol=1e-9)
    assert np.isnan(found["start_half_life"])


# reports -------------------------------------------------------------------------------------------------------------


def outcome(row, length, number, error, half_life, solved=0, learnt=-1):
    memory = {"half_life": half_life, "log_contraction": -1.0 / half_life}
    start = {f"start_{key}": value for key, value in memory.items()}
    return {
        "row": row,
        "trial": number,
        "length": length,
        "train_error": error / 2,
        "test_error": error,
        "solved": solved,
        "updates": 100,
        "learnt_at": learnt,
        "n_parameters": 306,
        **memory,
        **start,
        "seconds": 1.0,
    }


def test_summary_by_hand():
    outcomes = [
        outcome("rnn-sgd-1", 10, 0, 0.0, 8.0, solved=1, learnt=30),
        outcome("rnn-sgd-1", 10, 1, 0.2, 4.0, solved=0, learnt=50),
        outcome("rnn-sgd-1", 20, 0, 0.5, 2.0),
    ]
    first, second = report.summarise(outcomes)
    assert (first["trials"], first["fresh error"], first["fresh sd"], first["solved"]) == (2, 0.1, 0.1, 0.5)
    assert first["train error"] == 0.05 and first["half-life"] == 6 and first["updates"] == 30
    assert second["length"] == 20 and second["updates"] is None
    assert report.markdown([first, second]).splitlines()[2] == (
        "| `rnn-sgd-1` | 0.100 ± 0.100 (0.5) | 0.500 ± 0.000 (0.0) |"
    )
    text = report.text_table([first, second])
    assert len(text.splitlines()) == 3 and "0.100" in text and " -" in text


def test_correlation_of_half_life_and_error():
    outcomes = [outcome("iohmm", 10, k, error, life) for k, (error, life) in enumerate([(0.5, 1), (0.3, 2), (0.0, 9)])]
    outcomes += [outcome("iohmm-latched", 10, 0, 0.4, 10.0), outcome("rnn-sgd-1", 20, 0, 0.5, 3.0)]
    table = {(row["rows"], row["length"]): row for row in report.correlations(outcomes)}
    assert table["chains, random start", "10"]["half-life"] == pytest.approx(-1)
    assert table["chains, random start", "10"]["trials"] == 3 and table["all chains", "all"]["trials"] == 4
    assert -1 < table["all chains", "10"]["half-life"] < 0
    assert table["all RNNs", "20"]["half-life"] is None
    assert ("all RNNs", "10") not in table


def test_rank_correlation_is_spearman_s():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 50), rng.integers(0, 5, 50)
    assert report.rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    x, y = np.array([1.0, np.inf, 2.0, np.nan]), np.array([1.0, 3.0, 2.0, 0.0])
    assert report.rank_correlation(x, y) == pytest.approx(1)
    assert report.rank_correlation(np.ones(3), np.arange(3.0)) is None
    assert report.rank_correlation(np.full(3, np.nan), np.arange(3.0)) is None


def test_figures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    outcomes = [outcome(row, T, k, 0.1 * k, 5.0 + k) for row in CONTESTANTS for T in (10, 20) for k in range(2)]
    outcomes[0]["half_life"], outcomes[1]["log_contraction"] = np.inf, -np.inf
    figures.draw_errors(report.summarise(outcomes), tmp_path / "errors.png", "error", 0.5)
    figures.draw_memory(outcomes, tmp_path / "memory.png", "error", 0.5)
    for name in ("errors.png", "memory.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_every_row_has_its_place_in_a_figure():
    assert {name for rows in figures.PANELS.values() for name in rows} == set(CONTESTANTS)


# the other experiments and the command -------------------------------------------------------------------------------


def test_network_experiment_measures_shares_of_the_variance():
    (trial,) = network.plan(("guessing",), {5: 1}, quick=True)
    found = network.run(trial)
    train, test = network.draw(trial)
    assert test.X.shape == (200, 5, 2) and found["train_error"] >= 0 and np.isfinite(found["test_error"])
    assert np.mean((train.y.mean() - train.y) ** 2) / train.y.var() == pytest.approx(1)


def test_tomita_accuracy_of_known_automata():
    """A table IOHMM built from the automaton classifies every string rightly."""
    task = hiermm.tasks.tomita(4, max_length=7)
    moves, accepts = task.automaton.moves, task.automaton.accepts
    transition = np.stack([np.eye(len(moves))[moves[:, symbol]] for symbol in (0, 1)])
    model = hiermm.IOHMM.from_parameters(
        initial=np.eye(len(moves))[0],
        transition=transition,
        emission=hiermm.emissions.Categorical.from_parameters(probs=np.where(accepts[:, None], [0, 1], [1, 0])),
    )
    assert tomita.accuracy(model, task) == 1
    trial = tomita.plan(("tomita-1-sharp",), 1, quick=True)[0]
    found = tomita.run(trial)
    assert trial.settings["n_states"] == 2 and 0.9 < found["accuracy"] <= 1


def parse(*argv):
    parser = argparse.ArgumentParser()
    command.add_experiment(parser.add_subparsers())
    return parser.parse_args(["experiment", *argv])


@pytest.mark.parametrize("name", ["two-sequence", "network"])
def test_command(name, tmp_path, capsys):
    arguments = parse(name, "--quick", "--lengths", "5:1,7", "--trials", "2", "--models", "iohmm, guessing")
    arguments.out, arguments.jobs = tmp_path / "out", 1
    arguments.run(arguments)
    printed = capsys.readouterr().out
    assert "Does the half-life predict the error?" in printed and "guessing" in printed
    rows = read(tmp_path / "out" / "results.csv")
    assert [(row["row"], row["length"]) for row in rows] == [
        (row, length)
        for length, n_trials in [("5", 1), ("7", 2)]
        for row in ("iohmm", "guessing")
        for _ in range(n_trials)
    ]
    assert "seconds" not in rows[0] and "seconds" in read(tmp_path / "out" / "timings.csv")[0]


def test_command_line_by_subprocess(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(hiermm.__file__).parent.parent), "PYTHONSAFEPATH": "1"}
    argv = ["experiment", "two-sequence", "--quick", "--lengths", "5:1", "--models", "guessing", "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "hiermm", *argv], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "fresh error" in done.stdout and "1/1" in done.stderr, "the table is printed and the bar is shown"
    assert len(read(tmp_path / "hiermm-two-sequence" / "results.csv")) == 1


def test_tomita_command(tmp_path, capsys):
    arguments = parse("tomita", "--quick", "--trials", "2", "--models", "tomita-1-end,tomita-7-every", "--jobs", "1")
    arguments.out = tmp_path / "out"
    arguments.run(arguments)
    assert "published mean" in capsys.readouterr().out
    assert len(read(tmp_path / "out" / "results.csv")) == 4


def test_rows_by_default_and_all():
    assert command._rows(two_sequence, ["all"]) == tuple(CONTESTANTS)
    assert set(CONTESTANTS) - set(command._rows(two_sequence, None)) == {
        name for name in CONTESTANTS if CONTESTANTS[name].family == "remedy"
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("two-sequence", "--models", "iohmm,lstm"), "there is no row 'lstm'"),
        (("two-sequence", "--lengths", "2"), "at least 3 steps, got 2"),
        (("network", "--lengths", "1"), "network needs at least 2 steps, got 1"),
        (("network", "--noise", "0.5"), "--noise goes with two-sequence"),
        (("tomita", "--lengths", "10"), "--lengths does not go with tomita"),
    ],
)
def test_command_refusals(argv, message, tmp_path):
    arguments = parse(*argv)
    arguments.out = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        arguments.run(arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [("--lengths", "10,x"), ("--lengths", "10:0"), ("--trials", "0"), ("--noise", "-1")])
def test_command_syntax(argv, capsys):
    with pytest.raises(SystemExit):
        parse("two-sequence", *argv)
    assert "error" in capsys.readouterr().err
