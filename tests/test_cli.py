"""The command `autogrow`: what it says of itself, and that each of its commands is reached."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autogrow_jax import __version__, cli
from autogrow_jax.cli import completions
from autogrow_jax.command_line import CONFIGS, STUDIES

ROOT = Path(__file__).resolve().parents[1]


def test_help_has_an_example_of_the_five_things_that_people_want(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("train", "predict", "evaluate", "export", "report"):
        assert f"\n  autogrow {command} " in out
    for command, words in cli.COMMANDS.items():
        assert f"  {command:<11} {words}\n" in f"{out}\n"
    assert cli.main([]) == 0
    assert capsys.readouterr().out == out
    assert max(map(len, out.splitlines())) <= 100


def test_an_unknown_command_is_told_with_the_nearest(capsys):
    assert cli.main(["predcit", "--workdir=a"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no command 'predcit'; did you mean predict? There are: train, ")


@pytest.mark.multiprocess
@pytest.mark.parametrize("arguments", [["--help"], ["configs"], ["predcit"]])
def test_help_and_lists_do_without_jax(arguments, tmp_path):
    code = (
        "import sys; from autogrow_jax import cli\n"
        f"cli.main({arguments!r}); sys.exit(str({{'jax', 'flax', 'PIL'}} & sys.modules.keys())"
        " if {'jax', 'flax', 'PIL'} & sys.modules.keys() else 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_each_command_tells_what_it_takes(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "arguments, part",
    [
        (["train", "--config.data.nmae=mnist"], "did you mean 'data.name'"),
        (["--config.data.nmae=mnist"], "did you mean 'data.name'"),
        (["predict", "--workdir=nowhere", "a.png"], "nowhere holds no run"),
        (["evaluate", "--workdir=nowhere"], "nowhere holds no run"),
        (["report"], "no folder is given; name that of a run, as autogrow report runs/photos does"),
        (["report", "a", "--workdir=b"], "two folders are given"),
    ],
)
def test_the_module_is_the_command(tmp_path, arguments, part):
    command = [sys.executable, "-m", "autogrow_jax", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode in (1, 2)
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert part in ended.stderr


def test_configs_has_a_line_for_each_file(capsys):
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[0] for line in lines if line.startswith("  ")]
    names = [path.stem for path in (*CONFIGS.glob("*_*.py"), *STUDIES.glob("*.py"))]
    assert sorted(words) == sorted(name for name in names if not name.startswith("_"))
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
    assert cli.main(["configs", "configs/svhn_plain3.py"]) == 0
    assert "36-35-35" in capsys.readouterr().out
    assert cli.main(["configs", "smoek"]) == 1
    assert "did you mean 'smoke'" in capsys.readouterr().err


def test_doctor_tells_what_there_is_and_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "svhn").mkdir(parents=True)
    (tmp_path / "data" / "svhn" / "test_32x32.mat").write_bytes(b"half")
    assert cli.main(["doctor", f"--data-dir={tmp_path / 'data'}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"autogrow_jax {__version__} on Python 3.")
    for part in ("1 cpu (cpu), as JAX sees them", "convolutions", "digits", "mnist  "):
        assert part in out
    assert f"runs               {tmp_path / 'runs'}, " in out
    assert "damaged: " in out
    assert "- mend svhn: " in out
    assert f"- for cifar10, put into {tmp_path / 'data'}" in out
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").touch()
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"- make room for runs in {tmp_path / 'runs'}: cannot be written" in out


def test_doctor_knows_every_extra_that_a_user_may_want(capsys):
    names = configparser.ConfigParser()
    names.read(Path(__file__).parents[1] / "setup.cfg")
    extras = names["options.extras_require"].keys() - {"test", "bench", "dev", "docs"}
    cli.main(["doctor"])
    told = capsys.readouterr().out.partition("\nextras\n")[2].partition("\n\n")[0]
    assert {line.split()[0] for line in told.splitlines()} == extras


def test_doctor_finds_the_official_files(data_dir, capsys):
    assert cli.main(["doctor", f"--data-dir={data_dir}"]) == 0
    assert f"mnist          60,000 + 10,000 images in {data_dir}" in capsys.readouterr().out


@pytest.mark.multiprocess
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completions_know_commands_options_and_keys(shell, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completions", shell]) == 0
    out = capsys.readouterr().out
    for word in (*cli.COMMANDS, "--config.model.family", "--which", "stablehlo"):
        assert word in out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=out, text=True, check=True)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_completions_take_every_option_of_every_command(command, capsys):
    tree = completions._make_tree("file", "folder")
    (commands,) = (action.choices for action in tree._actions if action.dest == "command")
    assert commands.keys() == cli.COMMANDS.keys()
    known = {name for action in commands[command]._actions for name in action.option_strings}
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    told = set(re.findall(r"--[a-z][a-z_.-]*", capsys.readouterr().out))
    assert {name for name in told if not name.startswith("--config.")} <= known
    if command == "report":
        (workdir,) = (a for a in commands[command]._actions if a.dest == "folder")
        assert workdir.complete == "folder"


def test_completions_without_their_package_say_so(capsys, monkeypatch):
    monkeypatch.setattr("autogrow_jax.cli.completions.find_spec", lambda name: None)
    assert cli.main(["completions", "bash"]) == 1
    assert "pip install 'autogrow_jax[completions]'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--workdir", "--data-dir"])
@pytest.mark.parametrize("path", ["~nobody_of_that_name/y", "a" * 300])
def test_doctor_refuses_what_can_be_no_path(option, path, capsys):
    assert cli.main(["doctor", f"{option}={path}"]) == 1
    assert "cannot be a path here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--workdir=w", "--data="],
        ["evaluate", "--workdir=w", "--data", "", "--data-dir=d"],
        ["predict", "--workdir=", "a.png"],
        ["train", "--workdir="],
    ],
)
def test_an_option_that_a_script_left_empty_is_not_taken_for_left_out(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "is empty; leave it out, or give it a value" in capsys.readouterr().err
