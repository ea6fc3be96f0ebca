"""The door for config files and notebooks: `default_config`, and what becomes of a config."""

from autogrow_jax.build import make_network, make_optimizer, make_policy, resolve
from autogrow_jax.keys import Key
from autogrow_jax.settings import KEYS, Settings, check_key, default_config, flatten, nest

__all__ = [
    "KEYS",
    "Key",
    "Settings",
    "check_key",
    "default_config",
    "flatten",
    "make_network",
    "make_optimizer",
    "make_policy",
    "nest",
    "resolve",
]
