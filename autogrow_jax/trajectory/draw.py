"""The picture of a trajectory, drawn from the content of trajectory.json alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from autogrow_jax.reporting.drawing import MARK_COLOR, PALETTE, escape
from autogrow_jax.reporting.numbers import format_depths

# The ground is grey, so that every colour belongs to a run; valleys are light.
_GROUND = LinearSegmentedColormap.from_list("ground", ["#ffffff", "#dcdcdc", "#6e6e6e"])
_NUM_LEVELS = 24
# So far above the highest loss of the nets themselves the ground is drawn, and no further.
_HEADROOM = 3.0
_LINE_WIDTH, _JUMP_WIDTH = 2.2, 0.9
_FINETUNE_DASHES = (0, (1.5, 1.0))
_OUTLINE = [patheffects.withStroke(linewidth=3.4, foreground="white")]


def figure(content: Mapping[str, Any]) -> Figure:
    """Draws a trajectory, for notebooks: `display(figure(json.load(file)))`.

    The ground is the loss in the plane. A dot is a snapshot, at its foot in the plane, filled with
    the loss of the net itself in the colours of the ground: where the two differ, the net lies off
    the plane. A growth stands between the snapshots before and after it, on a thinner line: this
    part of the path is a jump rather than training. The figure is not known to pyplot.
    """
    drawing = Figure(figsize=(12.5, 7.2), dpi=150, layout="constrained")
    panel = drawing.subplots()
    ground = _draw_ground(panel, content)
    handles: list[Line2D] = []
    for number, run in enumerate(content["runs"]):
        color = PALETTE[number % len(PALETTE)]
        _draw_run(panel, run, color, ground.norm)
        handles.append(
            Line2D([], [], color=color, linewidth=_LINE_WIDTH, label=escape(_describe(run)))
        )
    x, y = (content["grid"][axis] for axis in "xy")
    panel.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
    panel.xaxis.set_major_locator(MaxNLocator(8))
    panel.yaxis.set_major_locator(MaxNLocator(6))
    panel.tick_params(labelsize=9)
    _label_axes(panel, content["plane"])
    bar = drawing.colorbar(ground, ax=panel, shrink=0.9, aspect=30, pad=0.02)
    bar.set_label(f"{content['settings']['split']} loss (cross-entropy, nats)")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.tick_params(labelsize=9)
    handles += _mark_handles(content["runs"])
    style: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "labelspacing": 0.9}
    drawing.legend(handles=handles, loc="outside right upper", **style)
    # Below and across: over the panel it would run into the legend.
    drawing.supxlabel(escape(_summary(content)), x=0.01, ha="left", fontsize=9, color=MARK_COLOR)
    title = f"{content['family']} on {content['dataset']}: paths of the weights over the loss"
    drawing.suptitle(escape(title), x=0.01, ha="left", fontsize=15)
    return drawing


def _draw_ground(panel: Axes, content: Mapping[str, Any]) -> ContourSet:
    """Filled contours at levels of equal ratio; what is not finite counts as above them all."""
    grid = content["grid"]
    loss = _array(grid["loss"])
    own = _array([point["loss"] for run in content["runs"] for point in run["points"]])
    finite = np.concatenate([loss[np.isfinite(loss)], own[np.isfinite(own)]])
    finite = np.maximum(finite, 1e-8) if finite.size else np.ones(1)
    highest = own[np.isfinite(own)].max(initial=finite.min())
    low, high = finite.min(), min(finite.max(), _HEADROOM * highest)
    high = max(high, low * 1.1)
    levels = np.geomspace(low, high, _NUM_LEVELS + 1)
    clipped = np.clip(np.where(np.isfinite(loss), loss, 2 * high), low, 2 * high)
    given = _array(grid["x"]), _array(grid["y"]), clipped
    panel.contour(*given, levels=levels[::2], colors="#8a8a8a", linewidths=0.4)
    return panel.contourf(*given, levels, norm=LogNorm(low, high), extend="max", cmap=_GROUND)


def _draw_run(panel: Axes, run: Mapping[str, Any], color: str, norm: Any) -> None:
    points = run["points"]
    x, y = (_array([point[axis] for point in points]) for axis in "xy")
    epochs = [point["epoch"] for point in points]
    grown_in = _find_segments([event["epoch"] for event in run["growth"]], epochs)
    moved_in = _find_segments([run["finetune_epoch"]] if run.get("perturbed") else [], epochs)
    jumped_in = grown_in | moved_in
    line: dict[str, Any] = {"color": color, "path_effects": _OUTLINE, "zorder": 3}
    for segment in range(len(points) - 1):
        tuned = run["finetune_epoch"] is not None and epochs[segment] >= run["finetune_epoch"]
        width = _JUMP_WIDTH if segment in jumped_in else _LINE_WIDTH
        ends, dashes = slice(segment, segment + 2), _FINETUNE_DASHES if tuned else "-"
        panel.plot(x[ends], y[ends], linewidth=width, linestyle=dashes, **line)
    own = np.nan_to_num(_array([point["loss"] for point in points]), nan=norm.vmax)
    size = float(np.clip(900 / len(points), 8, 26))
    fill: dict[str, Any] = {"cmap": _GROUND, "norm": norm, "edgecolors": color, "zorder": 4}
    own = np.clip(own, norm.vmin, norm.vmax)
    panel.scatter(x[1:], y[1:], size, c=own[1:], linewidths=1.1, **fill)
    panel.scatter(x[:1], y[:1], 60, c=own[:1], marker="s", linewidths=1.8, **fill)
    triangle = _growth_style(color, len(run["growth"]))
    for jumps, style in ((grown_in, triangle), (moved_in, triangle | {"marker": "D"})):
        for segment, count in jumps.items():
            parts, ends = np.linspace(0, 1, count + 2)[1:-1], slice(segment, segment + 2)
            between = (np.interp(parts, (0, 1), axis[ends]) for axis in (x, y))
            panel.plot(*between, linestyle="none", zorder=5, **style)
    panel.plot(x[-1:], y[-1:], zorder=6, **_end_style(color))


def _find_segments(jumps: Sequence[int], epochs: list[int]) -> Counter[int]:
    """How many jumps of these epochs there were between each snapshot and the next.

    A snapshot after e epochs is of the net before a jump at e, which its segment then holds.
    """
    places = np.searchsorted(epochs, jumps, side="right") - 1
    return Counter(int(place) for place in places if 0 <= place < len(epochs) - 1)


def _growth_style(color: str, count: int = 0) -> dict[str, Any]:
    size, edge = (6.5, 0.6) if count <= 40 else (4.0, 0.2)
    white = {"markeredgecolor": "white", "markeredgewidth": edge}
    return {"marker": "^", "markersize": size, "color": color, **white}


def _end_style(color: str) -> dict[str, Any]:
    return {"marker": "*", "markersize": 14, "color": color, "markeredgecolor": "white"}


def _mark_handles(runs: Sequence[Mapping[str, Any]]) -> list[Line2D]:
    """The legend of what is drawn for every run, in grey."""
    none: dict[str, Any] = {"linestyle": "none"}
    filled: dict[str, Any] = {"color": "#dcdcdc", "markeredgecolor": MARK_COLOR, **none}
    dot = "snapshot, filled with\nthe loss of the net itself"
    handles = [
        Line2D([], [], marker="s", markersize=7.5, markeredgewidth=1.8, label="start", **filled),
        Line2D([], [], label="end", **none, **_end_style(MARK_COLOR)),
        Line2D([], [], marker="o", markersize=5, label=dot, **filled),
    ]
    if any(run["growth"] for run in runs):
        handles += [Line2D([], [], label="growth: a jump", **none, **_growth_style(MARK_COLOR))]
    if any(run.get("perturbed") for run in runs):
        moved, style = "moved towards\nfresh weights: a jump", _growth_style(MARK_COLOR)
        handles += [Line2D([], [], label=moved, **none, **style | {"marker": "D"})]
    if any(run["finetune_epoch"] is not None for run in runs):
        dashed: dict[str, Any] = {"linestyle": _FINETUNE_DASHES, "linewidth": _LINE_WIDTH}
        handles += [Line2D([], [], color=MARK_COLOR, label="fine-tune", **dashed)]
    return handles


def _describe(run: Mapping[str, Any]) -> str:
    """Two lines of the legend."""
    first, last = run["points"][0], run["points"][-1]
    depths = format_depths(last["depths"])
    if first["depths"] != last["depths"]:
        depths = f"{format_depths(first['depths'])} to {depths}"
    loss = "not finite" if last["loss"] is None else f"{last['loss']:.3g}"
    return f"{run['label']}\n{depths}, epoch {last['epoch']}, loss {loss}"


def _label_axes(panel: Axes, plane: Mapping[str, Any]) -> None:
    parts = [f"{100 * part:.3g} % of the variance" for part in plane["explained"]]
    x, y = f"first random direction ({parts[0]} in both)", "second random direction"
    if plane["directions"] == "pca":
        x, y = (f"{n} principal direction ({parts[i]})" for i, n in enumerate(("first", "second")))
    panel.set(xlabel=x, ylabel=y)


def _summary(content: Mapping[str, Any]) -> str:
    settings, plane = content["settings"], content["plane"]
    is_whole = settings["batch"] >= settings["examples"]
    batches = "" if is_whole else f" in batches of {settings['batch']:,}"
    which = "two filter-normalised random directions."
    if plane["directions"] == "pca":
        which = "the one nearest to all snapshots. The variance is that about it."
    return (
        f"Ground: cross-entropy on {settings['examples']:,} {settings['split']} images{batches},"
        " without augmentation, normalised by batch statistics.\n"
        f"Plane: through the {plane['center']}, {which}\n"
        f"All nets are padded to {format_depths(content['depths'])} with blocks that change"
        " nothing."
    )


def _array(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)  # NaN where JSON has null.
