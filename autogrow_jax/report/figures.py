"""The plots and pictures of a report, as parts of its page that go along with light and dark."""

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import Bbox
from PIL import Image

from autogrow_jax.data import Augmentation, Dataset, augment
from autogrow_jax.report.facts import Passed
from autogrow_jax.report.markup import Markup, tag
from autogrow_jax.reporting.drawing import MARK_COLOR, PALETTE, style_panel
from autogrow_jax.reporting.metrics import Lines
from autogrow_jax.reporting.numbers import format_count, format_depths
from autogrow_jax.reporting.plots import figure, time_axis
from autogrow_jax.reporting.predictions import Calibration, wilson
from autogrow_jax.stream import Streamed

# Inches: of a size that a phone shows as it is.
_SIZE = (3.6, 2.15)
# Matplotlib's colours, and what the page's style sheet has for them.
_COLORS = {
    "#000000": "currentColor",
    MARK_COLOR: "var(--muted)",
    "#d0d0d0": "var(--rule)",
    "#e6e6e6": "var(--rule)",
    "#f2eee3": "var(--shade)",
    "#f0e442": "var(--star)",
    **{color: f"var(--c{i})" for i, color in enumerate(PALETTE[:-1])},
}
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "autogrow_jax", "font.size": 7.5}
# Images of training, random draws of each, and bytes of all draws of an image together.
_SAMPLES, _DRAWS, _SAMPLE_BYTES = 6, 4, 2**26
_NO_DATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def panel(left: float = 0.115) -> Axes:
    """An empty panel in a figure of its own; `left` is the room for the numbers of its y axis."""
    axes = Figure(figsize=_SIZE).add_axes((left, 0.165, 0.985 - left, 0.79))
    style_panel(axes)
    axes.tick_params(which="both", labelsize=_STYLE["font.size"])
    return axes


def inline(axes: Axes, name: str, says: str) -> Markup:
    """A panel as SVG within HTML; `name` keeps its ids apart, `says` is for those who cannot see.

    Texts stay texts and take the page's font, colours the page's.
    """
    buffer, figure = io.StringIO(), axes.figure
    assert isinstance(figure, Figure)
    figure.savefig(buffer, format="svg", metadata=_NO_DATA, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)
    for color, variable in _COLORS.items():
        svg = svg.replace(color, variable)
    svg = re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)
    head = tag("title", says)
    return Markup(re.sub(r"^<svg([^>]*)>", rf'<svg role="img"\1>{head}', svg, count=1))


def draw_growth_panels(
    lines: Lines, test_accuracy: float | None, recommended: Sequence[int]
) -> dict[str, Markup]:
    """Accuracy, loss, depth and time over epochs, by what they show."""
    with matplotlib.rc_context(_STYLE):
        # The panels of the large picture, one at a time and without what is for that one alone.
        whole = figure(lines, test_accuracy=test_accuracy, recommended=recommended)
        whole.set_layout_engine("none")
        whole.set_size_inches(_SIZE)
        places = panel().get_position()
        names = ("accuracy in percent", "loss", "blocks of each stage")
        shown = dict(zip(names, whole.axes[0:6:2], strict=True))
        for axes in whole.axes:
            axes.set(visible=False, position=places, ylabel="")
            axes.set_title("", loc="left")
            axes.tick_params(labelsize=_STYLE["font.size"], labelbottom=True)
        limits = whole.axes[4].get_xlim()
        time, clock = time_axis(lines), panel()
        clock.plot([line["epoch"] + 1 for line in lines], time.end, color="k", linewidth=1.3)
        clock.set_ylim(bottom=0)
        found = {}
        for name, axes in (*shown.items(), (f"{time.label} since the start", clock)):
            axes.set_visible(True)
            axes.set_xlim(limits)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel("epochs done", labelpad=1)
            found[name] = inline(axes, name.split()[0], f"{name}, over epochs")
            axes.set_visible(False)
        return found


def draw_costs(
    passed: Sequence[Passed],
    front: Sequence[Mapping[str, Any]],
    recommended: Sequence[int],
    *,
    is_over: bool = True,
) -> Markup:
    """Validation accuracy against FLOPs, of depths on the way and of the nets of a front.

    What a run that is not over fine-tunes is hollow.
    """
    points = [(p.cost.flops, p.best, p) for p in passed if p.cost and p.best is not None]
    ends = [(p.depths, x, y, 0, is_over) for x, y, p in points if p.phase != "growth"]
    for net in front:
        known = net["flops"], net["validation_accuracy"], net["standard_error"]
        ends.append((tuple(net["depths"]), *known, not net["stopped"]))
    with matplotlib.rc_context(_STYLE):
        axes = panel()
        grew = [(x, y) for x, y, p in points if p.phase == "growth"]
        style: dict[str, Any] = {"color": MARK_COLOR, "linewidth": 0.7, "markersize": 3}
        axes.plot(*zip(*grew, strict=True), "o-", fillstyle="none", **style)
        every = [x for x, *_ in points] + [x for _, x, *_ in ends]
        low, high = min(every), max(every)
        if high > 8 * low:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_formatter("")
        color: dict[str, Any] = {"color": PALETTE[0]}
        for depths, x, y, error, is_whole in ends:
            axes.plot([x, x], [y - error, y + error], linewidth=0.8, **color)
            axes.plot([x], [y], "o", fillstyle="full" if is_whole else "none", ms=5, **color)
            if depths == tuple(recommended):
                axes.plot([x], [y], "*", color="#f0e442", markeredgecolor="k", ms=11, zorder=5)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:,g} M")
        axes.margins(0.06, 0.15)
        axes.set_ylim(top=min(103.0, axes.get_ylim()[1]))  # No accuracy is above 100.
        _put_names(
            axes, [(format_depths(depths), x, y) for depths, x, y, *_ in ends], grew, **color
        )
        axes.set_xlabel("FLOPs of evaluating one image", labelpad=1)
        return inline(axes, "cost", "validation accuracy in percent, against FLOPs for one image")


def _put_names(
    axes: Axes,
    names: Sequence[tuple[str, float, float]],
    path: Sequence[tuple[float, float]],
    **how: Any,
) -> None:
    """Writes each name, with the x and y of its point, where it hides least of what is drawn."""
    axes.autoscale_view()  # Which would come with the drawing, and move all points.
    points = axes.transData.transform([name[1:] for name in names])
    corners = axes.transData.transform(path) if path else np.zeros((0, 2))
    along = np.linspace(0, 1, 50)[:, None, None]
    way = (corners[:-1] + along * np.diff(corners, axis=0)).reshape(-1, 2)
    frame, dot = axes.get_window_extent(), axes.figure.dpi / 72
    taken: list[Bbox] = []
    for text, x, y in names:
        label = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", **how
        )
        wide = label.get_window_extent().width / dot / 2
        found = []
        for up, across in product((-11, 11, -20, 20), (0, 0.8, -0.8)):
            label.xyann = place = (across * wide, up)
            box = label.get_window_extent()
            # The worst first, as lists are compared so.
            bad = [
                not (frame.contains(*box.min) and frame.contains(*box.max)),
                sum(box.overlaps(other) for other in taken),
                box.padded(3 * dot).count_contains(points),
                box.count_contains(way) > 0,
            ]
            found.append((bad, abs(up), abs(across), place, box))
        *_, label.xyann, box = min(found, key=lambda each: each[:3])
        taken.append(box.padded(dot))


def data_uri(image: Image.Image) -> str:
    """A picture within a page."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def picture(pixels: np.ndarray, side: int, alt: str) -> Markup:
    """An image, uint8 [H, W, C], about `side` pixels wide and high.

    Small ones are shown larger by a whole factor, each pixel a square; large ones are made smaller,
    but left sharp on screens of two dots a pixel. Of other than one or three channels the first is
    shown.
    """
    pixels = np.asarray(pixels)
    pixels = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    longest = max(pixels.shape[:2])
    factor = max(1, round(side / longest)) if longest <= 1.5 * side else side / longest
    height, width = (max(1, round(n * factor)) for n in pixels.shape[:2])
    if longest > 2 * side:
        # Every so manieth pixel first, as images may be huge.
        step = longest // (8 * side) or 1
        image = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
        image.thumbnail((2 * side, 2 * side))
    else:
        image = Image.fromarray(np.ascontiguousarray(pixels))
    kind = "pixels" if factor >= 1 else None
    size = {"width": width, "height": height}
    return tag("img", src=data_uri(image), alt=alt, class_=kind, loading="lazy", **size)


def draw_samples(
    dataset: Dataset, name: str, augmentation: Augmentation | None
) -> Iterator[Markup]:
    """A few training images, each as it is and as steps of training may see it.

    The augmentation is the one of that `name`; None is the package's, or one not known here.
    """
    train, how = dataset.train, dataset.preprocessing
    classes = np.linspace(0, dataset.num_classes - 1, min(dataset.num_classes, _SAMPLES))
    found = (np.flatnonzero(train.labels == label) for label in classes.round().astype(int))
    # Huge images are not copied more often than memory can bear.
    most = max(1, _SAMPLE_BYTES // (_DRAWS * train.images[0].nbytes))
    rows = [int(places[0]) for places in found if len(places)][:most]
    images = np.stack([train.images[row] for row in rows])
    given = np.repeat(images, _DRAWS, axis=0)
    words = [f"moved at random by up to {format_count(how.crop_padding, 'pixel')}"]
    words = (words if how.crop_padding else []) + (["mirrored by chance"] if how.flip else [])
    if name != "crop_flip":
        words = [f"as {name} changes it"] if augmentation else []
    if isinstance(train.images, Streamed) and train.images.random:
        words.insert(0, "a part of it cut out at random")
        given = np.stack([train.images.decode(row, key) for row in rows for key in range(_DRAWS)])
    drawn = np.zeros((len(rows), 0))
    if words:
        drawn = _run(augmentation or partial(augment, preprocessing=how), given)
        drawn = drawn.reshape(len(rows), _DRAWS, *images.shape[1:])
    shown = []
    for image, variants, row in zip(images, drawn, rows, strict=True):
        of = dataset.class_names[train.labels[row]]
        cells = [picture(image, 64, of)]
        cells += [picture(variant, 64, f"{of}, augmented") for variant in variants]
        shown.append(tag("figure", tag("figcaption", of), tag("div", cells)))
    said = f"Each first as it is, then {' and '.join(words)}." if words else "Nothing is changed."
    if name != "crop_flip" and not augmentation:
        said = f"In training {name} changes them, which is not known here."
    yield tag("p", said)
    yield tag("div", shown, class_="samples")


def _run(augmentation: Augmentation, images: np.ndarray) -> np.ndarray:
    """What a training step makes of uint8 [N, H, W, C], again as pixels."""
    key = jax.random.key(0)
    # Compiled in a quarter of the time: it runs once.
    options: Any = {"xla_backend_optimization_level": "1"}
    options = options if jax.default_backend() == "cpu" else None
    program = jax.jit(augmentation).lower(key, images).compile(compiler_options=options)
    return np.clip(np.rint(np.asarray(program(key, images))), 0, 255).astype(np.uint8)


def draw_calibration(calibration: Calibration) -> Markup:
    """How often answers are right, against how sure the net was of them."""
    with matplotlib.rc_context(_STYLE):
        axes = panel()
        axes.plot([0, 100], [0, 100], color=MARK_COLOR, linewidth=0.7)
        counts, sure, right = calibration
        for x, y, count in zip(100 * sure, 100 * right, counts.tolist(), strict=True):
            low, high = wilson(round(y * count / 100), count)
            axes.plot([x, x], [low, high], color="#0072b2", linewidth=0.8)
            axes.plot([x], [y], "o", color="#0072b2", ms=3 + 6 * (count / counts.max()) ** 0.5)
        axes.set(xlim=(-2, 102), ylim=(-2, 104))
        axes.set_xlabel("probability of the answer, in percent", labelpad=1)
        svg = inline(axes, "calibration", "part of answers that are right, against probability")
    words = tag("figcaption", "right in percent, of answers of each probability; bars: 95 %")
    return tag("figure", words, svg, class_="single")


def draw_confusion(matrix: np.ndarray) -> Markup:
    """A confusion matrix of many classes, a dot for each pair."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    dots = np.zeros((*matrix.shape, 4), np.uint8)
    dots[..., :3] = (213, 94, 0)
    dots[np.arange(len(matrix)), np.arange(len(matrix)), :3] = (0, 114, 178)
    # The square root: a single mistake of a hundred is to be seen.
    dots[..., 3] = np.round(255 * np.sqrt(shares))
    alt = f"confusion matrix of {len(matrix):,} classes"
    image = tag("img", src=data_uri(Image.fromarray(dots)), alt=alt, class_="pixels heat")
    words = tag("figcaption", "true class down, answer across; darker: more of the class")
    return tag("figure", words, image, class_="single")
