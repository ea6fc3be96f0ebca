"""Training: the loop, and the pure pieces it is made of."""

from typing import TYPE_CHECKING, Any

from autogrow_jax.optim import make_optimizer, make_schedule

if TYPE_CHECKING:
    from autogrow_jax.training.loop import run
    from autogrow_jax.training.result import Result

__all__ = ["Result", "make_optimizer", "make_schedule", "run"]


def __getattr__(name: str) -> Any:
    # Late: the loop imports the config, whose keys take the names of optimisers from here.
    if name == "run":
        from autogrow_jax.training.loop import run

        return run
    if name == "Result":
        from autogrow_jax.training.result import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
