"""When and where to grow, how a new block starts, and the step that grows: pure functions."""

from autogrow_jax.growth.efficiency import efficiency
from autogrow_jax.growth.gap import gap
from autogrow_jax.growth.graft import GraftError, graft
from autogrow_jax.growth.grow import grow, grow_optimizer_state
from autogrow_jax.growth.initializers import (
    INITIALIZERS,
    Context,
    Initializer,
    get_initializer,
    register_initializer,
)
from autogrow_jax.growth.limits import Limits, limited
from autogrow_jax.growth.lookahead import lookahead
from autogrow_jax.growth.placement import deepen
from autogrow_jax.growth.policy import Decision, Policy, ask, convergent, periodic
from autogrow_jax.growth.registry import POLICIES, PolicyArguments, register_policy
from autogrow_jax.growth.replay import Replay, replay
from autogrow_jax.growth.slope import slope

__all__ = [
    "INITIALIZERS",
    "POLICIES",
    "Context",
    "Decision",
    "GraftError",
    "Initializer",
    "Limits",
    "Policy",
    "PolicyArguments",
    "Replay",
    "ask",
    "convergent",
    "deepen",
    "efficiency",
    "gap",
    "get_initializer",
    "graft",
    "grow",
    "grow_optimizer_state",
    "limited",
    "lookahead",
    "periodic",
    "register_initializer",
    "register_policy",
    "replay",
    "slope",
]
