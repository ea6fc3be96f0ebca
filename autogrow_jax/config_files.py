"""Config and study files: finding one, running it, and saying what is wrong with it in a line."""

import difflib
import importlib.util
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from autogrow_jax.errors import UserError
from autogrow_jax.settings import check_key, flatten, nest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
STUDIES = CONFIGS / "studies"
DEFAULT_CONFIG = str(CONFIGS / "digits_plain3.py")


def load_config(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs `get_config()` of a config file.

    Args:
      name: path of a Python file, perhaps followed by ":ARGUMENT", a string that its `get_config`
        is then called with. A file that is not there is looked for beside the package, so that
        "configs/digits_plain3.py" works from any folder.
      changes: {"a.b": value} to be laid over what the file says.

    Returns:
      The settings as nested dicts, for `autogrow_jax.config.resolve` to check.

    Raises:
      UserError: there is no such file, with the nearest one; it fails, with the line; it has no
        `get_config`, or that returns no config.
    """
    file, argument = split_name(name)

    def read(module: ModuleType) -> dict[str, Any]:
        config = flatten(_call(module, "get_config", argument))
        for key in config:
            check_key(key)
        return config

    return nest(_run_file(find_config(file), "config", read) | (changes or {}))


def load_study(name: str) -> Any:
    """Runs `get_study()` of a study file and returns what it returns.

    Args:
      name: path of a Python file, perhaps followed by ":ARGUMENT"; one that is not there is looked
        for beside the package, so that "configs/studies/smoke.py" works from any folder.

    Raises:
      UserError: as `load_config`.
    """
    file, argument = split_name(name)
    path = find_config(file, STUDIES)
    return _run_file(path, "study", lambda module: _call(module, "get_study", argument))


def _call(module: ModuleType, function: str, argument: tuple[str, ...]) -> Any:
    if not callable(getattr(module, function, None)):
        raise UserError(f"it has no function {function}()")
    return getattr(module, function)(*argument)


def _run_file(path: Path, what: str, read: Callable[[ModuleType], Any]) -> Any:
    """Executes a file and returns what `read` makes of its module; errors name file and line."""
    spec = importlib.util.spec_from_file_location(f"autogrow_jax_user_{what}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{what} file {path} is no Python file; its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return read(module)
    except UserError as error:
        raise UserError(f"{what} file {path}: {error}") from None
    # Whatever the user's own code raises; it is for them to read, not for us to handle.
    except Exception as error:
        raise UserError(f"{what} file {path}{_describe(error, path)}") from error


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """ "FILE.py:ARGUMENT" as ("FILE.py", ("ARGUMENT",)); without a colon the second is empty."""
    match = re.fullmatch(r"(.*?\.py):(.*)", name, re.DOTALL)
    return (match[1], (match[2],)) if match else (name, ())


def find_config(name: str, folder: Path | None = None) -> Path:
    """The path of a config file, or a study's in `folder`, that exists.

    Raises:
      UserError: where it is neither there nor beside the package; names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = folder or CONFIGS
    beside = folder / path.name
    if beside.is_file() and path.parent.name in ("", folder.name):
        return beside
    what, pattern = ("study", "[!_]*.py") if folder == STUDIES else ("config", "[!_]*_*.py")
    known = sorted(found.name for found in folder.glob(pattern))
    close = difflib.get_close_matches(path.name, known, n=1)
    if close:
        shown = (folder / close[0]).relative_to(CONFIGS.parent)
        raise UserError(f"no {what} file {name}; did you mean {shown}?")
    raise UserError(f"no {what} file {name}; in {folder} there are: {', '.join(known)}")


def _describe(error: Exception, path: Path) -> str:
    """Where in the file and why, in one line."""
    file = str(path.absolute())  # As the import system names it.
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, reason = [error.lineno], error.msg
    else:
        # ml_collections wraps a KeyError, whose text would be in quotes, and shows all there is.
        inner = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
        reason = str(inner.args[0] if isinstance(inner, KeyError) and inner.args else inner)
        reason = re.sub(r" Other fields present: .*?(?=\nDid you mean|$)", "", reason, flags=re.S)
    place = f", line {lines[-1]}" if lines else ""
    return f"{place}: {type(error).__name__}: {' '.join(reason.split())}"
