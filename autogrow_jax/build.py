"""Settings to the network, policy, optimiser and data they ask for; nothing else knows both."""

from collections.abc import Sequence
from typing import Any

import optax

from autogrow_jax import optim
from autogrow_jax.data import Dataset, load_dataset
from autogrow_jax.errors import UserError
from autogrow_jax.growth import POLICIES, Limits, Policy, PolicyArguments, limited
from autogrow_jax.growth.limits import CostFn
from autogrow_jax.models.cost import Cost, estimate_cost
from autogrow_jax.models.network import Network, build_network, get_family
from autogrow_jax.settings import KEYS, Settings, check_key, check_value, flatten


def resolve(config: Any) -> Settings:
    """Checks a config and fills in what depends on other keys.

    Args:
      config: a ConfigDict, nested dicts, or `Settings`; keys left out take their defaults.

    Returns:
      Every key: depths and maxima one for each stage, the learning rate a number.

    Raises:
      UserError: names the key, what it got, what it accepts.
    """
    given = flatten(config)
    for name in given:
        check_key(name)
    values = {name: key.default for name, key in KEYS.items()} | given
    values = {name: check_value(name, value) for name, value in values.items()}
    _fill_in(values)
    resolved = Settings.from_flat(values)
    if values["mode"] == "grow":
        make_policy(resolved)  # It checks what concerns several of its settings.
    elif values["mode"] == "scratch" and not (
        values["finetune.epochs"] or values["finetune.total_epochs"]
    ):
        raise UserError("config.finetune.epochs is 0; mode 'scratch' trains for that many epochs")
    return resolved


def _fill_in(values: dict[str, Any]) -> None:
    """Replaces what was left to other keys: depths, maxima, the learning rate."""
    family = get_family(values["model.family"])
    num_stages = len(family.widths)
    depths = values["model.depths"] or (1,) * num_stages
    most = values["growth.max_depths"] or (200,)
    if len(most) == 1:
        most *= num_stages
    for name, tuple_ in (("model.depths", depths), ("growth.max_depths", most)):
        if len(tuple_) != num_stages:
            raise UserError(
                f"config.{name} is {tuple_}: {values['model.family']} has {num_stages} stages, so"
                f" give {num_stages} numbers, such as {(tuple_[0],) * num_stages}"
            )
    for stage, (depth, limit) in enumerate(zip(depths, most, strict=True)):
        if values["mode"] == "grow" and depth > limit:
            raise UserError(
                f"config.model.depths is {depths}, which starts stage {stage} with {depth} blocks,"
                f" but config.growth.max_depths is {most}; start lower, or raise the maximum"
            )
    values["model.depths"], values["growth.max_depths"] = depths, most
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
    model = settings.model
    return build_network(
        model.family,
        depths,
        num_classes,
        image_channels,
        stem=model.stem,
        dtype=model.dtype,
        bn_scale_init=model.bn_scale_init,
        kernel_init=model.kernel_init,
        remat=model.remat,
        # "auto" is a run's to settle; see `training.convolutions`.
        convolution="xla" if model.convolution == "auto" else model.convolution,
    )


def make_policy(
    settings: Settings,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> Policy:
    """The growth policy that settings ask for.

    Args:
      settings: of the run.
      image_shape: height, width and channels of the images, and
      num_classes: number of classes, for policies and limits that weigh costs. Without them such
        a policy is built and checked, but cannot be begun.

    Raises:
      UserError: settings that contradict each other.
    """
    network_cost = _make_cost(settings, image_shape, num_classes)
    growth = settings.growth
    arguments = PolicyArguments(growth, settings.model.depths, settings.seed, network_cost)
    total = settings.finetune.total_epochs
    limits = Limits(
        max_params=growth.max_params,
        max_flops=growth.max_flops,
        max_seconds=growth.max_seconds,
        max_latency=growth.max_latency,
        # An interval under way would take epochs that fine-tuning is promised.
        max_epochs=total - settings.finetune.epochs if total and settings.mode == "grow" else 0,
    )
    try:
        return limited(POLICIES.find(growth.policy)(arguments), limits, network_cost)
    except UserError as error:
        raise UserError(f"config.growth: {error}") from None


def _make_cost(
    settings: Settings, image_shape: tuple[int, int, int] | None, num_classes: int | None
) -> CostFn:
    """depths -> cost, for the network of these settings."""
    if image_shape is None or num_classes is None:

        def unknown(depths: tuple[int, ...]) -> Cost:
            raise UserError(
                f"the cost of depths {depths} depends on the images; give make_policy their"
                " shape and the number of classes"
            )

        return unknown
    shape = image_shape
    network = make_network(settings, num_classes, shape[-1], settings.model.depths)
    return lambda depths: estimate_cost(network, shape, depths)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """The optimiser that settings ask for; its updates are still to be scaled by the rate."""
    chosen = settings.optimizer
    return optim.make_optimizer(
        chosen.name,
        momentum=chosen.momentum,
        nesterov=chosen.nesterov,
        weight_decay=chosen.weight_decay,
    )


def make_schedule(settings: Settings, policy: Policy | None) -> optim.Schedule:
    """The learning rate of every epoch that settings ask for, of a run that grows by `policy`."""
    return optim.make_schedule(
        settings.finetune.schedule,
        settings.optimizer.learning_rate,
        policy.schedule if policy else None,
    )


def load_data(settings: Settings) -> Dataset:
    """The data set of a run."""
    data = settings.data
    dataset = load_dataset(
        data.name,
        directory=data.dir,
        validation=data.validation,
        validation_fraction=data.validation_fraction,
        fraction=data.fraction,
        seed=settings.seed,
        image_size=data.image_size,
        crop_padding=None if data.crop_padding < 0 else data.crop_padding,
        flip={"auto": None, "yes": True, "no": False}[data.flip],
        cache_directory=data.cache_dir,
    )
    if data.batch_size > len(dataset.train.labels):
        raise UserError(
            f"config.data.batch_size is {data.batch_size}, but {dataset.name} has"
            f" {len(dataset.train.labels)} training images; make it smaller"
        )
    return dataset
