"""The paper's two-sequence problem: networks with one, two and four time scales and equally many weights.

`python benchmarks/two_sequence_rnn.py --length 100 --trials 10` trains each architecture on 30 sequences per trial,
with the same data, the same budget of updates and the same rule for "solved" (mean cross-entropy below 0.05 nats on
the training sequences), and tests it on 200 fresh sequences. It prints a row for each architecture; `rows()` yields
dicts.
"""

import argparse
import statistics
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from hiermm import MultiscaleRNN
from hiermm.tasks import two_sequence

# With full coupling, 16 units have 321 weights and biases whatever their time scales.
ARCHITECTURES = {
    "one scale (1)": ((16,), (1,)),
    "two scales (16, 1)": ((8, 8), (16, 1)),
    "four scales (64, 16, 4, 1)": ((4, 4, 4, 4), (64, 16, 4, 1)),
}
SOLVED = 0.05


def error(model, task):
    """Share of sequences whose class at the last step is wrong."""
    return float(np.mean([part[-1] != answer for part, answer in zip(model.predict(task.X), task.y)]))


def trial(units, scales, length, seed, budget, **options):
    """Train and test one network; return (updates, solved, training error, test error)."""
    noise = options.pop("noise")
    train = two_sequence(30, length, noise=noise, random_state=[seed, 0])
    fresh = two_sequence(200, length, patterns=train.patterns, noise=noise, random_state=[seed, 1])
    model = MultiscaleRNN(
        units,
        timescales=scales,
        max_iter=budget,
        tol=0.0,
        n_iter_no_change=budget,
        random_state=seed,
        callback=lambda progress: progress.loss < SOLVED,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train.X, train.y)
    return model.n_updates_, model.converged_, error(model, train), error(model, fresh)


def rows(length=100, trials=10, budget=400, **options):
    """Yield one dict for each architecture."""
    for name, (units, scales) in ARCHITECTURES.items():
        results = [trial(units, scales, length, seed, budget, **dict(options)) for seed in range(trials)]
        updates, solved, training, test = zip(*results)
        yield {
            "architecture": name,
            "solved": sum(solved),
            "updates": statistics.median(updates),
            "least": min(updates),
            "most": max(updates),
            "training_error": statistics.mean(training),
            "test_error": statistics.mean(test),
            "test_sd": statistics.pstdev(test),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--budget", type=int, default=400, help="updates at the most")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--solver", default="adam")
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--initialization", default="orthogonal")
    parser.add_argument("--clock", default="periodic")
    parser.add_argument("--coupling", default="full")
    args = vars(parser.parse_args())
    args["learning_rate_init"] = args.pop("rate")
    print(
        f"{'architecture':28} {'solved':>6} {'updates':>8} {'range':>11} {'training':>9} {'test error':>11} {'sd':>6}"
    )
    for row in rows(**args):
        print(
            f"{row['architecture']:28} {row['solved']:6} {row['updates']:8.1f} {row['least']:5}-{row['most']:<5} "
            f"{row['training_error']:9.3f} {row['test_error']:11.4f} {row['test_sd']:6.3f}"
        )
