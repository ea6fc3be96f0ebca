"""The settings of a run: defaults, and one check that names the key, what it got, what it takes.

A config file is a Python file with `get_config()` that changes what it wants of
`default_config()`. `resolve` turns it into the frozen, complete form that a run uses and keeps.
"""

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.initializers import INITIALIZERS
from autogrow_jax.growth.policy import Policy, convergent, periodic
from autogrow_jax.models.blocks import BN_SCALE_INITS, KERNEL_INITS
from autogrow_jax.models.network import FAMILIES, STEMS, get_family
from autogrow_jax.training.optimizer import OPTIMIZERS
from autogrow_jax.training.schedule import SCHEDULES

MODES = ("grow", "scratch", "evaluate")
PARALLEL = ("jit", "pmap")
POLICIES = ("periodic", "convergent")

# Keys that change what is seen, not what is computed: a resumed run may change them.
FREE_KEYS = ("data.dir", "data.cache_dir", "log.progress", "log.tensorboard", "log.plot_every")


class _Key(NamedTuple):
    """Default of a key, what it accepts in words, and the test for it."""

    default: Any
    accepts: str
    ok: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(default: int, least: int, meaning: str = "") -> _Key:
    words = f"a whole number of at least {least}{meaning}"
    return _Key(default, words, lambda v: _is_whole(v) and v >= least)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(default: float | None, words: str, ok: Callable[[float], bool]) -> _Key:
    return _Key(default, f"a number {words}", lambda v: _is_number(v) and ok(v))


def _choice(default: str, accepted: Any) -> _Key:
    # A generator of words, not a tuple: families and initialisers may be registered later.
    return _Key(default, "", lambda v: v in accepted)._replace(accepts=accepted)


def _flag(default: bool) -> _Key:
    return _Key(default, "True or False", lambda v: isinstance(v, bool))


def _depths(default: tuple[int, ...], meaning: str, least: int = 1) -> _Key:
    def ok(value):
        return isinstance(value, tuple | list) and all(_is_whole(v) and v >= least for v in value)

    return _Key(default, f"whole numbers of at least {least}, one for each stage{meaning}", ok)


def _text(default: str, words: str) -> _Key:
    return _Key(default, words, lambda v: isinstance(v, str))


KEYS: dict[str, _Key] = {
    "mode": _choice("grow", MODES),
    "seed": _whole(0, 0),
    "parallel": _choice("jit", PARALLEL),
    "num_devices": _whole(0, 0, "; 0 means all there are"),
    "model.family": _choice("plain3", FAMILIES),
    "model.depths": _depths((), "; empty means one block each"),
    "model.dtype": _choice("float32", ("float32", "bfloat16")),
    "model.stem": _choice("small", STEMS),
    "model.bn_scale_init": _choice("ones", BN_SCALE_INITS),
    "model.kernel_init": _choice("torch", KERNEL_INITS),
    "model.remat": _flag(False),
    "data.name": _text("digits", "a data set's name"),
    "data.dir": _text("", "a folder"),
    "data.cache_dir": _text("", "a folder"),
    "data.batch_size": _whole(128, 1),
    "data.fraction": _number(1.0, "above 0 and up to 1", lambda v: 0 < v <= 1),
    "data.validation": _Key(
        "held-out",
        "'held-out', 'test' (the paper's protocol) or a fraction of train such as '0.2'",
        lambda v: isinstance(v, str) or _is_number(v),
    ),
    "data.validation_fraction": _number(0.1, "between 0 and 1", lambda v: 0 < v < 1),
    "data.image_size": _whole(0, 0, " pixels; 0 means as it is"),
    "data.crop_padding": _whole(-1, -1, " pixels; -1 means as the set's"),
    "data.flip": _choice("auto", ("auto", "yes", "no")),
    "data.on_device": _choice("auto", ("auto", "yes", "no")),
    "growth.policy": _choice("periodic", POLICIES),
    "growth.interval": _whole(3, 1, " epochs"),
    "growth.window": _whole(100, 1, " epochs"),
    "growth.threshold": _number(0.05, "of at least 0, in percentage points", lambda v: v >= 0),
    "growth.metric": _choice("max", ("max", "avg")),
    "growth.mode": _choice("group", ("group", "all", "sub", "rate")),
    "growth.sub": _depths((), "; blocks that mode 'sub' adds", least=0),
    "growth.rate": _number(0.4, "of at least 0", lambda v: v >= 0),
    "growth.max_depths": _depths((), "; one number serves all stages, empty means 200"),
    "growth.max_epochs": _whole(4000, 1),
    "growth.initializer": _choice("gaussian", INITIALIZERS),
    "growth.reset_optimizer": _flag(False),
    "optimizer.name": _choice("sgd", OPTIMIZERS),
    "optimizer.learning_rate": _number(None, "above 0", lambda v: v > 0),
    "optimizer.momentum": _number(0.9, "from 0 to below 1", lambda v: 0 <= v < 1),
    "optimizer.nesterov": _flag(False),
    "optimizer.weight_decay": _number(5e-4, "of at least 0", lambda v: v >= 0),
    "optimizer.ema": _number(0.0, "from 0 (none) to below 1, such as 0.999", lambda v: 0 <= v < 1),
    "finetune.epochs": _whole(200, 0),
    "finetune.schedule": _choice("auto", SCHEDULES),
    "checkpoint.every": _whole(1, 1, " epochs"),
    "checkpoint.keep": _whole(2, 1),
    "log.progress": _flag(True),
    "log.tensorboard": _flag(True),
    "log.plot_every": _whole(0, 0, " epochs; 0 means at the end only"),
}


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
    """Nested settings as {"a.b": value}."""
    flat: dict[str, Any] = {}
    for name, value in dict(config).items():
        if isinstance(value, ml_collections.ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
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
    given = flatten(config.to_dict() if hasattr(config, "to_dict") else config)
    for name in given:
        check_key(name)
    values = {name: key.default for name, key in KEYS.items()} | given
    for name, key in KEYS.items():
        values[name] = _checked(name, key, values[name])
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
    values["model.depths"], values["growth.max_depths"] = depths, most
    if values["optimizer.learning_rate"] is None:
        values["optimizer.learning_rate"] = family.learning_rate
    values["data.validation"] = str(values["data.validation"])
    resolved = ml_collections.FrozenConfigDict(nest(values))
    if values["mode"] == "grow":
        make_policy(resolved)  # It checks what concerns several of its settings.
    elif values["mode"] == "scratch" and values["finetune.epochs"] < 1:
        raise UserError("config.finetune.epochs is 0: mode 'scratch' trains for that many epochs")
    return resolved


def make_policy(config: Any) -> Policy:
    """The growth policy that a resolved config asks for."""
    growth = config.growth
    shared = {
        "seed_depths": config.model.depths,
        "max_depths": growth.max_depths,
        "interval": growth.interval,
        "threshold": growth.threshold,
        "metric": growth.metric,
        "mode": growth.mode,
        "sub": growth.sub or None,
        "rate": growth.rate,
        "max_growth_epochs": growth.max_epochs,
        "seed": config.seed,
    }
    if growth.policy == "convergent":
        return convergent(**shared)
    return periodic(**shared, window=growth.window)


def differences(old: Any, new: Any) -> list[str]:
    """Lines "key: old -> new" for keys that may not change between a run and its resumption."""
    before, after = flatten(old), flatten(new)
    lines = []
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        same = list(a) == list(b) if isinstance(a, list | tuple) and b is not None else a == b
        if name not in FREE_KEYS and not same:
            lines.append(f"{name}: {a!r} -> {b!r}")
    return lines


def _checked(name: str, key: _Key, value: Any) -> Any:
    if value is None and key.default is None:
        return None
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(key.default, float) and _is_whole(value):
        value = float(value)
    if not isinstance(key.accepts, str):
        if not key.ok(value):
            raise UserError(f"config.{name} is {value!r}{nearest(value, key.accepts)}")
    elif not key.ok(value):
        raise UserError(f"config.{name} is {value!r}; it takes {key.accepts}")
    return value


def check_key(name: str) -> None:
    """Raises UserError, which names the nearest key, where `name` ("a.b") is no key."""
    if name in KEYS:
        return
    close = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.4)
    if not close:
        # Right name, wrong group: `config.batch_size` for `data.batch_size`.
        close = [key for key in KEYS if key.split(".")[-1] == name.split(".")[-1]]
    hint = f"did you mean {close[0]!r}? " if close else ""
    groups = sorted({key.split(".")[0] for key in KEYS})
    raise UserError(f"no config key {name!r}; {hint}At the top there are: {', '.join(groups)}")


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
