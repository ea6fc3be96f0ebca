"""The command line: flags to config to `run`.

python -m autogrow_jax.main --config=configs/svhn_plain3.py --workdir=DIR --config.key=value
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from autogrow_jax.errors import UserError
from autogrow_jax.flags import DEFAULT_CONFIG, check_arguments, find_config
from autogrow_jax.training import run

_CONFIG = config_flags.DEFINE_config_file("config", DEFAULT_CONFIG, "A file with get_config().")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/CONFIG-NAME.")


def _parse(arguments: list[str]) -> list[str]:
    try:
        check_arguments(arguments)
        return flags.FLAGS(find_config(arguments))
    except UserError as error:
        sys.exit(f"error: {error}")
    except flags.Error as error:
        sys.exit(f"error: {error}")


def _main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(f"error: unexpected argument {arguments[1]!r}; settings are --config.KEY=VALUE")
    # Orbax tells of every file it writes, at a level that absl shows by default.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = _WORKDIR.value or str(Path("runs") / name)
    try:
        run(_CONFIG.value, workdir)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"\nstopped; the same command goes on from the last checkpoint in {workdir}")


def main() -> None:
    """Entry point."""
    app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
    main()
