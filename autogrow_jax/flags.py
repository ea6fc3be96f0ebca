"""Mistakes on the command line, found before absl and ml_collections meet them.

Their own answers to a misspelt key or file are tracebacks.
"""

import difflib
from pathlib import Path

from autogrow_jax.config import check_key
from autogrow_jax.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT_CONFIG = str(CONFIGS / "digits_plain3.py")


def check_arguments(arguments: list[str]) -> None:
    """Raises UserError for a `--config.KEY` that is no key."""
    for argument in arguments[1:]:
        name, _, _ = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config."):
            check_key(name.removeprefix("config."))


def find_config(arguments: list[str]) -> list[str]:
    """The arguments with `--config=FILE` made a path that exists.

    A file that is not there is looked for beside the package, so that
    `--config=configs/svhn_plain3.py` works from any folder.

    Raises:
      UserError: where it is in neither place; names the nearest.
    """
    result = list(arguments)
    for place, argument in enumerate(arguments):
        if argument in ("--config", "-config") and place + 1 < len(arguments):
            result[place + 1] = _find(arguments[place + 1])
        elif argument.startswith(("--config=", "-config=")):
            result[place] = "--config=" + _find(argument.partition("=")[2])
    return result


def _find(name: str) -> str:
    if Path(name).is_file():
        return name
    beside = CONFIGS / Path(name).name
    if beside.is_file() and Path(name).parent.name in ("", "configs"):
        return str(beside)
    known = sorted(path.name for path in CONFIGS.glob("*_*.py") if not path.name.startswith("_"))
    close = difflib.get_close_matches(Path(name).name, known, n=1)
    hint = f"; did you mean configs/{close[0]}?" if close else ""
    raise UserError(f"no config file {name}{hint} There are: {', '.join(known)}")
