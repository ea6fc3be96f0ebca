"""Which convolutions a run computes with, and that it goes on with those it was begun with."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from stand_ins import Told

from autogrow_jax.cli import doctor
from autogrow_jax.config import default_config, resolve
from autogrow_jax.errors import UserError
from autogrow_jax.models.convolution import why_not_native
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.steps import convolutions
from autogrow_jax.steps.convolutions import settle_convolution
from autogrow_jax.training import run

ROOT = Path(__file__).resolve().parents[1]


def _settle(wanted, begun_with=None, **changes):
    config = default_config()
    config.update_from_flattened_dict({"model.convolution": wanted, **changes})
    reporter = Told()
    settled = settle_convolution(resolve(config), reporter, begun_with)
    return settled.model.convolution, reporter.messages


@pytest.fixture
def one_device(monkeypatch):
    """A machine with one CPU device, on which the library is built."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(convolutions.native, "has_to_build", lambda: False)
    monkeypatch.setattr(convolutions, "why_not_native", lambda: "")


@pytest.fixture
def no_compiler(one_device, monkeypatch):
    monkeypatch.setattr(convolutions, "why_not_native", lambda: "no C++ compiler")


def test_one_cpu_device_takes_the_packages_own(one_device):
    assert _settle("auto") == ("native", [])
    assert _settle("native") == ("native", [])
    assert _settle("xla") == ("xla", [])


def test_where_they_cannot_compute_xla_does(one_device, monkeypatch):
    assert _settle("auto", **{"model.dtype": "bfloat16"}) == ("xla", [])
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert _settle("auto") == ("xla", [])
    # Who asked for them is told why not.
    found, (message,) = _settle("native", num_devices=4)
    assert found == "xla" and "parallel = 'pmap' can" in message
    assert _settle("native", num_devices=4, parallel="pmap") == ("native", [])


def test_the_first_build_is_announced(one_device, monkeypatch):
    monkeypatch.setattr(convolutions.native, "has_to_build", lambda: True)
    found, (message,) = _settle("auto")
    assert found == "native" and "building convolutions" in message


def test_a_machine_without_a_compiler_says_so(no_compiler):
    for wanted in ("auto", "native"):
        found, (message,) = _settle(wanted)
        assert found == "xla" and message.endswith("no C++ compiler")


def test_where_they_would_be_slower_nobody_is_told_that_xlas_are(one_device, monkeypatch):
    reason = convolutions.native.NO_GAIN
    monkeypatch.setattr(convolutions, "why_not_native", lambda: reason)
    assert _settle("auto") == ("xla", [])
    found, (message,) = _settle("native")
    assert found == "xla" and message.endswith(reason)
    monkeypatch.setattr(doctor, "why_not_native", lambda: reason)
    monkeypatch.setattr(doctor.native, "has_to_build", lambda: False)
    assert [*doctor._kernels(to_do := [])] == [f"XLA's convolutions, as {reason}"] and not to_do


def test_a_run_goes_on_with_what_it_was_begun_with(one_device, monkeypatch):
    def fail():
        raise AssertionError("nothing has to be built for it")

    monkeypatch.setattr(convolutions, "why_not_native", fail)
    assert _settle("auto", "xla") == ("xla", [])
    found, (message,) = _settle("native", "xla")
    assert found == "xla" and "begun with XLA's" in message
    monkeypatch.setattr(convolutions, "why_not_native", lambda: "")
    assert _settle("auto", "native") == ("native", [])


def test_a_run_that_cannot_go_on_says_why(no_compiler):
    for wanted in ("auto", "native"):
        with pytest.raises(UserError, match=r"cannot be used here \(no C\+\+ compiler\)"):
            _settle(wanted, "native")
    # Another config, which the workdir refuses with the key that differs.
    assert _settle("xla", "native") == ("xla", [])


@pytest.mark.slow
def test_a_run_of_before_is_finished_by_the_same_command(one_device, tmp_path):
    config = default_config()
    config.update_from_flattened_dict(
        {
            "mode": "scratch",
            "data.fraction": 0.1,
            "data.batch_size": 32,
            "num_devices": 1,
            "model.convolution": "xla",
            "finetune.epochs": 1,
            "log.progress": False,
        }
    )
    first = run(config, tmp_path, reporter=QuietReporter())
    (tmp_path / "result.json").unlink()
    config.model.convolution = "auto"
    again = run(config, tmp_path, reporter=QuietReporter())
    assert again.test_accuracy == first.test_accuracy
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model"]["convolution"] == "xla"


# As if importing took three seconds more.
_LATE = "import time; time.sleep(3); from autogrow_jax.main import start; start()"


@pytest.mark.multiprocess
@pytest.mark.skipif(bool(why_not_native()), reason=why_not_native() or "built")
@pytest.mark.devices(1)
@pytest.mark.slow
def test_the_default_on_one_device_and_a_second_start(tmp_path):
    """As users have it: one CPU device, the package's own convolutions, programs kept on disk."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    }
    command = [
        *(sys.executable, "-c", _LATE, f"--config.compilation_cache={tmp_path}/kept"),
        *("--config.data.fraction=0.2", "--config.data.batch_size=32"),
        *("--config.growth.interval=1", "--config.growth.max_epochs=2"),
        *("--config.finetune.epochs=1", "--config.log.progress=false"),
    ]

    def start(name):
        where = f"--workdir={tmp_path / name}"
        subprocess.run([*command, where], cwd=ROOT, env=environment, check=True, timeout=300)
        result = json.loads((tmp_path / name / "result.json").read_text())
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["train_loss"] for line in lines]
        return result, losses, sorted((tmp_path / "kept").glob("*/*-cache"))

    began = time.monotonic()
    first, losses, programs = start("first")
    passed = time.monotonic() - began
    # The time of a run is that of its process, until its result is there.
    seconds = first["seconds"]
    assert 3 < seconds["start"] < seconds["total"] < passed
    parts = ("start", "build", "train", "evaluate", "compile", "growth", "checkpoint")
    assert sum(seconds[part] for part in parts) < seconds["total"]
    assert first["devices"]["convolution"] == "native"
    assert len(programs) >= 4  # Of init, training, evaluation and growth.
    again, same_losses, same_programs = start("again")
    assert same_programs == programs
    assert same_losses == losses
    assert again["compilations_by_program"] == first["compilations_by_program"]


def test_what_is_as_fast_is_not_called_slower(monkeypatch, one_device):
    monkeypatch.setattr(convolutions, "why_not_native", lambda: convolutions.native.NO_GAIN)
    assert _settle("auto") == ("xla", [])
    settled, (told,) = _settle("native")
    assert settled == "xla" and told == f"convolutions are XLA's: {convolutions.native.NO_GAIN}"
