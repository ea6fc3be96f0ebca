"""The command line: `--config=FILE --workdir=DIR --config.KEY=VALUE`, read into plain values.

The syntax is that of ml_collections' `config_flags`, the reading is not: theirs answers a misspelt
key, a config file that fails or an argument in another order with a traceback, and takes the type
of a value from the config file rather than from the key.
"""

import argparse
import difflib
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from autogrow_jax.config_files import CONFIGS, DEFAULT_CONFIG, split_name
from autogrow_jax.errors import UserError
from autogrow_jax.settings import KEYS, check_key

_PREFIX = "--config."
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class UsageError(UserError):
    """Arguments that cannot be read at all, as opposed to values that are out of range."""


class CommandLine(NamedTuple):
    """What the user asked for.

    Attributes:
      config: path of a config file, perhaps with ":ARGUMENT" for its `get_config`.
      workdir: folder of the run.
      changes: {"a.b": value} to be laid over the config.
    """

    config: str
    workdir: str
    changes: dict[str, Any]


def parse_arguments(arguments: Sequence[str]) -> CommandLine:
    """Reads the arguments of the program, without its name.

    Raises:
      UsageError: an unknown option or config key, with the nearest known one; a lacking value.
      SystemExit: after `--help`, which is printed.
    """
    options, changes = take_changes(arguments)
    parser = _make_parser()
    known, unknown = parser.parse_known_args(options)
    refuse_unknown(unknown, ("--config", "--workdir", "--help"))
    name = Path(split_name(known.config)[0]).stem
    return CommandLine(known.config, known.workdir or str(Path("runs") / name), changes)


def refuse_unknown(unknown: Sequence[str], options: Sequence[str]) -> None:
    """Raises UsageError, with the nearest of `options`, where arguments are left that no one takes.

    Args:
      unknown: what argparse did not know.
      options: those there are, with their dashes.
    """
    if not unknown:
        return
    name = unknown[0].partition("=")[0]
    if not name.startswith("-"):
        raise UsageError(
            f"unexpected argument {name!r}; options are {', '.join(options)} and --config.KEY=VALUE"
        )
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; --help lists all there are"
    raise UsageError(f"unknown option {name}{hint}")


def parse_value(name: str, text: str) -> Any:
    """The value of config key `name` that `text` stands for.

    Numbers of several stages are separated by commas, in brackets or not, or by dashes, as the
    paper names nets: "2,1,1", "(2, 1, 1)", "2-1-1". Text that is no value of the key's type is
    returned as it is, for the check of the config to refuse along with everything else.
    """
    default = KEYS[name].default
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return _WORDS.get(text.lower(), text)
    try:
        if isinstance(default, tuple):
            separator = "-" if re.fullmatch(r"\d+(-\d+)+", text) else ","
            numbers = text.strip("()[] ").removesuffix(",")
            return tuple(int(number) for number in numbers.split(separator)) if numbers else ()
        if isinstance(default, int):
            return int(text)
        return None if default is None and text.lower() == "none" else float(text)
    except ValueError:
        return text


def take_changes(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without all `--config.KEY=VALUE`, and those as {"a.b": value}.

    Raises:
      UsageError: an unknown key, with the nearest known one; a lacking value.
    """
    options: list[str] = []
    changes: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if re.match(r"-[a-z]{2}", argument):  # absl's tools take one dash for two.
            argument = f"-{argument}"
        name, equals, text = argument.partition("=")
        if not name.startswith(_PREFIX):
            options.append(argument)
            continue
        key = name.removeprefix(_PREFIX)
        try:
            check_key(key)
        except UserError as error:
            raise UsageError(str(error)) from None
        if not equals:
            if isinstance(KEYS[key].default, bool) and (not rest or rest[0].startswith("-")):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise UsageError(f"{name} lacks a value: {name}=VALUE")
        changes[key] = parse_value(key, text)
    return options, changes


class Parser(argparse.ArgumentParser):
    """Argparse, but a mistake is a UsageError and does not end the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m autogrow_jax.main",
        usage="%(prog)s [--config=FILE] [--workdir=DIR] [--config.KEY=VALUE ...]",
        description="Grows a network while it trains, fine-tunes and tests it. The same command"
        " again goes on where it was stopped, or shows the result.",
        epilog=_describe_keys(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action="help", help="show this and end")
    parser.add_argument(
        "--helpshort", "--helpfull", action="help", help=argparse.SUPPRESS
    )  # absl's
    shown = Path(DEFAULT_CONFIG).relative_to(CONFIGS.parent)
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=DEFAULT_CONFIG,
        help=f"a Python file with get_config(); those in {CONFIGS} are found from any folder"
        f" (default: {shown})",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="folder of the run: checkpoints, metrics, result, plots (default: runs/CONFIG-NAME)",
    )
    return parser


def _describe_keys() -> str:
    lines = [
        "examples:",
        "  python -m autogrow_jax.main",
        "  python -m autogrow_jax.main --config=configs/mnist_plain3.py --config.data.dir=DATA",
        "  python -m autogrow_jax.main --config.data.name=folder:photos --config.seed=1",
        "",
        "keys, their defaults where the config file says nothing else, and what they accept:",
    ]
    for name, key in KEYS.items():
        default = ",".join(map(str, key.default)) if isinstance(key.default, tuple) else key.default
        accepts = key.accepts if isinstance(key.accepts, str) else " | ".join(key.accepts)
        first = f"  {_PREFIX}{name}={'' if default is None else default}"
        lines += textwrap.wrap(
            f"{first:<40} {accepts}", 100, subsequent_indent=" " * 41, break_on_hyphens=False
        )
    return "\n".join(lines)
