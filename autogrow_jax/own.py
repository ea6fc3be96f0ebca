"""What a user gives to a run as objects, where a config has names."""

from typing import Any, NamedTuple

import optax

from autogrow_jax.data import Augmentation, Dataset
from autogrow_jax.growth import POLICIES, Policy
from autogrow_jax.optim import Loss, Schedule, Steps

# What a key holds where the user gave an object instead of a name.
GIVEN = "own"


class Own(NamedTuple):
    """Objects that a user gives to a run in place of names; see `training.run`."""

    dataset: Dataset | None = None
    loss: Loss | None = None
    augment: Augmentation | None = None
    optimizer: optax.GradientTransformation | Steps | None = None
    schedule: Schedule | None = None
    policy: Policy | None = None

    def given(self) -> dict[str, Any]:
        """Those that are there, by the names of the fields."""
        return {name: part for name, part in self._asdict().items() if part is not None}

    def named(self) -> dict[str, str]:
        """How they are called, as far as they have names: {"loss": "module.function"}."""

        def name(part: Any) -> str:
            if isinstance(part, Dataset | Policy):
                return part.name
            kind = part if hasattr(part, "__qualname__") else type(part)
            return f"{kind.__module__}.{kind.__qualname__}"

        return {part: name(given) for part, given in self.given().items()}

    def describe(self) -> tuple[str, ...]:
        """A line that names what is there, if anything is."""
        found = ", ".join(f"{part} ({name})" for part, name in self.named().items())
        return (f"given as objects: {found}",) if found else ()


NOTHING = Own()
# The key that says "own" for each.
GIVEN_KEYS = {
    "dataset": "data.name",
    "loss": "loss",
    "augment": "data.augment",
    "optimizer": "optimizer.name",
    "schedule": "finetune.schedule",
    "policy": "growth.policy",
}


def ask_again(key: str, value: Any) -> str:
    """The end of a message on a key that a run has, "" where it was given no object for it."""
    part = next((part for part, its in GIVEN_KEYS.items() if its == key), None)
    # Nobody but who registered a policy of that name means it by it.
    is_name = part == "policy" and GIVEN in POLICIES
    if part is None or is_name or not isinstance(value, str) or value != GIVEN:
        return ""
    return f"; it was given as an object: give it again, run(config, workdir, {part}=...)"
