"""Settings to the network, policy, optimiser and data they ask for; nothing else knows both."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import optax

from autogrow_jax import optim
from autogrow_jax.data import AUGMENTATIONS, Augmentation, Choices, Dataset, load_dataset
from autogrow_jax.errors import Registry, UserError
from autogrow_jax.growth import POLICIES, Limits, Policy, PolicyArguments, limited
from autogrow_jax.growth.start import check_start
from autogrow_jax.models.cost import Cost, estimate_cost
from autogrow_jax.models.network import Network, build_network
from autogrow_jax.optim import OPTIMIZERS
from autogrow_jax.own import GIVEN, GIVEN_KEYS, NOTHING, Own, ask_again
from autogrow_jax.settings import (
    KEYS,
    OWN,
    Config,
    Settings,
    all_keys,
    check_key,
    check_value,
    flatten,
)
from autogrow_jax.settings_left import fill_in, fill_in_own
from autogrow_jax.stream import is_streamed, load_stream

# Names that say how a run trains and grows, which whoever reads a run does not do.
_OF_TRAINING = (*GIVEN_KEYS.values(), "growth.initializer", OWN)


def resolve(config: Config, own: Own = NOTHING, *, to_read: bool = False) -> Settings:
    """Checks a config and fills in what depends on other keys.

    It is a ConfigDict, nested dicts, or `Settings`; keys left out take their defaults. Of the
    result, depths and maxima are one for each stage, the learning rate is a number, and of settings
    of one's own there are those of the policy that is chosen. What users registered to train
    a run by need not be registered here if it is only `to_read`. The keys of what the user gives as
    objects, `own`, say "own".

    Raises:
      UserError: names the key, what it got, what it accepts.
    """
    own = config.own if isinstance(config, Settings) and own is NOTHING else own
    objects = {GIVEN_KEYS[part]: GIVEN for part in own.given()}
    values = {name: key.default for name, key in all_keys().items()} | flatten(config)
    for name in GIVEN_KEYS.values() - objects.keys():
        if (again := ask_again(name, values[name])) and not to_read:
            raise UserError(f"config.{name} is {GIVEN!r}{again}")
    values |= objects
    for name, value in values.items():
        if ask_again(name, value):
            continue
        if not to_read or not name.startswith(_OF_TRAINING):
            check_key(name)
            values[name] = check_value(name, value)
    chosen = f"{OWN}{values['growth.policy']}."
    values = {k: v for k, v in values.items() if not k.startswith(OWN) or k.startswith(chosen)}
    fill_in_own(values, own)
    fill_in(values)
    resolved = Settings.from_flat(values, own)
    if values["mode"] == "grow" and not to_read:
        make_policy(resolved)  # It checks what concerns several of its settings.
        network = make_network(resolved, 1, 1, resolved.model.depths)
        name = resolved.growth.initializer
        try:
            check_start(network, name, resolved.optimizer.ema > 0)
        except UserError as error:
            raise UserError(f"config.growth.initializer is {name!r}: {error}") from None
    elif values["mode"] == "scratch" and not (
        values["finetune.epochs"] or values["finetune.total_epochs"]
    ):
        raise UserError("config.finetune.epochs is 0; mode 'scratch' trains for that many epochs")
    return resolved


def resolve_own(config: Config, own: Own = NOTHING, *, to_read: bool = False) -> Settings:
    """Checks the config of a run that was begun, see `resolve`.

    Raises:
      UserError: as there; where a name is not registered here, with the way out.
    """
    try:
        return resolve(config, own, to_read=to_read)
    except UserError as error:
        values, names = flatten(config), {name: key.accepts for name, key in KEYS.items()}
        own_names = {name: known for name, known in names.items() if isinstance(known, Registry)}
        if all(values[name] in [*own_names[name]] for name in own_names.keys() & values.keys()):
            raise
        raise UserError(
            f"{error}. If it is of your own, give the config file that registers it, as"
            " --config=FILE, or in Python register it first"
        ) from None


def make_network(
    settings: Settings, num_classes: int, image_channels: int, depths: Sequence[int]
) -> Network:
    """The network that settings ask for, at `depths`: a net that grows leaves `model.depths`."""
    options = dataclasses.asdict(settings.model)
    family, _ = options.pop("family"), options.pop("depths")
    if options["convolution"] == "auto":  # A run's to settle; see `steps.convolutions`.
        options["convolution"] = "xla"
    return build_network(family, depths, num_classes, image_channels, **options)


def make_policy(
    settings: Settings,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    images: int = 0,
) -> Policy:
    """The growth policy that settings ask for.

    Policies and limits that weigh costs need the images' height, width and channels and the number
    of classes. Without them such a policy is built and checked, but cannot be begun. The noise of a
    gain needs the number of validation `images`; of 0, not known, `growth.noise` counts nothing.

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
    arguments = PolicyArguments(
        growth,
        seed_depths=settings.model.depths,
        seed=settings.seed,
        cost=network_cost,
        settings=growth.own.get(growth.policy, {}),
        images=images,
    )
    # An interval under way would take epochs that fine-tuning is promised.
    most = total - settings.finetune.epochs if total and settings.mode == "grow" else 0
    costs = growth.max_params, growth.max_flops, growth.max_seconds, growth.max_latency
    limits = Limits(*costs, max_epochs=most)
    try:
        policy = settings.own.policy or POLICIES.find(growth.policy)(arguments)
        return limited(policy, limits, network_cost)
    except UserError as error:
        raise UserError(f"config.growth: {error}") from None


def make_optimizer(settings: Settings) -> optax.GradientTransformation | optim.Steps:
    """The optimiser that settings ask for, still to be scaled by the rate, or a function of it."""
    own, name = settings.own.optimizer, settings.optimizer.name
    if isinstance(own, optax.GradientTransformation):
        return optim.as_they_are(own, settings.optimizer.learning_rate)
    if own is not None:
        return own
    if (registered := OPTIMIZERS.find(name)) is not None:
        return registered
    how = ("name", "momentum", "nesterov", "weight_decay")
    return optim.make_optimizer(**{name: getattr(settings.optimizer, name) for name in how})


def find_loss(settings: Settings) -> optim.Loss:
    """The loss that settings ask for."""
    return settings.own.loss or optim.LOSSES.find(settings.loss)


def find_augmentation(settings: Settings) -> Augmentation | None:
    """The augmentation that settings ask for; None for the package's crop and flip."""
    return settings.own.augment or AUGMENTATIONS.find(settings.data.augment)


def make_schedule(settings: Settings, policy: Policy | None) -> optim.Schedule:
    """The learning rate of every epoch that settings ask for, of a run that grows by `policy`."""
    if settings.own.schedule is not None:
        return optim.checked(settings.own.schedule)
    rate, said = settings.optimizer.learning_rate, policy.schedule if policy else None
    return optim.make_schedule(settings.finetune.schedule, rate, said)


def load_data(settings: Settings, to_train: bool = True) -> Dataset:
    """The data set of a run, with a batch of training images at least if it is `to_train`."""
    data = settings.data
    if settings.own.dataset is not None:
        return _check_batch(_augmented_as(settings.own.dataset, settings), settings, to_train)
    if data.name == GIVEN:
        raise UserError("the data of this run were given as an object; give it: dataset=...")
    how = Choices(
        data.validation,
        data.validation_fraction,
        data.fraction,
        settings.seed,
        crop_padding=None if data.crop_padding < 0 else data.crop_padding,
        flip={"auto": None, "yes": True, "no": False}[data.flip],
    )
    images: dict[str, Any] = {
        **{"directory": data.dir, "cache_directory": data.cache_dir, "classes": data.classes},
        **{"layout": data.layout, "background": data.background},
    }
    where = data.name, data.dir, data.image_size, data.layout, data.cache_dir
    if is_streamed(data.stream, *where):
        dataset = load_stream(data.name, data.image_size, how, workers=data.workers, **images)
    else:
        dataset = load_dataset(data.name, image_size=data.image_size, **how._asdict(), **images)
    return _check_batch(dataset, settings, to_train)


def _augmented_as(dataset: Dataset, settings: Settings) -> Dataset:
    """A set of the user's own with the crop and flip that the config names, if it does."""
    changes: dict[str, Any] = {}
    if settings.data.crop_padding >= 0:
        changes["crop_padding"] = settings.data.crop_padding
    if settings.data.flip != "auto":
        changes["flip"] = settings.data.flip == "yes"
    preprocessing = dataclasses.replace(dataset.preprocessing, **changes)
    if preprocessing.crop_padding >= min(dataset.image_shape[:2]):
        raise UserError(
            f"config.data.crop_padding is {preprocessing.crop_padding}, but the images are"
            f" {dataset.image_shape[0]}x{dataset.image_shape[1]}; it must be smaller than a side"
        )
    return dataclasses.replace(dataset, preprocessing=preprocessing)


def _check_batch(dataset: Dataset, settings: Settings, to_train: bool) -> Dataset:
    data = settings.data
    if to_train and data.batch_size > len(dataset.train.labels):
        raise UserError(
            f"config.data.batch_size is {data.batch_size}, but {dataset.name} has"
            f" {len(dataset.train.labels)} training images; make it smaller"
        )
    return dataset
