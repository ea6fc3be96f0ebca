"""Where the next blocks go: the growth modes of the policies."""

import random
from collections.abc import Sequence

from autogrow_jax.growth.policy_settings import PolicySettings


def find_open_stages(
    depths: Sequence[int], frozen: Sequence[bool], settings: PolicySettings
) -> tuple[int, ...]:
    """Indices, ascending, of the stages neither frozen nor at their maximum depth."""
    stages = zip(depths, settings.max_depths, frozen, strict=True)
    return tuple(i for i, (depth, most, shut) in enumerate(stages) if depth < most and not shut)


def choose_stages(
    depths: Sequence[int],
    open_stages: Sequence[int],
    grown: int | None,
    epochs: int,
    settings: PolicySettings,
) -> tuple[int, ...]:
    """The stage of each new block, ascending; a stage that gains several is named as often.

    Args:
        depths: blocks in each stage before the growth.
        open_stages: what `find_open_stages` gave, not empty.
        grown: the stage that grew last, None before the first growth; mode "group" only.
        epochs: epochs trained so far; the draws of mode "rate" depend on it.
        settings: of the policy.

    Returns:
        Stage indices; empty only if mode "sub" gives every open stage 0 blocks.
    """
    if settings.mode == "group":
        last = -1 if grown is None else grown
        return (next((stage for stage in open_stages if stage > last), open_stages[0]),)
    if settings.mode == "all":
        return tuple(open_stages)
    room = [most - depth for depth, most in zip(depths, settings.max_depths, strict=True)]
    if settings.sub is not None:
        return tuple(i for i in open_stages for _ in range(min(settings.sub[i], room[i])))
    # Seeding with a string and calling `random()` draws alike on every Python and platform.
    draw = random.Random(f"{settings.seed},{epochs}").random
    chosen: list[int] = []
    for _ in range(max(1, round(settings.rate * sum(depths)))):
        candidates = [stage for stage in open_stages if chosen.count(stage) < room[stage]]
        if not candidates:
            break
        chosen.append(candidates[int(draw() * len(candidates))])
    return tuple(sorted(chosen))
