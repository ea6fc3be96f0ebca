"""What all commands have in common."""

import importlib
import re
import subprocess
import sys

import pytest

COMMANDS = {
    name: importlib.import_module(name).main
    for name in (
        "autogrow_jax.main",
        "autogrow_jax.cli.configs",
        "autogrow_jax.cli.doctor",
        "autogrow_jax.cli.evaluate",
        "autogrow_jax.cli.export",
        "autogrow_jax.cli.predict",
        "autogrow_jax.studies.__main__",
        "autogrow_jax.trajectory.__main__",
        "autogrow_jax.reporting.__main__",
        "autogrow_jax.reporting.cost",
    )
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_told_in_one_line(name, capsys):
    needed = {
        "autogrow_jax.cli.evaluate": ["--workdir=a"],
        "autogrow_jax.cli.export": ["--workdir=a", "--to=npz"],
        "autogrow_jax.cli.predict": ["--workdir=a", "b.png"],
        "autogrow_jax.trajectory.__main__": ["--runs", "a", "--out=b"],
        "autogrow_jax.reporting.__main__": ["a"],
        "autogrow_jax.reporting.cost": ["--family=basic3", "--depths=1-1-1"],
    }
    assert COMMANDS[name]([*needed.get(name, []), "--versoin"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: unknown option --versoin; did you mean --version?\n")


@pytest.mark.multiprocess
def test_a_command_that_reads_results_does_without_jax():
    code = "import sys, autogrow_jax.reporting.__main__; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_version_and_help(name, capsys):
    for option, part in (("--version", "autogrow_jax 0."), ("--help", "--version")):
        with pytest.raises(SystemExit) as end:
            COMMANDS[name]([option])
        assert end.value.code == 0
        assert part in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "autogrow_jax.cli.evaluate",
        "autogrow_jax.cli.predict",
        "autogrow_jax.trajectory.__main__",
        "autogrow_jax.reporting.cost",
    ],
)
def test_what_is_missing_is_named(name, capsys):
    assert COMMANDS[name]([]) == 2
    assert re.search("the following arguments are required: .*--", capsys.readouterr().err)
