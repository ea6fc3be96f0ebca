"""What all commands have in common."""

import importlib
import os
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


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_names_of_any_signs_are_told_on_any_terminal(encoding):
    """Strictly encoded, as Python does where the language is not that of the names."""
    code = (
        "from autogrow_jax.command_line import run_command\n"
        "from autogrow_jax.errors import UserError\n"
        "def work(_):\n"
        "    print('caf\\u00e9 \\u732b \\udcff')\n"
        "    raise UserError('\\u732b \\udcff')\n"
        "raise SystemExit(run_command(lambda _: None, work, []))\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 1
    spelt = {"ascii": r"caf\xe9 \u732b \udcff", "utf-8": "caf\u00e9 \u732b \\udcff"}
    assert out.strip() == spelt.get(encoding, "caf\u00e9 \\u732b \\udcff")
    assert err.strip() == f"error: {out.strip().partition(' ')[2]}"
