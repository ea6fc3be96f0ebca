"""When and where to grow, how a new block starts, and the step that grows: pure functions."""

from autogrow_jax.growth.grow import append_block, grow, grow_optimizer_state
from autogrow_jax.growth.initializers import (
    INITIALIZERS,
    Context,
    Initializer,
    get_initializer,
    register_initializer,
)
from autogrow_jax.growth.limits import Limits, limited
from autogrow_jax.growth.lookahead import lookahead
from autogrow_jax.growth.mechanism import Rule, standard_error
from autogrow_jax.growth.policies import convergent, efficiency, gap, periodic, slope
from autogrow_jax.growth.policy import MEASUREMENTS, Decision, Policy, Replay, ask, deepen, replay
from autogrow_jax.growth.registry import POLICIES, PolicyArguments, register_policy
from autogrow_jax.trees import GraftError, graft

__all__ = [
    "INITIALIZERS",
    "MEASUREMENTS",
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
    "append_block",
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
    "standard_error",
]
