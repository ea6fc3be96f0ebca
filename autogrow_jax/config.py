"""The settings of a run: a config that notebooks and config files change, checked once.

A config file is a Python file with `get_config()` that changes what it wants of
`default_config()`. `resolve` turns it into the frozen, complete form that a run uses and keeps.
The keys themselves are in `config_keys`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from autogrow_jax.config_keys import FREE_KEYS, KEYS, check_key, check_value
from autogrow_jax.errors import UserError
from autogrow_jax.growth.limits import CostFn, DepthsCost, Limits, limited
from autogrow_jax.growth.policy import Policy
from autogrow_jax.growth.registry import PolicyArguments, get_policy_maker
from autogrow_jax.models.cost import estimate_cost
from autogrow_jax.models.network import Network, build_network, get_family


def default_config() -> ml_collections.ConfigDict:
    """All keys with their defaults, locked so that a misspelt one is refused.

    The defaults are the paper's recipe with held-out validation. `optimizer.learning_rate` None
    means the family's own rate; empty `model.depths` one block in every stage.
    """
    # Checks of type are `resolve`'s: ml_collections' own do not name the key.
    config = ml_collections.ConfigDict(type_safe=False)
    for name, key in KEYS.items():
        holder = config
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in holder:
                holder[parent] = ml_collections.ConfigDict(type_safe=False)
            holder = holder[parent]
        if key.default is None:
            holder[leaf] = ml_collections.config_dict.placeholder(float)
        else:
            holder[leaf] = key.default
    return config.lock()


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"a.b": value}.

    Args:
      config: a ConfigDict, frozen or not, or nested mappings.
      prefix: goes before every name.

    Raises:
      UserError: where `config` is nothing of the kind.
    """
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise UserError(
            f"the config is {config!r}, not a ConfigDict; start from config.default_config()"
        )
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def resolve(config: Any) -> ml_collections.FrozenConfigDict:
    """Checks a config and fills in what depends on other keys.

    Args:
      config: a ConfigDict, or nested dicts; keys left out take their defaults.

    Returns:
      Frozen, with every key of `KEYS`: depths and maxima one for each stage, the learning rate a
      number.

    Raises:
      UserError: names the key, what it got, what it accepts.
    """
    given = flatten(config)
    for name in given:
        check_key(name)
    values = {name: key.default for name, key in KEYS.items()} | given
    values = {name: check_value(name, value) for name, value in values.items()}
    _fill_in(values)
    resolved = ml_collections.FrozenConfigDict(nest(values))
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
    config: Any, num_classes: int, image_channels: int, depths: Sequence[int]
) -> Network:
    """The network that a resolved config asks for, at `depths`."""
    model = config.model
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
    config: Any,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> Policy:
    """The growth policy that a resolved config asks for.

    Args:
      config: a resolved config.
      image_shape: height, width and channels of the images, and
      num_classes: number of classes, for policies and limits that weigh costs. Without them such
        a policy is built and checked, but cannot be begun.

    Raises:
      UserError: settings that contradict each other.
    """
    network_cost = _make_cost(config, image_shape, num_classes)
    growth = config.growth
    arguments = PolicyArguments(growth, config.model.depths, config.seed, network_cost)
    limits = Limits(growth.max_params, growth.max_flops, growth.max_seconds, growth.max_latency)
    try:
        return limited(get_policy_maker(growth.policy)(arguments), limits, network_cost)
    except UserError as error:
        raise UserError(f"config.growth: {error}") from None


def _make_cost(
    config: Any, image_shape: tuple[int, int, int] | None, num_classes: int | None
) -> CostFn:
    """depths -> cost, for the network of a config."""
    if image_shape is None or num_classes is None:

        def unknown(depths: tuple[int, ...]) -> DepthsCost:
            raise UserError(
                f"the cost of depths {depths} depends on the images; give make_policy their"
                " shape and the number of classes"
            )

        return unknown
    shape = image_shape
    network = make_network(config, num_classes, shape[-1], config.model.depths)
    return lambda depths: estimate_cost(network, shape, depths)


def differences(old: Any, new: Any) -> list[str]:
    """Lines "key: old -> new" for keys that may not change between a run and its resumption."""
    # A key that is younger than the run had the value that is now its default.
    defaults = {name: key.default for name, key in KEYS.items()}
    before, after = defaults | flatten(old), defaults | flatten(new)
    lines = []
    for name in sorted(before.keys() - FREE_KEYS):
        # JSON knows no tuples.
        was, now = (tuple(v) if isinstance(v, list) else v for v in (before[name], after.get(name)))
        if was != now:
            lines.append(f"{name}: {was!r} -> {now!r}")
    return lines


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        holder = nested
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[leaf] = value
    return nested
