"""Where the next blocks go: the growth modes of the policies."""

import random
from collections.abc import Sequence

from autogrow_jax.growth.policy_settings import PolicySettings


def deepen(depths: Sequence[int], *stages: int) -> tuple[int, ...]:
    """Depths with a block more in each of `stages`, one of which may come several times."""
    return tuple(depth + stages.count(stage) for stage, depth in enumerate(depths))


def find_open_stages(
    depths: Sequence[int], frozen: Sequence[bool], settings: PolicySettings
) -> tuple[int, ...]:
    """Indices, ascending, of the stages not frozen that have room for another block.

    A stage has room below its maximum depth, if `settings.allowed` lets it have one block more.
    """
    return tuple(
        stage
        for stage, shut in enumerate(frozen)
        if not shut and _has_room(depths, stage, settings)
    )


def _has_room(depths: Sequence[int], stage: int, settings: PolicySettings) -> bool:
    if depths[stage] >= settings.max_depths[stage]:
        return False
    return settings.allowed is None or settings.allowed(deepen(depths, stage))


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
    if settings.mode == "rate":
        return _draw_stages(depths, open_stages, epochs, settings)
    chosen: list[int] = []
    for stage in open_stages:
        for _ in range(1 if settings.sub is None else settings.sub[stage]):
            # One by one: each may fit by itself where all of them together do not.
            if _has_room(depths, stage, settings):
                chosen.append(stage)
                depths = deepen(depths, stage)
    return tuple(chosen)


def _draw_stages(
    depths: Sequence[int], open_stages: Sequence[int], epochs: int, settings: PolicySettings
) -> tuple[int, ...]:
    # Seeding with a string and calling `random()` draws alike on every Python and platform.
    draw = random.Random(f"{settings.seed},{epochs}").random
    chosen: list[int] = []
    for _ in range(max(1, round(settings.rate * sum(depths)))):
        candidates = [stage for stage in open_stages if _has_room(depths, stage, settings)]
        if not candidates:
            break
        chosen.append(candidates[int(draw() * len(candidates))])
        depths = deepen(depths, chosen[-1])
    return tuple(sorted(chosen))
