"""The settings that policies share, checked, and where they let the next blocks go."""

import dataclasses
import difflib
import math
import operator
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.policy import Allowed, deepen

METRICS = ("max", "avg")
MODES = ("group", "all", "sub", "rate")


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What a policy of this package was called with, checked and made plain Python values.

    Depths may be given as any sequence of whole numbers, NumPy's included, and are tuples of ints
    afterwards. The fields are described at `autogrow_jax.growth.periodic`, but for two: growth that
    is `patient` adds blocks only when accuracy has stalled; `allowed(depths)` refuses depths that
    may not be grown to, beside those above `max_depths`; None refuses none.

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
    allowed: Allowed | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "seed_depths": _whole_numbers("seed_depths", self.seed_depths, least=1),
            "max_depths": _whole_numbers("max_depths", self.max_depths, least=1),
            "interval": _whole_number("interval", self.interval, least=1),
            "window": _whole_number("window", self.window, least=1),
            "threshold": check_number("threshold", self.threshold),
            "metric": _choice("metric", self.metric, METRICS),
            "mode": _choice("mode", self.mode, MODES),
            "rate": check_number("rate", self.rate),
            "max_growth_epochs": _whole_number(
                "max_growth_epochs", self.max_growth_epochs, least=1
            ),
            "seed": _whole_number("seed", self.seed),
        }
        if self.sub is not None:
            checked["sub"] = _whole_numbers("sub", self.sub, least=0)
        for field, value in checked.items():
            object.__setattr__(self, field, value)  # frozen for everyone else
        self._check_depths()
        self._check_mode()

    def restrict(self, allowed: Allowed) -> "PolicySettings":
        """The same settings, with depths refused that `allowed` refuses beside those before."""
        before = self.allowed
        if before is None:
            return dataclasses.replace(self, allowed=allowed)
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


def make_settings(
    name: str, given: Mapping[str, Any], without: Sequence[str] = ()
) -> PolicySettings:
    """Makes the settings of policy `name` of keyword arguments.

    Raises:
      TypeError: for a keyword that is no setting, or one of those it is `without`.
      UserError: for a value, as `PolicySettings`.
    """
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
) -> tuple[int, ...]:
    """Finds, ascending, the stages not frozen that have room for another block.

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
    """Chooses the stage of each new block, ascending; a stage that gains several is named as often.

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
