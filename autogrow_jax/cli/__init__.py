"""`autogrow`: one command for all that people do with this package.

Its commands are imported when they are asked for, so that help is there at once, without JAX.
"""

import difflib
import sys
from collections.abc import Sequence

from autogrow_jax import __version__
from autogrow_jax.cli import configs
from autogrow_jax.command_line import UsageError, leave, run_command
from autogrow_jax.process import process_start

__all__ = ["main", "start"]

_HELP = """autogrow: grows a convolutional net while it trains, and so finds how deep it has to be

usage: autogrow COMMAND [OPTIONS]; `autogrow COMMAND --help` says what a command takes

Grow a net on your own pictures, a folder with a sub-folder for each class:
  autogrow train --config.data.name=folder:photos --config.data.image_size=32 --workdir=runs/photos

Ask it what is in pictures, files or folders of them:
  autogrow predict --workdir=runs/photos new.jpg holidays/

Test it on images that it has not seen:
  autogrow evaluate --workdir=runs/photos --data=folder:others

Take it into PyTorch, ONNX or a program of your own:
  autogrow export --workdir=runs/photos --to=onnx

See how a run went:
  autogrow report runs/photos

Without images at hand, `autogrow train` grows a net on handwritten digits, in a minute.

all commands:
"""


# What there is, by name; a module of each is imported when it is asked for.
COMMANDS = {
    "train": "grow, fine-tune and test a net; the same command again goes on",
    "predict": "classes and probabilities of image files",
    "evaluate": "accuracy of a run's net, on its own test images or on others",
    "export": "the net for PyTorch, ONNX, StableHLO or NumPy, tried there",
    "report": "draw a run's report and picture, print its result",
    "studies": "many runs, one table",
    "configs": "what can be run, a line each",
    "doctor": "devices, versions, kernels, data, and what to do about what is missing",
    "completions": "of commands, options and keys, for bash and zsh",
}


def _run(name: str, arguments: Sequence[str]) -> int:
    if name == "train":
        from autogrow_jax.main import main as train

        return train(arguments, started=process_start())
    if name == "predict":
        from autogrow_jax.cli.predict import main
    elif name == "evaluate":
        from autogrow_jax.cli.evaluate import main
    elif name == "export":
        from autogrow_jax.cli.export import main
    elif name == "report":
        from autogrow_jax.reporting.__main__ import main
    elif name == "studies":
        from autogrow_jax.studies.__main__ import main
    elif name == "doctor":
        from autogrow_jax.cli.doctor import main
    elif name == "completions":
        from autogrow_jax.cli.completions import main
    else:
        main = configs.main
    return main(arguments)


def main(arguments: Sequence[str] | None = None, otherwise: Sequence[str] = ("--help",)) -> int:
    """Runs a command and returns its exit status, see `run_command`.

    Options without a command are those of `train`; `otherwise` is run where there is nothing.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or list(otherwise)
    name, rest = given[0], given[1:]
    if name in COMMANDS:
        return _run(name, rest)
    if name in ("-h", "--help", "help"):
        return run_command(list, _show_help, given)
    if name == "--version":
        return run_command(list, lambda _: print(f"autogrow_jax {__version__}"), given)
    if name.startswith("-"):
        return _run("train", given)
    return run_command(_refuse, lambda _: None, given)


def _show_help(given: Sequence[str]) -> None:
    lines = (f"  {name:<11} {words}" for name, words in COMMANDS.items())
    print(_HELP + "\n".join(lines))


def _refuse(given: Sequence[str]) -> None:
    close = difflib.get_close_matches(given[0], COMMANDS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"no command {given[0]!r}; {hint}There are: {', '.join(COMMANDS)}")


def start(otherwise: Sequence[str] = ("--help",)) -> None:
    """Runs the program as a process of its own."""
    leave(main(otherwise=otherwise))
