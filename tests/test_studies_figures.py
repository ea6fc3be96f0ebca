"""The figures of a study: each row stands where its numbers are, and no text covers another."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text

from autogrow_jax.studies import Published, Row, Section
from autogrow_jax.studies.cells import Cell
from autogrow_jax.studies.figures import draw_figures, figure
from autogrow_jax.studies.records import Line, Record, Table


def _line(names, depths, accuracy, *, seeds=2, found=False, published=None, family="plain3"):
    """A row whose seeds have one block and 0.2 points more each; `accuracy` None: not run."""
    records = []
    for seed in range(seeds):
        settings = {"model": {"family": family}, "data": {"name": "digits"}}
        cell = Cell(f"{'-'.join(names)}-{seed}", "", seed, settings)
        blocks = (depths[0] + seed, *depths[1:])
        records.append(
            Record(cell, "missing")
            if accuracy is None
            else Record(
                cell,
                "done",
                depths=blocks,
                accuracy=accuracy + 0.2 * seed,
                validation="held-out",
                flops=1_000_000 * sum(blocks),
                training_flops=1e12 * sum(blocks) ** 2,
            )
        )
    return Line(Row(tuple(names), published=published, found=found), tuple(records))


def _table(lines, columns=("net",), *, title="Some section", x=""):
    section = Section(title, columns, [line.row for line in lines], x=x)
    return Table(section, tuple(lines))


def _sweep():
    fixed = [_line((str(d),), (d, d, d), 95 - 6 / d) for d in (8, 1, 4, 2, 16)]
    published = Published(94.5, (7, 7, 7))
    return _table([*fixed, _line(("found",), (5, 5, 5), 94.6, found=True, published=published)])


def _intervals(names=("1", "3", "10", "50", "convergent")):
    lines = [_line((k,), (20 - 3 * i,) * 3, 95 - i / 3) for i, k in enumerate(names)]
    return _table(lines, ("K",), x="K")


def _large():
    nets = ("Basic3ResNet", "Plain3Net", "Basic4ResNet", "Plain4Net")
    sets = ("CIFAR10", "CIFAR100", "SVHN", "FashionMNIST", "MNIST")
    lines = [
        _line((net, name), (10 + 3 * i, 9, 9 + j), None if i == j else 70 + 6 * j + i, seeds=3)
        for i, net in enumerate(nets)
        for j, name in enumerate(sets)
    ]
    return _table(lines, ("net", "set"))


def _marks(panel):
    """(x, y, marker, whether it has a spread) of each row that has a mark."""
    bars = [c for c in panel.containers if isinstance(c, ErrorbarContainer)]
    return [
        (*(float(value) for value in bar[0].get_xydata()[0]), bar[0].get_marker(), bar.has_yerr)
        for bar in bars
    ]


def _hollow(panel):
    """Where the paper's marks are."""
    lines = [line for line in panel.get_lines() if line.get_markerfacecolor() == "none"]
    return [tuple(line.get_xydata()[0]) for line in lines]


def _labels(drawing):
    return [text.get_text() for text in drawing.legends[0].get_texts()]


def test_every_row_has_a_mark_at_its_means_in_every_panel():
    table = _sweep()
    panels = figure(table).axes
    assert len(panels) == 3
    for panel, name in zip(panels, ("blocks", "flops", "training_flops"), strict=True):
        stats = [line.stat(name) for line in table.lines]
        expected = [
            (stat.mean, line.stat("accuracy").mean)
            for stat, line in zip(stats, table.lines, strict=True)
        ]
        np.testing.assert_allclose([mark[:2] for mark in _marks(panel)], expected)
        assert all(spread for *_, spread in _marks(panel))


def test_spread_is_the_sample_standard_deviation_and_each_seed_is_a_dot():
    line = _line(("a",), (3, 3, 3), 90.0, seeds=3)
    panel = figure(_table([line])).axes[0]
    (bars,) = panel.containers
    heights = [np.ptp(c.get_segments()[0][:, 1]) / 2 for c in bars[2]]
    assert max(heights) == pytest.approx(line.stat("accuracy").std)
    dots = next(line for line in panel.get_lines() if line.get_marker() == ".")
    np.testing.assert_allclose(dots.get_xydata(), [(9, 90.0), (10, 90.2), (11, 90.4)])


def test_one_seed_has_no_spread():
    panel = figure(_table([_line(("a",), (3, 3, 3), 90.0, seeds=1)])).axes[0]
    assert _marks(panel) == [(9.0, 90.0, "o", False)]


def test_the_found_net_is_a_star_and_fixed_depths_are_joined_by_blocks():
    table = _sweep()
    drawing = figure(table)
    for panel in drawing.axes:
        assert [marker for *_, marker, _ in _marks(panel)] == ["o"] * 5 + ["*"]
        (joined,) = [line for line in panel.get_lines() if len(line.get_xdata()) == 5]
        assert np.all(np.diff(joined.get_xdata()) > 0)
        fixed = sorted(mark[:2] for mark in _marks(panel)[:5])
        np.testing.assert_allclose(joined.get_xydata(), fixed)
    assert "found by growth" in _labels(drawing)


def test_fixed_depths_of_two_families_are_joined_apart():
    lines = [
        _line((family, str(depth)), (depth,) * 3, 95 - 6 / depth, family=family)
        for family in ("plain3", "basic3")
        for depth in (1, 2, 4)
    ]
    lines.append(_line(("plain3", "found"), (3, 3, 3), 94.0, found=True))
    panel = figure(_table(lines, ("net", "depth"))).axes[0]
    assert sum(len(line.get_xdata()) == 3 for line in panel.get_lines()) == 2


def test_numbers_of_x_make_an_axis_and_a_word_a_line_across():
    table = _intervals()
    drawing = figure(table)
    panel = drawing.axes[3]
    assert panel.get_xlabel() == "K"
    assert panel.get_xscale() == "log"
    assert [mark[0] for mark in _marks(panel)] == [1, 3, 10, 50]
    (across,) = [line for line in panel.get_lines() if line.is_dashed()]
    assert across.get_ydata()[0] == pytest.approx(table.lines[-1].stat("accuracy").mean)
    named = zip(_labels(drawing), drawing.legends[0].legend_handles, strict=True)
    assert [n for n, handle in named if handle.get_color() == across.get_color()] == ["convergent"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "3", "10", "50"]


@pytest.mark.parametrize(
    "names, x",
    [(("100 %", "75 %", "50 %"), [100, 75, 50]), (("1-1-1", "2-2-2", "nan"), [0, 1, 2])],
)
def test_x_may_be_percents_or_words_alone(names, x):
    panel = figure(_intervals(names)).axes[3]
    assert [mark[0] for mark in _marks(panel)] == x
    assert {label.get_text() for label in panel.get_xticklabels()} == set(names)


def test_the_papers_marks_are_hollow_where_they_lie_near_ours():
    drawing = figure(_sweep())
    assert _hollow(drawing.axes[0]) == [(21, 94.5)]
    assert not _hollow(drawing.axes[1])
    assert "the paper's" in _labels(drawing)


@pytest.mark.parametrize("published", [Published(60.0, (3, 3, 3)), Published(90.1, (80, 80, 80))])
def test_the_papers_marks_do_not_press_ours(published):
    line = _line(("a",), (3, 3, 3), 90.0)
    bare = figure(_table([line])).axes[0]
    drawing = figure(_table([_line(("a",), (3, 3, 3), 90.0, published=published)]))
    assert not _hollow(drawing.axes[0])
    assert drawing.axes[0].get_ylim() == bare.get_ylim()
    assert drawing.axes[0].get_xlim() == bare.get_xlim()
    assert "the paper's (1 of 1 outside)" in _labels(drawing)


def test_a_row_far_below_is_drawn_at_the_edge_with_its_number():
    lines = [_line((str(i),), (i + 1,) * 3, 99 + i / 10, seeds=1) for i in range(6)]
    lines.append(_line(("bad",), (9, 9, 9), 10.25, seeds=1))
    drawing = figure(_table(lines))
    assert drawing.axes[0].get_ylim()[0] > 98
    assert len(_marks(drawing.axes[0])) == 6
    (edge,) = [line for line in drawing.axes[0].get_lines() if line.get_marker() == "v"]
    assert edge.get_xdata()[0] == 27
    assert "bad: 10.25, below the panels" in _labels(drawing)


def test_flops_far_apart_are_on_a_logarithmic_axis():
    near = figure(_table([_line((str(d),), (d,) * 3, 90) for d in (2, 3)]))
    far = figure(_table([_line((str(d),), (d,) * 3, 90) for d in (1, 30)]))
    assert [panel.get_xscale() for panel in near.axes] == ["linear"] * 3
    assert [panel.get_xscale() for panel in far.axes] == ["linear", "log", "log"]


def test_rows_look_different_and_those_without_a_run_are_named():
    drawing = figure(_large())
    labels, legend = _labels(drawing), drawing.legends[0]
    assert labels[:2] == ["Basic3ResNet / CIFAR10: not run yet", "Basic3ResNet / CIFAR100"]
    styles = [
        (handle.get_color(), handle.get_marker())
        for handle in legend.legend_handles[:20]
        if handle.get_marker() != "None"
    ]
    assert len(styles) == len(set(styles)) == 16
    assert len(_marks(drawing.axes[0])) == 16


def test_columns_that_tell_no_rows_apart_are_not_in_the_labels():
    lines = [
        _line(("Plain3Net", size, floor), (d,) * 3, 90.0 + d)
        for d, (size, floor) in enumerate((("50 %", "3-3-3"), ("100 %", "6-6-6")), 1)
    ]
    drawing = figure(_table(lines, ("net", "data", "floor")))
    assert _labels(drawing)[:2] == ["50 %", "100 %"]
    assert drawing.legends[0].get_title().get_text() == "data"


def test_nothing_done_is_a_figure_that_says_so():
    drawing = figure(_table([_line(("1",), (1, 1, 1), None)], ("K",), x="K"), title="Study")
    assert "no run is done yet" in drawing.axes[0].get_title(loc="left")


def _is_outside(text, drawing):
    """Whether a text is the label of a tick beyond the ends of its axis."""
    for panel in drawing.axes:
        for axis, (low, high), place in (
            (panel.xaxis, panel.get_xlim(), 0),
            (panel.yaxis, panel.get_ylim(), 1),
        ):
            if text in axis.get_ticklabels(which="both"):
                return not low <= text.get_position()[place] <= high
    return False


def _two_series():
    lines = [
        _line((net, k), (9 - i,) * 3, 95 - i / 3 + j / 50)
        for j, net in enumerate(("Basic3ResNet", "Plain3Net"))
        for i, k in enumerate(("1", "3", "10", "convergent"))
    ]
    return _table(lines, ("net", "K"), x="K")


@pytest.mark.parametrize("make", [_sweep, _intervals, _two_series, _large])
def test_no_text_covers_another(make):
    drawing = figure(make(), title="Study")
    FigureCanvasAgg(drawing).draw()
    legend = drawing.legends[0]
    # What is drawn: not the labels of ticks that lie outside their panel.
    texts = [text for text in drawing.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [(text, text.get_window_extent()) for text in texts if not _is_outside(text, drawing)]
    assert len(boxes) > 20
    whole = drawing.bbox
    for i, (text, box) in enumerate(boxes):
        assert not [other for other, under in boxes[:i] if box.overlaps(under)], text
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1
    frame = legend.get_window_extent()
    assert not any(frame.overlaps(panel.get_window_extent()) for panel in drawing.axes)


def test_files_are_named_by_their_sections_and_the_same_again(tmp_path):
    tables = [
        _table([_line(("a",), (1, 1, 1), 90)], title=title)
        for title in ("K: $1 to 50", "K -- 1 to 50", "§")
    ]
    paths = draw_figures("Study", tables, tmp_path / "one")
    names = ["k-1-to-50", "k-1-to-50-2", "section"]
    assert [path.name for path in paths] == [f"{n}.{s}" for n in names for s in ("png", "svg")]
    assert all(path.parent == tmp_path / "one" / "plots" for path in paths)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in paths[1].read_bytes()
    again = draw_figures("Study", tables[:1], tmp_path / "two")
    for one, two in zip(paths, again, strict=False):
        assert one.read_bytes() == two.read_bytes()
