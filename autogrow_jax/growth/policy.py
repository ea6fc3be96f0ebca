"""What a growth policy is: two pure functions over a state, and decisions that are held to depths.

A policy sees one number an epoch, the validation accuracy, and answers with depths. It never sees
the network.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

from autogrow_jax.errors import UserError, nearest

State = dict[str, Any]
Allowed = Callable[[tuple[int, ...]], bool]
Action = Literal["train", "grow", "trial", "finetune"]


class Decision(NamedTuple):
    """What to do before the next epoch.

    `depths` says where to grow: the net gains what it lacks of them. A policy that says "grow"
    asks for more blocks than the net has, one that says "train" for as many; `ask` refuses others.

    "trial" opens a round of trials or goes on with one: take the net as it was when the round
    began, let one stage grow a block, train that net for an epoch and tell its accuracy. The first
    decision that is no trial closes the round. It grows the one tried stage whose net is kept, with
    the weights of its trial; or none, and the net that all trials began with goes on.

    Attributes:
      action: "train" (same net, next epoch), "grow" (grow, then go on with the growth phase),
        "trial" (as above) or "finetune" (the growth phase is over).
      depths: blocks in each stage after this decision; of a trial, those of the net it trains.
      stages: index of each stage that gains a block, once per block, in the order in which they
        grow. May be left out: `ask` fills it in, ascending. Not only with "grow": periodic
        growth may grow once more and pass to "finetune" in one decision.
      best: only with "trial": of the stages tried before in this round, the one that may still be
        kept. The weights of the others are dropped; None drops them all.
    """

    action: Action
    depths: tuple[int, ...]
    stages: tuple[int, ...] = ()
    best: int | None = None


class UpdateFn(Protocol):
    """`update(state, accuracy, *, measurements=None) -> (new_state, decision)`, pure."""

    def __call__(
        self,
        state: State,
        accuracy: float,
        *,
        measurements: Mapping[str, float] | None = None,
    ) -> tuple[State, Decision]: ...


class Policy(NamedTuple):
    """A growth policy: two pure functions. Write your own by filling the first four fields.

    Attributes:
      init: `init() -> state`. A state is a dict of plain Python values and stays the same through
        `json.loads(json.dumps(state))`, so that it fits in any checkpoint.
      update: `update(state, accuracy, *, measurements=None) -> (new_state, decision)`, called
        once after each epoch with the validation accuracy in percent. `measurements` holds
        further numbers of that epoch by name, for policies that want them. The given state is
        never changed. Once a decision said "finetune", all later ones do, and the state stays.
      seed_depths: blocks in each stage before the first epoch.
      name: the policy's name in configs and reports.
      restrict: `restrict(allowed) -> Policy`, the same policy, which closes each stage whose next
        block would make depths that `allowed(depths)` refuses, beside those it closed before.
        None where it cannot do that.
      schedule: how the learning rate falls in the fine-tune phase where `finetune.schedule` is
        "auto": a name of `autogrow_jax.optim`.
    """

    init: Callable[[], State]
    update: UpdateFn
    seed_depths: tuple[int, ...]
    name: str = "custom"
    restrict: "Callable[[Allowed], Policy] | None" = None
    schedule: str = "staircase"


def ask(
    policy: Policy,
    state: State,
    depths: Sequence[int],
    accuracy: float,
    measurements: Mapping[str, float] | None = None,
) -> tuple[State, Decision]:
    """Asks a policy what comes after an epoch, and holds it to what a decision may say.

    Args:
      policy: anybody's.
      state: the policy's.
      depths: of the net that a growth, or a trial, would start from.
      accuracy, measurements: of the epoch, as for `Policy.update`.

    Returns:
      The policy's new state, and its decision with `stages` filled in.

    Raises:
      UserError: for a decision that these depths, or its own fields, contradict.
    """
    state, decision = policy.update(state, accuracy, measurements=measurements)
    try:
        return state, _complete(decision, tuple(depths))
    except UserError as error:
        raise UserError(f"growth policy {policy.name!r}: {error}") from None


def _complete(decision: Decision, before: tuple[int, ...]) -> Decision:
    action = decision.action
    if action not in get_args(Action):
        raise UserError(f"there is no action {action!r}{nearest(action, get_args(Action))}")
    try:
        depths = tuple(map(operator.index, decision.depths))
    except TypeError:
        raise UserError(
            f"{action!r} with depths {decision.depths!r}; give a whole number for each stage"
        ) from None
    if len(depths) != len(before):
        raise UserError(
            f"{action!r} with depths {depths}, of {len(depths)} stages; the net {before} has"
            f" {len(before)}"
        )
    if any(new < old for new, old in zip(depths, before, strict=True)):
        raise UserError(f"{action!r} with depths {depths}; the net has {before}, and cannot shrink")
    gained = tuple(
        stage
        for stage, (new, old) in enumerate(zip(depths, before, strict=True))
        for _ in range(new - old)
    )
    stages = tuple(decision.stages) or gained
    if tuple(sorted(stages)) != gained:
        raise UserError(
            f"{action!r} with depths {depths} and stages {stages}; the depths, of a net with"
            f" {before}, ask for {gained}; correct the one, or leave stages out"
        )
    if action == "trial" and len(stages) != 1:
        raise UserError(
            f"'trial' with depths {depths} of a net with {before}; a trial adds one block"
        )
    if action == "grow" and not stages:
        raise UserError(
            f"'grow' to depths {depths}, but the net has them already; name deeper ones, or say"
            " 'train'"
        )
    if action == "train" and stages:
        raise UserError(f"'train' with depths {depths}, but the net has {before}; say 'grow'")
    return decision._replace(depths=depths, stages=stages)


def deepen(depths: Sequence[int], *stages: int) -> tuple[int, ...]:
    """Adds to depths a block more in each of `stages`, one of which may come several times."""
    return tuple(depth + stages.count(stage) for stage, depth in enumerate(depths))


def check_state(depths: Sequence[int], seed_depths: Sequence[int]) -> None:
    """Refuses the state of a policy for another number of stages.

    Raises:
      UserError: if `depths`, of the state, and `seed_depths`, of the policy, differ in length.
    """
    if len(depths) != len(seed_depths):
        raise UserError(
            f"this policy state has {len(depths)} stages (depths {depths}), the policy has "
            f"{len(seed_depths)} (seed_depths {seed_depths}). Continue a run with the "
            "policy that began it, or start anew from policy.init()."
        )


def find_measurement(measurements: Mapping[str, float], name: str, asker: str) -> float:
    """Returns a measurement; UserError, which names who asks, where it is missing."""
    if name not in measurements:
        given = ", ".join(map(repr, measurements)) or "none"
        raise UserError(
            f"{asker} needs the measurement {name!r} at every update:"
            f" policy.update(state, accuracy, measurements={{{name!r}: ...}}); given: {given}"
        )
    return float(measurements[name])
