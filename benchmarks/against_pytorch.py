"""Steps of training and of evaluation against PyTorch's, in one process, by turns.

Each net is trained on one batch of MNIST's shape (random pixels, no augmentation) by SGD with
momentum, in float32, by four programs: this package's with XLA's convolutions and with its own,
PyTorch's eager and what `torch.compile` makes of it. PyTorch comes with the extra `bench`.

python -m benchmarks.against_pytorch [--families plain3 basic3] [--depths 1 3 8 20]
    [--batch 128] [--rounds 9] [--limit 60] [--threads 2] [--no-compile] [--json FILE]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

# Before PyTorch is imported: threads that spin would take the processor from whose turn it is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from autogrow_jax.allocator import keep_freed_memory
from autogrow_jax.data import Preprocessing
from autogrow_jax.models import build_network
from autogrow_jax.models.convolution import why_not_native
from autogrow_jax.models.cost import estimate_cost
from autogrow_jax.training.optimizer import make_optimizer
from autogrow_jax.training.parallel import make_mesh
from autogrow_jax.training.state import init_state, pad_state
from autogrow_jax.training.step import Recipe, Sums, make_evaluate, make_train_steps
from benchmarks import pytorch_nets
from benchmarks.measure import (
    describe_machine,
    print_machine,
    print_table,
    ratio,
    take_turns,
    write_json,
)

_IMAGE_SHAPE = (32, 32, 1)  # MNIST's, once padded.
_LEARNING_RATE = 0.01
XLA, NATIVE, EAGER, COMPILED = "ours xla", "ours native", "pytorch", "pytorch compiled"
KINDS = ("train", "evaluate")
# Multiply-adds of a step: the gradients of input and kernel take as many as the output.
_PASSES = {"train": 3, "evaluate": 1}

Batch = tuple[np.ndarray, np.ndarray]
Calls = dict[str, Callable[[], float]]


def make_batch(batch_size: int) -> Batch:
    """Random uint8 [N, H, W, C] and int32 [N]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *_IMAGE_SHAPE), np.uint8)
    return images, rng.integers(0, 10, batch_size, np.int32)


def make_ours(family: str, depths: tuple[int, ...], batch: Batch, convolution: str) -> Calls:
    """A step and an evaluation as a run does them, capacities as after a start at `depths`."""
    images, labels = map(jnp.asarray, batch)
    size = len(labels)
    # A capacity is a power of two, or as deep as the run may become.
    capacities = tuple(min(1 << (depth - 1).bit_length(), max(depth, 20)) for depth in depths)
    network = build_network(family, depths, image_channels=_IMAGE_SHAPE[2], convolution=convolution)
    recipe = Recipe(
        network=network.clone(depths=capacities),
        optimizer=make_optimizer("sgd", momentum=0.9, weight_decay=5e-4),
        preprocessing=Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False),
        batch_size=size,
        ema=0.0,
        parallel="jit",
        mesh=make_mesh(1, size),
    )
    init = partial(init_state, network, recipe.optimizer)
    exact = jax.jit(lambda key: init(key, _IMAGE_SHAPE, False))(jax.random.key(0))
    state = pad_state(exact, network, recipe.optimizer, capacities, _IMAGE_SHAPE)
    live, order = jnp.asarray(depths, jnp.int32), jnp.arange(size, dtype=jnp.int32)
    train_steps = jax.jit(make_train_steps(recipe), donate_argnums=(0,))
    evaluation = jax.jit(make_evaluate(recipe))
    key, rate = jax.random.key(0), jnp.float32(_LEARNING_RATE)

    def train() -> float:
        nonlocal state
        state, sums = train_steps(
            state, Sums.zero(), images, labels, order, key, live, rate, jnp.int32(0), jnp.int32(1)
        )
        return float(sums.loss) / size

    def evaluate() -> float:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        sums = evaluation(variables, images, labels, jnp.int32(0), jnp.int32(size), live)
        return float(sums.loss) / size

    return {"train": train, "evaluate": evaluate}


def make_theirs(family: str, depths: tuple[int, ...], batch: Batch, compiled: bool) -> Calls:
    """The same by PyTorch."""
    net = pytorch_nets.build_net(family, depths, image_channels=_IMAGE_SHAPE[2])
    images, labels = torch.from_numpy(batch[0]), torch.from_numpy(batch[1]).long()
    run = torch.compile(net) if compiled else None
    training = pytorch_nets.Training(net, images, labels, _LEARNING_RATE, run)
    return {"train": training.step, "evaluate": training.evaluate}


def measure(
    family: str, depth: int, batch: Batch, with_compiled: bool, rounds: int, limit: float
) -> list[dict[str, Any]]:
    """A row for training and one for evaluation; times in seconds, the median over rounds."""
    depths = (depth,) * 3
    programs = {
        XLA: partial(make_ours, convolution="xla"),
        NATIVE: partial(make_ours, convolution="native"),
        EAGER: partial(make_theirs, compiled=False),
    }
    if with_compiled:
        programs[COMPILED] = partial(make_theirs, compiled=True)
    calls: dict[str, Calls] = {}
    for name, make in programs.items():
        calls[name] = make(family, depths, batch)
        try:
            losses = [calls[name]["train"]() for _ in range(2)]
        except Exception as error:
            if name != COMPILED:
                raise
            # Its compiler needs more of a machine than PyTorch does.
            print(f"torch.compile does not work here: {error!r}"[:200], file=sys.stderr)
            del calls[name]
            continue
        if not np.all(np.isfinite(losses)) or abs(losses[0] - np.log(10)) > 1.5:
            raise AssertionError(f"{name} has losses {losses} in its first steps")
    flops = estimate_cost(build_network(family, depths, image_channels=1), _IMAGE_SHAPE).flops
    rows = []
    for kind in KINDS:
        times = take_turns({name: call[kind] for name, call in calls.items()}, rounds, limit)
        images = len(batch[1])
        processor = {name: _processor_seconds(call[kind]) for name, call in calls.items()}
        rows.append(
            {
                "family": family,
                "depths": depths,
                "kind": kind,
                "seconds": {name: median(found) for name, found in times.items()},
                "shortest": {name: min(found) for name, found in times.items()},
                "processor_seconds": processor,
                "gflops": {
                    name: 1e-9 * _PASSES[kind] * flops * images / median(found)
                    for name, found in times.items()
                },
                "times_of_pytorch": {name: ratio(times, name, EAGER) for name in times},
                "native_over_xla": ratio(times, NATIVE, XLA),
            }
        )
        print(f"measured {family} {depth}-{depth}-{depth}, {kind}", file=sys.stderr, flush=True)
    return rows


def _processor_seconds(call: Callable[[], float]) -> float:
    """What a call takes of all cores together: other programs' load hardly changes it."""
    found = []
    for _ in range(3):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def _print(rows: Sequence[dict[str, Any]], batch_size: int) -> None:
    names = [name for name in (XLA, NATIVE, EAGER, COMPILED) if name in rows[0]["seconds"]]
    for kind in KINDS:
        chosen = [row for row in rows if row["kind"] == kind]
        labels = [f"{row['family']} {'-'.join(map(str, row['depths']))}" for row in chosen]
        print(f"\n{kind}: images a second\n")
        print_table(
            ["net", *names],
            [
                [label, *(batch_size / row["seconds"][name] for name in names)]
                for label, row in zip(labels, chosen, strict=True)
            ],
        )
        print(f"\n{kind}: GFLOP/s of convolutions and the linear layer\n")
        print_table(
            ["net", *names],
            [
                [label, *(row["gflops"][name] for name in names)]
                for label, row in zip(labels, chosen, strict=True)
            ],
        )
        print(f"\n{kind}: processor time as a multiple of {EAGER}'s\n")
        print_table(
            ["net", *names],
            [
                [
                    label,
                    *(
                        row["processor_seconds"][name] / row["processor_seconds"][EAGER]
                        for name in names
                    ),
                ]
                for label, row in zip(labels, chosen, strict=True)
            ],
        )
        print(f"\n{kind}: time, as a multiple of {EAGER}'s, median over rounds\n")
        print_table(
            ["net", *names, f"{NATIVE} / {XLA}"],
            [
                [
                    label,
                    *(row["times_of_pytorch"][name] for name in names),
                    row["native_over_xla"],
                ]
                for label, row in zip(labels, chosen, strict=True)
            ],
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_pytorch")
    families = list(pytorch_nets.BLOCKS)
    parser.add_argument("--families", nargs="+", choices=families, default=families)
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 3, 8, 20])
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each cell")
    parser.add_argument("--limit", type=float, default=60, help="seconds a row may take")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    keep_freed_memory()  # Serves all alike.
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    machine = describe_machine()
    machine["versions"]["torch"] = torch.__version__
    if why_not_native():
        print(f"{NATIVE} is {XLA} again: {why_not_native()}", file=sys.stderr)
    batch = make_batch(options.batch)
    rows = [
        row
        for family in options.families
        for depth in options.depths
        for row in measure(
            family, depth, batch, not options.no_compile, options.rounds, options.limit
        )
    ]
    print(f"\nbatches of {options.batch}, {'x'.join(map(str, _IMAGE_SHAPE))}, float32")
    _print(rows, options.batch)
    print()
    print_machine(machine)
    write_json(options.json, {"options": vars(options), "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
