"""When to grow, where, and when to stop: the paper's two policies as pure functions.

A policy sees one number an epoch, the validation accuracy, and answers with depths. It never sees
the network. One mechanism serves both policies:

1.  After each epoch the accuracy enters the metric: "max", the highest accuracy so far over all
    architectures, or "avg", `0.95 * average + 0.05 * accuracy` starting from 0 (not corrected).
2.  The curve has *stalled* when `gain < threshold`, where `gain = metric[now] - metric[window
    epochs ago]`. While fewer than `window + 1` epochs exist, `gain = metric[now]`.
3.  Things happen only when an interval ends, that is after every `interval` epochs, in this order:
    *freeze* (only if stalled), *leave* if every stage is frozen or at its maximum depth, *grow*.
4.  Freezing is for ever. Mode "group" freezes the stage that grew last, so nothing before the first
    growth; the other modes freeze every stage.
5.  Mode "group" adds one block to the first open stage after the one that grew last, round robin,
    from stage 0. The other modes change all open stages at once. No stage exceeds its maximum.
6.  The growth phase also ends with the interval in which `max_growth_epochs` epochs are reached,
    as the authors' loop counts whole intervals: an interval of 3 and a limit of 400 make 402.

|            | window   | freezes, if stalled, when       | grows             |
|------------|----------|---------------------------------|-------------------|
| periodic   | `window` | any interval ends               | at every interval |
| convergent | interval | an interval with growth ends    | only when stalled |

Periodic growth belongs to the end of an interval, so it still happens when that end is the last
one allowed. Convergent growth belongs to the start of the next interval, which then never comes.

Reference: Wen, Yan, Chen, Li, "AutoGrow: Automatic Layer Growing in Deep Convolutional Networks",
KDD 2020, arXiv 1906.02909.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.placement import choose_stages, deepen, find_open_stages
from autogrow_jax.growth.policy_settings import Allowed, PolicySettings
from autogrow_jax.growth.rules import Rule, gain_rule

State = dict[str, Any]
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
    """

    init: Callable[[], State]
    update: UpdateFn
    seed_depths: tuple[int, ...]
    name: str = "custom"
    restrict: "Callable[[Allowed], Policy] | None" = None


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


def periodic(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 3,
    window: int = 100,
    threshold: float = 0.05,
    metric: str = "max",
    mode: str = "group",
    sub: Sequence[int] | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Periodic growth (p-AutoGrow): a block every `interval` epochs, converged or not.

    A stage is frozen when the metric gained less than `threshold` over `window` epochs. The rule
    cannot fire before the window is full, so no run stops below a floor of depths; it is 13-13-12
    from 1-1-1 with the default values.

    Args:
        seed_depths: blocks in each stage at the start, one entry a stage, each at least 1.
        max_depths: the most blocks each stage may have, as many entries as `seed_depths`.
        interval: K, epochs between two growths, at least 1.
        window: J, epochs over which the gain is measured, at least 1 (ImageNet: 30).
        threshold: tau, accuracy gain in percentage points, at least 0.
        metric: "max", the running maximum, or "avg", the exponential average (decay 0.95).
        mode: "group", one block in one stage by turns (the paper's); "all", one block in every
            stage; "sub", `sub[i]` blocks in stage i; "rate", `round(rate * total depth)` blocks, at
            least one, each in a stage drawn at random among those with room.
        sub: blocks for each stage, for mode "sub" only. A stage given 0 stays open all the same,
            so it does not end growth when the others have reached their maximum.
        rate: share of the total depth added at each growth, above 0; mode "rate" only.
        max_growth_epochs: epochs after which the growth phase ends in any case, with the interval
            that is under way, at least 1.
        seed: the draws of mode "rate" depend on `seed` and the epoch alone.

    Returns:
        The policy. Its `update` raises ValueError on an accuracy that is not finite.

    Raises:
        UserError: for a value outside of what is said above.

    Example:
        >>> policy = periodic(interval=1)
        >>> state, decision = policy.update(policy.init(), 61.5)
        >>> decision.action, decision.depths, decision.stages
        ('grow', (2, 1, 1), (0,))
    """
    settings = PolicySettings(
        "periodic",
        seed_depths,
        max_depths,
        interval,
        window,
        threshold,
        metric,
        mode,
        sub,
        rate,
        max_growth_epochs,
        seed,
    )
    return build_policy(settings, gain_rule(settings))


def convergent(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 100,
    threshold: float = 0.05,
    metric: str = "max",
    mode: str = "group",
    sub: Sequence[int] | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Convergent growth (c-AutoGrow): a block only once the net has stopped improving.

    At the start of each interval but the first the net grows if the metric gained less than
    `threshold` over the last `interval` epochs. At the end of an interval that began with growth
    the same test freezes the stage that grew. The first full window ends after `2 * interval`
    epochs: nothing grows earlier, unless the metric itself is still below the threshold.

    Args:
        interval: K, epochs between two looks and also the window of the gain, at least 1 (100 in
            the authors' code, 200 in the paper).
        seed_depths, max_depths, threshold, metric, mode, sub, rate, max_growth_epochs, seed: as for
            `periodic`.

    Returns:
        The policy. Its `update` raises ValueError on an accuracy that is not finite.

    Raises:
        UserError: for a value outside of what is said above.
    """
    settings = PolicySettings(
        "convergent",
        seed_depths,
        max_depths,
        interval,
        interval,
        threshold,
        metric,
        mode,
        sub,
        rate,
        max_growth_epochs,
        seed,
    )
    return build_policy(settings, gain_rule(settings))


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


def build_policy(settings: PolicySettings, rule: Rule) -> Policy:
    """The mechanism of this module, with `rule` to say when the curve has stalled.

    Convergent growth if `settings.name` is "convergent", else growth at every interval.
    """
    seed_depths = tuple(settings.seed_depths)
    num_stages = len(seed_depths)

    def init() -> State:
        return {
            "epochs": 0,
            "depths": list(seed_depths),
            "frozen": [False] * num_stages,
            "grown": None,  # the stage grown last
            "grew": False,  # whether the current interval began with growth
            "metric": [],  # the rule's history, of the last `window + 1` epochs
            "finished": False,
        }

    def update(
        state: State,
        accuracy: float,
        *,
        measurements: Mapping[str, float] | None = None,
    ) -> tuple[State, Decision]:
        depths = tuple(state["depths"])
        check_state(depths, seed_depths)
        if state["finished"]:
            return state, Decision("finetune", depths)
        metric = rule.push(state["metric"], accuracy, depths, measurements or {})
        epochs = state["epochs"] + 1
        over = False
        frozen = list(state["frozen"])
        grown, grew = state["grown"], state["grew"]
        stages: tuple[int, ...] = ()
        if epochs % settings.interval == 0:
            stalled = rule.stalled(metric)
            over = epochs >= settings.max_growth_epochs
            may_freeze, may_grow = True, True
            if settings.name == "convergent":
                may_freeze, may_grow = grew, stalled and not over
            # The order matters: a stage frozen now must not grow now.
            if stalled and may_freeze:
                for stage in range(num_stages):
                    frozen[stage] |= settings.mode != "group" or stage == grown
            open_stages = find_open_stages(depths, frozen, settings)
            over = over or not open_stages
            grew = may_grow and bool(open_stages)
            if grew:
                stages = choose_stages(depths, open_stages, grown, epochs, settings)
                depths = deepen(depths, *stages)
                grown = stages[-1] if stages else grown
        new_state = {
            "epochs": epochs,
            "depths": list(depths),
            "frozen": frozen,
            "grown": grown,
            "grew": grew,
            "metric": metric,
            "finished": over,
        }
        action: Action = "finetune" if over else "grow" if stages else "train"
        return new_state, Decision(action, depths, stages)

    def restrict(allowed: Allowed) -> Policy:
        return build_policy(settings.restrict(allowed), rule)

    return Policy(init, update, seed_depths, settings.name, restrict)
