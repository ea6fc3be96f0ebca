"""The parts of a report that show what the net answered: what it takes for what, and how sure."""

import os
from collections.abc import Iterator

import numpy as np

from autogrow_jax.data import Dataset
from autogrow_jax.errors import UserError
from autogrow_jax.report.facts import Facts
from autogrow_jax.report.figures import draw_calibration, draw_confusion, picture
from autogrow_jax.report.markup import Markup, details, note, paragraph, scrolled, table, tag
from autogrow_jax.reporting.numbers import round_percent
from autogrow_jax.reporting.predictions import Predictions

Sections = list[tuple[str, str, object]]

# Of more classes the confusion matrix is a picture.
_CLASSES_IN_TABLE = 24
# Of more classes no picture either: it would have more than a million dots.
_CLASSES_IN_PICTURE = 1000
_PAIRS, _PICTURES, _CLASSES = 12, 12, 12


def show_predictions(facts: Facts) -> Sections:
    """The sections, of the test part; one that says what is missing where nothing was kept."""
    title = "What it takes for what"
    try:
        found = Predictions.read(facts.workdir.test_predictions)
    except UserError as error:
        if not facts.workdir.test_predictions.exists():
            why = "a run keeps its answers when it ends; this one has kept none"
        else:
            why = str(error)
        return [("confusion", title, note(f"No predictions to show: {why}."))]
    images = _Images(facts.dataset, found)
    return [
        ("confusion", title, _show_confusion(found)),
        ("mistakes", "Worst mistakes", _show_mistakes(found, images, facts.no_pictures)),
        ("doubts", "Least certain answers", _show_doubts(found, images)),
        ("calibration", "How sure it is", _show_calibration(found)),
    ]


class _Images:
    """Finds the images of predictions in the data as they are now, by what is in them."""

    def __init__(self, dataset: Dataset | None, found: Predictions):
        self._part = dataset.test if dataset else None
        self._ids = found.ids
        self._rows: dict[int, int] = {}
        if self._part is not None and not np.array_equal(self._part.ids, found.ids):
            self._rows = {int(key): row for row, key in enumerate(self._part.ids)}

    def find(self, row: int) -> np.ndarray | None:
        """The image of a row of the predictions, where it is still there."""
        if self._part is None:
            return None
        if self._rows:
            row = self._rows.get(int(self._ids[row]), -1)
        elif not np.array_equal(self._part.ids[row : row + 1], self._ids[row : row + 1]):
            return None
        return None if row < 0 else self._part.images[row]


def _show_confusion(found: Predictions) -> Iterator[Markup]:
    names, wrong = found.class_names.tolist(), int(found.wrong.sum())
    yield paragraph(
        f"{wrong:,} of {len(found.labels):,} test images got a wrong answer."
        if wrong
        else f"All {len(found.labels):,} test images got the right answer."
    )
    small = len(names) <= _CLASSES_IN_PICTURE
    if small:
        matrix = found.confusion()
        if len(names) <= _CLASSES_IN_TABLE:
            yield tag("div", _matrix(matrix, names), _matrix(matrix, names, True), class_="pair")
        else:
            yield draw_confusion(matrix)
    if wrong:
        counts = np.bincount(found.labels, minlength=len(names))
        rows = [
            (names[true], names[answer], f"{n:,}", round_percent(100 * n / counts[true], 1))
            for true, answer, n in found.confused(_PAIRS)
        ]
        head = ("true", "answer", "times", "% of the class")
        yield table("Most confused pairs", head, rows)
    if small:
        yield _show_classes(matrix, names)


def _matrix(matrix: np.ndarray, names: list[str], in_percent: bool = False) -> Markup:
    """A confusion matrix as a table whose cells are as dark as they are full."""
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares = matrix / totals
    rows = []
    for true, name in enumerate(names):
        cells = [tag("th", name, scope="row")]
        for answer, count in enumerate(matrix[true].tolist()):
            share = shares[true, answer]
            text, kind = f"{count:,}", "right" if true == answer else "error"
            if in_percent:
                text = f"{100 * share:.0f}"
            if not count:
                text, kind = "·", "none"
            # The square root: a single mistake of a hundred is to be seen.
            style = f"--share:{share**0.5:.2f}" if count else None
            cells.append(tag("td", text, class_=kind, style=style))
        rows.append(tag("tr", cells))
    head = tag("tr", tag("td"), [tag("th", tag("span", name), scope="col") for name in names])
    what = "Percent of each class" if in_percent else "Images"
    words = tag("caption", f"{what}: true class down, answer across")
    kind = "matrix long" if max(map(len, names)) > 3 else "matrix"
    whole = tag("table", words, tag("thead", head), tag("tbody", rows), class_=kind)
    return scrolled(whole, f"Confusion matrix, {what.lower()}")


def _show_classes(matrix: np.ndarray, names: list[str]) -> Markup:
    """Of each class how many were found, and how many of its answers are right."""
    rows = []
    errors = matrix * ~np.eye(len(matrix), dtype=bool)
    for index, name in enumerate(names):
        right, images, answers = matrix[index, index], matrix[index].sum(), matrix[:, index].sum()
        most = int(np.argmax(errors[index]))
        rows.append(
            (
                name,
                f"{images:,}",
                round_percent(100 * right / images, 1) if images else "-",
                round_percent(100 * right / answers, 1) if answers else "-",
                names[most] if errors[index, most] else "",
            )
        )
    share = np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)
    rows = [rows[i] for i in np.argsort(share, kind="stable")]
    head = ("class", "images", "found, %", "answers right, %", "mostly taken for")
    label = f"Every class, the least found first ({len(names):,})"
    return details(label, table("Every class", head, rows), is_open=len(names) <= 3)


def _show_mistakes(found: Predictions, images: _Images, why_not: str) -> Iterator[Markup]:
    rows = found.worst(_PICTURES)
    if not len(rows):
        yield paragraph("There are none.")
        return
    yield paragraph("Wrong answers that the net was surest of. Some may be wrong labels.")
    if why_not:
        yield note(f"The images cannot be shown: {why_not}.")
    yield _gallery(found, rows, images)


def _show_doubts(found: Predictions, images: _Images) -> Iterator[Markup]:
    yield paragraph("Answers of the lowest probability, whether right or wrong.")
    yield _gallery(found, found.least_certain(_PICTURES), images)


def _gallery(found: Predictions, rows: np.ndarray, images: _Images) -> Markup:
    """Images with what they are and what the net took them for."""
    names, folder = found.class_names.tolist(), ""
    if len(found.files):
        folder = os.path.commonpath([os.path.dirname(file) for file in found.files.tolist()])
    shown = []
    for row in rows.tolist():
        true, answer = int(found.labels[row]), int(found.predicted[row])
        chances = found.probabilities[row]
        other = answer if true != answer else int(np.argsort(-chances, kind="stable")[1])
        pairs = ("true", true), ("answer" if true != answer else "next", other)
        words = [
            [tag("span", f"{word} ", tag("b", names[label])), tag("span", _chance(chances[label]))]
            for word, label in pairs
        ]
        if len(found.files):
            name = os.path.relpath(found.files[row], folder)
            words.append([tag("small", name)])
        pixels = images.find(row)
        image = tag("span", "no longer there", class_="gone")
        if pixels is not None:
            image = picture(pixels, 96, f"{names[true]}, taken for {names[answer]}")
        kind = None if true == answer else "error"
        shown.append(tag("figure", image, tag("figcaption", words), class_=kind))
    return tag("div", shown, class_="gallery")


def _chance(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability >= 0.0095 else "< 1 %"


def _show_calibration(found: Predictions) -> Iterator[Markup]:
    calibration = found.calibration()
    sure, right = 100 * float(found.confidence.mean()), 100 * float(1 - found.wrong.mean())
    gap = sure - right
    words = "as sure as it is right" if abs(gap) < 0.5 else f"{abs(gap):.1f} points too "
    words += "" if abs(gap) < 0.5 else ("sure" if gap > 0 else "unsure")
    yield paragraph(
        f"The net gives its answers {sure:.1f} % on average and {round_percent(right, 1)} % of them"
        f" are right: {words}. Expected calibration error {100 * calibration.error:.1f} %, over 15"
        " bins."
    )
    if len(found.labels) < 200:
        yield note("So few images say little about it.")
    yield draw_calibration(calibration)
