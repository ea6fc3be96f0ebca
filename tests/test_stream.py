"""Sets whose images stay in their files: what is read, in which order, and runs on them."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_ins import SignalAt, StopAt, pictures

from autogrow_jax import build
from autogrow_jax.command_line import Terminated
from autogrow_jax.config import default_config
from autogrow_jax.data.dataset import Choices
from autogrow_jax.errors import UserError
from autogrow_jax.report.figures import draw_samples
from autogrow_jax.reporting import QuietReporter, Workdir
from autogrow_jax.reporting.predictions import Predictions
from autogrow_jax.settings import flatten
from autogrow_jax.steps import Trainer, host_feed
from autogrow_jax.stream import is_streamed, keep_workers, load_stream, read_batches, read_stream
from autogrow_jax.stream import load as stream_load
from autogrow_jax.stream.crops import draw_box
from autogrow_jax.stream.workers import Workers
from autogrow_jax.training import load, run
from benchmarks import stream as benchmark

pytest.importorskip("grain")

CLASSES, TRAINED, TESTED = ("blue", "green", "red"), 25, 9


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Photographs of several sizes in ImageNet's layout: 75 in train, 27 in val."""
    root, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for part, count in (("train", TRAINED), ("val", TESTED)):
        for channel, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (*draw.integers(20, 60, 2), 3), np.uint8)
                pixels[..., 2 - channel] //= 2
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    return root


@pytest.fixture(scope="module")
def dataset(tree):
    return load_stream(f"folder:{tree}", 16, Choices("test"), workers=0)


def make_config(tree, **changes):
    config = default_config()
    config.data.update(name=f"folder:{tree}", stream="yes", image_size=16, batch_size=32)
    config.data.update(workers=0, validation="test", flip="yes")
    config.growth.update(interval=1, max_depths=(2, 1, 1))
    config.finetune.update(epochs=2, front=False)
    config.log.update(tensorboard=False, progress=False, report=False)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory):
    """A run that grew, to its end."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pictures(page=True):
        result = run(make_config(tree, **{"log.report": True}), workdir, reporter=QuietReporter())
    return workdir, result


def read_lines(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("seconds", "elapsed")} for line in lines]


def test_boxes_at_random_lie_within_the_image_and_differ_by_epoch_and_image():
    boxes = {draw_box(key, row)(300, 400) for key in range(4) for row in range(50)}
    assert len(boxes) == 200 and draw_box(3, 7)(300, 400) in boxes
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300
        # Sides are rounded to whole pixels.
        assert 0.079 < (right - left) * (bottom - top) / (300 * 400) <= 1
        assert 0.73 < (right - left) / (bottom - top) < 1.36
    areas = [(b[2] - b[0]) * (b[3] - b[1]) / (300 * 400) for b in boxes]
    assert 0.4 < np.mean(areas) < 0.6


def test_where_no_box_fits_the_largest_in_the_centre_is_taken():
    assert draw_box(0, 0)(10, 1000) == (493, 0, 506, 10)
    assert draw_box(0, 0)(1000, 9) == (0, 494, 9, 506)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (256, 256), (300, 90), (2000, 1500)])
def test_an_image_is_evaluated_on_the_centre_of_its_shorter_side_resized_to_256(tmp_path, size):
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (20, 20, 3), np.uint8))
    for number, name in enumerate("ab"):
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "train" / name / "1.bmp")
        coarse.resize(size).save(tmp_path / "val" / name / "1.bmp")
    dataset = load_stream(f"folder:{tmp_path}", 224, Choices("test"), workers=0)
    short = 256 / min(size)
    whole = [256 if side == min(size) else int(side * short) for side in size]
    resized = np.asarray(coarse.resize(size).resize(whole, Image.Resampling.BILINEAR), int)
    top, left = (round((side - 224) / 2) for side in resized.shape[:2])
    expected = resized[top : top + 224, left : left + 224]
    assert np.abs(dataset.test.images[0] - expected).max() <= 1


def test_a_large_jpeg_is_decoded_coarsely_and_looks_the_same(tmp_path):
    gradient = np.linspace(0, 255, 1200 * 1600).reshape(1200, 1600, 1).astype(np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(9):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
        Image.fromarray(np.repeat(gradient, 3, 2)).save(tmp_path / name / "large.jpg")
    images = load_stream(f"folder:{tmp_path}", 56, workers=0).train.images
    large = next(
        row for row in range(len(images)) if images.contents[images.rows[row]].suffix == ".jpg"
    )
    whole = np.asarray(Image.fromarray(np.repeat(gradient, 3, 2)).resize((85, 64)), int)
    assert np.abs(images[large] - whole[4:60, 14:70]).max() <= 6


def _shared():
    return {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "pym-"))}


def test_what_is_read_depends_on_epoch_and_image_alone(dataset):
    """Not on the number of workers, the size of batches or where reading begins."""
    images, rows = dataset.train.images, np.random.default_rng(1).permutation(75)
    before = _shared()
    whole = np.concatenate([*read_batches(images, rows, 32, b"epoch 0")])
    workers = replace(images, workers=2)
    batches = read_batches(workers, rows, 16, b"epoch 0")
    assert np.array_equal(np.concatenate([next(batches) for _ in range(5)]), whole)
    assert not multiprocessing.active_children()  # Though nobody asked behind the last batch.
    late = np.concatenate([*read_batches(images, rows[40:], 32, b"epoch 0")])
    assert np.array_equal(late, whole[40:])
    sizes = [len(batch) for batch in read_batches(images, rows, 40, b"epoch 0")]
    uneven = np.concatenate([*read_batches(images, rows, 40, b"epoch 0")])
    assert sizes == [40, 35] and np.array_equal(uneven, whole)
    assert not [*read_batches(workers, rows[:0], 32, b"epoch 0")]
    other = np.concatenate([*read_batches(images, rows, 32, b"epoch 1")])
    assert not np.array_equal(other, whole)
    evaluated = np.concatenate([*read_batches(images, rows, 32)])
    assert np.array_equal(evaluated, images[rows])
    # What other runs on this machine share is there for seconds, what was left would stay.
    left = _shared() - before
    for _ in range(60):
        left &= _shared()
        if left:
            time.sleep(1)
    assert not left


def _children():
    return {process.pid for process in multiprocessing.active_children()}


def test_two_threads_that_wait_for_a_worker_both_see_its_end(dataset, monkeypatch):
    """One that decodes and the one that closes: Python's own `join` lets one go on too early."""
    workers = Workers((1, 8, 8, 3), is_kept=True)
    workers.prepare(dataset.train.images, 1)
    reap = os.waitpid

    def reap_and_pause(*which):  # As when another thread is given its turn.
        found = reap(*which)
        time.sleep(0.3)
        return found

    monkeypatch.setattr(os, "waitpid", reap_and_pause)
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(workers._all[0].wait)
        time.sleep(0.1)
        workers.close()
        assert not _children()
        assert code.result() == -signal.SIGKILL


def test_workers_serve_one_reading_after_the_other_and_import_no_jax(dataset):
    """So that neither the end of an epoch nor the start of the next waits for processes."""
    trained, evaluated = (
        replace(part.images, workers=2) for part in (dataset.train, dataset.validation)
    )
    rows, inside = np.random.default_rng(1).permutation(75), []
    with keep_workers():
        dropped = read_batches(trained, rows, 16, b"epoch 0")
        next(dropped)
        found = [*read_batches(evaluated, np.arange(27), 16)]  # Amid the other.
        inside.append(_children())
        del dropped
        epoch = [*read_batches(trained, rows, 32, b"epoch 1")]
        inside.append(_children())
        for worker in inside[0]:
            assert "jaxlib" not in Path(f"/proc/{worker}/maps").read_text()
    assert len(inside[0]) == 2 and inside[0] == inside[1] and not _children()
    assert np.array_equal(np.concatenate(found), dataset.validation.images[:])
    expected = [*read_batches(dataset.train.images, rows, 32, b"epoch 1")]
    assert np.array_equal(np.concatenate(epoch), np.concatenate(expected))


def test_a_folder_of_one_class_can_be_listed_to_evaluate(tree, tmp_path):
    shutil.copytree(tree / "val" / "red", tmp_path / "one" / "red")
    with pytest.raises(UserError, match="1 class"):
        load_stream(f"folder:{tmp_path / 'one'}", 16, workers=0)
    source = read_stream(f"folder:{tmp_path / 'one'}", 16, workers=0, least_classes=1)
    assert len(source.train.labels) == TESTED


def test_parts_are_held_out_as_of_other_sets_and_stay_unread(tree):
    dataset = load_stream(f"folder:{tree}", 16, Choices("0.2", fraction=0.5), workers=0)
    sizes = {name: len(part.labels) for name, part in dataset.parts.items()}
    # The set has no test part of its own, and its validation part is passed over.
    assert 5 < sizes["test"] < 27 and 25 < sizes["train"] + sizes["validation"] < 45
    assert not np.isin(dataset.train.ids, dataset.validation.ids).any()
    assert dataset.train.images.random and not dataset.validation.images.random
    with pytest.raises(TypeError, match=r"streamed images .* would be read into memory"):
        np.asarray(dataset.train.images)
    for name in ("validation", "test"):
        part = dataset.parts[name]
        classes = [path.split("/")[-2] for path in dataset.files[name]]
        assert [CLASSES[label] for label in part.labels] == classes


def test_a_run_on_a_stream_grows_and_evaluates_every_image_once(finished, dataset):
    workdir, result = finished
    assert result.depths == (2, 1, 1)
    known = json.loads((workdir / "dataset.json").read_text())
    counts = {name: part["images"] for name, part in known["parts"].items()}
    assert counts == {"train": 75, "validation": 27, "test": 27}
    assert known["class_names"] == list(CLASSES)
    predictions = Predictions.read(Workdir(workdir).test_predictions)
    assert predictions.labels.tolist() == dataset.test.labels.tolist()
    right = int((predictions.predicted == predictions.labels).sum())
    assert math.isclose(result.test_accuracy, 100 * right / 27)
    assert (workdir / "report.html").stat().st_size > 10_000


def test_reading_counts_for_no_time_of_the_net(tree, dataset, monkeypatch):
    trainer = Trainer(build.resolve(make_config(tree)), dataset)
    trainer.start()
    clock = [0.0]

    def read(images, rows, size, key=None):
        for first in range(0, len(rows), size):
            clock[0] += 100.0  # A slow disk.
            yield images[rows[first : first + size]]

    monkeypatch.setattr(host_feed, "read_batches", read)
    monkeypatch.setattr(host_feed.HostFeed, "_clock", lambda feed: clock[0])
    assert trainer.evaluate("validation").examples == 27
    assert clock[0] > 0 and trainer.programs.evaluating == 0


def test_a_report_shows_the_boxes_that_are_trained_on(dataset):
    words, pictures = draw_samples(dataset, "crop_flip", None)
    assert "a part of it cut out at random" in words
    shown = re.findall('base64,([^&"]+)', pictures)
    assert len(shown) == len(set(shown)) == len(CLASSES) * 5


def test_a_net_sees_files_and_other_folders_as_its_run_saw_its_own(finished, dataset, tmp_path):
    """Resized with a margin and cropped, not resized alone: else predictions differ unseen."""
    workdir, result = finished
    net = load(workdir)
    files = [dataset.test.images.contents[row] for row in dataset.test.images.rows.tolist()]
    seen = dataset.test.images[:]
    np.testing.assert_array_equal([net.read(file) for file in files], seen)
    # Pixels come without their file, of which a JPEG is decoded coarsely.
    pixels = net.prepare([np.asarray(Image.open(file)) for file in files])
    assert np.abs(pixels.astype(int) - seen).max() <= 2
    kept = Predictions.read(Workdir(workdir).test_predictions)
    found = np.stack([answer for _, answer in net.predict_files(files)])
    np.testing.assert_allclose(found, kept.probabilities, atol=1e-5)

    for file in files:
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        (tmp_path / file.parent.name / file.name).write_bytes(file.read_bytes())
    config = default_config()
    config.mode = "evaluate"
    config.data.name = f"folder:{tmp_path}"
    config.data.workers = 0
    again = run(config, workdir, reporter=QuietReporter())
    assert again.test_accuracy == result.test_accuracy


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tree, finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tree), tmp_path / "run", reporter=StopAt(1))
    run(make_config(tree), tmp_path / "run", reporter=StopAt(-1))
    assert read_lines(tmp_path / "run") == read_lines(finished[0])


def test_a_run_that_is_signalled_amid_an_epoch_decodes_no_image_of_it_again(
    tree, finished, tmp_path, monkeypatch
):
    config = make_config(tree, **{"log.progress": True, "checkpoint.every": 9})
    for epoch in (0, 2):
        with pytest.raises(Terminated):
            run(config, tmp_path / "run", reporter=(stopped := SignalAt(epoch, 1)))
    done = int(stopped.told[-1].removeprefix("saved in epoch 2, after ").split()[0])
    reads, read = [], host_feed.read_batches

    def note(images, rows, size, key=None):
        reads.append((len(images), len(rows)))
        return read(images, rows, size, key)

    monkeypatch.setattr(host_feed, "read_batches", note)
    run(config, tmp_path / "run", reporter=QuietReporter())
    # Of two batches of 32 those that were left of the epoch; all of the next.
    assert [rows for images, rows in reads if images == 75] == [32 * (2 - done)] * (done < 2) + [64]
    assert read_lines(tmp_path / "run") == read_lines(finished[0])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_signal_to_all_processes_of_a_stream_saves_amid_the_epoch(tree, finished, tmp_path):
    """As schedulers and terminals send it: to those who decode, too."""
    keys = flatten(make_config(tree, **{"log.progress": True, "data.workers": 1}))
    (tmp_path / "config.py").write_text(
        "from autogrow_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.update_from_flattened_dict({keys})\n"
        "    return config\n"
    )
    given = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    # Epochs of two steps would be over before the signal is there.
    slow = (
        "import time; from autogrow_jax.reporting import ConsoleReporter as C\n"
        "C.epoch_progress = lambda *given: (print('step', flush=True), time.sleep(2))\n"
        "from autogrow_jax.main import start; start()"
    )
    command = [sys.executable, "-c", slow, *given]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "step" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 143, err
    assert "saved in epoch 0, after 1 of 2 steps" in out
    run(make_config(tree), tmp_path / "run", reporter=QuietReporter())
    assert read_lines(tmp_path / "run") == read_lines(finished[0])


@pytest.mark.slow
def test_a_run_is_the_same_with_any_number_of_workers_and_starts_them_once(
    tree, finished, tmp_path, monkeypatch
):
    seen = []

    def note(*asked):
        for batch in read_batches(*asked):
            seen.append(_children())
            yield batch

    monkeypatch.setattr(host_feed, "read_batches", note)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tree, **{"data.workers": 1}), tmp_path / "run", reporter=StopAt(1))
    assert not _children()
    began = len(seen)
    run(make_config(tree, **{"data.workers": 2}), tmp_path / "run", reporter=StopAt(-1))
    assert not _children()
    assert read_lines(tmp_path / "run") == read_lines(finished[0])
    # Epochs, evaluations and growth ask the same.
    assert len(set.union(*seen[:began])) == 1 and len(set.union(*seen[began:])) == 2


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_reading_with_an_error(dataset):
    images = replace(dataset.train.images, workers=1)
    batches = read_batches(images, np.tile(np.arange(75), 100), 32, b"")
    next(batches)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"a worker that decodes images ended .*data\.workers"):
        list(batches)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """More images a part than a worker may be ahead, of a few pixels each."""
    root, draw = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    for part in ("train", "val"):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(400):
                pixels = draw.integers(0, 256, (3, 3, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.bmp")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("evaluated", [False, True], ids=["in training", "in evaluation"])
def test_a_worker_that_dies_ends_the_run_with_an_error(
    finished, many, evaluated, monkeypatch, tmp_path
):
    def read(images, rows, size, key=None):
        for batch in read_batches(images, rows, size, key):
            if (key is None) == evaluated:
                for process in multiprocessing.active_children():
                    os.kill(process.pid, signal.SIGKILL)
            yield batch

    def give_up(*_):
        raise TimeoutError("the run hangs")

    monkeypatch.setattr(host_feed, "read_batches", read)
    before = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.alarm(120)  # Of that, a minute to start.
        said = r"a worker that decodes images ended .*exit code -9.* from its last checkpoint"
        with pytest.raises(UserError, match=said):
            if evaluated:
                config = default_config()
                config.mode = "evaluate"
                config.data.update(name=f"folder:{many}", workers=1)
                run(config, finished[0], reporter=QuietReporter())
            else:
                config = make_config(many, **{"data.workers": 1})
                run(config, tmp_path / "run", reporter=QuietReporter())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()


def _lives(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_workers_end_when_the_run_that_they_decode_for_is_killed(many):
    program = (
        "import multiprocessing, time, numpy as np\n"
        "from autogrow_jax.stream import load_stream, read_batches\n"
        f"images = load_stream('folder:{many}', 16, workers=2).train.images\n"
        "batches = read_batches(images, np.arange(len(images)), 32)\n"
        "next(batches)\n"
        "print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    workers = [int(number) for number in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(_lives, workers))
    process.kill()
    process.communicate()
    for _ in range(300):
        if any(map(_lives, workers)):
            time.sleep(0.2)
    assert not any(map(_lives, workers))


def test_a_damaged_or_lost_image_is_named(tree, dataset, tmp_path):
    for name in CLASSES[:2]:
        (tmp_path / name).mkdir()
        for number in range(9):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    images = load_stream(f"folder:{tmp_path}", 16, workers=0).train.images
    for number in range(3, 9):
        (tmp_path / "green" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"green/\d\.png: not readable as an image"):
        list(read_batches(images, np.arange(len(images)), 4))
    for path in (tmp_path / "green").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"green/\d\.png: cannot be read"):
        list(read_batches(images, np.arange(len(images)), 4))


def test_other_files_are_another_set(tree, dataset):
    again = load_stream(f"folder:{tree}", 16, Choices("test"), workers=3)
    assert again.known() == dataset.known()
    more = tree / "train" / "red" / "more.JPEG"
    Image.new("RGB", (20, 20)).save(more)
    try:
        changed = load_stream(f"folder:{tree}", 16, Choices("test"), workers=0).known()
        assert changed.parts["train"].images == 76
        more.rename(tree / "train" / "red" / "0.5.JPEG")
        renamed = load_stream(f"folder:{tree}", 16, Choices("test"), workers=0).known()
        assert renamed.parts["train"].fingerprint != changed.parts["train"].fingerprint
    finally:
        for path in (tree / "train" / "red").glob("*[.m]*e.JPEG"):
            path.unlink()
        (tree / "train" / "red" / "0.5.JPEG").unlink(missing_ok=True)


def test_folders_that_are_large_when_decoded_are_streamed(tree, tmp_path, monkeypatch):
    asked = "auto", f"folder:{tree}", "", 16
    assert not is_streamed(*asked)
    monkeypatch.setattr(stream_load, "LARGE", 101 * 16 * 16 * 3)
    assert is_streamed(*asked)
    assert not is_streamed("no", *asked[1:])
    assert not is_streamed("auto", f"folder:{tree / 'nowhere'}", "", 16)
    # Also where it lies behind links.
    linked = tmp_path / "linked"
    linked.mkdir()
    for part in ("train", "val"):
        (linked / part).symlink_to(tree / part) if (tree / part).is_dir() else None
    assert is_streamed("auto", f"folder:{linked}", "", 16)
    monkeypatch.setattr(stream_load, "LARGE", 102 * 16 * 16 * 3)
    assert not is_streamed(*asked)


def test_a_crop_padding_of_ones_own_is_kept(tree):
    settings = build.resolve(make_config(tree, **{"data.crop_padding": 2}))
    dataset = build.load_data(settings)
    assert not dataset.train.images.random and dataset.preprocessing.crop_padding == 2
    assert dataset.preprocessing.flip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.image_size": 0}, r"data\.stream is 'yes' and data\.image_size is 0"),
        ({"data.name": "digits"}, r"data\.stream is 'yes', but 'digits' is no folder:PATH"),
        ({"data.on_device": "yes"}, r"config\.data\.on_device is 'yes', but the images are stream"),
    ],
)
def test_what_streams_cannot_do_is_said(tree, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        run(make_config(tree, **changes), tmp_path / "run", reporter=QuietReporter())


def test_the_benchmark_reads_each_source_and_its_memory(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "make_theirs", lambda *_: None)  # Torch is slow to import.
    path = tmp_path / "found.json"
    given = ["--classes=2", "--images=40", "--rounds=1", "--workers=0", f"--json={path}"]
    assert benchmark.main(given) == 0
    found = json.loads(path.read_text())["rounds"]
    assert {"folder", "ArrayRecord"} <= set(found)
    for (epoch,) in found.values():
        assert epoch["images"] == 80
        assert epoch["rate"] > 0 and epoch["memory_last"] > 50
    printed = capsys.readouterr().out
    assert "| ArrayRecord |" in printed and "reads 24,000 a second; cores" in printed


@pytest.mark.slow
def test_the_benchmark_compares_workers_started_anew_with_kept_ones(dataset):
    found = benchmark.measure_short(replace(dataset.train.images, workers=1), rounds=1)
    assert list(found) == ["anew", "kept"] and not _children()
    assert all(took["seconds"] > 0 and took["cpu_seconds"] >= 0 for took in found.values())


def test_a_pipe_among_the_images_of_a_stream_hangs_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = np.full((9, 9, 3), 40 * i + 3, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with pytest.raises(UserError, match=r"a/pipe\.png: no regular file; remove it"):
        load_stream(f"folder:{tmp_path}", 8, workers=0)
