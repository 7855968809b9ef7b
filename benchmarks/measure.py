"""What every benchmark shares: a record of one measurement, clocks, and a description of the machine.

Nothing here imports NumPy, so that `single_thread` can be called before the first import that reads the environment.
"""

import datetime
import importlib.metadata
import os
import platform
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

THREADS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"]
PACKAGES = ["numpy", "scipy", "scikit-learn", "hmmlearn", "dynamax", "jax", "torch"]


@dataclass
class Record:
    """One workload of hiermm, beside one peer or alone.

    Times are medians in milliseconds; low and high are the quartiles. `peer` is None for a time without a peer. `ratio`
    is the peer's median over ours. `note` says what the numbers do not; `failed` what disagreed, and then there are no
    times.
    """

    section: str
    work: str
    ms: float | None = None
    low: float | None = None
    high: float | None = None
    peer: str | None = None
    peer_ms: float | None = None
    note: str = ""
    failed: str = ""

    @property
    def ratio(self):
        """How many times faster than the peer, or None."""
        return self.peer_ms / self.ms if self.peer_ms and self.ms else None


def disagreement(error):
    """Say in one line what an AssertionError of a comparison found."""
    return ("the numbers disagree: " + " ".join(str(error).split()))[:300]


def single_thread():
    """Let every library compute in one thread and choose its own kernels; call before importing any of them."""
    for name in THREADS:
        os.environ[name] = "1"
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_ENABLE_X64"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"


def milliseconds(function, clock=time.perf_counter):
    """Time of one call."""
    start = clock()
    function()
    return 1e3 * (clock() - start)


def in_turn(functions, repeats, warm=True, clock=time.perf_counter):
    """Times in ms of functions by name, called in turn so that a disturbance of the machine meets all of them.

    `repeats` is a number, or one for each name; fewer calls are spread evenly among more. Functions are called once
    before, unless `warm` is false.
    """
    repeats = repeats if isinstance(repeats, dict) else dict.fromkeys(functions, repeats)
    spent = {name: [] for name in functions}
    for name, function in functions.items():
        if warm and repeats[name] > 1:
            function()
    rounds = max(repeats.values())
    for number in range(rounds):
        for name, function in functions.items():
            if (number + 1) * repeats[name] // rounds > number * repeats[name] // rounds:
                spent[name].append(milliseconds(function, clock))
    return spent


def quartiles(times):
    """Return {"ms", "low", "high"}: the median and the quartiles."""
    if len(times) < 2:
        return {"ms": times[0], "low": times[0], "high": times[0]}
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"ms": middle, "low": low, "high": high}


def processor():
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def versions():
    """Versions of Python and of the packages that take part; None where one is not installed."""
    import hiermm

    found = {"Python": platform.python_version(), "hiermm": hiermm.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine():
    """Processor, cores, instruction set of the kernels in use, and date, as a dict of strings."""
    from hiermm._ext import VARIANT

    names = {"v4": "AVX-512", "v3": "AVX2 and FMA", "base": f"baseline {platform.machine()}"}
    return {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "kernels": names.get(VARIANT, VARIANT),
        "date": datetime.date.today().isoformat(),
    }
