"""Memory that `fit` adds to what was held before it, each measurement in a process of its own (Linux).

`python benchmarks/memory.py` prints a table; `rows()` yields dicts. The peak is the kernel's record of resident
memory, set back just before `fit`; "held" is the resident memory at that moment: interpreter, libraries and data.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

# model, steps of the one sequence
WORK = [("HMM", 50_000), ("HMM", 500_000), ("HMM", 5_000_000), ("IOHMM", 500_000), ("IOHMM", 5_000_000)]
N_STATES, ITERATIONS = 4, 3


def status(field):
    """A field of /proc/self/status in bytes."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return 1024 * int(found.group(1))


def data(steps):
    """Inputs and outputs (steps, 1) of a signal that switches, made in pieces so that little else is held."""
    import numpy as np

    rng = np.random.default_rng(0)
    u, y = np.empty((steps, 1)), np.empty((steps, 1))
    for lo in range(0, steps, 100_000):
        part = slice(lo, min(lo + 100_000, steps))
        n = part.stop - lo
        u[part, 0] = rng.normal(size=n)
        y[part, 0] = 2.0 * (np.cumsum(u[part, 0] > 2) % N_STATES) + rng.normal(size=n)
    return u, y


def measure(name, steps):
    """Fit in this process; print bytes held before `fit` and the peak during it."""
    import warnings

    import hiermm

    u, y = data(steps)
    model = getattr(hiermm, name)(N_STATES, max_iter=ITERATIONS, random_state=0)
    warnings.simplefilter("ignore")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    held = status("VmRSS")
    if name == "HMM":
        model.fit(y)
    else:
        model.fit(u, y)
    print(held, status("VmHWM"))


def rows(work=WORK):
    """Yield one dict a model and length: MB held before `fit`, MB that it adds at its peak."""
    for name, steps in work:
        command = [sys.executable, __file__, "--measure", name, "--steps", str(steps)]
        held, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        yield {"model": name, "steps": steps, "held_mb": held / 1e6, "added_mb": (peak - held) / 1e6}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", choices=["HMM", "IOHMM"], help="measure one model in this process")
    parser.add_argument("--steps", type=int, default=5_000_000)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.steps)
    else:
        for row in rows():
            print(
                f"{row['model']:6} T = {row['steps']:9,}  held {row['held_mb']:7.1f} MB  "
                f"fit adds {row['added_mb']:6.1f} MB"
            )
