"""HTML from Python in which nothing can be forgotten to be escaped."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from autogrow_jax.errors import printable

_VOID = {"img", "meta"}
# What HTML has no place for, such as the bell in a name.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_NUMBER = re.compile(r"[-−→±\d.,: ]*[kMGT%]?")


class Markup(str):
    """HTML; every other text is escaped where it becomes part of it."""


def escape(content: Any) -> Markup:
    """Makes HTML of a text, a number, HTML, or several of these; None and False are nothing."""
    if isinstance(content, Markup):
        return content
    if content is None or content is False:
        return Markup()
    if isinstance(content, Iterable) and not isinstance(content, str):
        return Markup("".join(map(escape, content)))
    return Markup(html.escape(_CONTROL.sub("\ufffd", printable(str(content)))))


def tag(tag_name: str, /, *content: Any, **attributes: Any) -> Markup:
    """An element; `class_` is its class, `aria_label` aria-label, True an attribute without value.

    >>> tag("a", "cats & <dogs>", href="#pets", class_="link")
    '<a href="#pets" class="link">cats &amp; &lt;dogs&gt;</a>'
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if tag_name in _VOID:
        return Markup(f"<{tag_name}{given}>")
    return Markup(f"<{tag_name}{given}>{escape(content)}</{tag_name}>")


def paragraph(*content: Any, **attributes: Any) -> Markup:
    """A paragraph of words."""
    return tag("p", *content, **attributes)


def note(*content: Any) -> Markup:
    """A paragraph about what is missing."""
    return tag("p", *content, class_="note")


def details(summary: Any, content: Any, is_open: bool = False) -> Markup:
    """What is behind a click or a key."""
    return tag("details", tag("summary", summary), content, open=is_open)


def scrolled(content: Any, label: str) -> Markup:
    """What may be wider than the screen and is then moved, by keys too; `label` names it."""
    return tag("div", content, class_="wide", role="region", aria_label=label, tabindex="0")


def table(label: str, head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table; the first cell of a row is its head, columns of numbers are set to the right."""
    rows = list(rows)
    columns = zip(*rows, strict=True)
    sides = [
        "n" if i and all(_NUMBER.fullmatch(str(cell)) for cell in column) else None
        for i, column in enumerate(columns)
    ]
    top = [tag("th", cell, scope="col", class_=n) for cell, n in zip(head, sides, strict=True)]
    body = (
        [tag("th", row[0], scope="row")]
        + [tag("td", cell, class_=n) for cell, n in zip(row[1:], sides[1:], strict=True)]
        for row in rows
    )
    whole = tag("thead", tag("tr", top)), tag("tbody", (tag("tr", cells) for cells in body))
    return scrolled(tag("table", *whole), label)
