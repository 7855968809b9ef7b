"""Input-output HMMs beside ssm, dynamax and the package IOHMM: E-step, EM iteration, fit to the same likelihood.

K = 4 states, 3 inputs, 20 sequences of 1,000 steps. Each peer runs in a process of its own (`peer_iohmm.py`), in this
environment or in the one that `make peers` makes for packages that want old libraries. hiermm is set up as the
closest thing to the peer's model. Log-likelihood and posteriors under equal parameters are compared before any time
counts; a fit of ours lasts until it has the likelihood that the peer's fit reached. The peer's process takes up to a
minute, in which the speed of a shared machine changes, so half of our E-steps and iterations are timed before it, half
behind it.
"""

from measure import Record, disagreement, in_turn, quartiles, single_thread

if __name__ == "__main__":
    single_thread()

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_em import iteration

from hiermm import IOHMM, em
from hiermm.emissions import Gaussian, LinearGaussian
from hiermm.expectation import Expectation, emitted
from hiermm.inference import smooth
from hiermm.sequences import inputs_outputs

SECTION = "IOHMM, K = 4, 3 inputs, 20 x 1,000"
HERE = Path(__file__).resolve().parent
LIMIT = 2_000  # EM iterations after which a likelihood counts as out of reach
# name: (kind of rows, emission driven by the inputs, iterations of a fit)
PEERS = {"dynamax": ("softmax", True, 50), "ssm": ("shared", False, 20), "IOHMM": ("softmax", True, 8)}


def problem(kind, driven, seed=0):
    """Data of a known model and a start away from it, as arrays by name."""
    rng = np.random.default_rng(seed)
    K, P, m, T = 4, 3, 20, 1_000
    coef, intercept = rng.normal(size=(K, K, P)), 2.0 * np.eye(K)
    lines = {
        "coef": rng.normal(size=(K, 1, P)),
        "intercept": 3.0 * np.arange(K)[:, None],
        "covariances": np.ones((K, 1)),
    }
    emission = LinearGaussian.from_parameters(**lines)
    truth = IOHMM.from_parameters(initial=np.full(K, 1 / K), coef=coef, intercept=intercept, emission=emission)
    X = rng.normal(size=(m, T, P))
    y = np.stack([truth.sample(u, random_state=i)[0].ravel() for i, u in enumerate(X)])
    slopes = 0.1 * rng.normal(size=(K, K, P))
    return {
        "X": X,
        "y": y,
        "initial": np.full(K, 1 / K),
        "intercept": np.eye(K),
        "coef": np.repeat(slopes[:1], K, axis=0) if kind == "shared" else slopes,
        "means": 3.0 * np.arange(K) + rng.normal(size=K),
        "slopes": 0.1 * rng.normal(size=(K, P)) if driven else np.zeros((K, P)),
        "variances": np.full(K, 4.0),
    }


def ours(data, kind, driven):
    """Return (parameters, sequences) of hiermm's model."""
    means, variances = data["means"][:, None], data["variances"][:, None]
    if driven:
        emission = LinearGaussian.from_parameters(
            coef=data["slopes"][:, None], intercept=means, covariances=variances, covariance="diag"
        )
    else:
        emission = Gaussian.from_parameters(means=means, covariances=variances, covariance="diag")
    names = ("initial", "coef", "intercept")
    model = IOHMM.from_parameters(emission=emission, transition=kind, **{n: data[n] for n in names})
    return model._parameters(), inputs_outputs(data["X"], data["y"])


def interpreter(package):
    """Return the Python that can import a peer: this one, or that of `.venv-peers` or $PEERS_PYTHON; else None."""
    places = [sys.executable, os.environ.get("PEERS_PYTHON"), HERE.parent / ".venv-peers" / "bin" / "python"]
    for place in places:
        if place and Path(place).exists():
            code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
            if subprocess.run([place, "-c", code], check=False).returncode == 0:
                return place
    return None


def ask(package, python, data):
    """Run a peer's process and return its answer as a dict of arrays."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "problem.npz", Path(folder) / "answer.npz"
        np.savez(question, **data)
        command = [python, "-W", "ignore", HERE / "peer_iohmm.py", package, question, answer]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"{package} failed: {done.stderr.strip().splitlines()[-1]}")
        return dict(np.load(answer))


def times(expectation, parameters, repeats):
    """Times in ms by stage of repeated E-steps and iterations."""
    stages = {
        "expectation": lambda: expectation.statistics(parameters),
        "iteration": lambda: iteration(expectation, parameters),
    }
    return in_turn(stages, repeats)


def fits_to(expectation, parameters, target):
    """Times in ms of fits to the log-likelihood `target`, or None."""
    fits = [fit_to(expectation, parameters, target) for _ in range(3)]
    return None if None in fits else fits


class Reached(Exception):
    """The likelihood of the peer's fit."""


def fit_to(expectation, parameters, target):
    """Time in ms of EM up to the log-likelihood `target`, or None if that is out of reach."""

    def progress(score):
        if score * expectation.n_observed >= target:
            raise Reached

    start = time.perf_counter()
    try:
        em.run(expectation, parameters, max_iter=LIMIT, tol=0.0, progress=progress)
    except Reached:
        return 1e3 * (time.perf_counter() - start)
    return None


def compare(parameters, sequences, answer):
    """Assert that log-likelihood and posteriors are the peer's."""
    transitions, ll = emitted(parameters, sequences, 0, sequences.n_steps)
    found = smooth(transitions, ll, sequences.offsets)
    np.testing.assert_allclose(found.log_likelihood.sum(), answer["loglik"], rtol=1e-9)
    np.testing.assert_allclose(found.gamma, answer["gamma"].reshape(found.gamma.shape), rtol=0, atol=1e-8)


def rows(quick=False):
    """Yield the records; a peer that cannot be timed gives records that say why."""
    for package, (kind, driven, iterations) in PEERS.items():
        python = interpreter(package)
        if python is None:
            yield from without_times(package, note="not installed")
            continue
        data = problem(kind, driven)
        size = {"repeats": 2 if quick else 5, "iterations": max(2, iterations // (5 if quick else 1))}
        parameters, sequences = ours(data, kind, driven)
        with Expectation(sequences) as expectation:
            before = times(expectation, parameters, 3 if quick else 75)
            try:
                answer = ask(package, python, {**data, **size})
                compare(parameters, sequences, answer)
            except RuntimeError as error:
                yield from without_times(package, note=str(error))
                continue
            except AssertionError as error:
                yield from without_times(package, failed=disagreement(error))
                continue
            behind = times(expectation, parameters, 3 if quick else 75)
            mine = {stage: before[stage] + behind[stage] for stage in before}
            mine["fit"] = fits_to(expectation, parameters, float(answer["reached"]))
        setting = f'{"linear Gaussian" if driven else "Gaussian"} outputs, "{kind}" rows'
        yield from records(package, answer, mine, setting, size)


def without_times(package, **reason):
    """Yield the records of a peer that has no times, for what has a target."""
    for work in ("EM iteration", "fit to the same likelihood"):
        yield Record(SECTION, work, peer=package, **reason)


def records(package, answer, mine, setting, size):
    """Yield a record for each stage of one peer."""
    works = {
        "expectation": "E-step",
        "iteration": "EM iteration",
        "fit": f"fit to the likelihood of its {size['iterations']} iterations",
    }
    for stage, work in works.items():
        name, note = f"{work}, {setting}", f"{package} {answer['version']}"
        if mine[stage] is None:
            yield Record(SECTION, name, peer=package, note=f"{note}; its likelihood was not reached")
            continue
        peer = 1e3 * float(np.median(answer[stage]))
        yield Record(SECTION, name, **quartiles(mine[stage]), peer=package, peer_ms=peer, note=note)


if __name__ == "__main__":
    for row in rows():
        print(row.work, "|", row.peer, row.ms, row.peer_ms, row.ratio, row.note)
