"""The notebooks run from top to bottom, and are kept without what running leaves in them."""

import json
import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# What replaces a notebook's cell of settings, so that it runs in seconds.
TINY = {
    "quickstart": 'GROWTH_EPOCHS = 4\nFINETUNE_EPOCHS = 2\nWORKDIR = "run"',
}


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


@pytest.mark.multiprocess
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, kernel, tmp_path):
    notebook = read(path)
    (settings,) = (c for c in code(notebook) if "parameters" in c.metadata.get("tags", ()))
    replaced = {line.split(" =")[0] for line in settings.source.splitlines()}
    assert replaced == {line.split(" =")[0] for line in TINY[path.stem].splitlines()}
    settings.source = TINY[path.stem]
    client = nbclient.NotebookClient(notebook, timeout=900, kernel_name=kernel)
    client.execute(cwd=str(tmp_path))

    written = json.loads((tmp_path / "run" / "result.json").read_text())
    cells = {cell.id: cell for cell in notebook.cells}
    assert "-".join(map(str, written["depths"])) in cells["result"].outputs[0].text
    # The picture is redrawn in its place, and is a picture: not the text of an object.
    (picture,) = (o for o in cells["run"].outputs if o.output_type == "display_data")
    assert "image/png" in picture.data
