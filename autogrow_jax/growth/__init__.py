"""When and where to grow, how a new block starts, and the step that grows: pure functions."""

from autogrow_jax.growth.grow import GraftError, graft, grow, grow_optimizer_state
from autogrow_jax.growth.initializers import (
    INITIALIZERS,
    Context,
    Initializer,
    get_initializer,
    register_initializer,
)
from autogrow_jax.growth.limits import Limits, limited
from autogrow_jax.growth.lookahead import lookahead
from autogrow_jax.growth.mechanism import Rule
from autogrow_jax.growth.policies import (
    POLICIES,
    PolicyArguments,
    convergent,
    efficiency,
    gap,
    periodic,
    register_policy,
    slope,
)
from autogrow_jax.growth.policy import Decision, Policy, Replay, ask, deepen, replay

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
    "Rule",
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
