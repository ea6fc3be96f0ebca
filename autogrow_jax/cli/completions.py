"""`autogrow completions`: what bash and zsh need to complete its commands, options and keys."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

from autogrow_jax import main as train
from autogrow_jax.cli import configs, doctor, evaluate, export, predict
from autogrow_jax.command_line import Parser, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.reporting import __main__ as report
from autogrow_jax.settings import KEYS
from autogrow_jax.studies import __main__ as studies

_SHELLS = ("bash", "zsh")
_FOLDERS = {"workdir", "folder", "data_dir", "data"}
_FILES = {"images", "output", "config", "study"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(make_parser().read, _complete, arguments)


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser(
        "autogrow completions",
        "Prints what a shell needs to complete this command:"
        ' eval "$(autogrow completions bash)" in ~/.bashrc; or into a file _autogrow of a folder'
        " of zsh's $fpath.",
    )
    parser.add_argument("shell", choices=_SHELLS)
    return parser


def _complete(given: argparse.Namespace) -> None:
    if not find_spec("shtab"):
        raise UserError("completions need shtab: pip install 'autogrow_jax[completions]'")
    import shtab

    print(shtab.complete(_make_tree(shtab.FILE, shtab.DIRECTORY), given.shell))


def _make_tree(file: object, folder: object) -> argparse.ArgumentParser:
    """All commands in one parser; `file` and `folder` are how shtab marks these."""
    root = argparse.ArgumentParser("autogrow", add_help=False)
    commands = root.add_subparsers(dest="command")
    keys = argparse.ArgumentParser(add_help=False)
    for name, key in KEYS.items():
        choices = None if isinstance(key.accepts, str) else list(key.accepts)
        keys.add_argument(f"--config.{name}", choices=choices, help=f"config.{name}")
    for name, parents in {
        "train": (train.make_parser(), keys),
        "predict": (predict.make_parser(),),
        "evaluate": (evaluate.make_parser(),),
        "export": (export.make_parser(),),
        "report": (report.make_parser(),),
        "studies": (studies.make_parser(), keys),
        "configs": (configs.make_parser(),),
        "doctor": (doctor.make_parser(),),
        "completions": (make_parser(),),
    }.items():
        command = commands.add_parser(name, parents=parents, add_help=False, help=name)
        for action in command._actions:
            if action.dest in _FOLDERS | _FILES:
                action.complete = folder if action.dest in _FOLDERS else file  # type: ignore
    return root
