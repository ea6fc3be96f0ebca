"""The one exception that stands for a mistake of the user rather than a fault of ours."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong setting, a missing file, data that cannot be used.

    Its message names what was given, what is accepted and the way out. `autogrow_jax.main` prints
    it without a traceback; every other exception keeps its traceback.
    """


class DivergedError(UserError):
    """The loss became NaN or infinite; says in which epoch and step."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, then all of them.

    >>> "no set 'mnits'" + nearest("mnits", ["mnist", "svhn"])
    "no set 'mnits'; did you mean 'mnist'? Known: mnist, svhn"
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"; {hint}Known: {', '.join(known)}"
