"""Grow the depth of convolutional networks while they train.

`run` trains a config in a folder and `load` takes the net out of it; `grow`, the policies and
`replay` are its parts, for loops of one's own; `register_...` add one's own by name.

>>> import autogrow_jax
>>> config = autogrow_jax.default_config()
>>> policy = autogrow_jax.periodic(interval=2)
>>> autogrow_jax.replay(policy, [50.0, 60.0, 61.0, 62.0]).depths
(2, 2, 1)
"""

import importlib
import os
import signal
import sys
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


def end_import(number: int, frame: object) -> None:
    """Ends this process in one line: Ctrl-C while a command of this package is imported."""
    os.write(2, b"stopped\n")
    os._exit(130)


# Here, before anything that takes a while to import; and not where Ctrl-C is ignored, as in the
# background of a script. `command_line.catch_signals` takes over.
if (
    dict(pairwise(sys.orig_argv)).get("-m", "").partition(".")[0] == "autogrow_jax"
    or [os.path.basename(script) for script in sys.orig_argv[1:2]] == ["autogrow"]
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_import)

if TYPE_CHECKING:
    from autogrow_jax.config import default_config
    from autogrow_jax.data import Dataset, load_dataset, register_augmentation
    from autogrow_jax.errors import UserError
    from autogrow_jax.growth import (
        Context,
        Decision,
        Policy,
        convergent,
        periodic,
        register_initializer,
        register_policy,
        replay,
    )
    from autogrow_jax.growth.grow import grow, grow_optimizer_state
    from autogrow_jax.models import (
        Family,
        Network,
        build_network,
        estimate_cost,
        num_params,
        register_family,
    )
    from autogrow_jax.optim import register_loss, register_optimizer, register_schedule
    from autogrow_jax.training import Loaded, Result, load, run, run_seeds

# Loaded when they are asked for: a command that shows a result or its help is there in a tenth of a
# second, JAX, Flax and Orbax take more than one.
_ROOMS = ("config", "data", "errors", "growth", "models", "optim", "training")
__all__ = [
    "Context",
    "Dataset",
    "Decision",
    "Family",
    "Loaded",
    "Network",
    "Policy",
    "Result",
    "UserError",
    "build_network",
    "convergent",
    "default_config",
    "estimate_cost",
    "grow",
    "grow_optimizer_state",
    "load",
    "load_dataset",
    "num_params",
    "periodic",
    "register_augmentation",
    "register_family",
    "register_initializer",
    "register_loss",
    "register_optimizer",
    "register_policy",
    "register_schedule",
    "replay",
    "run",
    "run_seeds",
]


def __getattr__(name: str) -> Any:
    for room in _ROOMS if name in __all__ else ():
        found = getattr(importlib.import_module(f"autogrow_jax.{room}"), name, None)
        # `data.load` is a file of that room, and `load` a function of training.
        if not isinstance(found, ModuleType | None):
            return found
    raise AttributeError(f"module 'autogrow_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
