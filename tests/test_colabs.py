"""The notebooks run from top to bottom, and are kept without what running leaves in them."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

from colabs import address

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# What replaces a notebook's cell of settings, so that it runs in seconds.
TINY = {
    "quickstart": 'GROWTH_EPOCHS = 3\nFINETUNE_EPOCHS = 1\nMNIST = "sample"\nMNIST_FRACTION = 1.0'
    '\nWORKDIR = "run"',
    "own_data": 'PHOTOS = ""\nIMAGE_SIZE = 16\nMIRROR = "auto"\nGROWTH_EPOCHS = 3'
    '\nFINETUNE_EPOCHS = 1\nWORKDIR = "run"',
    "extend": 'GROWTH_EPOCHS = 6\nFINETUNE_EPOCHS = 1\nPATIENCE = 1\nWORKDIR = "run"',
    "trajectory": 'GROWTH_EPOCHS = 3\nFINETUNE_EPOCHS = 2\nINITIALIZERS = "gaussian"'
    '\nSNAPSHOT_EVERY = 2\nGRID = 3\nWORKDIR = "run"',
}
# Where a notebook's run lies, of which its cell `result` tells.
RUNS = {"extend": "run/impatient", "trajectory": "run/gaussian"}


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_calls_the_library(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "autogrow_jax.main" not in cell.source


def test_the_address_of_the_repository_has_one_place():
    name = "/".join(address.read_address().split("/")[-2:])
    for path in NOTEBOOKS:
        first, install, *_ = read(path).cells
        where = f"github/{name}/blob/main/colabs/{path.name}"
        assert f"https://colab.research.google.com/{where})" in first.source
        assert f'REPOSITORY = "https://github.com/{name}"' in install.source
        assert install.source == read(NOTEBOOKS[0]).cells[1].source


def test_another_address_reaches_every_place_of_a_notebook(tmp_path):
    for path in NOTEBOOKS:
        copy = tmp_path / path.name
        copy.write_text(path.read_text())
        address.write(copy, "https://github.com/some-one/their.fork")
        text = copy.read_text()
        assert text.count("some-one/their.fork") == 2
        assert address.read_address().split("/")[-2] not in text


def test_what_a_machine_has_is_not_upgraded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    exec(read(NOTEBOOKS[0]).cells[1].source, {})
    ((*command, source),) = calls
    assert command[1:] == ["-m", "pip", "install", "-q", "-c", "installed.txt"]
    assert source == f"git+{address.read_address()}"
    kept = (tmp_path / "installed.txt").read_text().splitlines()
    assert f"jax=={importlib.metadata.version('jax')}" in kept


@pytest.fixture
def kernel(tmp_path, monkeypatch) -> str:
    """A kernel of the Python that runs the tests; others may be installed beside it."""
    folder = tmp_path / "jupyter" / "kernels" / "of-the-tests"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "tests", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("HOME", str(tmp_path))  # Jupyter and IPython leave files there.
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path[1:]]))
    return folder.name


def write_mnist(folder):
    """Files as Colab has them, with few images, of which each shows its class."""
    folder.mkdir()
    for name, count in (("train_small", 200), ("test", 40)):
        labels = np.arange(count) % 10
        pixels = np.random.default_rng(count).integers(0, 50, (count, 28, 28))
        for row, label in enumerate(labels):
            pixels[row, 2 * label + 4 : 2 * label + 6] = 255
        numbers = np.column_stack([labels, pixels.reshape(count, -1)])
        np.savetxt(folder / f"mnist_{name}.csv", numbers, "%d", delimiter=",")


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, kernel, tmp_path):
    notebook = read(path)
    (settings,) = (c for c in code(notebook) if "parameters" in c.metadata.get("tags", ()))
    title, *lines = settings.source.splitlines()
    assert title == "# @title Settings"
    assert all("  # @param " in line for line in lines)
    replaced = {line.split(" =")[0] for line in lines}
    assert replaced == {line.split(" =")[0] for line in TINY[path.stem].splitlines()}
    settings.source = TINY[path.stem]
    write_mnist(tmp_path / "sample")
    client = nbclient.NotebookClient(notebook, timeout=900, kernel_name=kernel)
    client.execute(cwd=str(tmp_path))

    written = json.loads((tmp_path / RUNS.get(path.stem, "run") / "result.json").read_text())
    cells = {cell.id: cell for cell in notebook.cells}
    assert "-".join(map(str, written["depths"])) in cells["result"].outputs[0].text
    # The picture is redrawn in its place, and is a picture: not the text of an object.
    (picture,) = (o for o in cells["run"].outputs if o.output_type == "display_data")
    assert "image/png" in picture.data
    shows = {"extend": ("replay", "image/png"), "trajectory": ("draw", "image/png")}
    name, kind = shows.get(path.stem, ("report", "text/html"))
    (shown,) = (o.data[kind] for o in cells[name].outputs if "data" in o)
    assert kind != "text/html" or "<iframe srcdoc=" in shown
