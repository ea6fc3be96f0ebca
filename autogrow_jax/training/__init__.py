"""Training: the loop, and the pure pieces it is made of."""

from autogrow_jax.optim import make_optimizer, make_schedule
from autogrow_jax.reporting import Result
from autogrow_jax.training.loading import Loaded, load
from autogrow_jax.training.loop import run
from autogrow_jax.training.seeds import run_seeds

__all__ = ["Loaded", "Result", "load", "make_optimizer", "make_schedule", "run", "run_seeds"]
