"""The table of all keys of a config: defaults, and what each accepts."""

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.growth.initializers import INITIALIZERS
from autogrow_jax.growth.registry import POLICIES
from autogrow_jax.models.blocks import BN_SCALE_INITS, CONVOLUTIONS, KERNEL_INITS
from autogrow_jax.models.network import FAMILIES, STEMS
from autogrow_jax.optim import OPTIMIZERS, SCHEDULES

MODES = ("grow", "scratch", "evaluate")
PARALLEL = ("jit", "pmap")

# Keys that change what is seen or kept, not what is computed: a resumed run may change them.
FREE_KEYS = {
    "compilation_cache",
    "data.dir",
    "data.cache_dir",
    "growth.compile_ahead",
    "checkpoint.every",
    "checkpoint.keep",
    "snapshots.every",
    "log.progress",
    "log.tensorboard",
    "log.plot_every",
}
# JAX takes a seed modulo this, so two larger ones could be the same run.
_SEEDS = 2**32


class Key(NamedTuple):
    """Default of a key, what it accepts (words, or a collection of names), and the test for it."""

    default: Any
    accepts: str | Iterable[str]
    ok: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(default: int, least: int, unit: str = "", meaning: str = "") -> Key:
    words = f"a whole number{unit and f' of {unit}'}, at least {least}{meaning}"
    return Key(default, words, lambda v: _is_whole(v) and v >= least)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_validation(value: Any) -> bool:
    if value in ("held-out", "test"):
        return True
    try:
        return not isinstance(value, bool) and 0 < float(value) < 1
    except (TypeError, ValueError):
        return False


def _number(default: float | None, words: str, ok: Callable[[float], bool]) -> Key:
    return Key(default, f"a number {words}", lambda v: _is_number(v) and ok(v))


def _limit(unit: str) -> Key:
    return _number(0.0, f"of {unit}, at least 0; 0 is no limit", lambda v: v >= 0)


def _choice(default: str, accepted: Any) -> Key:
    # The names themselves, not words made of them: users register more of them later.
    return Key(default, accepted, lambda v: isinstance(v, str) and v in accepted)


def _flag(default: bool) -> Key:
    return Key(default, "True or False", lambda v: isinstance(v, bool))


def _depths(default: tuple[int, ...], meaning: str, least: int = 1) -> Key:
    def ok(value):
        return isinstance(value, tuple | list) and all(_is_whole(v) and v >= least for v in value)

    return Key(default, f"whole numbers of at least {least}, one for each stage{meaning}", ok)


def _text(default: str, words: str) -> Key:
    return Key(default, words, lambda v: isinstance(v, str))


KEYS: dict[str, Key] = {
    "mode": _choice("grow", MODES),
    "seed": Key(
        0, f"a whole number from 0 to {_SEEDS - 1}", lambda v: _is_whole(v) and 0 <= v < _SEEDS
    ),
    "parallel": _choice("jit", PARALLEL),
    "num_devices": _whole(0, 0, meaning="; 0 means all there are"),
    "compilation_cache": _text(
        "", "a folder for compiled programs, '' for ~/.cache/autogrow_jax/compiled, or 'none'"
    ),
    "model.family": _choice("plain3", FAMILIES),
    "model.depths": _depths((), "; none means one block each"),
    "model.dtype": _choice("float32", ("float32", "bfloat16")),
    "model.stem": _choice("small", STEMS),
    "model.bn_scale_init": _choice("ones", BN_SCALE_INITS),
    "model.kernel_init": _choice("torch", KERNEL_INITS),
    "model.remat": _flag(False),
    "model.convolution": _choice("auto", ("auto", *CONVOLUTIONS)),
    "data.name": _text(
        "digits",
        "digits, mnist, fashion_mnist, cifar10, cifar100, svhn, tfds:NAME, npz:PATH or folder:PATH",
    ),
    "data.dir": _text("", "the folder of the set's files"),
    "data.cache_dir": _text("", "the folder for decoded sets; none means data.dir"),
    "data.batch_size": _whole(128, 1, "images"),
    "data.fraction": _number(1.0, "above 0 and up to 1", lambda v: 0 < v <= 1),
    "data.validation": Key(
        "held-out",
        "'held-out', 'test' (the paper's protocol) or a fraction of train such as '0.2'",
        _is_validation,
    ),
    "data.validation_fraction": _number(0.1, "between 0 and 1", lambda v: 0 < v < 1),
    "data.image_size": _whole(0, 0, "pixels", "; 0 means as it is"),
    "data.crop_padding": _whole(-1, -1, "pixels", "; -1 means the set's own"),
    "data.flip": _choice("auto", ("auto", "yes", "no")),
    "data.on_device": _choice("auto", ("auto", "yes", "no")),
    "growth.policy": _choice("periodic", POLICIES),
    "growth.interval": _whole(3, 1, "epochs"),
    "growth.window": _whole(100, 1, "epochs"),
    "growth.threshold": _number(0.05, "of at least 0, in percentage points", lambda v: v >= 0),
    "growth.max_gap": _number(5.0, "of at least 0, in percentage points", lambda v: v >= 0),
    "growth.price": _number(
        0.5, "of at least 0, in percentage points for a doubling of FLOPs", lambda v: v >= 0
    ),
    "growth.metric": _choice("max", ("max", "avg")),
    "growth.mode": _choice("group", ("group", "all", "sub", "rate")),
    "growth.sub": _depths((), "; blocks that mode 'sub' adds", least=0),
    "growth.rate": _number(0.4, "of at least 0", lambda v: v >= 0),
    "growth.max_depths": _depths((), "; one number serves all, none means 200"),
    "growth.max_epochs": _whole(4000, 1, "epochs"),
    "growth.max_params": _limit("parameters"),
    "growth.max_flops": _limit("FLOPs for one image"),
    "growth.max_seconds": _limit("seconds"),
    "growth.max_latency": _limit("milliseconds for one image"),
    "growth.initializer": _choice("gaussian", INITIALIZERS),
    "growth.capacity": _whole(
        4, 0, "blocks in each stage that the first program has room for", "; 0 is a program a depth"
    ),
    "growth.compile_ahead": _flag(True),
    "growth.reset_optimizer": _flag(False),
    "optimizer.name": _choice("sgd", OPTIMIZERS),
    "optimizer.learning_rate": _number(
        None, "above 0; none means the family's own", lambda v: v > 0
    ),
    "optimizer.momentum": _number(0.9, "from 0 to below 1", lambda v: 0 <= v < 1),
    "optimizer.nesterov": _flag(False),
    "optimizer.weight_decay": _number(5e-4, "of at least 0", lambda v: v >= 0),
    "optimizer.ema": _number(0.0, "from 0 (none) to below 1, such as 0.999", lambda v: 0 <= v < 1),
    "finetune.epochs": _whole(200, 0, "epochs"),
    "finetune.total_epochs": _whole(0, 0, "epochs", "; 0 means no total"),
    "finetune.schedule": _choice("auto", SCHEDULES),
    "checkpoint.every": _whole(1, 1, "epochs"),
    "checkpoint.keep": _whole(2, 1),
    "snapshots.every": _whole(0, 0, "epochs", "; 0 means none"),
    "log.progress": _flag(True),
    "log.tensorboard": _flag(True),
    "log.plot_every": _whole(0, 0, "epochs", "; 0 means at the end only"),
}


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
