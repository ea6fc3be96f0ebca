"""Limits on what growth may cost, for any policy: parameters, FLOPs, seconds, latency."""

from collections.abc import Callable
from typing import NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.growth.placement import check_number
from autogrow_jax.growth.policy import (
    Decision,
    Depths,
    Measurements,
    Policy,
    State,
    ask,
    find_measurement,
)
from autogrow_jax.models.cost import Cost

CostFn = Callable[[Depths], Cost]


class Limits(NamedTuple):
    """What growth may not pass; 0 is no limit.

    Attributes:
      max_params: trainable parameters of the network.
      max_flops: FLOPs (twice the multiply-adds) of one forward pass of one image.
      max_seconds: seconds since the run began, data and compilation included, after which growth
        ends; fine-tuning comes on top.
      max_latency: milliseconds that evaluation takes for an image, as measured.
      max_epochs: of the growth phase, trials included; ends it within an interval too.
    """

    max_params: float = 0.0
    max_flops: float = 0.0
    max_seconds: float = 0.0
    max_latency: float = 0.0
    max_epochs: int = 0


def limited(policy: Policy, limits: Limits, cost: CostFn | None = None) -> Policy:
    """Holds a policy within limits.

    Parameters and FLOPs are known before a block is added, so they are never passed. A stage whose
    next block would pass them is closed by `policy.restrict`, and growth ends when no stage has
    room. A policy without `restrict` ends growth the first time it would pass a limit.

    Seconds and latency are measured, so they are seen once they are passed, and a run depends on
    the machine. Growth ends after the epoch that passes `max_seconds`, within a round of trials
    too, none of which is kept then. It ends instead of the growth that is due when the network that
    would grow, which is kept, is slower than `max_latency`: by the least latency since it grew
    last, as one epoch may be slow for other reasons.

    After `max_epochs` growth ends with what the policy decides then, a growth that is due included;
    a trial is not begun.

    Args:
      policy, limits: any policy, and what it may not pass.
      cost: depths -> parameters and FLOPs, for the first two limits. Pure; called at `init` and
        when a growth is due.

    Returns:
      `policy` itself where nothing is limited. Else a policy whose `init` raises UserError where
      the seed depths pass a limit, and `update` where `measurements` lack "seconds" (since the run
      began) or "latency" (seconds for an image) that a limit needs.

    Raises:
      UserError: for a limit that is not a finite number of at least 0, and for one on parameters
        or FLOPs without `cost`.
    """
    for name, value in limits._asdict().items():
        check_number(name, value)
    by_cost = [name for name in ("max_params", "max_flops") if getattr(limits, name)]
    if by_cost and cost is None:
        raise UserError(f"{by_cost[0]} needs to know what depths cost; give limited() a cost")
    if not any(limits):
        return policy

    def find_excess(depths: Depths) -> str:
        """What depths pass of the limits on cost, in words; "" if nothing."""
        if cost is None or not by_cost:
            return ""
        found = cost(depths)
        if limits.max_params and found.num_params > limits.max_params:
            return f"{found.num_params:,} parameters, above max_params={limits.max_params:,.0f}"
        if limits.max_flops and found.flops > limits.max_flops:
            return f"{found.flops:,} FLOPs, above max_flops={limits.max_flops:,.0f}"
        return ""

    restrict = policy.restrict
    inner = restrict(lambda depths: not find_excess(depths)) if restrict and by_cost else policy

    def init() -> State:
        excess = find_excess(inner.seed_depths)
        if excess:
            raise UserError(
                f"the net that growth starts from, {inner.seed_depths}, has {excess}; raise the "
                "limit, or start with fewer blocks or a smaller family"
            )
        return {
            "inner": inner.init(),
            "epochs": 0,
            "depths": list(inner.seed_depths),
            "latency": None,  # the least measured since the last growth, in seconds for an image
            "finished": False,
        }

    def update(
        state: State, accuracy: float, *, measurements: Measurements | None = None
    ) -> tuple[State, Decision]:
        depths = tuple(state["depths"])
        if state["finished"]:
            return state, Decision("finetune", depths)
        inner_state, decision = ask(inner, state["inner"], depths, accuracy, measurements)
        epochs = state["epochs"] + 1
        given = measurements or {}
        over = decision.depths != depths and bool(find_excess(decision.depths))
        if limits.max_seconds:
            over |= find_measurement(given, "seconds", "max_seconds") > limits.max_seconds
        latency = state["latency"]
        if limits.max_latency:
            measured = find_measurement(given, "latency", "max_latency")
            # That of a net on trial, which is deeper, may be the least by a hair; it never ends a
            # round, which began with a latency within the limit.
            latency = measured if latency is None else min(latency, measured)
            over |= bool(decision.stages) and latency * 1000.0 > limits.max_latency
        if over:
            # The inner policy may believe in depths the net will not have: it is not asked again.
            return {**state, "latency": latency, "finished": True}, Decision("finetune", depths)
        if limits.max_epochs and epochs >= limits.max_epochs:
            last = Decision("finetune", depths) if decision.action == "trial" else decision
            decision = last._replace(action="finetune")
        kept = depths if decision.action == "trial" else decision.depths
        new_state = {
            "inner": inner_state,
            "epochs": epochs,
            "depths": list(kept),
            "latency": latency if kept == depths else None,
            "finished": decision.action == "finetune",
        }
        return new_state, decision

    both = restrict and (lambda allowed: limited(restrict(allowed), limits, cost))
    return policy._replace(init=init, update=update, restrict=both)
