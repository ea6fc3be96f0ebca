"""What the terminal shows, and that bar and lines do not mix."""

import io
import math
import os
import re
import time

import pytest

from autogrow_jax.reporting import console
from autogrow_jax.reporting.console import (
    EPOCH_HEADER,
    ConsoleReporter,
    EpochStart,
    QuietReporter,
    Reporter,
    describe_growth,
)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _line(epoch: int, accuracy: float | None = 50.0, **more):
    return {
        "epoch": epoch,
        "phase": "growth",
        "depths": [2, 1, 1],
        "train_loss": 1.5,
        "train_accuracy": 40.0,
        "validation_loss": 1.4,
        "validation_accuracy": accuracy,
        "learning_rate": 0.1,
        "seconds": 12.34,
        **more,
    }


def _run(reporter: Reporter, accuracies):
    reporter.begin_run("basic3 on digits")
    for epoch, accuracy in enumerate(accuracies):
        for step in range(1, 5):
            reporter.epoch_progress(epoch, step, 4, images_per_second=1234.0)
        reporter.end_epoch(_line(epoch, accuracy))
        reporter.growth((2, 1, 1), (2, 2, 1), "gaussian")
    reporter.message("a word")
    reporter.end_run({"family": "basic3", "dataset": "digits", "depths": [2, 2, 1]})
    reporter.close()


def _screen(stream):
    """What a terminal shows: a carriage return writes over its line."""
    shown = []
    for line in stream.split("\n"):
        cells = ""
        for part in line.split("\r"):
            cells = part + cells[len(part) :]
        shown.append(cells.rstrip())
    return shown


def test_one_line_an_epoch_in_the_columns_of_the_header():
    out, err = io.StringIO(), io.StringIO()
    reporter = ConsoleReporter(stdout=out, stderr=err)
    _run(reporter, [50.0, 60.0, 55.0])
    lines = out.getvalue().splitlines()
    epochs = [line for line in lines if re.match(r" +\d+  growth", line)]
    assert [int(line.split()[0]) for line in epochs] == [0, 1, 2]
    assert {len(line) for line in epochs} == {len(EPOCH_HEADER)}
    assert lines.count(EPOCH_HEADER) == 1
    assert len(EPOCH_HEADER) <= 100
    assert [float(line.split()[6]) for line in epochs] == [50.0, 60.0, 60.0]  # The best so far.
    assert sum("grew stage 1: 2-1-1 -> 2-2-1 (gaussian)" in line for line in lines) == 3
    assert "a word" in lines
    assert any("2-2-1" in line for line in lines[-2:])
    assert err.getvalue() == ""  # No terminal, no bar.


def test_the_bar_shows_rate_and_time_left_on_stderr_only():
    out, err = io.StringIO(), _Terminal()
    reporter = ConsoleReporter(stdout=out, stderr=err)
    reporter.begin_run("run")
    reporter.epoch_progress(7, 1, 4)
    time.sleep(0.15)  # tqdm redraws ten times a second.
    reporter.epoch_progress(7, 3, 4, images_per_second=5120.0)
    reporter.close()
    assert "epoch 7  25%" in err.getvalue()
    assert "epoch 7  75%" in err.getvalue()
    assert "3/4 steps" in err.getvalue()
    assert "left" in err.getvalue()
    assert "5,120 images/s" in err.getvalue()
    assert "images/s" not in out.getvalue()


def _bars(columns, monkeypatch, *, previous=(), epoch, **begun):
    """What the bar of a terminal of so many columns says, before the epoch and after 3 steps."""
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    now = [100.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    err = _Terminal()
    err.fileno = lambda: 2
    reporter = ConsoleReporter(stdout=io.StringIO(), stderr=err)
    reporter.begin_run("run", previous=previous)
    reporter.begin_epoch(EpochStart(epoch, **begun))
    now[0] += 3.0
    reporter.epoch_progress(epoch, 3, 4, images_per_second=5120.0)
    reporter._bar.refresh()
    shown = [part.rstrip() for part in err.getvalue().split("\r") if "|" in part]
    reporter.close()
    return shown[0], shown[-1]


def test_the_bar_shows_depths_best_and_what_is_left_of_the_phase(monkeypatch):
    begun = {"epoch": 2, "phase": "growth", "depths": (2, 1, 1), "steps": 4, "left": 11}
    begun["previous"] = [_line(0, 70.0, seconds=4.0), _line(1, 86.9, seconds=6.0)]
    first, last = _bars(200, monkeypatch, **begun)
    assert first.startswith("epoch 2, 2-1-1, best 86.90 %   0% |")
    assert first.endswith("| 0/4 steps, ? left, growth 00:55+ left")  # Of 5 s each, if not more.
    assert "| 3/4 steps, " in last
    assert last.endswith(" left, growth 00:52+ left, 5,120 images/s")
    begun |= {"phase": "finetune"}
    assert _bars(200, monkeypatch, **begun)[0].endswith(" left, finetune 00:55 left")
    begun |= {"left": None}
    assert "finetune" not in _bars(200, monkeypatch, **begun)[1]


def test_before_any_epoch_has_ended_its_own_steps_tell_what_is_left(monkeypatch):
    begun = {"epoch": 0, "phase": "scratch", "depths": (2, 1, 1), "steps": 4, "left": 3}
    first, last = _bars(200, monkeypatch, **begun)
    assert first.startswith("epoch 0, 2-1-1   0% |")
    assert "scratch" not in first
    assert ", scratch 00:09 left" in last  # An epoch takes 4 s, of which 3 are over.


def test_a_narrow_terminal_shows_what_matters_most(monkeypatch):
    depths = (12, 12, 11, 11)
    begun = {"epoch": 107, "phase": "growth", "depths": depths, "steps": 4, "left": 11}
    begun["previous"] = [_line(106, 86.9, seconds=500.0)]
    for columns, parts in ((125, ["steps", "images/s"]), (105, ["steps"]), (90, [])):
        _, last = _bars(columns, monkeypatch, **begun)
        assert [part for part in ("steps", "images/s") if part in last] == parts
        assert last.startswith("epoch 107, 12-12-11-11, best 86.90 %  75% |")
        assert ", growth 1:31:37+ left" in last


def test_a_short_epoch_has_no_bar_before_it_begins():
    err = _Terminal()
    reporter = ConsoleReporter(stdout=io.StringIO(), stderr=err)
    for epoch, seconds in enumerate((0.4, 0.6, 0.6)):
        reporter.begin_epoch(EpochStart(epoch, "growth", (1, 1, 1), 4))
        reporter.end_epoch(_line(epoch, seconds=seconds))
    assert [f"epoch {epoch}, 1-1-1" in err.getvalue() for epoch in range(3)] == [True, False, True]


@pytest.mark.parametrize("close_with", ["end_epoch", "end_run", "close"])
def test_nothing_of_the_bar_stays_on_the_screen(close_with):
    terminal = _Terminal()
    reporter = ConsoleReporter(stdout=terminal, stderr=terminal)
    reporter.begin_run("run")
    for step in range(1, 4):
        reporter.epoch_progress(0, step, 4, images_per_second=10.0)
        reporter.message(f"step {step}")
    if close_with == "end_epoch":
        reporter.end_epoch(_line(0))
    elif close_with == "end_run":
        reporter.end_run(None)
    reporter.close()
    shown = _screen(terminal.getvalue())
    assert "images/s" in terminal.getvalue()
    assert not any("%|" in line or "images/s" in line for line in shown)
    assert shown[:4] == ["run", "step 1", "step 2", "step 3"]


def test_a_new_epoch_has_a_new_bar_even_if_the_last_did_not_end():
    err = _Terminal()
    reporter = ConsoleReporter(stdout=io.StringIO(), stderr=err)
    reporter.epoch_progress(0, 3, 4)
    reporter.epoch_progress(1, 1, 4)
    reporter.close()
    assert "epoch 0  75%" in err.getvalue()
    assert "epoch 1  25%" in err.getvalue()
    assert not any("epoch" in line for line in _screen(err.getvalue()))


def test_show_bar_forces():
    err = io.StringIO()
    ConsoleReporter(stdout=io.StringIO(), stderr=err, show_bar=True).epoch_progress(0, 4, 4)
    assert "epoch 0" in err.getvalue()
    err = _Terminal()
    ConsoleReporter(stdout=io.StringIO(), stderr=err, show_bar=False).epoch_progress(0, 4, 4)
    assert err.getvalue() == ""


def test_a_resumed_run_knows_its_best():
    out = io.StringIO()
    reporter = ConsoleReporter(stdout=out, stderr=io.StringIO())
    reporter.begin_run("run", previous=[_line(0, 70.0), _line(1, None)])
    reporter.end_epoch(_line(2, 65.0))
    assert "after epoch 1" in out.getvalue()
    assert float(out.getvalue().splitlines()[-1].split()[6]) == 70.0


@pytest.mark.parametrize("missing", [None, math.nan])
def test_an_epoch_that_diverged_keeps_its_line_and_the_best(missing):
    out = io.StringIO()
    reporter = ConsoleReporter(stdout=out, stderr=io.StringIO())
    for epoch, accuracy in enumerate([missing, 30.0, missing]):
        reporter.end_epoch(_line(epoch, accuracy, train_loss=missing))
    lines = out.getvalue().splitlines()
    assert lines[-1].split()[3:7] == ["nan", "40.00", "nan", "30.00"]
    assert {len(line) for line in lines} == {len(EPOCH_HEADER)}


def test_the_header_comes_again_in_a_long_run():
    out = io.StringIO()
    reporter = ConsoleReporter(stdout=out, stderr=io.StringIO())
    reporter.begin_run("run")
    for epoch in range(120):
        reporter.end_epoch(_line(epoch))
    assert out.getvalue().splitlines().count(EPOCH_HEADER) == 3


def test_quiet_says_nothing(capfd):
    _run(QuietReporter(), [50.0, 60.0])
    assert capfd.readouterr() == ("", "")


def test_a_growth_names_every_stage_that_grew():
    assert describe_growth((2, 1, 1), (2, 2, 1), "gaussian") == (
        "grew stage 1: 2-1-1 -> 2-2-1 (gaussian)"
    )
    assert describe_growth((1, 1, 1), (2, 1, 3), "zero").startswith("grew stages 0, 2: 1-1-1")


def test_a_message_of_any_signs_is_printed_on_a_strict_terminal():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    ConsoleReporter(stdout=stream, stderr=io.StringIO()).message("caf\u00e9 \udcff \x1b[31m")
    assert stream.buffer.getvalue().decode() == "caf\u00e9 \\udcff \\x1b[31m\n"
