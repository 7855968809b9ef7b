"""Optional packages, imported when they are first needed."""

import importlib


def _optional(name, extra):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"{package} is needed for this: pip install hiermm[{extra}]") from error


def pandas():
    """Return pandas, or raise an ImportError that names the extra."""
    return _optional("pandas", "frames")


def pyplot():
    """Return matplotlib.pyplot, or raise an ImportError that names the extra."""
    return _optional("matplotlib.pyplot", "plot")


def matplotlib_figure():
    """Return matplotlib.figure, or raise an ImportError that names the extra."""
    return _optional("matplotlib.figure", "plot")
