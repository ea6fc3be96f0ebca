"""Growth policies by the names that a config has for them, ours and those that users register."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from autogrow_jax.errors import Registry, UserError
from autogrow_jax.growth.limits import CostFn
from autogrow_jax.growth.lookahead import lookahead
from autogrow_jax.growth.mechanism import standard_error
from autogrow_jax.growth.policies import convergent, efficiency, gap, periodic, slope
from autogrow_jax.growth.policy import Policy, Threshold


class PolicyArguments(NamedTuple):
    """What a policy is made from.

    Attributes:
      growth: the config's `growth` keys as attributes, checked: `growth.interval` and so on.
      seed_depths: blocks in each stage at the start.
      seed: of all randomness in the run.
      cost: depths -> the cost of a network of these depths, for `init` and `update`; it raises
        UserError while a config is checked, as the images are not known then.
      settings: the policy's own, that it was registered with, checked: {name: value}.
      images: that accuracy is measured on; 0 where they are not known.
    """

    growth: Any
    seed_depths: tuple[int, ...]
    seed: int
    cost: CostFn
    settings: Mapping[str, Any] = {}
    images: int = 0

    @property
    def threshold(self) -> Threshold:
        """`growth.threshold`, or of a known number of images `growth.noise` where that is more."""
        growth, images, errors = self.growth, self.images, self.growth.noise
        if not images or not errors:
            return growth.threshold
        part = 0.05 if growth.metric == "avg" and growth.policy != "slope" else 1.0  # Starts at 0.
        return lambda a: max(growth.threshold, min(part * a, errors * standard_error(a, images)))

    def shared(self, *without: str) -> dict[str, Any]:
        """Returns the keyword arguments that our policies share, but for those `without`."""
        names = ("max_depths", "interval", "window", "metric", "mode", "rate")
        shared = {name: getattr(self.growth, name) for name in names} | {
            "threshold": self.threshold,
            "seed_depths": self.seed_depths,
            "sub": self.growth.sub or None,
            "max_growth_epochs": self.growth.max_epochs,
            "seed": self.seed,
        }
        return {name: value for name, value in shared.items() if name not in without}


# What `register_policy` takes under a new name. It is called to check a config, and again to run it
# or go on with it: the same arguments have to make the same policy.
MakePolicy = Callable[[PolicyArguments], Policy]


def _make_lookahead(given: PolicyArguments) -> Policy:
    if given.growth.mode != "group":
        raise UserError(
            f"mode={given.growth.mode!r} adds blocks that policy 'lookahead' does not try; it needs"
            " mode='group'"
        )
    if given.growth.sub:
        raise UserError(f"sub={given.growth.sub} is used by mode='sub' only; leave it out")
    return lookahead(**given.shared("mode", "sub", "rate", "seed"))


POLICIES: Registry[MakePolicy] = Registry(
    "growth policy",
    {
        "periodic": lambda given: periodic(**given.shared()),
        "convergent": lambda given: convergent(**given.shared("window")),
        "slope": lambda given: slope(**given.shared("metric")),
        "gap": lambda given: gap(**given.shared(), max_gap=given.growth.max_gap),
        "efficiency": lambda given: efficiency(
            lambda depths: given.cost(depths).macs, **given.shared(), price=given.growth.price
        ),
        "lookahead": _make_lookahead,
    },
)


def register_policy(name: str, make: MakePolicy, settings: Mapping[str, Any] | None = None) -> None:
    """Adds a policy of one's own, which `config.growth.policy` then names.

    Args:
      make: makes the policy from what a config says; pure.
      settings: the policy's own: `{"patience": 3}` adds the key `growth.own.NAME.patience`, which
        is 3 where a config says nothing and takes whole numbers. A value is True or False, a
        number, a text, a tuple of these, or a `config.Key`, which can check more. `make` finds
        them in its argument's `settings`.

    Raises:
      UserError: there is a policy of this name.
    """
    POLICIES.register(name, make, settings)
