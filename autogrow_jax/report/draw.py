"""What a run draws of itself: its picture, and its page.

Who needs no picture does not wait for matplotlib, so it is imported where something is drawn.
"""

import jax

from autogrow_jax import build
from autogrow_jax.data import Dataset
from autogrow_jax.reporting import Reporter, Result, Workdir
from autogrow_jax.reporting.metrics import read
from autogrow_jax.reporting.result import validation_label
from autogrow_jax.settings import Settings


def plot(
    folder: Workdir,
    lines: list[dict],
    settings: Settings,
    dataset: str,
    validation_images: int,
    result: Result | None = None,
) -> None:
    """Draws `plots/growth.png` from the lines of metrics.jsonl; in the first process only.

    With the `result` of a run that is over.
    """
    if jax.process_index() or not lines:
        return
    from autogrow_jax.reporting.plots import draw_growth

    draw_growth(
        lines,
        folder.picture,
        title=f"{settings.model.family} on {dataset}, seed {settings.seed}",
        validation_name=validation_label(settings.data.validation, validation_images),
        test_accuracy=result.test_accuracy if result else None,
        front=result.front if result else (),
        recommended=result.depths if result and result.front else (),
    )


def report(
    folder: Workdir, settings: Settings, reporter: Reporter, dataset: Dataset | None = None
) -> None:
    """Writes report.html of a run, in the first process; its `dataset` is loaded where not given.

    The run is over by then: whatever fails here is told in a line, and that is all.
    """
    if jax.process_index():
        return
    from autogrow_jax.report.page import write_report

    try:
        page = write_report(folder.root, dataset, build.find_augmentation(settings))
        reporter.message(f"report: {page}")
    except Exception as error:
        reporter.message(
            f"the report could not be written ({type(error).__name__}: {error}); the result is"
            f" kept, and python -m autogrow_jax.reporting {folder.root} tries again"
        )


def draw_again(folder: Workdir, settings: Settings, result: Result, reporter: Reporter) -> None:
    """Draws picture and report of a finished run where they are lacking, as it was killed there."""
    if folder.metrics.exists() and not folder.picture.exists():
        images = result.more.get("validation_examples", 0)
        plot(folder, read(folder.metrics), settings, result.dataset, images, result)
    if settings.log.report and not folder.report.exists():
        report(folder, settings, reporter)
