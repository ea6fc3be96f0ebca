"""Limits on what growth may cost, for any policy: parameters, FLOPs, seconds, latency, epochs."""

from collections.abc import Callable
from typing import NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.growth.placement import check_number
from autogrow_jax.growth.policy import Decision, Depths, Given, Measured, Policy, State, ask
from autogrow_jax.models.cost import Cost

CostFn = Callable[[Depths], Cost]


class Limits(NamedTuple):
    """What growth may not pass; 0 is no limit.

    Parameters and FLOPs are known before a block is added, so they are never passed. A stage whose
    next block would pass them is closed by `Policy.restrict`; where there is none, growth ends the
    first time it would pass a limit. Seconds and latency are measured, so they are seen once they
    are passed, and a run depends on the machine.

    Attributes:
      max_params: trainable parameters of the network.
      max_flops: FLOPs (twice the multiply-adds) of one forward pass of one image.
      max_seconds: seconds since the run began, data and compilation included. Growth ends after the
        epoch that passes them, within a round of trials too, none of which is kept then;
        fine-tuning comes on top.
      max_latency: milliseconds that evaluation takes for an image, by the least latency since the
        network grew last, as one epoch may be slow for other reasons. Where it is slower, growth
        ends instead of the growth that is due.
      max_epochs: of the growth phase, trials included. It ends with what the policy decides then,
        within an interval too, a growth that is due included; a trial is not begun.
    """

    max_params: float = 0.0
    max_flops: float = 0.0
    max_seconds: float = 0.0
    max_latency: float = 0.0
    max_epochs: int = 0


# Limits on what `Cost` counts: its field, and the unit.
_COUNTED = {"max_params": ("num_params", "parameters"), "max_flops": ("flops", "FLOPs")}


def limited(policy: Policy, limits: Limits, cost: CostFn | None = None) -> Policy:
    """Holds a policy within limits.

    Args:
      cost: depths -> parameters and FLOPs, for the limits on them; pure.

    Returns:
      `policy` itself where nothing is limited. Else a policy whose `init` raises UserError where
      the seed depths pass a limit, and `update` where `measurements` lack "seconds" (since the run
      began) or "latency" (seconds for an image) that a limit needs.

    Raises UserError for a limit that is no finite number of at least 0, or needs a `cost`.
    """
    for name, value in limits._asdict().items():
        check_number(name, value)
    counted = {name: most for name, most in limits._asdict().items() if most and name in _COUNTED}
    if counted and cost is None:
        name, *_ = counted
        raise UserError(f"{name} needs to know what depths cost; give limited() a cost")
    if not any(limits):
        return policy

    def find_excess(depths: Depths) -> str:
        """What depths pass of the limits on cost, in words; "" if nothing."""
        for name, most in counted.items():
            field, unit = _COUNTED[name]
            found = getattr(cost(depths), field) if cost else 0
            if found > most:
                return f"{found:,} {unit}, above {name}={most:,.0f}"
        return ""

    restrict = policy.restrict
    inner = restrict(lambda depths: not find_excess(depths)) if restrict and counted else policy

    def init() -> State:
        if excess := find_excess(inner.seed_depths):
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
        state: State, accuracy: float, *, measurements: Given = None
    ) -> tuple[State, Decision]:
        depths = tuple(state["depths"])
        if state["finished"]:
            return state, Decision("finetune", depths)
        inner_state, decision = ask(inner, state["inner"], depths, accuracy, measurements)
        ended = Decision("finetune", depths, notes=decision.notes)
        epochs, latency = state["epochs"] + 1, state["latency"]
        over = decision.depths != depths and bool(find_excess(decision.depths))
        if limits.max_seconds:
            over |= Measured(measurements, "max_seconds")["seconds"] > limits.max_seconds
        if limits.max_latency:
            measured = Measured(measurements, "max_latency")["latency"]
            # That of a net on trial, which is deeper, may be the least by a hair; it never ends a
            # round, which began with a latency within the limit.
            latency = measured if latency is None else min(latency, measured)
            over |= bool(decision.stages) and latency * 1000.0 > limits.max_latency
        if over:
            # The inner policy may believe in depths the net will not have: it is not asked again.
            return {**state, "latency": latency, "finished": True}, ended
        on_trial = decision.action == "trial"
        if limits.max_epochs and epochs >= limits.max_epochs:
            decision = ended if on_trial else decision._replace(action="finetune")
        kept = depths if on_trial else decision.depths
        return {
            "inner": inner_state,
            "epochs": epochs,
            "depths": list(kept),
            "latency": latency if kept == depths else None,
            "finished": decision.action == "finetune",
        }, decision

    both = restrict and (lambda allowed: limited(restrict(allowed), limits, cost))
    return policy._replace(init=init, update=update, restrict=both)
