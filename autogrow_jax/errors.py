"""Mistakes of the user, and the names that users choose from and add to."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class UserError(ValueError):
    """A wrong setting, a missing file, data that cannot be used.

    Its message names what was given, what is accepted and the way out. `autogrow_jax.main` prints
    it without a traceback; every other exception keeps its traceback.
    """

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


class DivergedError(UserError):
    """The loss became NaN or infinite; says in which epoch and step."""


def printable(text: str) -> str:
    """Spells out what no terminal takes: bytes that are no Unicode, signs that control it."""
    return _CONTROL.sub(lambda sign: ascii(sign[0])[1:-1], text)


def show(value: object) -> str:
    """Spells a value as Python does, or the start of it where that is long."""
    try:
        text = repr(value)
    except Exception:  # Lists in lists in lists, or a number of thousands of digits.
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= 200 else f"{text[:200]}..."


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, then all of them.

    >>> "no set 'mnits'" + nearest("mnits", ["mnist", "svhn"])
    "no set 'mnits'; did you mean 'mnist'? Known: mnist, svhn"
    """
    known = list(known)
    close = difflib.get_close_matches(name[:200], known, n=1) if isinstance(name, str) else []
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"; {hint}Known: {', '.join(known)}"


class Registry(dict[str, T]):
    """Holds what a name of a config stands for, a `what`; users add their own with `register`."""

    def __init__(self, what: str, entries: Mapping[str, T] | None = None):
        super().__init__(entries or {})
        self.what = what
        self.settings: dict[str, Mapping[str, Any]] = {}  # Of users' own: {name: default}.

    def register(self, name: str, entry: T, settings: Mapping[str, Any] | None = None) -> None:
        """Adds an entry; UserError where the name is taken."""
        if name in self:
            article = "an" if self.what[0] in "aeiou" else "a"
            raise UserError(f"there is {article} {self.what} {name!r} already; choose another name")
        self[name], self.settings[name] = entry, dict(settings or {})

    def find(self, name: str) -> T:
        """Returns the entry of a name; UserError, with the nearest name, where there is none."""
        if name not in self:
            raise UserError(f"no {self.what} {name!r}{nearest(name, self)}")
        return self[name]
