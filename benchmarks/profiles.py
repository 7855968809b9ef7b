"""Where the time of `fit` goes, end to end: validation, likelihoods, recursions, statistics, M-step, Python.

`profile()` yields dicts. Functions are wrapped for the while; each is charged the time spent in itself and not in
another wrapped function, and what no wrapped function is charged for is Python between them.
"""

from measure import single_thread

if __name__ == "__main__":
    single_thread()

import contextlib
import time
import warnings
from unittest import mock

import numpy as np

import hiermm
from hiermm import HMM, IOHMM, MultiscaleHMM, chains, em, expectation, markov_base
from hiermm.chains import Chain
from hiermm.rows import SoftmaxRows


class Stopwatch:
    """Time by name, each name charged for itself alone."""

    def __init__(self):
        self.spent, self._running = {}, []

    def wrap(self, name, function):
        """Return the function, charging its time to `name`."""

        def timed(*args, **kwargs):
            start = time.perf_counter()
            self._running.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.perf_counter() - start
                inner = self._running.pop()
                self.spent[name] = self.spent.get(name, 0.0) + taken - inner
                if self._running:
                    self._running[-1] += taken

        return timed


def parts(model):
    """Return (owner, attribute, name of the part) of everything that is charged."""
    kind = type(hiermm.emissions.make(model.emission))
    wanted = [
        (type(model), "_read", "validation"),
        (markov_base, "check_ranges", "validation"),
        (kind, "check", "validation"),
        (type(model), "_start", "initialisation"),
        (Chain, "compile", "transition rows"),
        (kind, "log_likelihood", "emission likelihoods"),
        (chains, "smooth", "forward-backward"),
        (expectation, "filter", "forward-backward"),
        (SoftmaxRows, "smooth", "rows, forward-backward and sums in one"),
        (expectation, "smooth_normal", "likelihoods, forward-backward and sums in one"),
        (Chain, "smooth", "statistics of the chain"),
        (kind, "statistics", "statistics of the emission"),
        (Chain, "maximise", "M-step"),
        (kind, "maximise", "M-step"),
        (em, "shortened", "line search"),
    ]
    return [(home(owner, attribute), attribute, name) for owner, attribute, name in wanted]


def home(owner, attribute):
    """Return the class that defines the attribute; timed elsewhere, it would look like a way of a subclass's own."""
    if not isinstance(owner, type):
        return owner
    return next(base for base in owner.__mro__ if attribute in vars(base))


def where(model, *data, **options):
    """Fit; return (seconds in all, seconds by part, EM iterations)."""
    clock = Stopwatch()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for owner, attribute, name in parts(model):
            wrapped = clock.wrap(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, wrapped))
        fit = clock.wrap("Python between them", model.fit)
        start = time.perf_counter()
        fit(*data, **options)
        total = time.perf_counter() - start
    return total, clock.spent, model.n_iter_


def works():
    """Yield (name, model, data, options of fit)."""
    rng = np.random.default_rng(0)
    X = 3.0 * rng.integers(4, size=(200, 100, 1)).repeat(5, axis=1) + rng.normal(size=(200, 500, 2))
    common = {"random_state": 0, "max_iter": 30, "tol": 0.0}
    yield "HMM(4), Gaussian D = 2, 200 x 500", HMM(4, **common), (X,)
    yield "HMM(16), Gaussian D = 2, 200 x 500", HMM(16, **common), (X,)
    yield "HMM(3), Gaussian D = 1, 1 x 1,000", HMM(3, **common), (X[0, :, :1].repeat(2, axis=0),)
    u = rng.normal(size=(20, 1_000, 3))
    y = np.cumsum(u[:, :, 0] > 1, axis=1) % 4 + rng.normal(size=(20, 1_000))
    yield "IOHMM(4), 3 inputs, 20 x 1,000", IOHMM(4, **common), (u, y)
    yield "MultiscaleHMM((2, 3)), 20 x 500", MultiscaleHMM((2, 3), **common), (X[:20],)


def profile(quick=False):
    """Yield one dict a part of a fit: model, part, milliseconds, share of the fit, iterations."""
    del quick
    for name, model, data in works():
        total, spent, iterations = where(model, *data)
        for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
            yield {
                "work": name, "part": part, "ms": 1e3 * seconds, "share": seconds / total, "iterations": iterations,
                "total_ms": 1e3 * total,
            }  # fmt: skip


if __name__ == "__main__":
    for row in profile():
        print(f"{row['work']:40} {row['part']:28} {row['ms']:10.2f} ms {row['share']:6.1%}")
