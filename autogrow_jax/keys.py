"""What a key is made of: default, what it accepts, words; and a maker for each kind of value."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any, NamedTuple

from autogrow_jax.errors import UserError, show

# What the type of a default says of a setting.
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


class Key(NamedTuple):
    """What is known of a key. For a setting of one's own, what is left out follows its default."""

    default: Any  # Where a config says nothing.
    accepts: str | Iterable[str] = ""  # In words, or the collection of names.
    ok: Callable[[Any], bool] = lambda value: True  # Tells whether a value is accepted.
    help: str = ""  # What it is, in Markdown.
    # Whether a resumed run may change it: it changes what is seen or kept, not what is computed.
    free: bool = False
    before: Any = None  # What runs did that are older than the key, if not the default.

    @property
    def was(self) -> Any:
        return self.default if self.before is None else self.before


def key(*args: Any, **kwargs: Any) -> Any:
    """Makes the field of a key; the arguments are `Key`'s."""
    made = Key(*args, **kwargs)
    return field(default=made.default, metadata={"key": made})


def is_whole(value: Any) -> bool:
    """Tells whole numbers from others, and from True and False."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(default: int, least: int, unit: str, help: str, note: str = "", **more: Any) -> Any:
    """Of a whole number of something, at least `least`; `note` says what a special one means."""
    words = f"a whole number{unit and f' of {unit}'}, at least {least}{note and f'; {note}'}"
    return key(default, words, lambda v: is_whole(v) and v >= least, help, **more)


def number(
    default: Any, words: str, help: str, ok: Callable[[float], bool] = lambda v: v >= 0, **more: Any
) -> Any:
    """Of a finite number that `ok` accepts, in words such as "above 0"."""

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and ok(value)

    return key(default, f"a number {words}", accepts, help, **more)


def choice(default: str | None, names: Iterable[str], help: str, **more: Any) -> Any:
    """Of one of some names: themselves, not words made of them, as users register more later."""
    return key(default, names, lambda v: isinstance(v, str) and v in names, help, **more)


def flag(default: bool, help: str, **more: Any) -> Any:
    """Of yes or no."""
    return key(default, "True or False", lambda v: isinstance(v, bool), help, **more)


def blocks(note: str, help: str, least: int = 1) -> Any:
    """Of a number of blocks for each stage, none by default."""

    def accepts(value: Any) -> bool:
        return isinstance(value, tuple) and all(is_whole(v) and v >= least for v in value)

    words = f"whole numbers of at least {least}, one for each stage{note}"
    return key((), words, accepts, help)


def text(default: str, words: str, help: str, **more: Any) -> Any:
    """Of any text."""
    return key(default, words, lambda v: isinstance(v, str), help, **more)


def is_validation(value: Any) -> bool:
    """Tells what `data.validation` accepts."""
    if value in ("held-out", "test"):
        return True
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return 0 < float(value) < 1
    except ValueError:
        return False


def is_colour(value: Any) -> bool:
    """Tells what `data.background` accepts."""
    return isinstance(value, str) and bool(re.fullmatch("white|black|#[0-9a-fA-F]{6}", value))


def complete(name: str, given: Any) -> Key:
    """Fills in what a setting of one's own, a `Key` or a default alone, leaves to its default."""
    key = given if isinstance(given, Key) else Key(given)
    default = tuple(key.default) if isinstance(key.default, list) else key.default
    one = next(iter(default), 0) if isinstance(default, tuple) else default
    kind = _KINDS.get(type(one), "True or False, a number, a text, or a tuple of one of them")
    more = f"{kind}, or several" if isinstance(default, tuple) else kind

    def ok(value: Any) -> bool:
        values = value if isinstance(default, tuple) else (value,)
        is_kind = isinstance(values, tuple) and all(type(v) is type(one) for v in values)
        is_finite = is_kind and all(math.isfinite(v) for v in values if isinstance(v, float))
        is_named = isinstance(key.accepts, str) or value in key.accepts
        return is_finite and is_named and key.ok(value)

    if name.count(".") != 3 or not name.rpartition(".")[2].isidentifier():
        raise UserError(f"config.{name} cannot be a key; name it as Python does, without dots")
    if type(one) not in _KINDS or not ok(default):
        raise UserError(f"config.{name} starts as {show(default)}; it takes {key.accepts or more}")
    return key._replace(default=default, accepts=key.accepts or more, ok=ok)
