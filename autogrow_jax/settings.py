"""The settings of a run: a config that users change, and the frozen form of it that a run uses.

`default_config()` has all keys of the table, for config files and notebooks to change;
`build.resolve` checks the changed config and makes `Settings` of it.

python -m autogrow_jax.settings > docs/settings.md
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_collections
from flax import traverse_util

from autogrow_jax import settings_table as table
from autogrow_jax.errors import UserError, nearest, show
from autogrow_jax.settings_table import Key

# JAX takes a seed modulo this, so two larger ones could be the same run.
_SEEDS = 2**32
# What does not fit into 64 bits is no number of epochs, blocks or images.
_TOO_LARGE = 10**18


@dataclass(frozen=True)
class Settings:
    """All keys of a run, checked: `settings.growth.interval` is `config.growth.interval`."""

    # fmt: off
    mode: str = table.choice("grow", ("grow", "scratch", "evaluate"),
        "grow and fine-tune, train `model.depths` as they are, or test the newest checkpoint")
    seed: int = table.key(0, f"a whole number from 0 to {_SEEDS - 1}",
        lambda v: table.is_whole(v) and 0 <= v < _SEEDS, "of all randomness")
    parallel: str = table.choice("jit", ("jit", "pmap"),
        "batch statistics of the whole batch (`jit`) or of each device's part (`pmap`)")
    num_devices: int = table.whole(0, 0, "", "how many devices to use", "0 means all there are")
    compilation_cache: str = table.text("",
        "a folder for compiled programs, '' for ~/.cache/autogrow_jax/compiled, or 'none'",
        "where another start finds what was compiled; `''` is where JAX keeps it already, if it"
        " does", free=True)
    # fmt: on
    model: table.Model = field(default_factory=table.Model)
    data: table.Data = field(default_factory=table.Data)
    growth: table.Growth = field(default_factory=table.Growth)
    optimizer: table.Optimizer = field(default_factory=table.Optimizer)
    finetune: table.Finetune = field(default_factory=table.Finetune)
    checkpoint: table.Checkpoint = field(default_factory=table.Checkpoint)
    snapshots: table.Snapshots = field(default_factory=table.Snapshots)
    log: table.Log = field(default_factory=table.Log)

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values in the order of their names, as config.json has them."""
        flat = traverse_util.flatten_dict(dataclasses.asdict(self), sep=".")
        return nest(dict(sorted(flat.items())))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> "Settings":
        """Makes settings of {"a.b": value}, all checked; see `build.resolve`."""
        given = nest(values)
        parts: dict[str, Any] = {part.name: part.type for part in dataclasses.fields(cls)}
        return cls(**{k: parts[k](**v) if isinstance(v, dict) else v for k, v in given.items()})


# A config where it comes in: what users write, checked by `build.resolve`.
Config: TypeAlias = ml_collections.ConfigDict | Mapping[str, Any] | Settings


def _collect_keys(section: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    for part in dataclasses.fields(section):
        if "key" in part.metadata:
            yield prefix + part.name, part.metadata["key"]
        else:
            yield from _collect_keys(part.type, f"{prefix}{part.name}.")


KEYS: dict[str, Key] = dict(_collect_keys(Settings))
DEFAULTS = {name: key.default for name, key in KEYS.items()}
FREE_KEYS = {name for name, key in KEYS.items() if key.free}


def default_config() -> ml_collections.ConfigDict:
    """The paper's recipe with held-out validation, locked so that a misspelt key is refused."""
    # Checks of type are `build.resolve`'s: ml_collections' own do not name the key.
    config = ml_collections.ConfigDict(nest(DEFAULTS), type_safe=False)
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
        if is_group and name.count(".") < 2:
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def named(config: Config) -> dict[str, Any]:
    """The keys that a config sets to another value than their default, {"a.b": value}."""
    # Compared as they are written: the config is not checked yet, and may hold NumPy's arrays.
    flat = flatten(config)
    return {name: value for name, value in flat.items() if repr(value) != repr(KEYS[name].default)}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep=".")


def differences(old: Config, new: Config) -> list[str]:
    """Lines "key: old -> new" for keys that may not change between a run and its resumption."""
    # A key that is younger than the run had the value that is now its default.
    before, after = (DEFAULTS | flatten(config) for config in (old, new))
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
    raise UserError(f"no config key {show(name)}; {hint}{known}")


def check_value(name: str, value: Any) -> Any:
    """The value of key `name` in its one form: tuples for lists, Python's numbers for NumPy's."""
    key = KEYS[name]
    if value is None and key.default is None:
        return None
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays, from a notebook's sweep.
        value = value.tolist()
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(key.default, tuple) and table.is_whole(value):
        value = (value,)
    if isinstance(key.default, float | None) and table.is_whole(value):
        value = float(value) if abs(value) < 10**300 else math.inf
    numbers = value if isinstance(value, tuple) else (value,)
    if any(table.is_whole(number) and abs(number) >= _TOO_LARGE for number in numbers):
        raise UserError(f"config.{name} is {show(value)}; no number may have more than 18 digits")
    if key.ok(value):
        return value
    if isinstance(key.accepts, str):
        raise UserError(f"config.{name} is {show(value)}; it takes {key.accepts}")
    raise UserError(f"config.{name} is {show(value)}{nearest(value, key.accepts)}")


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
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe_keys())
