"""Does a multi-scale HMM find three known time scales, and does it predict better than flat HMMs?

Data come from 3-level models (K = (3, 3, 3), time scales (64, 8, 1), sticky, sharp random rows, the emission on the
fastest level with means -2, 0, 2 and variance 0.3): 10 training sequences of 500 steps, 40 held-out ones. Printed are
held-out log-likelihoods in nats a step: of the truth, of flat HMMs, and of `MultiscaleHMM` by where EM starts. Rows are
drawn from a Dirichlet distribution of concentration 0.5 and, sharper still, 0.2.

    python benchmarks/recovery_multiscale.py [--seeds 5]
"""

import argparse
import itertools
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from hiermm import HMM, MultiscaleHMM
from hiermm.emissions import Gaussian

SIZES, SCALES = (3, 3, 3), (64, 8, 1)


def true_model(seed, concentration):
    """Return a 3-level model whose rows are Dirichlet(concentration): sharp below 1."""
    rng = np.random.default_rng(seed)
    own = np.eye(3, dtype=bool)
    initial, transition = [], []
    for s, scale in enumerate(SCALES):
        n_parents = 1 if s == 0 else 3
        if scale == 1:
            rows = rng.dirichlet(np.full(3, concentration), (n_parents, 3))
        else:
            rows = np.zeros((n_parents, 3, 3))
            rows[:, ~own] = rng.dirichlet(np.full(2, concentration), (n_parents, 3)).reshape(n_parents, -1) / scale
            rows[:, own] = 1 - 1 / scale
        initial.append(rng.dirichlet(np.ones(3), n_parents))
        transition.append(rows)
    emission = Gaussian.from_parameters(means=[[-2.0], [0.0], [2.0]], covariances=[[0.3]] * 3, covariance="diag")
    return MultiscaleHMM.from_parameters(
        initial=initial, transition=transition, timescales=SCALES, emission=emission, emission_levels=(2,)
    )


def rows(seeds=5, n_init=5, concentrations=(0.5, 0.2)):
    """Yield one dict a concentration and seed: held-out log-likelihoods in nats a step."""
    for concentration, seed in itertools.product(concentrations, range(seeds)):
        truth = true_model(seed, concentration)
        draw = [truth.sample(500, random_state=1000 * seed + i)[0] for i in range(50)]
        train, held_out = draw[:10], draw[10:]
        result = {"rows": concentration, "seed": seed, "truth": truth.score(held_out)}
        for n in (3, 6, 9, 27):
            result[f"HMM({n})"] = HMM(n, n_init=n_init, random_state=0, max_iter=300).fit(train).score(held_out)
        for name, init, starts in [("grown", "grow", 1), ("random", "random", 1), ("5 starts", "grow", n_init)]:
            model = MultiscaleHMM(
                SIZES, timescales=SCALES, emission_levels=(2,), init=init, n_init=starts, random_state=0, max_iter=300
            )
            result[name] = model.fit(train).score(held_out)
        yield result


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for number, row in enumerate(rows(parser.parse_args().seeds)):
            if number == 0:
                print("  ".join(f"{name:>8}" for name in row))
            print("  ".join(f"{value:8.4f}" if name != "seed" else f"{value:8d}" for name, value in row.items()))


if __name__ == "__main__":
    main()
