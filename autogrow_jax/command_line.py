"""What all commands share: options, mistakes told in one line, signals, the exit status."""

import argparse
import difflib
import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

from absl import logging

from autogrow_jax import __version__, end_import
from autogrow_jax.errors import UserError
from autogrow_jax.process import is_busy, is_one_of_several, skip_closed_loops

Options = TypeVar("Options")
_PACKAGE = Path(__file__).resolve().parent
# Inside the package where it is installed, beside it in the repository.
_IS_INSTALLED = (_PACKAGE / "configs" / "paper.py").is_file()
CONFIGS = (_PACKAGE if _IS_INSTALLED else _PACKAGE.parent) / "configs"
STUDIES = CONFIGS / "studies"


# Options that mean something else where they are left out.
_PATHS = {"--workdir", "--data", "--data-dir", "--output"}


class UsageError(UserError):
    """Arguments that cannot be read at all, as opposed to values that are out of range."""


class Parser(argparse.ArgumentParser):
    """Argparse for `python -m MODULE` or `autogrow COMMAND`, as `program` says.

    A mistake is a UsageError, which names the nearest option. `more` is what is taken beside the
    options, such as "--config.KEY=VALUE".
    """

    def __init__(self, program: str, description: str, more: str = "", **kwargs: Any):
        program = program if " " in program else f"python -m {program}"
        kwargs |= {"prog": program, "description": description}
        super().__init__(add_help=False, allow_abbrev=False, **kwargs)
        self._more = more
        self.add_argument("-h", "--help", action="help", help="show this and end")
        # absl's, for people who are used to it.
        self.add_argument("--helpshort", "--helpfull", action="help", help=argparse.SUPPRESS)
        version = f"autogrow_jax {__version__}"
        self.add_argument("--version", action="version", version=version, help="show it and end")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads arguments; UsageError for what no option takes, a lacking or a wrong value."""
        for name, value in pairwise([*arguments, "-"]):
            option, sign, own = name.partition("=")
            if option in _PATHS and not (own if sign else value):  # As of an unset variable.
                raise UsageError(f"{option} is empty; leave it out, or give it a value")
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


def add_config(parser: Parser) -> None:
    """Adds the option that names a file which registers what is the user's own."""
    words = "config file that registers what the run has of your own, such as a family of blocks"
    parser.add_argument("--config", metavar="FILE", help=words)


def run_command(
    parse: Callable[[Sequence[str]], Options],
    work: Callable[[Options], int | None],
    arguments: Sequence[str] | None,
    how_to_go_on: Callable[[Options], str] | None = None,
) -> int:
    """Runs a command and returns its exit status; a mistake of the user is one line on stderr.

    `work` gets the options that `parse` makes of the arguments, None being those of the process,
    and returns its status, None being 0. `how_to_go_on` says so in words, after Ctrl-C. The status
    is 1 for a mistake of the user, a loss that is no longer finite, a full disk; 2 for arguments
    that cannot be read; 130 after Ctrl-C, 143 after SIGTERM and 141 where nobody reads the output
    any more, as shells have it.
    """
    # TFDS and Orbax say through absl what is no concern of the user's, or is raised as well.
    logging.set_verbosity(logging.FATAL)
    open_standard_streams()
    how = ""
    try:
        with skip_closed_loops(), catch_signals(), warnings.catch_warnings():
            # JAX's, of a full disk too; without its cache a start takes longer, and that is all.
            warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation")
            options = parse(sys.argv[1:] if arguments is None else arguments)
            how = f"; {how_to_go_on(options)}" if how_to_go_on else ""
            status = work(options) or 0
            sys.stdout.flush()
            return status
    except UserError as error:
        _tell(f"error: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # `--list | head`: whoever read has seen enough.
        silence(sys.stdout)
        if how:
            _tell(f"stopped, as nobody reads the output any more{how}")
        return 141
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _tell(
            f"error: no memory left ({str(error).partition(chr(10))[0]}); smaller are"
            " config.data.batch_size with config.gradient_accumulation, config.data.image_size,"
            f" config.growth.capacity{how}"
        )
        return 1
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" for {error.filename}" if error.filename else ""
        _tell(f"error: {os.strerror(error.errno).lower()}{where}{how}")
        return 1
    except KeyboardInterrupt as stop:
        start = "\n" if sys.stderr.isatty() else ""  # Behind the ^C that a terminal shows.
        _tell(f"{start}stopped{how}")
        return 143 if isinstance(stop, Terminated) else 130


# What a disk says that takes no more, or not from this user any more.
_NO_ROOM = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ESTALE),
}


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # Nobody reads that either.
        silence(sys.stderr)


def open_standard_streams() -> None:
    """Lets the standard streams take whatever is written to them.

    In the place of one that was closed (`2>&-`) comes the null device: the next file to be opened
    would otherwise have its number. What the language of a terminal lacks is spelt out.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # A name of any file, on a terminal of any language.
            stream.reconfigure(errors="backslashreplace")


def silence(stream: TextIO) -> None:
    """Drops what a standard stream still holds and gets, as nobody reads it or its disk is full."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a cluster sends before it kills. To be treated as Ctrl-C is."""


_pending: list[type[KeyboardInterrupt]] = []
_in_force = {"catch": False, "put off": False}


@contextmanager
def catch_signals() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated` in the main thread, and Ctrl-C KeyboardInterrupt."""

    def stop(number: int, frame: Any) -> None:
        is_second = number == signal.SIGINT and KeyboardInterrupt in _pending
        _pending.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        if is_second or not _in_force["put off"]:
            raise _pending[-1]

    _pending.clear()
    _in_force["catch"] = True
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, handler in previous.items():
        # Who has Ctrl-C ignored, as in the background of a script, keeps it so.
        if number == signal.SIGTERM or handler in (signal.default_int_handler, end_import):
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _pending.clear()
        _in_force.update({"catch": False, "put off": False})


@contextmanager
def put_off_signals(for_good: bool = False) -> Iterator[None]:
    """Within it a signal waits for `stop_if_signalled`, and for the end; a second Ctrl-C does not.

    So it is in the main thread, whether or not `catch_signals` is in force; others change nothing.
    For good: once it ended without a stop, `catch_signals` lets none through either.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with nullcontext() if _in_force["catch"] else catch_signals():
        _in_force["put off"] = True
        try:
            yield
        finally:
            _in_force["put off"] = for_good
        if not for_good:
            stop_if_signalled()


def is_signalled() -> bool:
    """Whether a signal came that is to stop this process."""
    return bool(_pending)


def stop_if_signalled() -> None:
    """Raises a stop that was put off; or again, as Python drops one while an object is deleted."""
    if _pending:
        raise _pending[0]


def leave(status: int) -> None:
    """Ends the process with an exit status, which no signal changes any more."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
    waited_for = [t for t in threading.enumerate()[1:] if not t.daemon]
    if status > 128 or is_busy() or (status and (waited_for or is_one_of_several())):
        # What a signal handler raised may have gone through XLA's compiler, which then crashes as
        # the interpreter ends; and threads of Orbax wait many minutes for a folder that could not
        # be made. All files are closed by now.
        os._exit(status)
    sys.exit(status)
