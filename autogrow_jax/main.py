"""The command line: arguments to config to `run`. `--help` says what it takes.

autogrow train --config=configs/svhn_plain3.py --workdir=DIR --config.KEY=VALUE
"""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from autogrow_jax import hosts
from autogrow_jax.command_line import Parser, UsageError, leave, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.process import process_start
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.settings import changed, nest
from autogrow_jax.settings_files import (
    CONFIGS,
    DEFAULT_CONFIG,
    describe_keys,
    load_config,
    split_name,
    take_changes,
)
from autogrow_jax.training import run

_EXAMPLES = """examples:
  autogrow train
  autogrow train --config=configs/mnist_plain3.py --config.data.dir=DATA
  autogrow train --config.data.name=folder:photos --config.data.image_size=32 --workdir=runs/photos
"""


def make_parser() -> Parser:
    """The options of the command, less those of the config."""
    parser = Parser(
        "autogrow train",
        "Grows a network while it trains, fine-tunes and tests it. The same command again goes on\n"
        "where it was stopped, or shows the result.",
        more="--config.KEY=VALUE",
        usage="%(prog)s [--config=FILE] [--workdir=DIR] [--quiet] [--config.KEY=VALUE ...]",
        epilog=f"{_EXAMPLES}\n{describe_keys()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = f"a Python file with get_config(); those in {CONFIGS} are found from any folder"
    shown = f"{files} (default: {Path(DEFAULT_CONFIG).relative_to(CONFIGS.parent)})"
    folder = "folder of the run: checkpoints, metrics, result, plots (default: runs/CONFIG-NAME)"
    parser.add_argument("--config", metavar="FILE", default=DEFAULT_CONFIG, help=shown)
    parser.add_argument("--workdir", metavar="DIR", help=folder)
    quiet = "print nothing but mistakes; the result is in the folder"
    parser.add_argument("--quiet", action="store_true", help=quiet)
    several = parser.add_argument_group("several processes, which no scheduler started")
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, of any free port"
    )
    several.add_argument("--num_processes", metavar="N", type=int, help="how many there are")
    several.add_argument("--process_id", metavar="I", type=int, help="of this one, from 0")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the arguments of a run: `config`, `workdir` and `changes`, {"a.b": value}, to config.

    Raises:
      UsageError: an unknown option or config key, with the nearest known one; a lacking value.
      SystemExit: after `--help`, which is printed.
    """
    rest, changes = take_changes(arguments)
    if {"-h", "--help"} & set(rest):  # A config file may register what has keys of its own.
        for name in (argument.removeprefix("--config=") for argument in rest):
            with suppress(UserError):
                load_config(name)
    files = [argument for argument in rest if argument.partition("=")[0] == "--config"]
    if len(files) > 1:
        raise UsageError(
            "--config is given twice, and a run has one config file; let one of the two import the"
            " other, or change single keys by --config.KEY=VALUE"
        )
    known = make_parser().read(rest)
    known.workdir = known.workdir or str(Path("runs") / Path(split_name(known.config)[0]).stem)
    known.changes = changes
    return known


def main(arguments: Sequence[str] | None = None, started: float | None = None) -> int:
    """Runs the program and returns its exit status, see `run_command`.

    The run's time counts from `started`, a `time.perf_counter()`, by default that of this call.
    """

    def work(given: argparse.Namespace) -> None:
        # A key that the file leaves as it is is not asked for; one that is given here is.
        config = nest(changed(load_config(given.config)) | given.changes)
        hosts.join(given.coordinator, given.num_processes, given.process_id)
        reporter = QuietReporter() if given.quiet else None
        with hosts.tell_of_the_lost():
            run(config, given.workdir, reporter=reporter, started=started)

    def how_to_go_on(given: argparse.Namespace) -> str:
        return f"the same command goes on from the last checkpoint in {given.workdir}"

    return run_command(parse_arguments, work, arguments, how_to_go_on)


def start() -> None:
    """Runs the program as a process of its own."""
    leave(main(started=process_start()))


if __name__ == "__main__":
    start()
