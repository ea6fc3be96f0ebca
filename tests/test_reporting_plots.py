"""The picture of a run: everything in it comes from the metrics, and no text covers another."""

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.__main__ import main
from autogrow_jax.reporting.metrics import MetricsWriter
from autogrow_jax.reporting.plots import draw_growth, figure

pytestmark = pytest.mark.reports


def _metrics(growth_epochs, finetune_epochs, *, interval=3, elapsed=True, stages=3):
    """A run whose curves are smooth: only their shape matters here."""
    metrics, clock = [], 10.0
    for epoch in range(growth_epochs + finetune_epochs):
        finetune = epoch - growth_epochs
        num_growths = max(0, min(epoch, growth_epochs - 1) // interval)
        phase = "growth" if finetune < 0 else "finetune"
        rate = 0.1 * 0.1 ** (
            (finetune >= finetune_epochs // 2) + (finetune >= 0.75 * finetune_epochs)
        )
        clock += 62.0
        metrics.append(
            {
                "epoch": epoch,
                "phase": phase,
                "depths": [1 + (num_growths + stages - 1 - s) // stages for s in range(stages)],
                "train_loss": 2.3 / (1 + epoch),
                "train_accuracy": 100 - 90 / (1 + epoch),
                "validation_loss": 2.4 / (1 + epoch) ** 0.5,
                "validation_accuracy": 95 - 85 / (1 + epoch),
                "learning_rate": rate if finetune >= 0 else 0.1,
                "seconds": 60.0,
                **({"elapsed": clock} if elapsed else {}),
            }
        )
    return metrics


def _line(panel, label):
    return next(line for line in panel.get_lines() if line.get_label().startswith(label))


def test_curves_stand_at_the_end_of_their_epoch_in_epochs_and_in_minutes():
    metrics = _metrics(12, 8)
    panels = np.array(figure(metrics).axes).reshape(3, 2)
    for column, x in enumerate(
        (np.arange(1, 21), np.array([line["elapsed"] for line in metrics]) / 60)
    ):
        for row, key in enumerate(("accuracy", "loss")):
            for name in ("train", "validation"):
                line = _line(panels[row, column], name)
                np.testing.assert_allclose(line.get_xdata(), x)
                np.testing.assert_array_equal(
                    line.get_ydata(), [entry[f"{name}_{key}"] for entry in metrics]
                )


def test_without_elapsed_the_seconds_are_summed():
    panels = np.array(figure(_metrics(12, 8, elapsed=False)).axes).reshape(3, 2)
    np.testing.assert_allclose(_line(panels[0, 1], "train").get_xdata(), np.arange(1, 21))


def test_depth_steps_up_where_the_growth_mark_is():
    metrics = _metrics(12, 8)
    panels = np.array(figure(metrics).axes).reshape(3, 2)
    for column in range(2):
        steps = []
        for line in panels[2, column].get_lines():
            if line.get_label().startswith("stage"):
                y = line.get_ydata()
                steps += line.get_xdata()[1:][np.diff(y) > 0].tolist()
        ticks = next(c for c in panels[0, column].collections if len(c.get_segments()))
        marks = [segment[0, 0] for segment in ticks.get_segments()]
        np.testing.assert_allclose(sorted(marks), sorted(steps))
        ended = [metrics[epoch - 1]["elapsed"] / 60 for epoch in (3, 6, 9)]
        np.testing.assert_allclose(sorted(steps), ended if column else [3, 6, 9])


def test_learning_rate_drops_and_finetune_are_marked_where_they_begin():
    panels = np.array(figure(_metrics(12, 8)).axes).reshape(3, 2)
    dashed = [
        float(line.get_xdata()[0])
        for line in panels[1, 0].get_lines()
        if line.is_dashed() and len(line.get_xdata())
    ]
    assert sorted(dashed) == [16, 18]
    shade = panels[1, 0].patches[0].get_extents().transformed(panels[1, 0].transData.inverted())
    assert (shade.x0, shade.x1) == pytest.approx((12, 20))


@pytest.mark.parametrize("growth_epochs", [8, 20, 60, 200, 700])
def test_the_legend_names_what_is_marked(growth_epochs):
    panels = np.array(figure(_metrics(growth_epochs, 100)).axes).reshape(3, 2)
    told = [text.get_text() for text in panels[1, 1].get_legend().get_texts()]
    marks = ["growth (colour: stage)", "fine-tune", "learning rate drops:\n0.01, 0.001"]
    assert sorted(told) == sorted(["train", "validation", *marks])


def test_what_the_policy_noted_has_panels_of_its_own():
    metrics = _metrics(12, 8)
    for line in metrics[:12]:
        line["notes"] = {"score": 0.1 * line["epoch"], "_gap $": None if line["epoch"] < 3 else 5.0}
    panels = np.array(figure(metrics).axes).reshape(5, 2)
    assert [panel.get_ylabel() for panel in panels[3:, 0]] == ["score", r" _gap \$"]
    score = _line(panels[3, 0], "noted")
    np.testing.assert_array_equal(score.get_xdata(), np.arange(1, 21))
    np.testing.assert_allclose(score.get_ydata()[:12], 0.1 * np.arange(12))
    # No policy is asked while fine-tuning, and one may have nothing to note.
    assert np.isnan(score.get_ydata()[12:]).all()
    assert np.isnan(_line(panels[4, 1], "noted").get_ydata()[:3]).all()
    assert panels[-1, 0].get_xlabel() == "epochs done"
    few = {f"note {number}": 1.0 for number in range(9)}
    assert len(figure([line | {"notes": few} for line in metrics]).axes) == 2 * 7


def test_curves_have_gaps_where_another_net_of_a_front_had_its_turn():
    metrics = _metrics(50, 12)
    for line in metrics[50:]:
        # By turns of three epochs; at last of one each.
        line["candidate"] = (line["epoch"] - 50) // 3 % 2 if line["epoch"] < 59 else 0
        line["depths"] = [[1, 1, 1], [2, 1, 1]][line["candidate"]]
    metrics[60] |= {"candidate": 1, "depths": [2, 1, 1]}

    def pieces(panel, name):
        line = _line(panel, name)
        x, y = line.get_xdata(), line.get_ydata()
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
        return [
            x[part].tolist() for part in np.ma.clump_unmasked(np.ma.masked_invalid(x))
        ], line.get_markevery()

    found = figure(metrics, recommended=[1, 1, 1])
    for panel in found.axes[0], found.axes[2]:
        for name in ("train", "validation"):
            parts, dots = pieces(panel, name)
            growth, *turns = parts
            assert growth == list(range(1, 51)) and turns == [[51, 52, 53], [57, 58, 59, 60], [62]]
            # No line leads to the last epoch, so it is a dot.
            assert np.flatnonzero(dots).tolist() == [len(dots) - 1]
    # No net is recommended yet while the run goes on: each turn is a piece of its own.
    growth, *turns = pieces(figure(metrics).axes[0], "validation")[0]
    ends = [(turn[0], turn[-1]) for turn in turns]
    assert ends == [(51, 53), (54, 56), (57, 60), (61, 61), (62, 62)]
    assert growth == list(range(1, 51))


def test_what_was_tried_and_other_candidates_are_counted_apart():
    metrics = _metrics(6, 0)
    metrics[1] |= {"trial": 1, "depths": [1, 2, 1]}
    metrics[2] |= {"kept": []}
    for place, candidate in ((3, 1), (4, 1), (5, 0)):
        metrics[place] |= {"candidate": candidate, "depths": [1 + candidate, 1, 1]}
    names = [line.get_label() for line in figure(metrics, recommended=[1, 1, 1]).axes[0].lines]
    assert "tried, not kept: 1\nother candidates: 2" in names


def test_a_dollar_in_a_name_begins_no_formula(tmp_path):
    title = "plain3 on folder:/d/a$b_$c"
    draw_growth(_metrics(3, 1), tmp_path / "growth.png", title=title)
    assert (tmp_path / "growth.png").is_file()


def test_a_smooth_schedule_is_not_marked():
    metrics = _metrics(12, 30)
    for i, line in enumerate(metrics):
        line["learning_rate"] = 0.1 * 0.9**i
    panels = np.array(figure(metrics).axes).reshape(3, 2)
    assert not any(line.is_dashed() for line in panels[1, 0].get_lines())


def test_a_long_time_is_told_in_hours():
    metrics = _metrics(12, 0)
    assert figure(metrics).axes[5].get_xlabel() == "minutes"
    assert figure(metrics[:1]).axes[5].get_xlabel() == "seconds"
    for line in metrics:
        line["elapsed"] *= 100
    assert figure(metrics).axes[5].get_xlabel() == "hours"


def test_worst_epochs_may_lie_below_the_panel_but_are_counted():
    metrics = _metrics(300, 100)
    panel = figure(metrics, test_accuracy=94.0).axes[0]
    bottom = panel.get_ylim()[0]
    lowest = [min(line["train_accuracy"], line["validation_accuracy"]) for line in metrics]
    num_below = sum(value < bottom for value in lowest)
    assert 0 < num_below <= 0.05 * len(metrics)
    label = next(text for text in panel.get_legend_handles_labels()[1] if "below" in text)
    assert num_below <= int(label.split()[0]) <= 0.05 * len(metrics) + 1
    assert panel.get_ylim()[1] > max(line["train_accuracy"] for line in metrics)


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        _metrics(1, 0),
        _metrics(2, 1),
        _metrics(60, 20),
        _metrics(700, 200, stages=4),
        _metrics(800, 100, interval=100),
        [line | {"notes": {"gap": 1.5, "score": 2e-5}} for line in _metrics(60, 20)],
    ],
    ids=["none", "one", "three", "80", "900", "convergent", "noted"],
)
def test_no_text_covers_another_or_leaves_the_picture(metrics):
    drawing = figure(metrics, title="basic3 on cifar10", test_accuracy=94.27 if metrics else None)
    drawing.set_dpi(50)
    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    renderer = canvas.get_renderer()
    ticks = {
        label
        for panel in drawing.axes
        for axis in (panel.xaxis, panel.yaxis)
        for label in axis.get_ticklabels(which="both")
    }
    texts = [
        text
        for text in drawing.findobj(Text)
        if isinstance(text, Text) and text.get_visible() and text.get_text() and text not in ticks
    ]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    width, height = canvas.get_width_height()
    assert len(boxes) > 5 or not metrics
    for i, (text, box) in enumerate(boxes):
        assert box.x0 >= -1 and box.x1 <= width + 1, text
        assert box.y0 >= -1 and box.y1 <= height + 1, text
        for other, other_box in boxes[:i]:
            assert not box.overlaps(other_box), (text, other)


def test_lines_may_lack_numbers(tmp_path):
    metrics = _metrics(12, 8)
    metrics[4].update(train_loss=None, validation_accuracy=None, learning_rate=None)
    for line in metrics:
        line["validation_loss"] = None
    metrics[7].pop("train_accuracy")
    panels = np.array(figure(metrics).axes).reshape(3, 2)
    assert np.isnan(_line(panels[1, 0], "train").get_ydata()).sum() == 1
    assert "validation" not in panels[1, 0].get_legend_handles_labels()[1]


def test_files_are_written_and_the_same_metrics_give_the_same_png(tmp_path):
    metrics = _metrics(12, 8)
    first = draw_growth(metrics, tmp_path / "plots" / "growth.png", svg=True)
    assert [path.name for path in first] == ["growth.png", "growth.svg"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [p.name for p in first]
    content = first[0].read_bytes()
    assert content.startswith(b"\x89PNG")
    assert b"<svg" in first[1].read_bytes()
    # IHDR: the width is 13 inches at 150 dots.
    assert int.from_bytes(content[16:20], "big") == 13 * 150
    assert draw_growth(metrics, first[0]) == first[:1]
    assert first[0].read_bytes() == content


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="no epoch yet"):
        draw_growth([], tmp_path / "growth.png")
    with pytest.raises(UserError, match=r"must end in '\.png'"):
        draw_growth(_metrics(2, 0), tmp_path / "growth.pdf")


def test_drawing_does_not_touch_pyplot():
    code = (
        "import sys; from autogrow_jax.reporting.plots import figure; figure([]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_redraws_a_run_that_goes_on_and_one_that_ended(tmp_path, capsys, monkeypatch):
    assert main([str(tmp_path)]) == 1
    assert "no metrics file" in capsys.readouterr().err
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        for line in _metrics(6, 2):
            writer.write(line)
    (tmp_path / "config.json").write_text(
        json.dumps({"model": {"family": "plain3"}, "data": {"name": "digits", "validation": 0.1}})
    )
    assert main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "plain3 on digits: the run has not finished" in told
    picture = tmp_path / "plots" / "growth.png"
    picture.unlink()
    (tmp_path / "result.json").write_text(
        json.dumps({"family": "basic3", "dataset": "digits", "depths": [2, 1, 1]})
    )
    assert main([str(tmp_path), "--svg"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("basic3 on digits\n")
    assert str(picture.with_suffix(".svg")) in told
    # A damaged result costs its own part alone; a folder may be named from the home folder on.
    (tmp_path / "result.json").write_text("{")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert main([f"--workdir=~/{tmp_path.name}"]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'result.json'} is damaged" in err and "has not finished" in out
    assert picture.is_file()
