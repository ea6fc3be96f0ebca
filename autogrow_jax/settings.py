"""The settings of a run: a config that users change, and the frozen form of it that a run uses.

`default_config()` has all keys of the table, for config files and notebooks to change;
`build.resolve` checks the changed config and makes `Settings` of it.

python -m autogrow_jax.settings > docs/settings.md
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_collections
from flax import traverse_util

from autogrow_jax import keys
from autogrow_jax import settings_table as table
from autogrow_jax.errors import UserError, nearest, show
from autogrow_jax.growth import POLICIES
from autogrow_jax.keys import Key
from autogrow_jax.optim import LOSSES
from autogrow_jax.own import NOTHING, Own, ask_again

# JAX takes a seed modulo this, so two larger ones could be the same run.
_SEEDS = 2**32
# What does not fit into 64 bits is no number of epochs, blocks or images.
_TOO_LARGE = 10**18
# The settings of a policy that users registered are `growth.own.POLICY.SETTING`.
OWN = "growth.own."
# What the command line takes for yes and no.
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Settings:
    """All keys of a run, checked: `settings.growth.interval` is `config.growth.interval`."""

    # fmt: off
    mode: str = keys.choice("grow", ("grow", "scratch", "evaluate"),
        "grow and fine-tune, train `model.depths` as they are, or test the newest checkpoint")
    seed: int = keys.key(0, f"a whole number from 0 to {_SEEDS - 1}",
        lambda v: keys.is_whole(v) and 0 <= v < _SEEDS, "of all randomness")
    parallel: str = keys.choice("jit", ("jit", "pmap"),
        "batch statistics of the whole batch (`jit`) or of each device's part (`pmap`)")
    gradient_accumulation: int = keys.whole(1, 1, "parts",
        "parts of a batch that a step takes one after the other, where the whole does not fit")
    deterministic: bool = keys.flag(False,
        "have a GPU compute the same bits at each start, somewhat slower; a CPU always does")
    num_devices: int = keys.whole(0, 0, "", "how many devices to use", "0 means all there are")
    compilation_cache: str = keys.text("",
        "a folder for compiled programs, '' for ~/.cache/autogrow_jax/compiled, or 'none'",
        "where another start finds what was compiled; `''` is where JAX keeps it already, if it"
        " does", free=True)
    loss: str = keys.choice("cross_entropy", LOSSES,
        "what training makes small, for each image; `cross_entropy` of the softmax, in nats")
    init_from: str = keys.text("", "the workdir of a finished run",
        "start from the net that it found, of the same family, on the same or other images: its"
        " depths are where growth starts, classes of the same name keep their outputs")
    on_divergence: str = keys.choice("stop", ("stop", "restart"),
        "where the loss is no longer finite: `stop`, or `restart` from the last checkpoint with"
        " half the learning rate, at most five times", free=True)
    # fmt: on
    model: table.Model = field(default_factory=table.Model)
    data: table.Data = field(default_factory=table.Data)
    growth: table.Growth = field(default_factory=table.Growth)
    optimizer: table.Optimizer = field(default_factory=table.Optimizer)
    finetune: table.Finetune = field(default_factory=table.Finetune)
    checkpoint: table.Checkpoint = field(default_factory=table.Checkpoint)
    snapshots: table.Snapshots = field(default_factory=table.Snapshots)
    log: table.Log = field(default_factory=table.Log)
    own: Own = NOTHING

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values in the order of their names, as config.json has them."""
        # What is the user's own is not copied by `asdict`: a data set may be large.
        plain = dataclasses.asdict(dataclasses.replace(self, own=NOTHING))
        del plain["own"]
        flat = traverse_util.flatten_dict(plain, sep=".")
        return nest(dict(sorted(flat.items())))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any], own: Own = NOTHING) -> "Settings":
        """Makes settings of {"a.b": value}, all checked; see `build.resolve`."""
        given = nest(values)
        parts: dict[str, Any] = {part.name: part.type for part in dataclasses.fields(cls)}
        made = {k: parts[k](**v) if isinstance(v, dict) else v for k, v in given.items()}
        return cls(**made, own=own)


# A config where it comes in: what users write, checked by `build.resolve`.
Config: TypeAlias = ml_collections.ConfigDict | Mapping[str, Any] | Settings


def _collect_keys(section: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    for part in dataclasses.fields(section):
        if "key" in part.metadata:
            yield prefix + part.name, part.metadata["key"]
        elif dataclasses.is_dataclass(part.type):
            yield from _collect_keys(part.type, f"{prefix}{part.name}.")


# Every key of a config, by its full name.
KEYS: dict[str, Key] = dict(_collect_keys(Settings))
DEFAULTS = {name: key.default for name, key in KEYS.items()}
FREE_KEYS = {name for name, key in KEYS.items() if key.free}


def all_keys() -> dict[str, Key]:
    """`KEYS` and those of the policies that users registered, `growth.own.POLICY.SETTING`.

    A setting is given as a `Key`, or as a default alone, whose type then says what it takes.

    Raises:
      UserError: for a default that is no setting, or that its own key does not take.
    """
    return KEYS | {
        (name := f"{OWN}{policy}.{setting}"): keys.complete(name, given)
        for policy in POLICIES
        for setting, given in POLICIES.settings.get(policy, {}).items()
    }


def default_config() -> ml_collections.ConfigDict:
    """The package's defaults, locked so that a misspelt key is refused; the paper's: `configs/`."""
    # Checks of type are `build.resolve`'s: ml_collections' own do not name the key.
    defaults = {name: key.default for name, key in all_keys().items()}
    config = ml_collections.ConfigDict(nest(defaults), type_safe=False)
    config.optimizer.learning_rate = ml_collections.config_dict.placeholder(float)
    return config.lock()


def flatten(config: Config) -> dict[str, Any]:
    """Settings as {"a.b": value}, of a `Config`, nested or flat; UserError of anything else."""
    if isinstance(config, ml_collections.ConfigDict | Settings):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise UserError(
            f"the config is {show(config)}, not a ConfigDict; start from config.default_config()"
        )
    return dict(_flatten(config, ""))


def _flatten(group: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(group, ml_collections.ConfigDict):
        group = group.to_dict()
    for part, value in group.items():
        name = f"{prefix}{part}"
        # No key lies deeper; what does is a value, wrong as it may be, or holds itself.
        is_group = isinstance(value, Mapping | ml_collections.ConfigDict) and name not in KEYS
        if is_group and name.count(".") < (3 if name.startswith(OWN) else 2):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def changed(config: Config) -> dict[str, Any]:
    """The keys that a config sets to another value than their default, {"a.b": value}."""
    # Compared as they are written: the config is not checked yet, and may hold NumPy's arrays.
    known, flat = all_keys(), flatten(config).items()
    return {k: v for k, v in flat if k not in known or repr(v) != repr(known[k].default)}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep=".")


def differences(old: Config, new: Config) -> list[str]:
    """Lines "key: old -> new" for keys that may not change between a run and its resumption."""
    known = all_keys()
    filled = {name: key.was for name, key in known.items()}
    before, after = (filled | flatten(config) for config in (old, new))
    lines = []
    for name in sorted(name for name in before if name not in known or not known[name].free):
        # JSON knows no tuples.
        was, now = (tuple(v) if isinstance(v, list) else v for v in (before[name], after.get(name)))
        if was != now:
            lines.append(f"{name}: {was!r} -> {now!r}{ask_again(name, was)}")
    return lines


def check_key(name: str, later: bool = False) -> None:
    """Raises UserError, which names the nearest key, where `name` ("a.b") is no key.

    `later` passes settings of a policy that a config file, which is not read yet, may register.
    """
    if name in all_keys():
        return
    policy, _, setting = name.removeprefix(OWN).partition(".")
    if name.startswith(OWN) and setting:
        if later and policy not in POLICIES:
            return
        POLICIES.find(policy)
        settings = POLICIES.settings.get(policy)
        has = nearest(setting, settings) if settings else f"; {policy!r} has no settings of its own"
        raise UserError(f"no config key {show(name)}{has}")
    groups = sorted({key.split(".")[0] for key in KEYS})
    group, *leaves = name.split(".")
    within = [key for key in KEYS if key.startswith(f"{group}.")]
    if within and not leaves:
        raise UserError(f"config.{name} is a group of keys: {', '.join(within)}")
    # The right name in the wrong group first: `batch_size` for `data.batch_size`.
    close = [key for key in all_keys() if key.split(".")[-1] == name.split(".")[-1]]
    close = close or difflib.get_close_matches(name, KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    known = f"{group!r} has: {', '.join(within)}" if within else f"Known: {', '.join(groups)}"
    raise UserError(f"no config key {show(name)}; {hint}{known}")


def check_value(name: str, value: Any) -> Any:
    """The value of key `name` in its one form: tuples for lists, Python's numbers for NumPy's.

    A text, too, for a setting of one's own: the command line did not know yet what it takes.
    """
    key = all_keys()[name]
    if name not in KEYS and isinstance(value, str):
        value = parse_value(name, value)
    if value is None and key.default is None:
        return None
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays, from a notebook's sweep.
        value = value.tolist()
    if isinstance(value, list):
        value = tuple(value)
    several = isinstance(key.default, tuple)
    like = next(iter(key.default), 0) if several else key.default
    if several and (keys.is_whole(value) or type(value) is type(like)):
        value = (value,)
    if isinstance(like, float | None):
        value = tuple(map(_as_float, value)) if isinstance(value, tuple) else _as_float(value)
    numbers = value if isinstance(value, tuple) else (value,)
    if any(keys.is_whole(number) and abs(number) >= _TOO_LARGE for number in numbers):
        raise UserError(f"config.{name} is {show(value)}; no number may have more than 18 digits")
    if key.ok(value):
        return value
    if isinstance(key.accepts, str):
        raise UserError(f"config.{name} is {show(value)}; it takes {key.accepts}")
    raise UserError(f"config.{name} is {show(value)}{nearest(value, key.accepts)}")


def _as_float(value: Any) -> Any:
    """A whole number as a float, which one of hundreds of digits is too large for; else `value`."""
    if not keys.is_whole(value):
        return value
    return float(value) if abs(value) < 10**300 else math.inf


def parse_value(name: str, text: str) -> Any:
    """The value of config key `name` that `text` stands for; other text is for `resolve` to refuse.

    Numbers of several stages are "2,1,1", "(2, 1, 1)" or, as the paper names nets, "2-1-1".
    """
    default = all_keys()[name].default
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return _WORDS.get(text.lower(), text)
    try:
        if isinstance(default, tuple):
            separator = "-" if re.fullmatch(r"\d+(-\d+)+", text) else ","
            kind: Any = type(default[0]) if default else int
            parts = text.strip("()[] ").removesuffix(",")
            return tuple(kind(part.strip()) for part in parts.split(separator)) if parts else ()
        if isinstance(default, int):
            return int(text)
        return None if default is None and text.lower() == "none" else float(text)
    except ValueError:
        return text


def describe_keys() -> str:
    """The table of keys in Markdown, which is docs/settings.md."""
    lines = [
        "# Settings\n",
        "All keys of a config: `config.KEY` in Python, `--config.KEY=VALUE` on the command line.",
        "This file is the output of `python -m autogrow_jax.settings`.\n",
        "| key | default | takes | what it is |\n|---|---|---|---|",
    ]
    for name, key in KEYS.items():
        accepts = key.accepts
        words = accepts if isinstance(accepts, str) else ", ".join(f"`{word}`" for word in accepts)
        lines.append(f"| `{name}` | `{key.default!r}` | {words} | {key.help} |")
    return "\n".join([*lines, f"\n{table.OWN_HELP}"])


if __name__ == "__main__":
    print(describe_keys())
