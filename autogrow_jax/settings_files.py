"""Settings as users give them: config files, study files, `--config.KEY=VALUE`.

The command line has the syntax of ml_collections' `config_flags`, which however answers a misspelt
key or a config file that fails with a traceback, and types a value as the config file does.
"""

import difflib
import importlib.util
import itertools
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from autogrow_jax.command_line import CONFIGS, STUDIES, UsageError
from autogrow_jax.errors import UserError
from autogrow_jax.process import user_path
from autogrow_jax.settings import all_keys, check_key, flatten, nest, parse_value
from autogrow_jax.settings_table import OWN_HELP

DEFAULT_CONFIG = str(CONFIGS / "digits_plain3.py")

_PREFIX = "--config."
_count = itertools.count()
# For each file that is being run, what takes its neighbours out of `sys.modules`.
_running: list[Callable[[], dict[str, ModuleType]]] = []


def load_config(name: str) -> dict[str, Any]:
    """Runs `get_config()` of a config file and returns nested dicts, for `resolve` to check.

    `name` is the path of a Python file, perhaps followed by ":ARGUMENT", a string that `get_config`
    is then called with. Where there is no such file, "configs/NAME.py" and "NAME.py" are the
    package's own.

    Raises:
      UserError: there is no such file, with the nearest one; it fails, with the line; it has no
        `get_config`, or that returns no config.
    """

    def read(returned: Any) -> dict[str, Any]:
        config = flatten(returned)
        for key in config:
            check_key(key)
        return nest(config)

    return _run_file(name, CONFIGS, read)


def load_study(name: str) -> Any:
    """Runs `get_study()` of a study file as `load_config`; ours are "configs/studies/NAME.py"."""
    return _run_file(name, STUDIES, lambda returned: returned)


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """ "FILE.py:ARGUMENT" as ("FILE.py", ("ARGUMENT",)); without a colon the second is empty."""
    match = re.fullmatch(r"(.*?\.py):(.*)", name, re.DOTALL)
    return (match[1], (match[2],)) if match else (name, ())


def find_file(name: str, folder: Path = CONFIGS) -> Path:
    """The path of a file, or of the package's own in `folder`; UserError names the nearest."""
    path, shown = user_path(name), folder.relative_to(CONFIGS.parent)
    if path.is_file():
        return path
    own = folder / path.name
    if own.is_file() and path.parent in (Path(), Path(shown.name), shown):
        return own
    what, pattern = ("study", "[!_]*.py") if folder == STUDIES else ("config", "[!_]*_*.py")
    known = sorted(found.name for found in folder.glob(pattern))
    close = difflib.get_close_matches(path.name, known, n=1)
    all_ = f"in {folder} there are: {', '.join(known)}"
    hint = f"did you mean {shown / close[0]}?" if close else all_
    raise UserError(f"no {what} file {name}; {hint}")


def _run_file(given: str, folder: Path, read: Callable[[Any], Any]) -> Any:
    """Executes a file and returns what `read` makes of what `get_config` or `get_study` returns."""
    file, argument = split_name(given)
    path, what = find_file(file, folder), "study" if folder == STUDIES else "config"
    try:
        with _neighbours(path.absolute().parent) as package:
            name = f"{package}.{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None:
                raise UserError("it is no Python file; its name has to end in .py")
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            function = getattr(module, f"get_{what}", None)
            if not callable(function):
                raise UserError(f"it has no function get_{what}()")
            return read(function(*argument))
    except UserError as error:
        raise UserError(f"{what} file {path}: {error}") from None
    # Whatever the user's own code raises; it is for them to read, not for us to handle.
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} file {path}{_describe(error, path)}") from error


@contextmanager
def _neighbours(folder: Path) -> Iterator[str]:
    """Lets a file import those beside it, plainly or relatively, and forgets them afterwards.

    So another file may have neighbours of the same names, also one that this file loads. Yields the
    name of the package that the folder is meanwhile.
    """
    outer, before = _running[-1]() if _running else {}, set(sys.modules)
    spec = ModuleSpec(f"_autogrow_jax_folder_{next(_count)}", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]

    def take_out() -> dict[str, ModuleType]:
        new = [name for name in sys.modules if "." not in name and name not in before]
        beside = {name for name in new if name == spec.name or _lies_in(folder, sys.modules[name])}
        names = [name for name in sys.modules if name.partition(".")[0] in beside]
        return {name: sys.modules.pop(name) for name in names}

    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    _running.append(take_out)
    try:
        yield spec.name
    finally:
        _running.pop()
        take_out()
        with suppress(ValueError):  # The file may have changed the path as well.
            sys.path.remove(str(folder))
        sys.modules.update(outer)


def _lies_in(folder: Path, module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    folders = getattr(spec, "submodule_search_locations", None)
    place = next(iter(folders)) if folders else getattr(spec, "origin", None)
    return Path(place or "").parent == folder


def _describe(error: BaseException, path: Path) -> str:
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


def take_changes(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without all `--config.KEY=VALUE`, and those as {"a.b": value}; UsageErrors."""
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
            check_key(key, later=True)
        except UserError as error:
            raise UsageError(str(error)) from None
        known = all_keys().get(key)  # None of a policy that the config file registers.
        if not equals:
            is_flag = known is None or isinstance(known.default, bool)
            if is_flag and (not rest or rest[0].startswith("-")):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise UsageError(f"{name} lacks a value: {name}=VALUE")
        changes[key] = parse_value(key, text) if known else text
    return options, changes


def describe_keys() -> str:
    """Lists the keys for `--help`, with their defaults and what they are."""
    lines = ["keys, their defaults where the config file says nothing else, and what they take:"]
    for name, key in all_keys().items():
        default = "" if key.default in (None, ()) else key.default
        accepts = key.accepts if isinstance(key.accepts, str) else " | ".join(key.accepts)
        lines.append(f"  {_PREFIX}{name}={default}")
        lines += [f"      {line}" for line in textwrap.wrap(f"{key.help} ({accepts})".strip(), 88)]
    return "\n".join([*lines, f"\n{OWN_HELP}"])
