"""How the time of an EM iteration grows with steps, states, sequences, levels and inputs.

`rows()` yields dicts; `exponent` is the slope of log time against log size from the row before to this one.
"""

from measure import in_turn, quartiles, single_thread

if __name__ == "__main__":
    single_thread()

import math

import numpy as np
from bench_em import iteration

from hiermm import HMM, IOHMM, MultiscaleHMM
from hiermm.chains import random_chain
from hiermm.emissions import Gaussian
from hiermm.expectation import Expectation
from hiermm.sequences import inputs_outputs, observations
from hiermm.structure import Structure


def emission(n, rng):
    return Gaussian.from_parameters(means=3 * rng.normal(size=(n, 1)), covariances=np.ones((n, 1)), covariance="diag")


def hmm(n_states, steps, n_sequences=1):
    rng = np.random.default_rng(0)
    A = rng.dirichlet(np.ones(n_states), n_states)
    pi = np.full(n_states, 1 / n_states)
    model = HMM.from_parameters(initial=pi, transition=A, emission=emission(n_states, rng))
    return model._parameters(), observations(rng.normal(size=(n_sequences, steps, 1)))


def iohmm(n_inputs, n_states=4, steps=1_000, n_sequences=20):
    rng = np.random.default_rng(0)
    coef, intercept = 0.5 * rng.normal(size=(n_states, n_states, n_inputs)), np.eye(n_states)
    pi = np.full(n_states, 1 / n_states)
    model = IOHMM.from_parameters(initial=pi, coef=coef, intercept=intercept, emission=emission(n_states, rng))
    X = rng.normal(size=(n_sequences, steps, n_inputs))
    return model._parameters(), inputs_outputs(X, rng.normal(size=(n_sequences, steps)))


def levels(n_levels, steps=2_000):
    rng = np.random.default_rng(0)
    sizes = (4,) * n_levels
    initial, transition = random_chain(Structure(sizes, coupling="slower"), rng)
    model = MultiscaleHMM.from_parameters(
        initial=initial, transition=transition, timescales=None, emission=emission(4**n_levels, rng)
    )
    return model._parameters(), observations(rng.normal(size=(1, steps, 1)))


CURVES = {
    "steps T (HMM, K = 4, one sequence)": (lambda T: hmm(4, T), [1_000, 10_000, 100_000, 1_000_000]),
    "states K (HMM, one sequence of 5,000)": (lambda K: hmm(K, 5_000), [2, 4, 8, 16, 32, 64, 128, 256]),
    "sequences (HMM, K = 8, 500 steps each)": (lambda m: hmm(8, 500, m), [1, 2, 4, 8, 16, 64, 256, 1024]),
    "levels of 4 states (MultiscaleHMM, one sequence of 2,000)": (levels, [1, 2, 3, 4, 5]),
    "inputs P (IOHMM, K = 4, 20 x 1,000)": (iohmm, [1, 2, 4, 8, 16]),
}


def rows(quick=False):
    """Yield one dict a size: the curve, the size, median and quartiles of an EM iteration in ms, the exponent."""
    for curve, (make, sizes) in CURVES.items():
        before = None
        for size in sizes[:4] if quick else sizes:
            parameters, sequences = make(size)
            with Expectation(sequences) as expectation:
                spent = in_turn({"": lambda p=parameters, e=expectation: iteration(e, p)}, 3 if quick else 7)[""]
            row = {"curve": curve, "size": size, **quartiles(spent), "exponent": None}
            if before:
                row["exponent"] = math.log(row["ms"] / before["ms"]) / math.log(size / before["size"])
            before = row
            yield row


if __name__ == "__main__":
    for row in rows():
        print(f"{row['curve']:60} {row['size']:9,} {row['ms']:10.3f} ms", row["exponent"])
