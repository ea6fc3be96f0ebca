"""metrics.jsonl: what is written is what is read, whatever killed the writer."""

import json
import math
import struct

import numpy as np
import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.metrics import MetricsWriter, growth_events, read, truncate


def _line(epoch, **more):
    return {"epoch": epoch, "phase": "growth", "depths": (1 + epoch // 2, 1, 1), **more}


def _write(path, num_epochs):
    with MetricsWriter(path) as writer:
        for epoch in range(num_epochs):
            writer.write(_line(epoch, train_loss=1 / (epoch + 3)))
    return path.read_bytes()


def test_every_finite_double_is_read_as_it_was_written(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**64, size=500, dtype=np.uint64)
    values = [v for v in bits.view(np.float64).tolist() if math.isfinite(v)]
    values += [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3]
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for epoch, value in enumerate(values):
            writer.write(_line(epoch, train_loss=value))
    for line, value in zip(read(path), values, strict=True):
        assert struct.pack("d", line["train_loss"]) == struct.pack("d", value)


def test_numpy_scalars_and_arrays_become_plain_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    loss = np.float32(0.1)
    with MetricsWriter(path) as writer:
        writer.write(
            _line(np.int64(0), train_loss=loss, accuracy=np.array(1.5), sizes=np.arange(3), ok=True)
        )
    (line,) = read(path)
    assert line["train_loss"] == float(loss)
    assert line["accuracy"] == 1.5
    assert line["sizes"] == [0, 1, 2]
    assert line["ok"] is True
    assert line["depths"] == [1, 1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_written_as_null_in_strict_json(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(_line(0, train_loss=value))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["train_loss"] is None
    assert read(path)[0]["train_loss"] is None


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for epoch in range(3):
            writer.write(_line(epoch))
            assert len(read(path)) == epoch + 1


def test_writer_refuses_what_is_no_new_epoch(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write(path, 3)
    content = path.read_bytes()
    with MetricsWriter(path) as writer:
        for line in (_line(2), _line(0), _line(-1), {"depths": [1]}, _line(3.5), _line(True)):
            with pytest.raises(ValueError, match="above 2"):
                writer.write(line)
        with pytest.raises(TypeError, match="'extra'"):
            writer.write(_line(3, extra=object()))
        assert path.read_bytes() == content
        writer.write(_line(3))
    assert [line["epoch"] for line in read(path)] == [0, 1, 2, 3]


def test_wherever_the_last_line_is_torn_the_others_are_read_and_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = _write(path, 3)
    before_last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for size in range(before_last, len(whole) + 1):
        path.write_bytes(whole[:size])
        # Without its line end the last line is still whole.
        num_whole = 3 if size >= len(whole) - 1 else 2
        assert [line["epoch"] for line in read(path)] == list(range(num_whole))
        with MetricsWriter(path) as writer:
            for epoch in range(num_whole, 4):
                writer.write(_line(epoch))
        assert [line["epoch"] for line in read(path)] == [0, 1, 2, 3]


def test_zeros_after_a_power_cut_are_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_write(path, 2) + b"\0" * 100)
    assert len(read(path)) == 2


@pytest.mark.parametrize(
    "damage", [b'{"epoch": 1, "dep', b"[1, 2]", b'{"epoch": "1"}', b"\xff\xfe"]
)
def test_a_damaged_middle_names_file_and_line(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    lines = _write(path, 3).splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, lines[2]]) + b"\n")
    for call in (lambda: read(path), lambda: truncate(path, 3), lambda: MetricsWriter(path)):
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: "):
            call()


def test_two_runs_in_one_file_are_found(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_write(path, 2) * 2)
    with pytest.raises(UserError, match="line 3: epoch 0 comes after epoch 1"):
        read(path)


def test_a_missing_file_is_told_by_read_and_nothing_to_truncate(tmp_path):
    with pytest.raises(UserError, match="no metrics file"):
        read(tmp_path / "metrics.jsonl")
    assert truncate(tmp_path / "metrics.jsonl", 3) == []
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("num_epochs", [0, 1, 4, 5, 9])
def test_truncate_keeps_the_first_epochs_byte_for_byte(tmp_path, num_epochs):
    path = tmp_path / "metrics.jsonl"
    whole = _write(path, 5)
    path.write_bytes(whole + b'{"epoch": 5, "tr')
    kept = truncate(path, num_epochs)
    assert kept == read(path)
    assert [line["epoch"] for line in kept] == list(range(min(5, num_epochs)))
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:num_epochs])
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncate_leaves_an_old_file_if_it_is_stopped(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    whole = _write(path, 5)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("autogrow_jax.reporting.workdir.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        truncate(path, 2)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_resumed_run_leaves_the_file_of_one_that_was_not_killed(tmp_path):
    whole = _write(tmp_path / "whole.jsonl", 6)
    path = tmp_path / "resumed.jsonl"
    path.write_bytes(whole[: int(len(whole) * 0.8)])
    truncate(path, 3)
    with MetricsWriter(path) as writer:
        for epoch in range(3, 6):
            writer.write(_line(epoch, train_loss=1 / (epoch + 3)))
    assert path.read_bytes() == whole


def test_truncate_refuses_a_negative_number(tmp_path):
    with pytest.raises(ValueError, match="-1"):
        truncate(tmp_path / "metrics.jsonl", -1)


def test_growth_events_are_the_changes_of_depth():
    depths = [(1, 1, 1), (1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 2, 1), (3, 3, 2)]
    metrics = [{"epoch": epoch, "depths": d} for epoch, d in enumerate(depths)]
    assert growth_events(metrics) == [
        {"epoch": 2, "stage": 0, "depths": [2, 1, 1]},
        {"epoch": 4, "stage": 1, "depths": [2, 2, 1]},
        {"epoch": 5, "stage": None, "depths": [3, 3, 2]},
    ]
    assert growth_events(metrics[:2]) == growth_events([]) == []
