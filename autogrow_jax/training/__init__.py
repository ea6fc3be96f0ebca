"""Training: the loop, and the pure pieces it is made of."""

from autogrow_jax.optim import make_optimizer, make_schedule
from autogrow_jax.reporting import Result
from autogrow_jax.training.loop import run

__all__ = ["Result", "make_optimizer", "make_schedule", "run"]
