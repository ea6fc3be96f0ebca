"""A whole growth phase: what of its time is steady training, and what is all else.

Each net goes from 1-1-1 to 20-20-20, a block every 3 epochs, on data of MNIST's shape: by this
package's own loop ("ours"), by the same with a program for each depth that is compiled while the
one before it trains ("exact"), by a net of exact depth that is compiled anew at each depth
("unrolled"), and by PyTorch, where it is installed, with a net rebuilt at each depth ("pytorch").
The package's default run ("digits") comes on top. Every phase is a process of its own.

The claim: all but steady steps is at most 5 % of a phase of 10 minutes, and half of "digits".

python -m benchmarks.growth_phase [--quick] [--runs ours exact unrolled pytorch digits] [--last 20]
    [--family plain3] [--batch 128] [--interval 3] [--minutes 10 | --steps-per-epoch STEPS]
    [--rounds 1] [--data-dir DIR] [--set KEY=VALUE ...] [--json FILE]
"""

import argparse
import importlib.util
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autogrow_jax.config import default_config
from autogrow_jax.data import load_dataset
from benchmarks.alone import find_machine, is_cpu, run_alone
from benchmarks.depth_as_data import format_depths, growth_path
from benchmarks.measure import print_machine, write_json
from benchmarks.phase_ours import train_digits, train_exact, train_ours
from benchmarks.phase_report import (
    DIGITS,
    EXACT,
    OURS,
    PYTORCH,
    UNROLLED,
    compare,
    print_report,
    summarise,
)
from benchmarks.phase_unrolled import train_unrolled
from benchmarks.phases import IMAGE_SIDE, Record
from benchmarks.scaling import measure as measure_step

_MNIST_TRAIN = 60_000


def write_data(path: Path, num_train: int, batch_size: int, data_dir: str) -> None:
    """Writes a set of MNIST's shape as .npz: random, or MNIST's own images.

    Args:
      path: of the file.
      num_train: training images; a ninth as many are for validation, as of MNIST by default.
      batch_size: test images.
      data_dir: folder of MNIST's official files; "" for random pixels and labels.
    """
    num_validation = max(num_train // 9, 1)
    total = num_train + num_validation + batch_size
    if data_dir:
        train = load_dataset("mnist", directory=data_dir, validation="test").train
        rows = np.arange(total) % len(train.labels)
        images, labels = train.images[rows], train.labels[rows]
    else:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (total, 28, 28), np.uint8)
        labels = np.arange(total) % 10  # Each class is in the training part, however small.
    ends = np.cumsum([num_train, num_validation])
    arrays = {}
    for name, x, y in zip(
        ("train", "val", "test"), np.split(images, ends), np.split(labels, ends), strict=True
    ):
        arrays |= {f"x_{name}": x, f"y_{name}": y}
    # Ten classes, whatever labels were drawn.
    np.savez(path, class_names=np.asarray([str(label) for label in range(10)]), **arrays)


def choose_steps(options: argparse.Namespace) -> int:
    """Steps an epoch, so that the phase takes about `options.minutes`; at most MNIST's epoch.

    A step takes time about linear in the number of blocks, so that the mean over the phase is the
    step half way.
    """
    half = (options.last + 1) // 2
    model = default_config().model.to_dict()
    chosen = {
        name: options.settings.get(f"model.{name}", model[name])
        for name in ("remat", "dtype", "convolution")
    }
    if chosen["convolution"] == "auto":  # As a run settles it on one device.
        chosen["convolution"] = "native"
    row = run_alone(
        measure_step,
        family=options.family,
        depth=half,
        batch_size=options.batch,
        steps=5,
        **chosen,
    )
    epochs = len(growth_path(options.last)) * options.interval
    steps = math.ceil(60 * options.minutes / (epochs * row["step"]))
    # Three at least, or steps within an epoch cannot be told apart.
    return min(max(steps, 3), _MNIST_TRAIN * 9 // 10 // options.batch)


def run_phases(options: argparse.Namespace, steps_per_epoch: int) -> list[dict[str, Record]]:
    """Goes through all phases, by turns, `options.rounds` times.

    Raises:
      AssertionError: when they did not do the same work.
    """
    rounds: list[dict[str, Record]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.npz")
        write_data(data, steps_per_epoch * options.batch, options.batch, options.data_dir)
        arguments = {
            "data": str(data),
            "family": options.family,
            "last": options.last,
            "interval": options.interval,
            "batch_size": options.batch,
            "settings": options.settings,
        }
        for number in range(options.rounds):
            found: dict[str, Record] = {}
            for name in options.runs[:: 1 if number % 2 == 0 else -1]:
                print(f"round {number + 1}, {name}", file=sys.stderr, flush=True)
                if name == DIGITS:
                    found[name] = run_alone(train_digits, settings=options.settings)
                    continue
                found[name] = run_alone(_find(name), **arguments)
            check_same_work({k: v for k, v in found.items() if k != DIGITS}, options.interval)
            rounds.append(found)
    return rounds


def _find(name: str):
    if name == PYTORCH:  # Here, not at the top: it is an extra.
        from benchmarks.phase_pytorch import train_pytorch

        return train_pytorch
    return {OURS: train_ours, EXACT: train_exact, UNROLLED: train_unrolled}[name]


def check_same_work(records: dict[str, Record], interval: int) -> None:
    """Raises AssertionError where phases differ in steps, nets or the losses of the seed net."""
    work = {
        name: (record["num_params"], [(d["depths"], d["steps"]) for d in record["depths"]])
        for name, record in records.items()
    }
    if any(done != next(iter(work.values())) for done in work.values()):
        raise AssertionError(f"the phases differ in depths, steps or parameters: {work}")
    if not all(np.isfinite(record["losses"]).all() for record in records.values()):
        raise AssertionError("a loss is not finite")
    # The same start and the same batches, which PyTorch has not.
    same = [name for name in (OURS, EXACT, UNROLLED) if name in records]
    seeds = [records[name]["losses"][:interval] for name in same]
    if not all(np.allclose(losses, seeds[0], rtol=1e-2) for losses in seeds):
        raise AssertionError(f"the seed net has other losses in {same}: {seeds}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    options = _parse(arguments)
    machine = find_machine()
    _fill_in(options, is_cpu(machine))
    if PYTORCH in options.runs:
        from importlib import metadata

        machine["versions"]["torch"] = metadata.version("torch")
    steps = options.steps_per_epoch or choose_steps(options)
    path = growth_path(options.last)
    print(
        f"{options.family}, {format_depths(path[0])} to {format_depths(path[-1])}, batches of"
        f" {options.batch}, {IMAGE_SIDE}x{IMAGE_SIDE}x1; {options.interval} epochs of {steps} steps"
        " at each depth",
        flush=True,
    )
    rounds = run_phases(options, steps)
    summary, ratios = summarise(rounds), compare(rounds)
    print_report(rounds, summary, ratios)
    print()
    print_machine(machine)
    write_json(
        options.json,
        {
            "options": vars(options) | {"steps_per_epoch": steps},
            "machine": machine,
            "summary": summary,
            "times_of_ours": ratios,
            "rounds": rounds,
        },
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_phase")
    parser.add_argument("--quick", action="store_true", help="to 6-6-6, half a minute a phase")
    parser.add_argument("--runs", nargs="+", choices=(OURS, EXACT, UNROLLED, PYTORCH, DIGITS))
    parser.add_argument("--family", choices=("plain3", "basic3"), default="plain3")
    parser.add_argument("--last", type=int, help="depth of each stage at the end")
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--interval", type=int, default=3, help="epochs at each depth")
    parser.add_argument("--minutes", type=float, help="of the steps of ours, about")
    parser.add_argument("--steps-per-epoch", type=int, help="instead of --minutes")
    parser.add_argument("--rounds", type=int, default=1, help="times each phase is gone through")
    parser.add_argument("--data-dir", default="", help="of MNIST's files; else random pixels")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)
    options.settings = dict(_read_setting(parser, text) for text in options.settings)
    return options


def _read_setting(parser: argparse.ArgumentParser, text: str) -> tuple[str, Any]:
    import ast

    key, equals, value = text.partition("=")
    if not equals:
        parser.error(f"--set takes KEY=VALUE, such as model.remat=True; got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _fill_in(options: argparse.Namespace, on_cpu: bool) -> None:
    """Sizes that depend on the machine: on an accelerator all ends within ten minutes."""
    if options.last is None:
        options.last = 6 if options.quick else 20
    if options.minutes is None:
        options.minutes = 0.4 if options.quick else 10.5 if on_cpu else 1
    has_pytorch = importlib.util.find_spec("torch") is not None
    if options.runs is None:
        options.runs = [OURS]
        # Its 58 compilations of long programs take an accelerator longer than all else.
        options.runs += [UNROLLED] if on_cpu or options.quick else []
        options.runs += [PYTORCH] if has_pytorch else []
        options.runs += [] if options.quick else [DIGITS]
        if not has_pytorch:
            print("PyTorch is left out: pip install '.[bench]' brings it", file=sys.stderr)
    elif PYTORCH in options.runs and not has_pytorch:
        raise SystemExit("PyTorch is not installed: pip install '.[bench]'")


if __name__ == "__main__":
    main()
