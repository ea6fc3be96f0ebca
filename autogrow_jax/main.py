"""The command line: arguments to config to `run`. `--help` says what it takes.

python -m autogrow_jax.main --config=configs/svhn_plain3.py --workdir=DIR --config.KEY=VALUE
"""

import sys
from collections.abc import Sequence

from absl import logging

from autogrow_jax.config_files import load_config
from autogrow_jax.errors import UserError
from autogrow_jax.flags import UsageError, parse_arguments
from autogrow_jax.process import catch_sigterm, exit_status, keep_freed_memory, leave
from autogrow_jax.training import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: those after the program's name; by default those of the process.

    Returns:
      The exit status: 0; 1 for a mistake of the user or a loss that is no longer finite; 2 for
      arguments that cannot be read; 130 after Ctrl-C and 143 after SIGTERM, as shells have it.
    """
    # TFDS and Orbax warn through absl of what is no concern of the user's.
    logging.set_verbosity(logging.ERROR)
    workdir = ""
    try:
        with catch_sigterm():
            command = parse_arguments(sys.argv[1:] if arguments is None else arguments)
            config = load_config(command.config, command.changes)
            workdir = command.workdir
            run(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt as stop:
        how = f"; the same command goes on from the last checkpoint in {workdir}" if workdir else ""
        start = "\n" if sys.stderr.isatty() else ""  # Behind the ^C that a terminal shows.
        print(f"{start}stopped{how}", file=sys.stderr)
        return exit_status(stop)
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    leave(main())
