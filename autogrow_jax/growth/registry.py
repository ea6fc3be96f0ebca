"""Growth policies by name: what `growth.policy` of a config accepts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.efficiency import efficiency
from autogrow_jax.growth.gap import gap
from autogrow_jax.growth.limits import CostFn
from autogrow_jax.growth.lookahead import lookahead
from autogrow_jax.growth.policy import Policy, convergent, periodic
from autogrow_jax.growth.slope import slope


class PolicyArguments(NamedTuple):
    """What a policy is made from.

    Attributes:
      growth: the config's `growth` keys as attributes, checked: `growth.interval`,
        `growth.threshold` and so on, plain Python values.
      seed_depths: blocks in each stage at the start.
      seed: of all randomness in the run.
      cost: depths -> the cost of a network of these depths. Call it in `init` or `update`, not
        while the policy is made: configs are checked before the images are known, and then it
        raises UserError.
    """

    growth: Any
    seed_depths: tuple[int, ...]
    seed: int
    cost: CostFn

    def shared(self) -> dict[str, Any]:
        """The keyword arguments that all policies of this package have in common."""
        growth = self.growth
        return {
            "seed_depths": self.seed_depths,
            "max_depths": growth.max_depths,
            "interval": growth.interval,
            "threshold": growth.threshold,
            "metric": growth.metric,
            "mode": growth.mode,
            "sub": growth.sub or None,
            "rate": growth.rate,
            "max_growth_epochs": growth.max_epochs,
            "seed": self.seed,
        }


MakePolicy = Callable[[PolicyArguments], Policy]


def _make_periodic(given: PolicyArguments) -> Policy:
    return periodic(**given.shared(), window=given.growth.window)


def _make_convergent(given: PolicyArguments) -> Policy:
    return convergent(**given.shared())


def _make_slope(given: PolicyArguments) -> Policy:
    shared = given.shared()
    del shared["metric"]  # A line is fitted to the accuracies themselves.
    return slope(**shared, window=given.growth.window)


def _make_gap(given: PolicyArguments) -> Policy:
    return gap(**given.shared(), window=given.growth.window, max_gap=given.growth.max_gap)


def _make_efficiency(given: PolicyArguments) -> Policy:
    growth = given.growth
    return efficiency(
        lambda depths: given.cost(depths).macs,
        **given.shared(),
        window=growth.window,
        price=growth.price,
    )


def _make_lookahead(given: PolicyArguments) -> Policy:
    arguments = given.shared()
    if arguments.pop("mode") != "group":
        raise UserError(
            f"mode={given.growth.mode!r} adds blocks that policy 'lookahead' does not try; it needs"
            " mode='group'"
        )
    if given.growth.sub:
        raise UserError(f"sub={given.growth.sub} is used by mode='sub' only; leave it out")
    for name in ("sub", "rate", "seed"):  # Of the other modes.
        del arguments[name]
    return lookahead(**arguments, window=given.growth.window)


POLICIES: dict[str, MakePolicy] = {
    "periodic": _make_periodic,
    "convergent": _make_convergent,
    "slope": _make_slope,
    "gap": _make_gap,
    "efficiency": _make_efficiency,
    "lookahead": _make_lookahead,
}


def get_policy_maker(name: str) -> MakePolicy:
    """Looks a policy up by name; UserError names the nearest one where there is none."""
    if name not in POLICIES:
        raise UserError(f"no growth policy {name!r}{nearest(name, POLICIES)}")
    return POLICIES[name]


def register_policy(name: str, make: MakePolicy) -> None:
    """Adds a policy of one's own, after which `growth.policy` takes its name.

    Args:
      name: a name not yet taken.
      make: `make(arguments) -> Policy`, called with `PolicyArguments` to check a config, and again
        to run it or go on with it; the same arguments have to make the same policy.

    Raises:
      UserError: where the name is taken.

    Example:
      >>> def make(arguments):
      ...     return periodic(arguments.seed_depths, arguments.growth.max_depths, interval=1)
      >>> register_policy("every_epoch", make)
    """
    if name in POLICIES:
        raise UserError(f"there is a growth policy {name!r} already; choose another name")
    POLICIES[name] = make
