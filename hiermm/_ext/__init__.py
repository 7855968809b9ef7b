"""Compiled kernels: arrays in, arrays out, the GIL released, no policy.

The modules exist once per instruction set (see `setup.py`); importing this package picks the best that the
processor can run. `HIERMM_VARIANT=base|v3|v4` in the environment forces one, for tests and measurements.
"""

import importlib
import os

try:
    from hiermm._ext import _cpu  # type: ignore[attr-defined]
except ImportError as error:
    raise ImportError(
        "hiermm's compiled kernels are missing. Build them with `pip install .` in the source tree "
        "(a C compiler and the Python headers are needed)."
    ) from error

VARIANT = os.environ.get("HIERMM_VARIANT") or _cpu.best()


def load(name, variant=VARIANT):
    """Return kernel module `name` compiled for `variant`."""
    return importlib.import_module(f"hiermm._ext.{variant}.{name}")
