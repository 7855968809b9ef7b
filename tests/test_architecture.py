"""The shape of the package: imports point down only, analysis knows no model, files stay small enough to read."""

import ast
from pathlib import Path

import pytest

import hiermm

ROOT = Path(hiermm.__file__).parent
# The parts (modules and subpackages of hiermm) from the ground up. A part may import parts of the lines below its own.
LAYERS = [
    ["_ext"],
    ["sequences", "newton", "pieces", "tables"],
    ["operators", "labels"],
    ["inference", "rows", "structure", "emissions"],
    ["chains", "convert"],
    ["expectation", "tasks", "datasets"],
    ["em"],
    ["starts"],
    ["markov_fitted"],
    ["markov_base"],
    ["markov_families"],
    ["markov"],
    ["multiscale", "rnn", "analysis"],
    ["registry", "series"],
    ["forecast", "experiments"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# The analysis meets the models at Operators alone.
ANALYSIS_SEES = {"_ext", "operators", "sequences", "analysis"}
MAX_LINES = 450

FILES = sorted(ROOT.rglob("*.py"))


def part(path):
    """The part of the package that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(source, package):
    """Parts of hiermm that a source file imports, anywhere in it, each with its line number."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            words = name.split(".")
            if words[0] == "hiermm":
                second = words[1] if len(words) > 1 else "__init__"
                found.append((second if second in PARTS else "__init__", node.lineno))
    return found


PARTS = {part(path) for path in FILES}


def arrows():
    """Every import inside the package: (file, line, part that imports, part that is imported)."""
    for path in FILES:
        package = ["hiermm", *path.relative_to(ROOT).parts[:-1]]
        for target, line in imported_parts(path.read_text(encoding="utf-8"), package):
            yield path.relative_to(ROOT).as_posix(), line, part(path), target


def test_every_part_has_a_level():
    unplaced = PARTS - set(LEVELS)
    assert not unplaced, f"say in LAYERS where these belong: {sorted(unplaced)}"


def test_imports_point_down():
    wrong = [
        f"{file}:{line}: {source} imports {target}"
        for file, line, source, target in arrows()
        if source != target and LEVELS[target] >= LEVELS[source]
    ]
    assert not wrong, "imports that point up:\n" + "\n".join(wrong)


def test_analysis_knows_operators_and_no_model():
    wrong = [
        f"{file}:{line}: imports {target}"
        for file, line, source, target in arrows()
        if source == "analysis" and target not in ANALYSIS_SEES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_stay_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines; cut it into parts"


def test_the_walk_sees_every_form_of_import(monkeypatch):
    """The checks above could pass because the walk is blind; hold it against each way to write an import."""
    monkeypatch.setattr(__import__(__name__), "PARTS", {"_ext", "markov", "operators", "em"})
    source = "\n".join(
        [
            "import hiermm.markov",
            "from hiermm import em",
            "from hiermm.markov import HMM",
            "from hiermm import HMM",
            "from .markov import HMM",
            "from ..operators import Operators",
            "def late():",
            "    import hiermm._ext as kernels",
            "import numpy.linalg",
        ]
    )
    found = [name for name, _ in imported_parts(source, ["hiermm", "analysis"])]
    # `from .markov` inside a subpackage is that subpackage's own module
    assert found == ["markov", "em", "markov", "__init__", "__init__", "operators", "_ext"]
