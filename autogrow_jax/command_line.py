"""What all commands of the package share: options, mistakes told in one line, the exit status."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from absl import logging

from autogrow_jax import __version__
from autogrow_jax.errors import UserError
from autogrow_jax.process import Terminated, catch_sigterm

Options = TypeVar("Options")


class UsageError(UserError):
    """Arguments that cannot be read at all, as opposed to values that are out of range."""


class Parser(argparse.ArgumentParser):
    """Argparse for `python -m module`; a mistake is a UsageError, which names the nearest option.

    `more` is what is taken beside the options, such as "--config.KEY=VALUE".
    """

    def __init__(self, module: str, description: str, more: str = "", **kwargs: Any):
        kwargs |= {"prog": f"python -m {module}", "description": description}
        super().__init__(add_help=False, allow_abbrev=False, **kwargs)
        self._more = more
        self.add_argument("-h", "--help", action="help", help="show this and end")
        # absl's, for people who are used to it.
        self.add_argument("--helpshort", "--helpfull", action="help", help=argparse.SUPPRESS)
        version = f"autogrow_jax {__version__}"
        self.add_argument("--version", action="version", version=version, help="show it and end")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads arguments; UsageError for what no option takes, a lacking or a wrong value."""
        known, unknown = self.parse_known_args(arguments)
        if not unknown:
            return known
        names = (a.option_strings[-1] for a in self._actions if a.option_strings)
        options = [name for name in names if name != "--helpfull"]
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            there = ", ".join(filter(None, [*options, self._more]))
            raise UsageError(f"unexpected argument {name!r}; options are {there}")
        close = difflib.get_close_matches(name, options, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; --help lists all there are"
        raise UsageError(f"unknown option {name}{hint}")

    def error(self, message: str) -> NoReturn:
        """Raises what argparse found."""
        raise UsageError(message.removeprefix("argument "))


def run_command(
    parse: Callable[[Sequence[str]], Options],
    work: Callable[[Options], int | None],
    arguments: Sequence[str] | None,
    how_to_go_on: Callable[[Options], str] | None = None,
) -> int:
    """Runs a command and returns its exit status; a mistake of the user is one line on stderr.

    `work` gets the options that `parse` makes of the arguments, None being those of the process,
    and returns its status, None being 0. `how_to_go_on` says so in words, after Ctrl-C. The status
    is 1 for a mistake of the user or a loss that is no longer finite; 2 for arguments that cannot
    be read; 130 after Ctrl-C and 143 after SIGTERM, as shells have it.
    """
    # TFDS and Orbax warn through absl of what is no concern of the user's.
    logging.set_verbosity(logging.ERROR)
    how = ""
    try:
        with catch_sigterm():
            options = parse(sys.argv[1:] if arguments is None else arguments)
            how = f"; {how_to_go_on(options)}" if how_to_go_on else ""
            return work(options) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # `--list | head`: whoever read has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        start = "\n" if sys.stderr.isatty() else ""  # Behind the ^C that a terminal shows.
        print(f"{start}stopped{how}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
