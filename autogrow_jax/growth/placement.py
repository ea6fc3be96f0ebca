"""The settings that policies share, checked, and where they let the next blocks go."""

import dataclasses
import difflib
import math
import operator
import random
from collections.abc import Iterable, Sequence
from typing import Any

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.policy import Allowed, Depths, deepen

METRICS = ("max", "avg")
MODES = ("group", "all", "sub", "rate")


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What a policy of this package was called with, checked and made plain Python values.

    Depths may be any sequence of whole numbers, NumPy's included, and are tuples of ints
    afterwards. For the fields see `autogrow_jax.growth.periodic`, but for two: growth that is
    `patient` adds blocks only when accuracy has stalled; `allowed(depths)` refuses depths that may
    not be grown to, beside those above `max_depths`.

    Raises:
      UserError: if a value is of the wrong kind or out of range, or two of them contradict.
    """

    name: str
    seed_depths: Sequence[int] = (1, 1, 1)
    max_depths: Sequence[int] = (200, 200, 200)
    interval: int = 3
    window: int = 100
    threshold: float = 0.05
    metric: str = "max"
    mode: str = "group"
    sub: Sequence[int] | None = None
    rate: float = 0.4
    max_growth_epochs: int = 4000
    seed: int = 0
    patient: bool = False
    allowed: Allowed = lambda depths: True

    def __post_init__(self) -> None:
        def check(check_one, *names: str, **how: Any) -> None:
            for name in names:
                value = check_one(name, getattr(self, name), **how)
                object.__setattr__(self, name, value)  # frozen for everyone else

        check(_whole_numbers, "seed_depths", "max_depths", least=1)
        check(_whole_number, "interval", "window", "max_growth_epochs", least=1)
        check(_whole_number, "seed")
        check(check_number, "threshold", "rate")
        check(_choice, "metric", accepted=METRICS)
        check(_choice, "mode", accepted=MODES)
        if self.sub is not None:
            check(_whole_numbers, "sub", least=0)
        self._check_depths()
        self._check_mode()

    def restrict(self, allowed: Allowed) -> "PolicySettings":
        """The same settings, with depths refused that `allowed` refuses beside those before."""
        before = self.allowed
        return dataclasses.replace(self, allowed=lambda d: before(d) and allowed(d))

    def _check_depths(self) -> None:
        seed, most = self.seed_depths, self.max_depths
        if not seed:
            raise UserError("seed_depths is empty; give one depth for each stage, e.g. (1, 1, 1).")
        if len(most) != len(seed):
            raise UserError(
                f"max_depths={most} has {len(most)} entries, seed_depths={seed} has {len(seed)}; "
                f"give both one entry for each stage, e.g. max_depths={(200,) * len(seed)}."
            )
        for stage, (depth, limit) in enumerate(zip(seed, most, strict=True)):
            if depth > limit:
                raise UserError(
                    f"seed_depths={seed} starts stage {stage} with {depth} blocks, but "
                    f"max_depths={most} allows {limit}; lower the seed depth or raise the maximum."
                )

    def _check_mode(self) -> None:
        if self.mode == "rate" and self.rate == 0.0:
            raise UserError("rate=0.0 adds no block; mode='rate' needs a rate above 0, e.g. 0.4.")
        if self.mode != "sub":
            if self.sub is not None:
                raise UserError(
                    f"sub={self.sub} is used by mode='sub' only, but mode={self.mode!r}; "
                    "leave sub out or set mode='sub'."
                )
            return
        example = (1,) * len(self.seed_depths)
        if self.sub is None:
            raise UserError(
                f"mode='sub' needs sub, the blocks to add to each stage, e.g. sub={example}."
            )
        if len(self.sub) != len(self.seed_depths) or not any(self.sub):
            raise UserError(
                f"sub={self.sub} must have one entry for each of the {len(self.seed_depths)} "
                f"stages of seed_depths={self.seed_depths}, not all of them 0, e.g. sub={example}."
            )


def make_settings(name: str, given: dict[str, Any], without: Sequence[str] = ()) -> PolicySettings:
    """Makes the settings of policy `name` of keyword arguments; TypeError for one it lacks."""
    hidden = {"name", "patient", "allowed", *without}
    known = [f.name for f in dataclasses.fields(PolicySettings) if f.name not in hidden]
    for keyword in given:
        if keyword not in known:
            raise TypeError(f"{name}() takes no {keyword!r}{nearest(keyword, known)}")
    return PolicySettings(name, **given)


def _whole_number(name: str, value: Any, least: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    # True is an int to Python; as a number of epochs it is a mistake.
    if number is None or isinstance(value, bool) or (least is not None and number < least):
        wanted = "a whole number" if least is None else f"a whole number of at least {least}"
        raise UserError(f"{name}={value!r} must be {wanted}.")
    return number


def _whole_numbers(name: str, values: Any, least: int) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"{name}={values!r} must have one whole number for each stage: (1, 1, 1).")
    return tuple(_whole_number(f"{name}[{i}]", value, least) for i, value in enumerate(values))


def check_number(name: str, value: Any) -> float:
    """Returns the value as a float; UserError if it is not a finite number of at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str | bool) or not (math.isfinite(number) and number >= 0.0):
        raise UserError(f"{name}={value!r} must be a finite number of at least 0.")
    return number


def _choice(name: str, value: Any, accepted: tuple[str, ...]) -> str:
    if value in accepted:
        return value
    near = difflib.get_close_matches(str(value), accepted, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{name}={value!r} is unknown; accepted are {', '.join(accepted)}.{hint}")


def find_open_stages(
    depths: Sequence[int], frozen: Sequence[bool], settings: PolicySettings
) -> Depths:
    """Finds, ascending, the stages not frozen that have room for another block."""
    return tuple(s for s, shut in enumerate(frozen) if not shut and _has_room(depths, s, settings))


def _has_room(depths: Sequence[int], stage: int, settings: PolicySettings) -> bool:
    return depths[stage] < settings.max_depths[stage] and settings.allowed(deepen(depths, stage))


def turn(stages: Sequence[int], grown: int | None) -> list[int]:
    """`stages` (ascending) by turns: from the one after `grown`, the last that grew, and round."""
    last = -1 if grown is None else grown
    return [s for s in stages if s > last] + [s for s in stages if s <= last]


def choose_stages(
    depths: Depths, open_stages: Depths, grown: int | None, epochs: int, settings: PolicySettings
) -> tuple[int, ...]:
    """Chooses the stage of each new block, ascending; a stage that gains several is named as often.

    Empty only if mode "sub" gives every open stage, of which there is one at least, 0 blocks. The
    draws of mode "rate" depend on the seed and the epochs trained so far.
    """
    if settings.mode == "group":
        return (turn(open_stages, grown)[0],)
    chosen: list[int] = []
    if settings.mode == "rate":
        # Seeding with a string and calling `random()` draws alike on every Python and platform.
        draw = random.Random(f"{settings.seed},{epochs}").random
        for _ in range(max(1, round(settings.rate * sum(depths)))):
            candidates = [stage for stage in open_stages if _has_room(depths, stage, settings)]
            if not candidates:
                break
            chosen.append(candidates[int(draw() * len(candidates))])
            depths = deepen(depths, chosen[-1])
        return tuple(sorted(chosen))
    for stage in open_stages:
        for _ in range(1 if settings.sub is None else settings.sub[stage]):
            # One by one: each may fit by itself where all of them together do not.
            if _has_room(depths, stage, settings):
                chosen.append(stage)
                depths = deepen(depths, stage)
    return tuple(chosen)
