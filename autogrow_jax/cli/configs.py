"""`autogrow configs`: what can be run, told by the config files themselves."""

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path

from autogrow_jax.command_line import CONFIGS, STUDIES, Parser, run_command
from autogrow_jax.errors import UserError, nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(make_parser().read, _show, arguments)


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser(
        "autogrow configs",
        "Lists the configs and studies that come with the package, a line each; or shows what the"
        " one that is named says of itself.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="of a config or study")
    return parser


def _show(given: argparse.Namespace) -> None:
    files = {path.stem: path for path in sorted(CONFIGS.glob("[!_]*_*.py"))}
    studies = {path.stem: path for path in sorted(STUDIES.glob("[!_]*.py"))}
    if given.name:
        name = Path(given.name).stem
        if name not in files | studies:
            raise UserError(f"no config or study {given.name!r}{nearest(name, files | studies)}")
        path = (files | studies)[name]
        print(f"{path}\n\n{_read_docstring(path)}")
        return
    width = max(map(len, files | studies))
    for title, paths in (
        (f"configs: autogrow train --config={CONFIGS.name}/NAME.py", files),
        (f"studies: autogrow studies --study={CONFIGS.name}/{STUDIES.name}/NAME.py", studies),
    ):
        print(title)
        for name, path in paths.items():
            print(f"  {name:<{width}}  {_read_docstring(path).partition(chr(10))[0]}")


def _read_docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
