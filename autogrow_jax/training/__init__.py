"""Training: `run` is the whole of it, the rest are its parts."""

from autogrow_jax.training.loop import run
from autogrow_jax.training.optimizer import make_optimizer
from autogrow_jax.training.result import Result
from autogrow_jax.training.schedule import make_schedule

__all__ = ["Result", "make_optimizer", "make_schedule", "run"]
