"""The package as a user gets it: what is installed, what an import costs, and what a missing build says."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hiermm

PACKAGE = Path(hiermm.__file__).parent


def run(code, cwd, **environment):
    """Run Python code in a fresh interpreter that sees this same hiermm and not the folder it runs in."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONSAFEPATH": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def output(code, cwd, **environment):
    done = run(code, cwd, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_build_is_the_one_that_is_tested():
    """With hiermm installed, the suite must not pick up the source tree by accident (as `python -m pytest` does)."""
    try:
        installed = importlib.metadata.distribution("hiermm")
    except importlib.metadata.PackageNotFoundError:
        # An in-place build, for work on the code: then there is nothing else that could have been meant.
        assert (PACKAGE.parent / "setup.py").exists()
        return
    where = Path(str(installed.locate_file("hiermm"))).resolve()
    assert where == PACKAGE.resolve(), f"hiermm is installed in {where} but {PACKAGE} is tested; run pytest by its name"
    assert installed.version == hiermm.__version__
    listed = {Path(str(file)).suffix for file in installed.files or [] if str(file).startswith("hiermm/")}
    assert not listed & {".c", ".pyx", ".h", ".pxd", ".pxi"}, "an installed package carries no sources of its kernels"


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", hiermm.__version__)
    root = Path(__file__).parent.parent
    for file, pattern in [("pyproject.toml", r'^version = "(.*)"'), ("CITATION.cff", r"^version: (.*)")]:
        (found,) = re.findall(pattern, (root / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert found == hiermm.__version__, file
    assert f"## [{hiermm.__version__}]" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_public_names_exist():
    assert len(set(hiermm.__all__)) == len(hiermm.__all__)
    for name in hiermm.__all__:
        assert getattr(hiermm, name) is not None
    assert (PACKAGE / "py.typed").exists()


def test_missing_build_is_one_readable_error(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "hiermm", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    done = run("import hiermm", tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: hiermm's compiled kernels are missing") and "pip install ." in last
    caught = "try:\n    import hiermm\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    assert output(caught, tmp_path, PYTHONPATH=str(tmp_path)).startswith("ImportError hiermm's compiled kernels")


def test_import_is_cheap(tmp_path):
    """`import hiermm` adds less than 0.2 s to importing scikit-learn: processor time, best of five.

    On a machine so busy that scikit-learn itself takes longer than 1 s, a fifth of that is allowed.
    """
    code = "from time import process_time as t; a = t(); import sklearn; b = t(); import hiermm; print(b - a, t() - b)"
    times = [[float(word) for word in output(code, tmp_path).split()] for _ in range(5)]
    theirs, ours = (min(column) for column in zip(*times))
    assert ours < max(0.2, theirs / 5), f"import hiermm takes {ours:.2f} s on top of scikit-learn's {theirs:.2f} s"


@pytest.mark.parametrize("module", ["matplotlib", "pandas", "hmmlearn", "torch", "statsmodels", "deeptime"])
def test_import_leaves_optional_packages_alone(module, tmp_path):
    """(scikit-learn may import some of them for its own reasons.)"""
    code = (
        f"import sys, sklearn; before = set(sys.modules); import hiermm; print({module!r} in set(sys.modules) - before)"
    )
    assert output(code, tmp_path) == "False"


def test_nothing_compiles_at_run_time(tmp_path):
    """No compiler, no build tool and no other program is started by importing, fitting and scoring."""
    code = """
import sys
started = []
WATCHED = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn"}
sys.addaudithook(lambda event, args: started.append(event) if event in WATCHED else None)
import numpy as np, sklearn
before = set(sys.modules)
import hiermm
model = hiermm.HMM(2, random_state=0, max_iter=3, tol=1e300).fit(np.random.default_rng(0).normal(size=(50, 1)))
model.score(np.zeros((5, 1)))
print(started, sorted({"Cython", "pyximport", "numba", "setuptools", "cffi", "jax"} & set(sys.modules) - before))
"""
    assert output(code, tmp_path) == "[] []"


def test_default_build_runs_on_every_machine():
    """Instruction sets are chosen at import; nothing is compiled for the machine that happens to build."""
    setup = Path(__file__).parent.parent / "setup.py"
    text = setup.read_text(encoding="utf-8")
    assert "native" not in text and "-ffast-math" not in text and "-Ofast" not in text


def test_the_example_of_the_readme_runs(tmp_path):
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(example.strip().splitlines()) <= 24, "the README promises some twenty lines"
    lines = output(example, tmp_path, PYTHONWARNINGS="error").splitlines()
    scores = [float(number) for number in re.findall(r"-?\d+\.\d+", lines[0])]
    assert scores[1] > scores[0] + 0.5, "an IOHMM that is told the hour before predicts far better"
    assert [line.split(":")[0] for line in lines[1:]] == ["HMM", "IOHMM"]
