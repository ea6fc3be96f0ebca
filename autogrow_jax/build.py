"""Settings to the network, policy, optimiser and data they ask for; nothing else knows both."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import optax

from autogrow_jax import optim
from autogrow_jax.data import Dataset, load_dataset
from autogrow_jax.errors import UserError
from autogrow_jax.growth import POLICIES, Limits, Policy, PolicyArguments, limited
from autogrow_jax.models.cost import Cost, estimate_cost
from autogrow_jax.models.network import Network, build_network, get_family
from autogrow_jax.settings import (
    OWN,
    Config,
    Settings,
    all_keys,
    check_key,
    check_value,
    flatten,
)

# Names that say how a run trains and grows, which whoever reads a run does not do.
_OF_TRAINING = ("growth.policy", "growth.initializer", OWN)


def resolve(config: Config, *, to_read: bool = False) -> Settings:
    """Checks a config and fills in what depends on other keys.

    It is a ConfigDict, nested dicts, or `Settings`; keys left out take their defaults. Of the
    result, depths and maxima are one for each stage, the learning rate is a number, and of settings
    of one's own there are those of the policy that is chosen. The policy and the initialiser of a
    run that is only `to_read` need not be registered here.

    Raises:
      UserError: names the key, what it got, what it accepts.
    """
    values = {name: key.default for name, key in all_keys().items()} | flatten(config)
    for name, value in values.items():
        if not to_read or not name.startswith(_OF_TRAINING):
            check_key(name)
            values[name] = check_value(name, value)
    chosen = f"{OWN}{values['growth.policy']}."
    values = {k: v for k, v in values.items() if not k.startswith(OWN) or k.startswith(chosen)}
    _fill_in(values)
    resolved = Settings.from_flat(values)
    if values["mode"] == "grow" and not to_read:
        make_policy(resolved)  # It checks what concerns several of its settings.
    elif values["mode"] == "scratch" and not (
        values["finetune.epochs"] or values["finetune.total_epochs"]
    ):
        raise UserError("config.finetune.epochs is 0; mode 'scratch' trains for that many epochs")
    return resolved


def _fill_in(values: dict[str, Any]) -> None:
    """Replaces what was left to other keys: depths, maxima, the learning rate."""
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


def make_network(
    settings: Settings, num_classes: int, image_channels: int, depths: Sequence[int]
) -> Network:
    """The network that settings ask for, at `depths`."""
    options = dataclasses.asdict(settings.model)
    family, _ = options.pop("family"), options.pop("depths")
    if options["convolution"] == "auto":  # A run's to settle; see `training.convolutions`.
        options["convolution"] = "xla"
    return build_network(family, depths, num_classes, image_channels, **options)


def make_policy(
    settings: Settings,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> Policy:
    """The growth policy that settings ask for.

    Policies and limits that weigh costs need the images' height, width and channels and the number
    of classes. Without them such a policy is built and checked, but cannot be begun.

    Raises:
      UserError: settings that contradict each other.
    """

    def network_cost(depths: tuple[int, ...]) -> Cost:
        if image_shape is None or num_classes is None:
            raise UserError(
                f"the cost of depths {depths} depends on the images; give make_policy their"
                " shape and the number of classes"
            )
        network = make_network(settings, num_classes, image_shape[-1], settings.model.depths)
        return estimate_cost(network, image_shape, depths)

    growth, total = settings.growth, settings.finetune.total_epochs
    own = growth.own.get(growth.policy, {})
    arguments = PolicyArguments(growth, settings.model.depths, settings.seed, network_cost, own)
    # An interval under way would take epochs that fine-tuning is promised.
    most = total - settings.finetune.epochs if total and settings.mode == "grow" else 0
    costs = growth.max_params, growth.max_flops, growth.max_seconds, growth.max_latency
    limits = Limits(*costs, max_epochs=most)
    try:
        return limited(POLICIES.find(growth.policy)(arguments), limits, network_cost)
    except UserError as error:
        raise UserError(f"config.growth: {error}") from None


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """The optimiser that settings ask for; its updates are still to be scaled by the rate."""
    how = ("name", "momentum", "nesterov", "weight_decay")
    return optim.make_optimizer(**{name: getattr(settings.optimizer, name) for name in how})


def make_schedule(settings: Settings, policy: Policy | None) -> optim.Schedule:
    """The learning rate of every epoch that settings ask for, of a run that grows by `policy`."""
    rate, said = settings.optimizer.learning_rate, policy.schedule if policy else None
    return optim.make_schedule(settings.finetune.schedule, rate, said)


def load_data(settings: Settings, to_train: bool = True) -> Dataset:
    """The data set of a run, with a batch of training images at least if it is `to_train`."""
    data = settings.data
    as_it_is = (
        "name",
        "validation",
        "validation_fraction",
        "fraction",
        "image_size",
        "layout",
        "background",
    )
    dataset = load_dataset(
        **{name: getattr(data, name) for name in as_it_is},
        directory=data.dir,
        seed=settings.seed,
        crop_padding=None if data.crop_padding < 0 else data.crop_padding,
        flip={"auto": None, "yes": True, "no": False}[data.flip],
        cache_directory=data.cache_dir,
    )
    if to_train and data.batch_size > len(dataset.train.labels):
        raise UserError(
            f"config.data.batch_size is {data.batch_size}, but {dataset.name} has"
            f" {len(dataset.train.labels)} training images; make it smaller"
        )
    return dataset
