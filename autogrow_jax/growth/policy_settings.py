"""The checked settings of a growth policy: every error names the setting and what it accepts."""

import dataclasses
import difflib
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from autogrow_jax.errors import UserError

METRICS = ("max", "avg")
MODES = ("group", "all", "sub", "rate")

Allowed = Callable[[tuple[int, ...]], bool]


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What a policy of this package was called with, checked and made plain Python values.

    The fields are described at `autogrow_jax.growth.periodic`. Depths may be given as any sequence
    of whole numbers, NumPy's included, and are tuples of ints afterwards. `allowed(depths)` refuses
    depths that may not be grown to, beside those above `max_depths`; None refuses none.

    Raises:
        UserError: if a value is of the wrong kind or out of range, or two of them contradict.
    """

    name: str
    seed_depths: Sequence[int]
    max_depths: Sequence[int]
    interval: int
    window: int
    threshold: float
    metric: str
    mode: str
    sub: Sequence[int] | None
    rate: float
    max_growth_epochs: int
    seed: int
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
    """The value as a float; UserError if it is not a finite number of at least 0."""
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
