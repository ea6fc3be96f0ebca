"""The settings of a run: the table of keys, and the frozen form of it that a run uses.

Every key is a field of `Settings` or of one of its sections, with its default and what it accepts.
`default_config()` has them all, for config files and notebooks to change; `build.resolve` checks
the changed config and makes `Settings` of it.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_collections
from flax import traverse_util

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.initializers import INITIALIZERS
from autogrow_jax.growth.registry import POLICIES
from autogrow_jax.models.blocks import BN_SCALE_INITS, CONVOLUTIONS, KERNEL_INITS
from autogrow_jax.models.network import FAMILIES, STEMS
from autogrow_jax.optim import OPTIMIZERS, SCHEDULES

# JAX takes a seed modulo this, so two larger ones could be the same run.
_SEEDS = 2**32


class Key(NamedTuple):
    """What is known of a key.

    Attributes:
      default: its value where a config says nothing.
      accepts: in words, or the collection of names.
      ok: tells whether a value is accepted.
      free: whether a resumed run may change it, as it changes what is seen or kept, not what is
        computed.
    """

    default: Any
    accepts: str | Iterable[str]
    ok: Callable[[Any], bool]
    free: bool = False


def _key(default: Any, accepts: Any, ok: Callable[[Any], bool], free: bool = False) -> Any:
    return field(default=default, metadata={"key": Key(default, accepts, ok, free)})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_validation(value: Any) -> bool:
    if value in ("held-out", "test"):
        return True
    try:
        return not isinstance(value, bool) and 0 < float(value) < 1
    except (TypeError, ValueError):
        return False


def _whole(default: int, least: int, unit: str = "", meaning: str = "", free: bool = False) -> Any:
    words = f"a whole number{unit and f' of {unit}'}, at least {least}{meaning}"
    return _key(default, words, lambda v: _is_whole(v) and v >= least, free)


def _number(default: float | None, words: str, ok: Callable[[float], bool]) -> Any:
    return _key(default, f"a number {words}", lambda v: _is_number(v) and ok(v))


def _limit(unit: str) -> Any:
    return _number(0.0, f"of {unit}, at least 0; 0 is no limit", lambda v: v >= 0)


def _choice(default: str, accepted: Iterable[str]) -> Any:
    # The names themselves, not words made of them: users register more of them later.
    return _key(default, accepted, lambda v: isinstance(v, str) and v in accepted)


def _flag(default: bool, free: bool = False) -> Any:
    return _key(default, "True or False", lambda v: isinstance(v, bool), free)


def _depths(default: tuple[int, ...], meaning: str, least: int = 1) -> Any:
    def ok(value: Any) -> bool:
        return isinstance(value, tuple | list) and all(_is_whole(v) and v >= least for v in value)

    return _key(default, f"whole numbers of at least {least}, one for each stage{meaning}", ok)


def _text(default: str, words: str, free: bool = False) -> Any:
    return _key(default, words, lambda v: isinstance(v, str), free)


@dataclass(frozen=True)
class Model:
    family: str = _choice("plain3", FAMILIES)
    depths: tuple[int, ...] = _depths((), "; none means one block each")
    dtype: str = _choice("float32", ("float32", "bfloat16"))
    stem: str = _choice("small", STEMS)
    bn_scale_init: str = _choice("ones", BN_SCALE_INITS)
    kernel_init: str = _choice("torch", KERNEL_INITS)
    remat: bool = _flag(False)
    convolution: str = _choice("auto", ("auto", *CONVOLUTIONS))


@dataclass(frozen=True)
class Data:
    name: str = _text(
        "digits",
        "digits, mnist, fashion_mnist, cifar10, cifar100, svhn, tfds:NAME, npz:PATH or folder:PATH",
    )
    dir: str = _text("", "the folder of the set's files", free=True)
    cache_dir: str = _text("", "the folder for decoded sets; none means data.dir", free=True)
    batch_size: int = _whole(128, 1, "images")
    fraction: float = _number(1.0, "above 0 and up to 1", lambda v: 0 < v <= 1)
    validation: str = _key(
        "held-out",
        "'held-out', 'test' (the paper's protocol) or a fraction of train such as '0.2'",
        _is_validation,
    )
    validation_fraction: float = _number(0.1, "between 0 and 1", lambda v: 0 < v < 1)
    image_size: int = _whole(0, 0, "pixels", "; 0 means as it is")
    crop_padding: int = _whole(-1, -1, "pixels", "; -1 means the set's own")
    flip: str = _choice("auto", ("auto", "yes", "no"))
    on_device: str = _choice("auto", ("auto", "yes", "no"))


@dataclass(frozen=True)
class Growth:
    policy: str = _choice("periodic", POLICIES)
    interval: int = _whole(3, 1, "epochs")
    window: int = _whole(100, 1, "epochs")
    threshold: float = _number(0.05, "of at least 0, in percentage points", lambda v: v >= 0)
    max_gap: float = _number(5.0, "of at least 0, in percentage points", lambda v: v >= 0)
    price: float = _number(
        0.5, "of at least 0, in percentage points for a doubling of FLOPs", lambda v: v >= 0
    )
    metric: str = _choice("max", ("max", "avg"))
    mode: str = _choice("group", ("group", "all", "sub", "rate"))
    sub: tuple[int, ...] = _depths((), "; blocks that mode 'sub' adds", least=0)
    rate: float = _number(0.4, "of at least 0", lambda v: v >= 0)
    max_depths: tuple[int, ...] = _depths((), "; one number serves all, none means 200")
    max_epochs: int = _whole(4000, 1, "epochs")
    max_params: float = _limit("parameters")
    max_flops: float = _limit("FLOPs for one image")
    max_seconds: float = _limit("seconds")
    max_latency: float = _limit("milliseconds for one image")
    initializer: str = _choice("gaussian", INITIALIZERS)
    capacity: int = _whole(
        4, 0, "blocks in each stage that the first program has room for", "; 0 is a program a depth"
    )
    compile_ahead: bool = _flag(True, free=True)
    reset_optimizer: bool = _flag(False)


@dataclass(frozen=True)
class Optimizer:
    name: str = _choice("sgd", OPTIMIZERS)
    learning_rate: float = _number(None, "above 0; none means the family's own", lambda v: v > 0)
    momentum: float = _number(0.9, "from 0 to below 1", lambda v: 0 <= v < 1)
    nesterov: bool = _flag(False)
    weight_decay: float = _number(0.0005, "of at least 0", lambda v: v >= 0)
    ema: float = _number(0.0, "from 0 (none) to below 1, such as 0.999", lambda v: 0 <= v < 1)


@dataclass(frozen=True)
class Finetune:
    epochs: int = _whole(200, 0, "epochs")
    total_epochs: int = _whole(0, 0, "epochs", "; 0 means no total")
    schedule: str = _choice("auto", SCHEDULES)

    def length(self, phase_start: int) -> int:
        """Epochs of fine-tuning that began with epoch `phase_start`, or of a run from scratch."""
        return self.total_epochs - phase_start if self.total_epochs else self.epochs


@dataclass(frozen=True)
class Checkpoint:
    every: int = _whole(1, 1, "epochs", free=True)
    keep: int = _whole(2, 1, free=True)


@dataclass(frozen=True)
class Snapshots:
    every: int = _whole(0, 0, "epochs", "; 0 means none", free=True)


@dataclass(frozen=True)
class Log:
    progress: bool = _flag(True, free=True)
    tensorboard: bool = _flag(True, free=True)
    plot_every: int = _whole(0, 0, "epochs", "; 0 means at the end only", free=True)


@dataclass(frozen=True)
class Settings:
    mode: str = _choice("grow", ("grow", "scratch", "evaluate"))
    seed: int = _key(
        0, f"a whole number from 0 to {_SEEDS - 1}", lambda v: _is_whole(v) and 0 <= v < _SEEDS
    )
    parallel: str = _choice("jit", ("jit", "pmap"))
    num_devices: int = _whole(0, 0, meaning="; 0 means all there are")
    compilation_cache: str = _text(
        "",
        "a folder for compiled programs, '' for ~/.cache/autogrow_jax/compiled, or 'none'",
        free=True,
    )
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    growth: Growth = field(default_factory=Growth)
    optimizer: Optimizer = field(default_factory=Optimizer)
    finetune: Finetune = field(default_factory=Finetune)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    snapshots: Snapshots = field(default_factory=Snapshots)
    log: Log = field(default_factory=Log)

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values, as config.json has them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Makes settings of checked values, nested or {"a.b": value}; see `build.resolve`."""
        nested = nest(flatten(values))
        sections = {name: section(**nested.pop(name, {})) for name, section in _SECTIONS.items()}
        return cls(**nested, **sections)


_SECTIONS: dict[str, Any] = {
    part.name: part.type for part in dataclasses.fields(Settings) if "key" not in part.metadata
}


def _collect_keys(section: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    for part in dataclasses.fields(section):
        if "key" in part.metadata:
            yield prefix + part.name, part.metadata["key"]
        else:
            yield from _collect_keys(part.type, f"{prefix}{part.name}.")


KEYS: dict[str, Key] = dict(_collect_keys(Settings))
FREE_KEYS = {name for name, key in KEYS.items() if key.free}


def default_config() -> ml_collections.ConfigDict:
    """All keys with their defaults, locked so that a misspelt one is refused.

    The defaults are the paper's recipe with held-out validation. `optimizer.learning_rate` None
    means the family's own rate; empty `model.depths` one block in every stage.
    """
    # Checks of type are `build.resolve`'s: ml_collections' own do not name the key.
    defaults = {name: key.default for name, key in KEYS.items()}
    config = ml_collections.ConfigDict(nest(defaults), type_safe=False)
    config.optimizer.learning_rate = ml_collections.config_dict.placeholder(float)
    return config.lock()


def flatten(config: Any) -> dict[str, Any]:
    """Settings as {"a.b": value}.

    Args:
      config: `Settings`, a ConfigDict, frozen or not, or dicts, nested or flat.

    Raises:
      UserError: where it is nothing of the kind.
    """
    if isinstance(config, ml_collections.ConfigDict | Settings):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise UserError(
            f"the config is {config!r}, not a ConfigDict; start from config.default_config()"
        )
    plain = {
        str(name): value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value
        for name, value in config.items()
    }
    return traverse_util.flatten_dict(plain, sep=".")


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep=".")


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


def check_key(name: str) -> None:
    """Raises UserError, which names the nearest key, where `name` ("a.b") is no key."""
    if name in KEYS:
        return
    groups = sorted({key.split(".")[0] for key in KEYS})
    group, *leaves = name.split(".")
    within = [key for key in KEYS if key.startswith(f"{group}.")]
    if within and not leaves:
        raise UserError(f"config.{name} is a group of keys: {', '.join(within)}")
    # The right name in the wrong group first: `batch_size` for `data.batch_size`.
    close = [key for key in KEYS if key.split(".")[-1] == name.split(".")[-1]]
    close = close or difflib.get_close_matches(name, KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    known = f"{group!r} has: {', '.join(within)}" if within else f"Known: {', '.join(groups)}"
    raise UserError(f"no config key {name!r}; {hint}{known}")


def check_value(name: str, value: Any) -> Any:
    """The value of key `name` in its one form: tuples for lists, Python's numbers for NumPy's.

    Raises:
      UserError: names the key, what it got, what it accepts.
    """
    key = KEYS[name]
    if value is None and key.default is None:
        return None
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays, from a notebook's sweep.
        value = value.tolist()
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(key.default, tuple) and _is_whole(value):
        value = (value,)
    if isinstance(key.default, float | None) and _is_whole(value):
        value = float(value)
    if key.ok(value):
        return value
    if isinstance(key.accepts, str):
        raise UserError(f"config.{name} is {value!r}; it takes {key.accepts}")
    raise UserError(f"config.{name} is {value!r}{nearest(value, key.accepts)}")
