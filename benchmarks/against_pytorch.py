"""Steps of training and of evaluation against PyTorch's, in one process, by turns.

Each net is trained on one batch of MNIST's shape (random pixels, no augmentation) by SGD with
momentum: by this package, on a CPU with XLA's convolutions and with its own, by PyTorch's eager
mode and by what `torch.compile` makes of it, on whatever device both find. All start from the same
values, and have to find the same losses. PyTorch comes with the extra `bench`; its threads wait
for one another as they do by default (OMP_WAIT_POLICY).

python -m benchmarks.against_pytorch [--families plain3 basic3] [--depths 1 3 8 20]
    [--dtypes float32] [--batch 128] [--steps 1] [--rounds 9] [--limit 60] [--threads 2]
    [--compile default ...] [--json FILE]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

# Before JAX is: two libraries share a GPU's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from autogrow_jax.data import Preprocessing
from autogrow_jax.models import build_network
from autogrow_jax.models.convolution import why_not_native
from autogrow_jax.optim import make_optimizer
from autogrow_jax.process import keep_freed_memory
from autogrow_jax.steps.state import (
    TrainState,
    choose_capacities,
    init_state,
    make_mesh,
    pad_state,
)
from autogrow_jax.steps.step import Recipe, Sums, make_evaluate, make_train_steps
from benchmarks import pytorch_nets
from benchmarks.measure import describe_machine, print_machine, ratio, take_turns, write_json
from benchmarks.pytorch_report import print_report
from benchmarks.roofline import Limits, count_work, measure_limits

_IMAGE_SHAPE = (32, 32, 1)  # MNIST's, once padded.
_LEARNING_RATE = 0.01
XLA, NATIVE, EXACT, EAGER = "ours xla", "ours native", "ours exact", "pytorch"
KINDS = ("train", "evaluate")
# Losses of an evaluation and of the first two steps may differ by so much of them. Rounding in the
# first gradient of a plain net of 60 layers is seen in the second step's; PyTorch, eager and
# compiled, differ as much.
_TOLERANCES = {"float32": (1e-3, 1e-3, 3e-2), "bfloat16": (2e-2, 2e-2, 1e-1)}

Batch = tuple[np.ndarray, np.ndarray]
Calls = dict[str, Callable[[int], float]]


def make_batch(batch_size: int) -> Batch:
    """Random uint8 [N, H, W, C] and int32 [N]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *_IMAGE_SHAPE), np.uint8)
    return images, rng.integers(0, 10, batch_size, np.int32)


class Ours:
    """A net of this package.

    Args:
      family: its name.
      depths: blocks in each stage.
      batch: what to train on.
      dtype: of the computation.
    """

    def __init__(self, family: str, depths: tuple[int, ...], batch: Batch, dtype: str):
        self._depths = depths
        self._images, self._labels = map(jnp.asarray, batch)
        size = len(self._labels)
        self._build = partial(
            build_network, family, depths, image_channels=_IMAGE_SHAPE[2], dtype=dtype
        )
        self.network = self._build()
        self._optimizer = make_optimizer("sgd", momentum=0.9, weight_decay=5e-4)
        init = partial(init_state, self.network, self._optimizer)
        self.start: TrainState = jax.device_get(
            jax.jit(lambda key: init(key, _IMAGE_SHAPE, False))(jax.random.key(0))
        )
        self._recipe = Recipe(
            network=self.network,
            optimizer=self._optimizer,
            preprocessing=Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False),
            batch_size=size,
            ema=0.0,
            parallel="jit",
            mesh=make_mesh(1, size),
        )

    def make_calls(self, convolution: str, exact: bool) -> Calls:
        """Steps and evaluations as a run does them, several in one dispatch.

        Args:
          convolution: "xla" or "native".
          exact: whether depth is part of the program; else capacities are those of a run that
            started at these depths.
        """
        depths = self._depths
        capacities = depths if exact else choose_capacities(depths, (4,) * len(depths))
        network = self._build(convolution=convolution)
        recipe = self._recipe._replace(network=network.clone(depths=capacities), exact=exact)
        init = partial(init_state, recipe.network, self._optimizer)
        room = jax.eval_shape(lambda: init(jax.random.key(0), _IMAGE_SHAPE, False))
        state = jax.tree.map(jnp.array, pad_state(self.start, room))
        images, labels, size = self._images, self._labels, len(self._labels)
        live = jnp.asarray(depths, jnp.int32)
        programs: dict[int | None, Callable[..., Any]] = {}
        evaluation = jax.jit(make_evaluate(recipe))
        key, rate, zero = jax.random.key(0), jnp.float32(_LEARNING_RATE), jnp.int32(0)
        # The same batch again and again: an epoch as long as there are steps.
        order = jnp.tile(jnp.arange(size, dtype=jnp.int32), _MOST_STEPS)

        def train(count: int) -> float:
            nonlocal state
            known = count if exact else None  # As a run has it.
            if known not in programs:
                programs[known] = jax.jit(make_train_steps(recipe, known), donate_argnums=(0,))
            state, sums = programs[known](
                *(state, Sums.zero(), images, labels, order, key, live, rate, zero),
                jnp.int32(count),
            )
            return float(sums.loss) / (size * count)

        def evaluate(count: int) -> float:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            found = [
                evaluation(variables, images, labels, zero, jnp.int32(size), live)
                for _ in range(count)
            ]
            return float(found[-1].loss) / size

        return {"train": train, "evaluate": evaluate}


# Of one dispatch, that a call may ask for.
_MOST_STEPS = 100


def make_theirs(ours: Ours, family: str, depths, batch: Batch, dtype: str, mode: str) -> Calls:
    """The same by PyTorch; `mode` is of `torch.compile`, "" for eager."""
    net = pytorch_nets.build_net(family, depths, image_channels=_IMAGE_SHAPE[2])
    pytorch_nets.load_variables(net, {"params": ours.start.params}, depths)
    net.to("cuda" if jax.default_backend() == "gpu" else "cpu")
    images, labels = torch.from_numpy(batch[0]), torch.from_numpy(batch[1]).long()
    run = torch.compile(net, mode=mode) if mode else None
    training = pytorch_nets.Training(net, images, labels, _LEARNING_RATE, run, dtype)
    return {"train": training.step, "evaluate": training.evaluate}


def measure(
    family: str, depth: int, dtype: str, batch: Batch, limits: Limits, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for training and one for evaluation; times in seconds a step, medians over rounds."""
    depths, size = (depth,) * 3, len(batch[1])
    ours = Ours(family, depths, batch, dtype)
    programs = {XLA: partial(ours.make_calls, "xla", False)}
    if jax.default_backend() != "cpu":
        programs[EXACT] = partial(ours.make_calls, "xla", True)
    elif dtype == "float32":
        programs[NATIVE] = partial(ours.make_calls, "native", False)
    for mode in ("", *options.compile):
        name = f"{EAGER} compiled" + ("" if mode == "default" else f", {mode}") if mode else EAGER
        programs[name] = partial(make_theirs, ours, family, depths, batch, dtype, mode)
    calls: dict[str, Calls] = {}
    losses: dict[str, list[float]] = {}
    for name, make in programs.items():
        try:
            calls[name] = make()
            # By the running statistics that all start with, then what two steps begin from.
            losses[name] = [calls[name][kind](1) for kind in ("evaluate", "train", "train")]
        except Exception as error:
            if "compiled" not in name:
                raise
            # Its compiler needs more of a machine than PyTorch does.
            print(f"torch.compile does not work here: {error!r}"[:200], file=sys.stderr)
            calls.pop(name, None)
    differences = np.abs(np.array(list(losses.values())) / losses[EAGER] - 1)
    if not np.all(differences <= _TOLERANCES[dtype]):
        raise AssertionError(f"the programs do not compute the same: losses {losses}")
    rows = []
    for kind in KINDS:
        chosen = {name: partial(call[kind], options.steps) for name, call in calls.items()}
        times = take_turns(chosen, options.rounds, options.limit)
        work = count_work(ours.network, _IMAGE_SHAPE, size, kind)
        rows.append(
            {
                "family": family,
                "depths": depths,
                "dtype": dtype,
                "kind": kind,
                "seconds": {name: median(found) / options.steps for name, found in times.items()},
                "rounds": times,
                "processor_seconds": {
                    name: _processor_seconds(call) / options.steps for name, call in chosen.items()
                },
                "work": work._asdict(),
                "least_seconds": work.seconds(limits),
                "times_of_pytorch": {name: ratio(times, name, EAGER) for name in times},
            }
        )
        label = f"{family} {'-'.join(map(str, depths))}, {dtype}, {kind}"
        print(f"measured {label}", file=sys.stderr, flush=True)
    return rows


def _num_cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_seconds(call: Callable[[], float]) -> float:
    """What a call takes of all cores together: other programs' load hardly changes it."""
    found = []
    for _ in range(3):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_pytorch")
    families = list(pytorch_nets.BLOCKS)
    parser.add_argument("--families", nargs="+", choices=families, default=families)
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 3, 8, 20])
    parser.add_argument("--dtypes", nargs="+", choices=list(_TOLERANCES), default=["float32"])
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument(
        "--steps", type=int, choices=range(1, _MOST_STEPS + 1), default=1, metavar="STEPS",
        help="of a measurement; ours are one dispatch",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each cell")
    parser.add_argument("--limit", type=float, default=60, help="seconds a row may take")
    parser.add_argument("--threads", type=int, default=_num_cores(), help="of PyTorch")
    parser.add_argument(
        "--compile", nargs="*", default=["default"], metavar="MODE", help="of torch.compile; none?"
    )
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    keep_freed_memory()  # Serves all alike.
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    # What is called float32 is that, not a GPU's TF32; and both may try algorithms out.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    jax.config.update("jax_default_matmul_precision", "highest")
    machine = describe_machine()
    machine["versions"]["torch"] = torch.__version__
    if jax.default_backend() == "cpu" and why_not_native():
        print(f"{NATIVE} is {XLA} again: {why_not_native()}", file=sys.stderr)
    batch = make_batch(options.batch)
    limits = {dtype: measure_limits(dtype) for dtype in options.dtypes}
    rows = [
        row
        for dtype in options.dtypes
        for family in options.families
        for depth in options.depths
        for row in measure(family, depth, dtype, batch, limits[dtype], options)
    ]
    print(f"\nbatches of {options.batch}, {'x'.join(map(str, _IMAGE_SHAPE))}")
    print_report(rows, limits, options.batch)
    print()
    print_machine(machine)
    found = {name: limit._asdict() for name, limit in limits.items()}
    content = {"options": vars(options), "machine": machine, "limits": found, "rows": rows}
    write_json(options.json, content)


if __name__ == "__main__":
    main()
