"""Limits on what growth may cost, for any policy: parameters, FLOPs, seconds, latency."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.growth.placement import check_number
from autogrow_jax.growth.policy import Decision, Policy, State, ask, find_measurement
from autogrow_jax.models.cost import Cost

CostFn = Callable[[tuple[int, ...]], Cost]


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
    next block would pass them is closed like one at its maximum depth, the others grow on, and
    growth ends when no stage has room. That takes `policy.restrict`, which all policies of this
    package have; with another policy growth ends the first time it would pass a limit.

    Seconds and latency are measured, so they are seen once they are passed. Growth ends after the
    epoch that passes `max_seconds`, within a round of trials too, none of which is kept then. It
    ends instead of the growth that is due when the network that would grow is slower than
    `max_latency`: by the least latency since it grew last, as one epoch may be slow for other
    reasons. That network is kept, so its last block may be the one that passed the limit. These two
    limits make a run depend on the machine: started again after a kill, it may decide otherwise.

    After `max_epochs` growth ends with what the policy decides then, a growth that is due included;
    a trial is not begun.

    Args:
      policy: any policy.
      limits: what not to pass.
      cost: depths -> parameters and FLOPs, for the first two limits. Pure; called at `init` and
        when a growth is due.

    Returns:
      `policy` itself where nothing is limited. Else a policy that holds the state of `policy`
      within its own; its `init` raises UserError where the seed depths pass a limit, its
      `update` where `measurements` lack "seconds" (since the run began) or "latency" (seconds
      for an image) that a limit needs.

    Raises:
      UserError: for a limit that is not a finite number of at least 0, and for one on parameters
        or FLOPs without `cost`.

    Example:
      >>> from autogrow_jax.growth import periodic, replay
      >>> from autogrow_jax.models import build_network, estimate_cost
      >>> network = build_network("plain3", (1, 1, 1))
      >>> small = limited(
      ...     periodic(interval=1),
      ...     Limits(max_params=60_000),
      ...     lambda depths: estimate_cost(network, (32, 32, 3), depths),
      ... )
      >>> replay(small, range(1, 30)).depths
      (7, 3, 1)
    """
    for name, value in limits._asdict().items():
        check_number(name, value)
    by_cost = [name for name in ("max_params", "max_flops") if getattr(limits, name)]
    if by_cost and cost is None:
        raise UserError(f"{by_cost[0]} needs to know what depths cost; give limited() a cost")
    if not any(limits):
        return policy

    def find_excess(depths: tuple[int, ...]) -> str:
        """What depths pass of the limits on cost, in words; "" if nothing."""
        if cost is None or not by_cost:
            return ""
        found = cost(depths)
        if limits.max_params and found.num_params > limits.max_params:
            return f"{found.num_params:,} parameters, above max_params={limits.max_params:,.0f}"
        if limits.max_flops and found.flops > limits.max_flops:
            return f"{found.flops:,} FLOPs, above max_flops={limits.max_flops:,.0f}"
        return ""

    def fits(depths: tuple[int, ...]) -> bool:
        return not find_excess(depths)

    restrict = policy.restrict
    inner = restrict(fits) if restrict and by_cost else policy

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
        state: State, accuracy: float, *, measurements: Mapping[str, float] | None = None
    ) -> tuple[State, Decision]:
        depths = tuple(state["depths"])
        if state["finished"]:
            return state, Decision("finetune", depths)
        inner_state, decision = ask(inner, state["inner"], depths, accuracy, measurements)
        epochs = state["epochs"] + 1
        given = measurements or {}
        over = decision.depths != depths and not fits(decision.depths)
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

    def restrict_both(allowed: Callable[[tuple[int, ...]], bool]) -> Policy:
        assert restrict is not None
        return limited(restrict(allowed), limits, cost)

    return policy._replace(init=init, update=update, restrict=restrict and restrict_both)
