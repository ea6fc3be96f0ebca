"""How a step, its compilation, memory and checkpoints grow with depth, from 3 to 300 blocks.

Each net is measured in a process of its own: the training step as a run of it from scratch has it,
batch by batch of MNIST's shape (random pixels), then a checkpoint that is written and read back.
The claim: 100-100-100 trains on a CPU within 24 GiB at batch 128.

python -m benchmarks.scaling [--families plain3 basic3] [--depths 1 3 10 30 100] [--batch 128]
    [--steps 5] [--remat no yes] [--convolution native] [--dtype float32] [--json FILE]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Preprocessing
from autogrow_jax.models import build_network, num_params
from autogrow_jax.optim import make_optimizer
from autogrow_jax.saving.checkpoint import CheckpointStore, rebuild
from autogrow_jax.steps.state import (
    TrainState,
    choose_capacities,
    init_state,
    make_mesh,
    pad_state,
    replicate,
)
from autogrow_jax.steps.step import Recipe, Sums, make_train_steps
from autogrow_jax.trees import cut
from benchmarks.alone import find_machine, run_alone
from benchmarks.measure import print_machine, print_table, write_json

_GIB = 2**30
_MIB = 2**20
_TARGET_GIB = 24
_IMAGE_SHAPE = (32, 32, 1)  # MNIST's, once padded.
_FIRST_CAPACITIES = (4, 4, 4)


def measure(
    family: str,
    depth: int,
    batch_size: int,
    steps: int,
    remat: bool = False,
    convolution: str = "native",
    dtype: str = "float32",
    exact: bool = False,
) -> dict[str, Any]:
    """Trains `depth` blocks a stage for some steps, then saves and reads a checkpoint.

    Args:
      family: of three stages.
      depth: blocks in each stage.
      batch_size: images a step.
      steps: timed, after one that is not.
      remat: whether blocks are computed again for the gradient.
      convolution: "xla", or "native", which is XLA's too where there is none.
      dtype: of the computation.
      exact: whether depth is part of the program; else the capacities are those of a run.

    Returns:
      Seconds and bytes by name. "program" is what the compiler says its buffers take, of which
      "temporary" lives during a step only.

    Raises:
      AssertionError: when the loss is not finite, or another state comes back from disk.
    """
    depths = (depth,) * 3
    capacities = depths if exact else choose_capacities(depths, _FIRST_CAPACITIES)
    network = build_network(
        family,
        depths,
        image_channels=_IMAGE_SHAPE[2],
        remat=remat,
        convolution=convolution,
        dtype=dtype,
    )
    recipe = Recipe(
        network=network.clone(depths=capacities),
        optimizer=make_optimizer("sgd", momentum=0.9, weight_decay=5e-4),
        preprocessing=Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False),
        batch_size=batch_size,
        ema=0.0,
        parallel="jit",
        mesh=make_mesh(1, batch_size),
        exact=exact,
    )

    def init(key: jax.Array) -> TrainState:
        return init_state(network, recipe.optimizer, key, _IMAGE_SHAPE, False)

    exact = jax.jit(init)(jax.random.key(0))
    roomy = network.clone(depths=capacities)
    room = jax.eval_shape(
        lambda: init_state(roomy, recipe.optimizer, jax.random.key(0), _IMAGE_SHAPE, False)
    )
    padded = pad_state(exact, room)
    state = replicate(padded, recipe.mesh)
    rng = np.random.default_rng(0)
    order = jnp.arange(batch_size, dtype=jnp.int32)
    batch = replicate(
        (
            rng.integers(0, 256, (batch_size, *_IMAGE_SHAPE), np.uint8),
            rng.integers(0, 10, batch_size, np.int32),
            order,
            jax.random.key(0),
            np.asarray(depths, np.int32),
            # A plain net of 300 blocks diverges at any useful rate; a step takes as long without.
            np.float32(0.0),
            np.int32(0),
            np.int32(1),
        ),
        recipe.mesh,
    )
    sums = replicate(Sums.zero(), recipe.mesh)
    start = time.perf_counter()
    lowered = jax.jit(make_train_steps(recipe), donate_argnums=(0,)).lower(state, sums, *batch)
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        state, sums = jax.block_until_ready(program(state, sums, *batch))
        times.append(time.perf_counter() - began)
    loss = float(sums.loss) / ((steps + 1) * batch_size)
    if not np.isfinite(loss):
        raise AssertionError(f"{family} of depth {depth} has a loss of {loss}")
    memory: Any = program.memory_analysis()
    return {
        "family": family,
        "depths": depths,
        "capacities": capacities,
        "remat": remat,
        "num_params": num_params({"params": exact.params}),
        "loss": loss,
        "step": median(times[1:]),
        "first_step": times[0],
        "trace": traced - start,
        "compile": compiled - traced,
        "program": {
            "arguments": getattr(memory, "argument_size_in_bytes", 0),
            "temporary": getattr(memory, "temp_size_in_bytes", 0),
            "code": getattr(memory, "generated_code_size_in_bytes", 0),
        },
        "checkpoint": _measure_checkpoint(state, exact, recipe, depths),
    }


def _measure_checkpoint(
    state: TrainState, like: TrainState, recipe: Recipe, depths: tuple[int, ...]
) -> dict[str, float]:
    """Seconds to save (the loop's own wait, and until it is on disk) and restore; bytes."""
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder, keep=1)
        try:
            start = time.perf_counter()
            saved = cut(jax.device_get(state), depths)
            store.save(1, saved, {}, 0.0)
            held = time.perf_counter()
            store.wait()
            written = time.perf_counter()
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            began = time.perf_counter()
            exact = rebuild(store.read(1).arrays, like)
            padded = pad_state(exact, state)
            jax.block_until_ready(replicate(padded, recipe.mesh))
            restored = time.perf_counter()
        finally:
            store.close()
    same = jax.tree.map(np.array_equal, exact, saved)
    if not all(jax.tree.leaves(same)):
        raise AssertionError("a checkpoint was read back as something else")
    return {
        "held": held - start,
        "save": written - start,
        "restore": restored - began,
        "bytes": size,
    }


def print_report(rows: Sequence[dict[str, Any]], batch_size: int) -> None:
    """Prints the tables and what became of the claim."""
    remat = len({row["remat"] for row in rows}) > 1
    # A CPU's only memory is the host's.
    places = [p for p in ("host", "device") if any(row["peak_memory"][p] for row in rows)]
    names = [
        f"{row['family']} {'-'.join(map(str, row['depths']))}"
        + (" remat" if remat and row["remat"] else "")
        for row in rows
    ]
    print(f"\nbatches of {batch_size}, {'x'.join(map(str, _IMAGE_SHAPE))}; times and memory\n")
    print_table(
        [
            *("net", "blocks", "parameters", "step ms", "ms a block", "images/s"),
            *("trace s", "compile s", *(f"{place} GiB" for place in places), "program GiB"),
        ],
        [
            [
                name,
                sum(row["depths"]),
                row["num_params"],
                1000 * row["step"],
                1000 * row["step"] / sum(row["depths"]),
                batch_size / row["step"],
                row["trace"],
                row["compile"],
                *(row["peak_memory"][place] / _GIB for place in places),
                (row["program"]["arguments"] + row["program"]["temporary"]) / _GIB,
            ]
            for name, row in zip(names, rows, strict=True)
        ],
    )
    print(
        "\nhost: the whole process's peak. device: the allocator's peak on an accelerator."
        "\nprogram: arguments and temporary buffers of the training step, as its compiler counts.\n"
    )
    print_table(
        ["net", "checkpoint MiB", "training waits s", "saved s", "restored s"],
        [
            [
                name,
                row["checkpoint"]["bytes"] / _MIB,
                row["checkpoint"]["held"],
                row["checkpoint"]["save"],
                row["checkpoint"]["restore"],
            ]
            for name, row in zip(names, rows, strict=True)
        ],
    )
    most = max(max(row["peak_memory"].values()) for row in rows) / _GIB
    deepest = max(sum(row["depths"]) for row in rows)
    if deepest >= 300 and batch_size >= 128:
        verdict = "holds" if most <= _TARGET_GIB else "does not hold"
        print(
            f"\nThe claim (100-100-100 within {_TARGET_GIB} GiB) {verdict}: {most:.1f} GiB at most."
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--families", nargs="+", default=["plain3", "basic3"], metavar="FAMILY")
    parser.add_argument(
        "--depths", nargs="+", type=int, default=[1, 3, 10, 30, 100], help="of each stage"
    )
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--steps", type=int, default=5, help="timed, after one that is not")
    parser.add_argument("--remat", nargs="+", choices=("no", "yes"), default=["no"])
    parser.add_argument("--convolution", choices=("xla", "native"), default="native")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    machine = find_machine()
    rows = []
    for family in options.families:
        for depth in options.depths:
            for remat in options.remat:
                rows.append(
                    run_alone(
                        measure,
                        family=family,
                        depth=depth,
                        batch_size=options.batch,
                        steps=options.steps,
                        remat=remat == "yes",
                        convolution=options.convolution,
                        dtype=options.dtype,
                    )
                )
                print(f"measured {family} {depth}-{depth}-{depth}", file=sys.stderr, flush=True)
    print_report(rows, options.batch)
    print()
    print_machine(machine)
    write_json(options.json, {"options": vars(options), "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
