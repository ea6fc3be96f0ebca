"""The settings that policies share, checked, what they measure, and where the next blocks go."""

import dataclasses
import functools
import inspect
import math
import operator
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.policy import Allowed, Depths, Policy, State, deepen

Stages = Sequence[int]  # A number for each stage.
LEAST, MOST = (1, 1, 1), (200, 200, 200)
METRICS = ("max", "avg")
_AVERAGE_DECAY = 0.95
MODES = ("group", "all", "sub", "rate")


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What a policy of this package was called with, checked and made plain Python values.

    For the fields see `autogrow_jax.growth.periodic`, but for two: growth that is `patient` adds
    blocks only when accuracy has stalled; `allowed(depths)` refuses depths that may not be grown
    to, beside those above `max_depths`.

    Raises UserError if a value is of the wrong kind or out of range, or two of them contradict.
    """

    name: str
    seed_depths: Stages = LEAST
    max_depths: Stages = MOST
    interval: int = 3
    window: int = 100
    threshold: Any = 0.05  # A `Threshold`; a number where a rule is made.
    metric: str = "max"
    mode: str = "group"
    sub: Stages | None = None
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
        check(check_number, "rate", *([] if callable(self.threshold) else ["threshold"]))
        for name, accepted in (("metric", METRICS), ("mode", MODES)):
            if (value := getattr(self, name)) not in accepted:
                raise UserError(f"{name}={value!r} is unknown{nearest(value, accepted)}")
        if self.sub is not None:
            check(_whole_numbers, "sub", least=0)
        self._check_depths()
        self._check_mode()

    @classmethod
    def make(cls, name: str, given: dict[str, Any], **fixed: Any) -> "PolicySettings":
        """Makes those of policy `name` of the arguments of its maker, of which some are its own."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(name, **{k: v for k, v in given.items() if k in names}, **fixed)

    def restrict(self, allowed: Allowed) -> "PolicySettings":
        """The same settings, with depths refused that `allowed` refuses beside those before."""
        before = self.allowed
        return dataclasses.replace(self, allowed=lambda d: before(d) and allowed(d))

    def at(self, accuracy: float) -> "PolicySettings":
        """The same settings, with the threshold that an accuracy has."""
        given = self.threshold
        return dataclasses.replace(self, threshold=given(accuracy)) if callable(given) else self

    def next_metric(self, last: float | None, accuracy: float) -> float:
        """The metric after one more epoch: "max" so far, or "avg", exponential from 0."""
        if self.metric == "avg":
            return _AVERAGE_DECAY * (last or 0.0) + (1.0 - _AVERAGE_DECAY) * accuracy
        return accuracy if last is None else max(last, accuracy)

    def gain(self, metric: Sequence[float]) -> float:
        """What the metric gained over the window; all of it before the window is full."""
        return metric[-1] - metric[-1 - self.window] if len(metric) > self.window else metric[-1]

    def find_open(self, state: State) -> Depths:
        """Finds, ascending, the stages not frozen that have room for another block."""
        depths, stages = state["depths"], enumerate(state["frozen"])
        return tuple(s for s, frozen in stages if not frozen and self._has_room(depths, s))

    def choose_stages(self, state: State, open_stages: Depths) -> Depths:
        """Chooses the stage of each new block, ascending; one that gains several comes as often.

        Empty only if mode "sub" gives every open stage, of which there is one at least, 0 blocks.
        """
        if self.mode == "group":
            return (turn(open_stages, state["grown"])[0],)
        depths, chosen = state["depths"], []
        if self.mode == "rate":
            # Seeding with a string and calling `random()` draws alike on every Python and platform.
            draw = random.Random(f"{self.seed},{state['epochs']}").random
            for _ in range(max(1, round(self.rate * sum(depths)))):
                candidates = [stage for stage in open_stages if self._has_room(depths, stage)]
                if not candidates:
                    break
                chosen.append(candidates[int(draw() * len(candidates))])
                depths = deepen(depths, chosen[-1])
            return tuple(sorted(chosen))
        for stage in open_stages:
            for _ in range(self.sub[stage] if self.sub else 1):
                # One by one: each may fit by itself where all of them together do not.
                if self._has_room(depths, stage):
                    chosen.append(stage)
                    depths = deepen(depths, stage)
        return tuple(chosen)

    def _has_room(self, depths: Sequence[int], stage: int) -> bool:
        return depths[stage] < self.max_depths[stage] and self.allowed(deepen(depths, stage))

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
        example = (1,) * len(self.seed_depths)
        if self.mode != "sub" and self.sub is not None:
            raise UserError(
                f"sub={self.sub} is used by mode='sub' only, but mode={self.mode!r}; "
                "leave sub out or set mode='sub'."
            )
        if self.mode == "sub" and self.sub is None:
            raise UserError(
                f"mode='sub' needs sub, the blocks to add to each stage, e.g. sub={example}."
            )
        if self.sub is not None and (len(self.sub) != len(example) or not any(self.sub)):
            raise UserError(
                f"sub={self.sub} must have one entry for each of the {len(example)} "
                f"stages of seed_depths={self.seed_depths}, not all of them 0, e.g. sub={example}."
            )


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


P = ParamSpec("P")


def named(make: Callable[P, Policy]) -> Callable[P, Policy]:
    """Lets a maker of a policy refuse a keyword that it does not take with the nearest it takes."""
    known = inspect.signature(make).parameters

    @functools.wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Policy:
        for keyword in kwargs.keys() - known:
            raise TypeError(f"{make.__name__}() takes no {keyword!r}{nearest(keyword, known)}")
        return make(*args, **kwargs)

    return checked


def turn(stages: Sequence[int], grown: int | None) -> list[int]:
    """`stages` (ascending) by turns: from the one after `grown`, the last that grew, and round."""
    last = -1 if grown is None else grown
    return [s for s in stages if s > last] + [s for s in stages if s <= last]
