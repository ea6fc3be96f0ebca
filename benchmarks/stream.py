"""Images a second a core of streams, from a folder and from TFDS's ArrayRecord files, beside
torchvision's loader, and whether memory grows over an epoch.

Photographs that nobody took (500x375 pixels and the like) in ImageNet's layout are decoded to train
on: a random box, resized to 224x224. By turns, in one run and by as many worker processes, an epoch
is read from a folder, from the same files packed by TFDS, and by torchvision: `DataLoader` over
`ImageFolder` with `RandomResizedCrop`, `RandomHorizontalFlip` and `PILToTensor`. (Ours are mirrored
later, in the training step.) Rates are of the last three quarters of an epoch; what it takes until
the first batch is told apart. A core's rate is of CPU time of all processes, so others on the
machine change it little. Memory is resident, of all processes: the mean of the epoch's first tenth
and that of its last. What lies between two epochs is told apart, by readings of two pieces for each
worker: with processes that are started for each, and with those that a run keeps.

python -m benchmarks.stream [--classes 1000] [--images 3] [--rounds 3] [--workers CORES]
    [--tree DIR] [--json FILE]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from autogrow_jax.data import Choices
from autogrow_jax.process import cores
from autogrow_jax.stream import Streamed, keep_workers, load_stream, read_batches
from benchmarks.measure import describe_machine, print_machine, print_table, write_json
from benchmarks.photographs import pack, write_tree

FOLDER, RECORDS, THEIRS = "folder", "ArrayRecord", "torchvision"
_SIZE, _BATCH = 224, 64
# Of ResNet-50 on a current accelerator: an assumption, to say what the rates mean.
_ACCELERATORS, _TRAINED = 8, 3000

Epoch = Callable[[], Iterator[int]]


def read_ours(images: Streamed) -> Iterator[int]:
    """Reads an epoch in a random order; yields how many images each batch has."""
    rows = np.random.default_rng(0).permutation(len(images))
    for batch in read_batches(images, rows, _BATCH, b"epoch"):
        yield len(batch)


def make_theirs(folder: Path, workers: int) -> Epoch | None:
    """Reads the same by torchvision; None where that is not installed."""
    try:
        from torch.utils.data import DataLoader
        from torchvision import datasets, transforms
    except ImportError:
        print("torchvision is not installed: the streams alone")
        return None
    crop, flip = transforms.RandomResizedCrop(_SIZE), transforms.RandomHorizontalFlip()
    both = transforms.Compose([crop, flip, transforms.PILToTensor()])
    files = datasets.ImageFolder(str(folder), both)
    # Started as ours are: a fork of a process in which JAX runs may hang.
    context = "spawn" if workers else None
    how = {"num_workers": workers, "multiprocessing_context": context}
    loader = DataLoader(files, _BATCH, shuffle=True, **how)
    return lambda: (len(images) for images, _ in loader)


def _processes() -> Iterator[tuple[list[str], int]]:
    """Of this process and those below it: the fields of /proc's stat from the state on, RSS."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            resident = int((path / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):  # It ended meanwhile.
            continue
        stats[int(path.name)] = fields, resident
    inside = {os.getpid()}
    while below := {p for p, (fields, _) in stats.items() if int(fields[1]) in inside} - inside:
        inside |= below
    return iter(stats[process] for process in inside)


def _usage() -> tuple[float, float]:
    """Seconds of CPU, those of children that ended among them, and MiB that are resident."""
    ticks, resident = 0, 0
    for fields, own in _processes():
        ticks += sum(map(int, fields[11:15]))
        resident += own
    return ticks / os.sysconf("SC_CLK_TCK"), resident / 2**20


def measure(read: Epoch) -> dict[str, float]:
    """Reads an epoch: its rates, the seconds until the first batch, memory in MiB."""
    began, rows = time.perf_counter(), []
    for count in read():
        rows.append((time.perf_counter(), *_usage(), count))
    times, cpu, memory, counts = zip(*rows, strict=True)
    # At first there is what was decoded while the others started.
    steady, tenth = (len(rows) - 1) // 4, max(len(rows) // 10, 1)
    images = sum(counts[steady + 1 :])
    return {
        "rate": images / (times[-1] - times[steady]),
        "core_rate": images / max(cpu[-1] - cpu[steady], 1e-9),
        "start_seconds": times[0] - began,
        "memory_first": fmean(memory[:tenth]),
        "memory_last": fmean(memory[-tenth:]),
        "images": sum(counts),
    }


def measure_short(images: Streamed, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and CPU seconds of a short reading: by workers started anew, and by kept ones."""
    rows = np.resize(np.arange(len(images)), 64 * images.workers)
    found: dict[str, list[tuple[float, float]]] = {"anew": [], "kept": []}
    for _ in range(rounds):
        for name, times in found.items():
            with keep_workers() if name == "kept" else nullcontext():
                # Those that are kept have read before.
                for _ in range(2 if name == "kept" else 1):
                    began = time.perf_counter(), _usage()[0]
                    for _ in read_batches(images, rows, _BATCH, b"epoch"):
                        pass
                    now = time.perf_counter(), _usage()[0]
            times.append((now[0] - began[0], now[1] - began[1]))
    kinds = {"seconds": 0, "cpu_seconds": 1}
    return {
        name: {kind: median(took[place] for took in times) for kind, place in kinds.items()}
        for name, times in found.items()
    }


def measure_all(
    folder: Path, prepared: Path, workers: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Epochs of all sources by turns; every other round goes backwards."""
    all_train = Choices("test")
    ours = {
        FOLDER: load_stream(f"folder:{folder}", _SIZE, all_train, workers=workers),
        RECORDS: load_stream(
            "tfds:photographs", _SIZE, all_train, directory=str(prepared), workers=workers
        ),
    }
    epochs: dict[str, Epoch] = {n: partial(read_ours, s.train.images) for n, s in ours.items()}
    if theirs := make_theirs(folder / "train", workers):
        epochs[THEIRS] = theirs
    found: dict[str, list[dict[str, float]]] = {name: [] for name in epochs}
    for number in range(rounds):
        for name in list(epochs)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(measure(epochs[name]))
            print(f"round {number + 1}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def print_report(found: dict[str, list[dict[str, float]]], workers: int) -> None:
    """Prints the table, and what it means for a host."""
    means = {
        name: {key: median(epoch[key] for epoch in epochs) for key in epochs[0]}
        for name, epochs in found.items()
    }
    head = ("source", "images/s", "images/s a core", "first batch after s")
    rows: list[list[Any]] = [
        [
            name,
            *(mean[key] for key in ("rate", "core_rate", "start_seconds")),
            *(epochs[-1][key] for key in ("memory_first", "memory_last")),
        ]
        for (name, mean), epochs in zip(means.items(), found.values(), strict=True)
    ]
    print(f"\n{workers} worker processes; medians over rounds, memory of the last round")
    print("torchvision's workers import what ours do, as all start from this file: JAX among it.\n")
    print_table((*head, "MiB, first tenth", "MiB, last tenth"), rows)
    wanted = _ACCELERATORS * _TRAINED
    needed = ", ".join(f"{name} {wanted / mean['core_rate']:.0f}" for name, mean in means.items())
    print(
        f"\nA host of {_ACCELERATORS} accelerators that train on {_TRAINED:,} images a second each"
        f" (assumed) reads {wanted:,} a second; cores that this takes: {needed}.\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.stream")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=3, help="to train on, of each class")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each source")
    parser.add_argument("--workers", type=int, default=cores(), help="processes; 0 for threads")
    parser.add_argument("--tree", default="", help="a folder for the images, which are kept")
    parser.add_argument("--json", default="", metavar="FILE")
    given = parser.parse_args(arguments)
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(given.tree or temporary)
        tree, prepared = place / "imagenet", place / "tensorflow_datasets"
        began = time.perf_counter()
        if not tree.exists():
            write_tree(tree, given.classes, {"train": given.images, "val": 1})
        pack(tree, prepared)
        print(f"made the images in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        sizes = [path.stat().st_size for path in tree.glob("train/*/*")]
        found = measure_all(tree, prepared, given.workers, given.rounds)
        short = {}
        if given.workers:
            files = load_stream(f"folder:{tree}", _SIZE, Choices("test"), workers=given.workers)
            short = measure_short(files.train.images, given.rounds)
    print_report(found, given.workers)
    for name, took in short.items():
        print(
            f"{64 * given.workers} images by workers {name}: {took['seconds']:.2f} s,"
            f" {took['cpu_seconds']:.2f} s of CPU"
        )
    print(f"{len(sizes):,} images to train on, {fmean(sizes) / 1000:.0f} kB each on average")
    for package in ("grain", "array_record", "tensorflow-datasets", "Pillow", "torchvision"):
        with suppress(metadata.PackageNotFoundError):
            machine["versions"][package] = metadata.version(package)
    print_machine(machine)
    measured = {"rounds": found, "short": short}
    write_json(given.json, {"options": vars(given), "machine": machine, **measured})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
