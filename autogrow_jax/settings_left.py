"""What a config leaves to other keys, or to objects of one's own; `build.resolve` fills it in."""

from typing import Any

from autogrow_jax.errors import UserError
from autogrow_jax.models.network import get_family
from autogrow_jax.optim import OPTIMIZERS
from autogrow_jax.own import GIVEN, Own
from autogrow_jax.settings import DEFAULTS


def fill_in(values: dict[str, Any]) -> None:
    """Replaces what was left to other keys: depths, maxima, learning rate, and so on."""
    family = get_family(values["model.family"])
    stages = len(family.widths)
    values["model.depths"] = depths = values["model.depths"] or (1,) * stages
    most = values["growth.max_depths"] or (200,)
    values["growth.max_depths"] = most = most * stages if len(most) == 1 else most
    for name in ("model.depths", "growth.max_depths"):
        if len(values[name]) != stages:
            raise UserError(
                f"config.{name} is {values[name]}: {values['model.family']} has {stages} stages, so"
                f" give {stages} numbers, such as {values[name][:1] * stages}"
            )
    for stage, (depth, limit) in enumerate(zip(depths, most, strict=True)):
        if values["mode"] == "grow" and depth > limit:
            raise UserError(
                f"config.model.depths is {depths}, which starts stage {stage} with {depth} blocks,"
                f" but config.growth.max_depths is {most}; start lower, or raise the maximum"
            )
    if values["growth.programs"] == "shared" and not values["growth.capacity"]:
        raise UserError(
            "config.growth.capacity is 0, which is a program for each depth, but"
            " config.growth.programs is 'shared'; give a capacity, such as 4"
        )
    if values["optimizer.learning_rate"] is None:
        values["optimizer.learning_rate"] = family.learning_rate
    if values["growth.initializer"] is None:
        values["growth.initializer"] = family.initializer
    if values["mode"] != "grow" or values["init_from"]:  # What another run found is not to be lost.
        values["finetune.perturb"] = values["finetune.perturb"] or 0.0
    values["data.validation"] = str(values["data.validation"])
    total, tail = values["finetune.total_epochs"], values["finetune.epochs"]
    if total and values["mode"] == "grow":
        if total <= tail:
            raise UserError(
                f"config.finetune.total_epochs is {total}, of which config.finetune.epochs takes"
                f" {tail} and leaves none for growth; raise the one or lower the other"
            )
        # Growth ends early enough for the least of fine-tuning, which then takes what is left.
        values["growth.max_epochs"] = min(values["growth.max_epochs"], total - tail)
    why = "" if values["finetune.front"] else "config.finetune.front is False"
    if values["mode"] == "grow" and not total and not tail:
        why = "config.finetune.epochs is 0"
    for name in ("finetune.choose", "finetune.max_latency"):
        if why and values[name] != DEFAULTS[name]:
            raise UserError(
                f"config.{name} is {values[name]}, but {why}, which leaves one net and nothing to"
                " choose; leave out the one or the other"
            )


# What an optimiser of the user's own does not take from the config.
_OF_OURS = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
# What was decided when a data set was made.
_OF_SETS = ("validation_fraction", "fraction", "classes", "image_size")


def fill_in_own(values: dict[str, Any], own: Own) -> None:
    """Sets keys to what objects of the user's own make of them; UserError where they differ."""
    name = values["optimizer.name"]
    if name == GIVEN or OPTIMIZERS.get(name) is not None:
        for part, none in _OF_OURS.items():
            key = f"optimizer.{part}"
            if values[key] not in (DEFAULTS[key], none):
                raise UserError(
                    f"config.{key} is {values[key]}, but the optimiser is one of your own"
                    f" ({name}); say it there, as optax.adamw(rate, weight_decay=...)"
                )
            values[key] = none
    if values["data.augment"] != "crop_flip":
        accepted: dict[str, tuple[Any, ...]] = {
            "data.crop_padding": (-1, 0),
            "data.flip": ("auto", "no"),
        }
        for key, without in accepted.items():
            if values[key] not in without:
                raise UserError(
                    f"config.{key} is {values[key]!r}, but the augmentation is one of your own"
                    f" ({values['data.augment']}), which takes its place; leave the key out"
                )
    if own.policy is not None:
        seed = tuple(own.policy.seed_depths)
        if values["model.depths"] not in ((), seed):
            raise UserError(
                f"config.model.depths is {values['model.depths']}, but the policy starts at {seed};"
                " give both the same"
            )
        values["model.depths"] = seed
    if own.dataset is not None:
        source = own.dataset.validation_source
        differs = {key: values[f"data.{key}"] != DEFAULTS[f"data.{key}"] for key in _OF_SETS}
        differs["validation"] = str(values["data.validation"]) not in ("held-out", source)
        for key in (key for key, does in differs.items() if does):
            raise UserError(
                f"config.data.{key} is {values[f'data.{key}']!r}, but the data set is an object and"
                f" parted already; say it there: Dataset.from_arrays(..., {key}=...)"
            )
        values["data.validation"] = source
