"""What `pip install` puts where, and that it works from any folder."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def _lines(section, name):
    words = SETUP[section][name].splitlines()
    return [word for word in words if word and not word.startswith("#")]


def _sources():
    """The files to install, by the path they are to have."""
    files = {}
    for folder, place in (("autogrow_jax", "autogrow_jax"), ("configs", "autogrow_jax/configs")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".cc", ".h", ".css"):
                files[f"{place}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    return files


def test_every_folder_of_modules_is_a_package_to_install():
    folders = {os.path.dirname(name) for name in _sources() if name.endswith(".py")}
    assert _lines("options", "packages") == sorted(name.replace("/", ".") for name in folders)


def test_requirements_are_those_of_setup_cfg():
    wanted = _lines("options", "install_requires") + _lines("options.extras_require", "test")
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted


def _can_build():
    try:
        return int(metadata.version("setuptools").split(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not _can_build():
        pytest.skip("setuptools is missing or too old")
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, as setuptools takes up what an earlier build left.
    for name in ("autogrow_jax", "configs", "tests"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(folder), str(folder / "source")], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.multiprocess
def test_the_wheel_holds_the_package_with_its_configs_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    extra = {name for name in names if name.startswith("autogrow_jax-0.1.0.dist-info/")}
    assert extra
    assert names - extra == set(_sources())


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "arguments",
    [
        ["autogrow_jax", "--config=configs/svhn_plain3.py", "--config.data.name=nowhere.npz"],
        ["autogrow_jax.studies", "--study=configs/studies/smoke.py", "--list"],
    ],
)
def test_own_configs_are_found_where_others_are_called_configs_too(wheel, tmp_path, arguments):
    site, here = tmp_path / "site", tmp_path / "here"
    zipfile.ZipFile(wheel).extractall(site)
    (here / "configs" / "studies").mkdir(parents=True)
    for name in ("__init__", "paper", "studies/__init__", "studies/_parts"):
        (here / "configs" / f"{name}.py").write_text("raise RuntimeError('a foreign file')\n")
    command = [sys.executable, "-m", *arguments, f"--workdir={tmp_path / 'run'}"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        command, cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    if "--list" in arguments:
        assert (done.returncode, "Plain3Net" in done.stdout) == (0, True), done.stderr
    else:
        assert (done.returncode, "nowhere.npz: no such file" in done.stderr) == (1, True)
