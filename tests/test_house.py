"""The house is as it is drawn: rooms in order, doors in one direction, nothing too large."""

import ast
import importlib
import pydoc
import re
from pathlib import Path

import pytest

import autogrow_jax

ROOT = Path(autogrow_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# From the ground up: a room imports from those above it in this list. `autogrow_jax` itself holds
# the version.
ROOMS = [
    "errors",
    "process",
    "hosts",
    "children",
    "macs",
    "derivatives",
    "native",
    "trees",
    "optim",
    "files",
    "data",
    "stream",
    "models",
    "interop",
    "growth",
    "halving",
    "command_line",
    "own",
    "keys",
    "settings_table",
    "settings",
    "settings_left",
    "settings_files",
    "build",
    "config",
    "reporting",
    "saving",
    "steps",
    "report",
    "training",
    "trajectory",
    "studies",
    "main",
    "cli",
    "__main__",
]
# What may be imported within a function: heavy, or not on every machine.
LATE = {
    "IPython",
    "grain",
    "jax",  # By commands that can do without it.
    "jax2onnx",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "safetensors",
    "scipy",
    "shtab",
    "sklearn",
    "submitit",
    "tensorboardX",
    "tensorflow_datasets",
    "torch",
    "trackio",
    "wandb",
}
# Our own modules that import something of these, or all of training, as soon as they are imported.
HEAVY = {
    "autogrow_jax.cli.completions",
    "autogrow_jax.cli.doctor",
    "autogrow_jax.cli.evaluate",
    "autogrow_jax.cli.export",
    "autogrow_jax.cli.predict",
    "autogrow_jax.main",
    "autogrow_jax.reporting.__main__",
    "autogrow_jax.reporting.drawing",
    "autogrow_jax.reporting.plots",
    "autogrow_jax.report.page",
    "autogrow_jax.studies.__main__",
    "autogrow_jax.studies.figures",
    "autogrow_jax.studies.tables",
}


def _name(path: Path) -> str:
    """The module's, with `__init__` as its folder's."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """A command that a folder is, `__main__`, belongs to no room but to those who start things."""
    inside = module.split(".")[1:]
    return ("main" if inside[1:] == ["__main__"] else inside[0]) if inside else ""


def _imports(node: ast.AST, deep: bool = True) -> list[tuple[str, int]]:
    """The modules that are imported below `node`, with their lines."""
    found = []
    for part in ast.walk(node) if deep else ast.iter_child_nodes(node):
        if isinstance(part, ast.Import):
            found += [(alias.name, part.lineno) for alias in part.names]
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0, "relative imports do not say which room they come from"
            module = part.module or ""
            inside = [alias.name for alias in part.names] if module == "autogrow_jax" else [""]
            found += [(f"{module}.{name}".rstrip("."), part.lineno) for name in inside]
    return found


def _count(*places: str, suffixes=(".py",)) -> int:
    """Lines of the files and folders of the package."""
    paths = [path for place in places for path in (ROOT / place, *(ROOT / place).rglob("*"))]
    files = {path for path in paths if path.is_file() and path.suffix in suffixes}
    return sum(len(path.read_text().splitlines()) for path in files)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_large(room):
    """Nobody has to read the whole package, but all of a room."""
    assert _count(room) <= 2_500


def test_what_a_researcher_reads_is_small():
    assert _count("errors.py", "models", "growth") < 3_000


def test_no_file_is_long():
    files = [*FILES, *ROOT.rglob("*.cc"), *ROOT.rglob("*.h")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_every_room_has_its_place():
    assert {_room(_name(path)) for path in FILES} - {""} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_upwards(room):
    """Within functions neither."""
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    for path in FILES:
        if _room(_name(path)) == room:
            for module, line in _imports(ast.parse(path.read_text())):
                if module.startswith("autogrow_jax."):
                    assert _room(module) not in above, f"{path}:{line} imports {module}"


def test_only_what_is_heavy_is_imported_late():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for module, line in _imports(node):
                    late = module.split(".")[0] in LATE or module in HEAVY
                    assert late, f"{path}:{line} imports {module} within a function"


def test_no_import_is_hidden():
    """A module's names are those that it imports and defines."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        # The door of the package is the one exception, as it says.
        if path != ROOT / "__init__.py":
            assert "__getattr__" not in names, path
            assert "importlib.import_module" not in path.read_text(), path


def test_the_door_of_the_package_has_what_it_names():
    assert set(autogrow_jax.__all__) <= set(dir(autogrow_jax))
    for name in autogrow_jax.__all__:
        assert getattr(autogrow_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'gorw'"):
        _ = autogrow_jax.gorw
    tree = ast.parse((ROOT / "__init__.py").read_text())
    checked = next(n for n in tree.body if isinstance(n, ast.If) and "CHECK" in ast.dump(n.test))
    parts = [n for n in checked.body if isinstance(n, ast.ImportFrom)]
    seen = {alias.name: n.module for n in parts for alias in n.names}
    assert sorted(seen) == sorted(autogrow_jax.__all__)
    for name, module in seen.items():
        assert getattr(autogrow_jax, name) is getattr(importlib.import_module(module), name), name
    assert "run(config" in pydoc.render_doc(autogrow_jax, renderer=pydoc.plaintext)


def test_the_type_checker_sees_what_is_in_a_config():
    for path in FILES:
        assert not re.search(r"\bconfig: Any\b", path.read_text()), path
