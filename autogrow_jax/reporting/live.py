"""The picture of a run in a notebook, drawn again while it goes on."""

from typing import Any

from autogrow_jax.reporting.console import QuietReporter
from autogrow_jax.reporting.metrics import Line, Lines
from autogrow_jax.reporting.plots import figure


class LivePlot(QuietReporter):
    """A `Reporter` for notebooks: draws the picture of the run again every few epochs, in place.

    Messages are printed. It needs IPython, which a notebook has.
    """

    def __init__(self, every: int = 5):
        """Draws after `every` epochs, and at the end."""
        self._every, self._title = every, ""
        self._lines: list[Line] = []
        self._place: Any = None

    def begin_run(self, title: str, *, previous: Lines = ()) -> None:
        self._title, self._lines = title, list(previous)

    def end_epoch(self, line: Line) -> None:
        self._lines.append(line)
        if len(self._lines) % self._every == 0:
            self._draw({})

    def message(self, text: str) -> None:
        print(text)

    def end_run(self, result: Line | None = None) -> None:
        if self._lines:
            self._draw(result or {})

    def _draw(self, result: Line) -> None:
        from IPython.display import display  # Only notebooks have it.

        drawing = figure(
            self._lines,
            title=self._title,
            test_accuracy=result.get("test_accuracy"),
            front=result.get("front") or (),
            recommended=result.get("recommended") or (),
        )
        if self._place is None:
            self._place = display(drawing, display_id=True)
        else:
            self._place.update(drawing)
