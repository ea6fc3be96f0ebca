"""Config and study files: where they are found, what they may import, what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autogrow_jax import settings_files
from autogrow_jax.errors import UserError
from autogrow_jax.settings_files import CONFIGS, STUDIES, find_file, load_config, load_study

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "from helper import SEED\n\ndef get_config():\n  return {'seed': SEED}\n"
RELATIVE = PLAIN.replace("from helper", "from .helper")


def _write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_own_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("configs/digits_plain3.py", "digits_plain3.py"):
        assert find_file(name) == CONFIGS / "digits_plain3.py"
    for name in ("configs/studies/smoke.py", "studies/smoke.py", "smoke.py"):
        assert find_file(name, STUDIES) == STUDIES / "smoke.py"


def test_a_path_that_exists_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(_write(tmp_path, configs__digits_plain3="def get_config(): return {}\n"))
    assert load_config("configs/digits_plain3.py") == {}
    # Nor is another folder's file taken for ours.
    with pytest.raises(UserError, match="no config file elsewhere/configs/svhn_plain3"):
        load_config("elsewhere/configs/svhn_plain3.py")


def test_a_foreign_package_called_configs_is_neither_used_nor_in_the_way(tmp_path, monkeypatch):
    text = "raise RuntimeError('the foreign package was imported')\n"
    monkeypatch.chdir(_write(tmp_path, configs____init__=text, configs__paper=text))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_config("configs/svhn_plain3.py")["data"]["name"] == "svhn"
    assert load_study("configs/studies/smoke.py").sections


@pytest.mark.parametrize("text", [PLAIN, RELATIVE])
def test_a_file_imports_its_neighbours_and_the_next_file_its_own(tmp_path, text):
    modules, path = dict(sys.modules), list(sys.path)
    for seed in (1, 2):
        folder = _write(tmp_path / str(seed), mine=text, helper=f"SEED = {seed}\n")
        assert load_config(str(folder / "mine.py")) == {"seed": seed}
    assert sys.path == path
    assert sys.modules == modules


def test_a_study_and_the_config_it_loads_have_neighbours_of_one_name(tmp_path):
    inner = _write(tmp_path / "inner", mine=PLAIN, helper="SEED = 5\n")
    study = (
        "import helper\nfrom autogrow_jax.settings_files import load_config\n\n"
        f"def get_study():\n  seed = load_config({str(inner / 'mine.py')!r})['seed']\n"
        "  import helper as again\n  return seed, helper.SEED, again is helper\n"
    )
    outer = _write(tmp_path / "outer", study=study, helper="SEED = 7\n")
    assert load_study(str(outer / "study.py")) == (5, 7, True)


def test_a_module_of_the_package_that_a_file_imports_first_stays(tmp_path):
    name = _write(tmp_path, mine=PLAIN, helper="SEED = 3\nimport autogrow_jax.interop\n")
    sys.modules.pop("autogrow_jax.interop", None)
    assert load_config(str(name / "mine.py")) == {"seed": 3}
    assert "autogrow_jax.interop" in sys.modules
    assert sys.modules["autogrow_jax.settings_files"] is settings_files


def test_a_config_file_may_have_dataclasses_of_written_out_types(tmp_path):
    text = (
        "from __future__ import annotations\nimport dataclasses\n\n"
        "@dataclasses.dataclass\nclass Part:\n  seed: int = 4\n\n"
        "def get_config():\n  return dataclasses.asdict(Part())\n"
    )
    assert load_config(str(_write(tmp_path, mine=text) / "mine.py")) == {"seed": 4}


@pytest.mark.multiprocess
@pytest.mark.parametrize("module", ["autogrow_jax", "autogrow_jax.main"])
def test_the_package_is_the_program_and_tells_its_version(tmp_path, module):
    command = [sys.executable, "-m", module, "--version"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "autogrow_jax 0.1.0\n"
