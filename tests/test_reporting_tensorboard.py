"""TensorBoard events, read back from the records of their files."""

import builtins
import struct

import pytest

from autogrow_jax.reporting.metrics import TensorBoardWriter

_LINE = {
    "epoch": 4,
    "phase": "growth",
    "depths": [3, 2, 2],
    "train_loss": 0.5,
    "train_accuracy": 80.0,
    "validation_loss": None,
    "validation_accuracy": 75.0,
    "learning_rate": 0.1,
    "seconds": 3.0,
    "notes": {"score": 0.25, "unknown": None},
}


def _events(directory):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    events = []
    for path in sorted(directory.iterdir()):  # TensorBoard reads them in this order too.
        data, at = path.read_bytes(), 0
        while at < len(data):  # A record is its size, a checksum, the event, a checksum.
            (size,) = struct.unpack_from("<Q", data, at)
            events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
            at += 12 + size + 4
    return events


def test_scalars_of_an_epoch(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = TensorBoardWriter(tmp_path)
    writer.write(_LINE)
    writer.close()
    writer.close()
    events = _events(tmp_path)
    scalars = {v.tag: (e.step, v.simple_value) for e in events for v in e.summary.value}
    values = {name: value for name, (_, value) in scalars.items()}
    assert {step for step, _ in scalars.values()} == {4}
    assert values == pytest.approx(
        {
            "loss/train": 0.5,
            "accuracy/train": 80.0,
            "accuracy/validation": 75.0,
            "learning_rate": 0.1,
            "seconds": 3.0,
            "depth/stage_0": 3,
            "depth/stage_1": 2,
            "depth/stage_2": 2,
            "depth/total": 7,
            "notes/score": 0.25,
        }
    )


def test_a_resumed_run_hides_the_epochs_it_repeats(tmp_path):
    pytest.importorskip("tensorboardX")
    for first_epoch in (0, 4):
        writer = TensorBoardWriter(tmp_path, first_epoch=first_epoch)
        writer.write(_LINE)
        writer.close()
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    starts = [
        event.step
        for event in _events(tmp_path)
        if event.session_log.status == event_pb2.SessionLog.START
    ]
    # TensorBoard drops what came before a START from the START's step on.
    assert starts == [0, 4]


def test_without_tensorboardx_nothing_is_written(tmp_path, monkeypatch):
    import_module = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("tensorboardX"):
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    writer = TensorBoardWriter(tmp_path / "events")
    writer.write(_LINE)
    writer.close()
    assert not (tmp_path / "events").exists()
