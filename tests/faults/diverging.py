"""A config whose loss diverges in fine-tuning: its rate leaps, which its optimiser cannot bear."""

import os

import jax
import jax.numpy as jnp
import optax

from autogrow_jax.config import default_config
from autogrow_jax.optim import OPTIMIZERS, register_optimizer, register_schedule

_LEAP = int(os.environ.get("TESTS_FAULTS_LEAP", "1"))  # The epoch of fine-tuning.
_TIMES = float(os.environ.get("TESTS_FAULTS_TIMES", "8"))


def _brittle(rate):
    """Makes everything infinite at rates above 0.05."""
    breaks = optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda u: u * jnp.where(rate > 0.05, jnp.inf, 1.0).astype(u.dtype), updates
        )
    )
    return optax.chain(optax.sgd(rate), breaks)


def _leaping(base):
    def schedule(phase, epoch, epochs):
        return base * (_TIMES if phase != "growth" and epoch >= _LEAP else 1)

    return schedule


if "brittle" not in OPTIMIZERS:
    register_optimizer("brittle", _brittle)
    register_schedule("leaping", _leaping)


def get_config():
    config = default_config()
    config.optimizer.name, config.finetune.schedule = "brittle", "leaping"
    config.optimizer.momentum = 0.0
    return config
