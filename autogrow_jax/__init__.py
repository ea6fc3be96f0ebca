"""Grow the depth of convolutional networks while they train."""

import os
import signal
import sys
from itertools import pairwise

__version__ = "0.1.0"


def end_import(number: int, frame: object) -> None:
    """Ends this process in one line: Ctrl-C while a command of this package is imported."""
    os.write(2, b"stopped\n")
    os._exit(130)


# Here, before anything that takes a while to import; and not where Ctrl-C is ignored, as in the
# background of a script. `command_line.catch_signals` takes over.
if (
    dict(pairwise(sys.orig_argv)).get("-m", "").partition(".")[0] == "autogrow_jax"
    or os.path.basename(sys.argv[0]) == "autogrow"
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_import)
