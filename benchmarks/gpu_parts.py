"""Parts 1, 3, 4 and 5 of `benchmarks.gpu`: correctness, roofline, a growth phase, a cell."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autogrow_jax.build import load_data
from autogrow_jax.config import default_config, resolve
from autogrow_jax.data import Preprocessing
from autogrow_jax.main import main as run_main
from autogrow_jax.models import FAMILIES, build_network, get_family
from autogrow_jax.optim import make_optimizer
from autogrow_jax.reporting import QuietReporter, Workdir, metrics
from autogrow_jax.settings import flatten
from autogrow_jax.settings_files import DEFAULT_CONFIG, load_config
from autogrow_jax.steps.state import init_state, make_mesh
from autogrow_jax.steps.step import Recipe, Sums, make_train_steps
from autogrow_jax.steps.trainer import Trainer
from autogrow_jax.training import run
from benchmarks.alone import peak_memory
from benchmarks.gpu_report import read_rows
from benchmarks.gpu_steps import EAGER, FORMS, Cell, Turn
from benchmarks.gpu_worker import Job
from benchmarks.growth_phase import write_data
from benchmarks.phase_ours import train_ours
from benchmarks.phase_report import summarise
from benchmarks.roofline import measure_limits

_ROOT = Path(__file__).parents[1]
# Of the largest entry of a leaf after one step, in float32 on both.
_TOLERANCE = 1e-4
_MNIST_STEPS = 60_000 // 128
_PHASE_SECONDS = 35  # Of steady steps.


def do_correctness(job: Job) -> None:
    """A step of every family against the CPU's; the digits run; a run that is killed goes on."""
    {"steps": _compare_steps, "digits": _train_digits, "resume": _kill_and_resume}[job.what](job)


def _compare_steps(job: Job) -> None:
    names = ["plain3"] if job.tiny else list(FAMILIES)
    with jax.default_matmul_precision("highest"):
        steps = {name: _make_step(name) for name in names}
    places = {"device": jax.devices()[0], "cpu": jax.devices("cpu")[0]}

    def compute(name: str, place: str) -> Any:
        function, arguments = steps[name]
        with jax.default_matmul_precision("highest"):  # Its own in each thread.
            return jax.device_get(jax.jit(function)(*jax.device_put(arguments, places[place])))

    # The processor compiles several at once.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        futures = {n: [pool.submit(compute, n, p) for p in places] for n in names}
        for name, pair in futures.items():
            ours, theirs = (future.result() for future in pair)
            far = jax.tree.map(_distance, ours, theirs)
            worst = max(jax.tree.leaves(far))
            job.note(family=name, relative_error=worst, is_right=bool(worst < _TOLERANCE))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (np.asarray(each, np.float64) for each in (a, b))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.max(np.abs(a - b), initial=0) / max(np.max(np.abs(b), initial=0), 1e-6))


def _make_step(family: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A step on 8 random images, of a net of two blocks a stage, and its arguments."""
    depths, shape, batch = (2,) * len(get_family(family).widths), (16, 16, 3), 8
    recipe = Recipe(
        network=build_network(family, depths),
        optimizer=make_optimizer("sgd", momentum=0.9, weight_decay=5e-4),
        preprocessing=Preprocessing((0.5,) * 3, (0.2,) * 3, crop_padding=0, flip=False),
        batch_size=batch,
        ema=0.0,
        parallel="jit",
        mesh=make_mesh(1, batch),
        exact=True,
    )
    init = partial(init_state, recipe.network, recipe.optimizer)
    state = jax.jit(lambda key: init(key, shape, False))(jax.random.key(0))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (batch, *shape), np.uint8), np.arange(batch) % 10
    arguments = (
        *(state, Sums.zero(), images, labels.astype(np.int32), np.arange(batch, dtype=np.int32)),
        *(jax.random.key(0), np.asarray(depths, np.int32)),
        *(np.float32(0.1), np.int32(0), np.int32(1)),
    )
    return make_train_steps(recipe, 1), arguments


def _train_digits(job: Job) -> None:
    """As a user has it, from a cold start; in the tiny form a few epochs of it."""
    changes = {"compilation_cache": "none", "log.progress": False}
    if job.tiny:
        changes |= {"data.fraction": 0.1, "growth.max_epochs": 2, "growth.interval": 1}
        changes |= {"data.batch_size": 16, "finetune.epochs": 1}
    settings = resolve(flatten(load_config(DEFAULT_CONFIG)) | changes)
    with tempfile.TemporaryDirectory() as folder:
        result = run(settings, folder, reporter=QuietReporter())
    job.note(
        depths=result.depths,
        test_accuracy=result.test_accuracy,
        seconds=result.seconds,
        compilations=result.more["compilations_by_program"],
        programs=result.more["devices"]["programs"],
        is_right=bool(job.tiny or result.test_accuracy > 90),
    )


def _kill_and_resume(job: Job) -> None:
    """Kills a run of eight epochs after three, and compares with one that nobody stopped."""
    with tempfile.TemporaryDirectory() as folder:
        workdirs = [Workdir(Path(folder, name)) for name in ("whole", "killed")]

        def start(workdir: Workdir) -> subprocess.Popen:
            command = [sys.executable, "-m", "autogrow_jax.main", f"--workdir={workdir.root}"]
            command += ["--config.growth.interval=2", "--config.growth.max_epochs=6"]
            command += ["--config.finetune.epochs=2", "--config.log.progress=false"]
            return subprocess.Popen([*command, f"--config.compilation_cache={folder}"], cwd=_ROOT)

        def lines(workdir: Workdir) -> list[dict[str, Any]]:
            return metrics.read(workdir.metrics) if workdir.metrics.exists() else []

        whole = start(workdirs[0])
        whole.wait()
        killed = start(workdirs[1])
        while killed.poll() is None and len(lines(workdirs[1])) < 3:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        again = start(workdirs[1])
        again.wait()
        losses = [[line["train_loss"] for line in lines(workdir)] for workdir in workdirs]
    same_length = len(losses[0]) == len(losses[1]) > 3
    worst = max(abs(a - b) for a, b in zip(*losses, strict=True)) if same_length else None
    job.note(
        epochs=[len(each) for each in losses],
        largest_difference_of_losses=worst,
        is_bit_equal=losses[0] == losses[1],
        # Autotuning may choose another kernel in another process, which rounds otherwise.
        is_right=bool(worst is not None and worst < 0.05),
    )


def do_roofline(job: Job) -> None:
    """What the card reaches; how often an epoch is dispatched and a step waits for the host."""
    {"limits": _measure_limits, "waits": _count_waits}[job.what](job)


def _measure_limits(job: Job) -> None:
    for precision in ("float32",) if job.tiny else ("bfloat16", "tf32", "float32"):
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        with jax.default_matmul_precision("highest" if precision == "float32" else "default"):
            job.note(precision=precision, **measure_limits(dtype, 1 if job.tiny else 5)._asdict())


def _count_waits(job: Job) -> None:
    config = default_config()
    config.update_from_flattened_dict({"num_devices": 1, "data.batch_size": 32})
    settings = resolve(config)
    trainer = Trainer(settings, load_data(settings))
    kinds: list[str] = []
    call = trainer.programs.call

    def counted(kind: str, *args: Any, **kwargs: Any) -> Any:
        kinds.append(kind)
        return call(kind, *args, **kwargs)

    trainer.programs.call = counted  # type: ignore[method-assign]
    trainer.start()
    kinds.clear()
    trainer.train_epoch(0, 0.01, lambda steps, images: None)  # As with a bar.
    job.note(
        dispatches_of_an_epoch=len(kinds),
        steps_of_an_epoch=trainer.steps_per_epoch,
        programs="exact" if trainer.is_exact else "shared",
    )
    trainer.programs.close()
    depth, batch, steps = (2, 4, 2) if job.tiny else (20, 128, 5)
    cell = Cell("plain3", depth, batch, "float32" if job.tiny else "bfloat16", steps)
    for name in ("exact", "shared"):
        lowered, arguments = cell.lower(FORMS[name])
        turn = Turn(lowered.compile(), arguments, batch * steps)
        turn()
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                turn()
            events = _read_trace(Path(folder))
        # The host's side has an event for each of them, too.
        there = {event: n for event, n in events.items() if event.startswith("device: ")}
        copies = sum(n for event, n in there.items() if "D2H" in event or "DtoH" in event)
        waits = sum(n for event, n in events.items() if "ynchronize" in event)
        job.note(
            **{"form": name, "depths": cell.depths, "steps": steps},
            copies_to_host_per_step=copies / steps,
            synchronizations_per_step=waits / steps,
            events=dict(events.most_common(40)),
        )


def _read_trace(folder: Path) -> Counter[str]:
    """How often each event stands in a trace, on the host's side and the device's."""
    events: Counter[str] = Counter()
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            side = "device" if "GPU" in plane.name or "TPU" in plane.name else "host"
            events.update(f"{side}: {event.name}" for line in plane.lines for event in line.events)
    return events


def do_phase(job: Job) -> None:
    """A growth phase on data of MNIST's shape: "exact", "shared", or PyTorch's rebuilt net."""
    last, batch, interval = (2, 8, 1) if job.tiny else (20, 128, 3)
    rows = read_rows(job.out / "results.jsonl")
    steps = 3 if job.tiny else _choose_steps(rows, (3 * last - 2) * interval)
    # What was killed had too many.
    killed = [row["task"] for row in rows if row["part"] == "end" and row["state"] == "killed"]
    steps = max(3, steps // 2 ** killed.count(f"phase:{job.what}"))
    about = {"phase": job.what, "last": last, "interval": interval, "steps_per_epoch": steps}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.npz")
        write_data(data, steps * batch, batch, "" if job.tiny else job.data_dir)
        arguments: dict[str, Any] = {
            **{"data": str(data), "family": "plain3", "last": last},
            **{"interval": interval, "batch_size": batch},
        }
        if job.what == "pytorch":
            try:
                from benchmarks.phase_pytorch import train_pytorch
            except ImportError as error:
                job.note(**about, error=f"PyTorch is not there: {error}")
                return
            record = train_pytorch(**arguments)
        else:
            record = train_ours(settings={"growth.programs": job.what}, **arguments)
    record["peak_memory"] = peak_memory()
    job.note(**about, **summarise([{job.what: record}])[job.what], depth_seconds=record["depths"])


def _choose_steps(rows: list[dict[str, Any]], epochs: int) -> int:
    """So many an epoch that all take about `_PHASE_SECONDS`, by what part 2 measured.

    That is of the slowest of those that are compared, and as many for each of them.
    """
    for row in rows:
        if row["part"] == "phase" and "steps_per_epoch" in row:
            return int(row["steps_per_epoch"])
    found: dict[int, float] = {}
    for row in rows:
        if row["part"] != "steps" or "milliseconds" not in row or row["precision"] == "float32":
            continue
        compared = row["form"] in ("exact", "shared", EAGER)
        if compared and (row["family"], row["batch"]) == ("plain3", 128):
            depth, seconds = row["depths"][0], row["milliseconds"] / 1000
            found[depth] = max(seconds, found.get(depth, 0.0))
    if not {3, 20} <= found.keys():
        return 100
    mean = found[3] + (found[20] - found[3]) * (10.5 - 3) / (20 - 3)
    return min(max(round(_PHASE_SECONDS / (epochs * mean)), 20), _MNIST_STEPS)


def do_cell(job: Job) -> None:
    """Plain3Net on MNIST by the paper's protocol, from where the workdir stands."""
    arguments = ["--config=configs/mnist_plain3.py", f"--workdir={job.workdir}"]
    arguments += ["--config.log.progress=false", "--config.log.tensorboard=false"]
    arguments += ["--config.checkpoint.keep=1", "--config.compilation_cache=none"]
    if job.tiny:
        arguments += ["--config.data.name=digits", "--config.data.fraction=0.1"]
        arguments += ["--config.data.batch_size=16", "--config.growth.interval=1"]
        arguments += ["--config.growth.max_epochs=2", "--config.finetune.epochs=1"]
    elif job.data_dir:
        arguments += [f"--config.data.dir={job.data_dir}"]
    else:
        job.note(error="no data: give the folder of MNIST's official files as --data-dir")
        return
    status = run_main(arguments)
    workdir = Workdir(Path(job.workdir))
    lines = metrics.read(workdir.metrics) if workdir.metrics.exists() else []
    last = {key: lines[-1][key] for key in ("epoch", "phase", "depths")} if lines else {}
    best = max((line["validation_accuracy"] for line in lines), default=None)
    result = json.loads(workdir.result.read_text()) if workdir.result.exists() else None
    if result is not None:
        keys = ("depths", "best_validation_accuracy", "test_accuracy", "epochs", "seconds")
        result = {key: result[key] for key in keys}
    job.note(**last, best_validation_accuracy=best, result=result)
    sys.exit(status)
