"""Training steps in each form of the loop, by turns with PyTorch's: part 2 of `benchmarks.gpu`."""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Preprocessing
from autogrow_jax.models import build_network
from autogrow_jax.optim import make_optimizer
from autogrow_jax.steps.state import (
    TrainState,
    choose_capacities,
    init_state,
    make_mesh,
    pad_state,
)
from autogrow_jax.steps.step import Recipe, Sums, make_train_steps
from benchmarks.gpu_report import read_rows
from benchmarks.gpu_worker import LATER, Job
from benchmarks.measure import ratio, take_turns
from benchmarks.rival_stacks import unrolled_stacks
from benchmarks.roofline import count_work

# XLA captures a loop into a CUDA graph where every piece of it is of these kinds: the defaults, and
# loops and ordinary convolutions. For one program all kinds are named; "+WHILE" is for XLA_FLAGS.
_GRAPHS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,"
    "DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE,CONVOLUTION"
}
_ANY_SIZE = {"xla_gpu_graph_min_graph_size": 1}


class Form(NamedTuple):
    """How a program trains for some steps.

    Attributes:
      exact: whether depth and number of steps are in the program; else they are data.
      unrolled: whether the blocks stand one after the other, nothing computed again; else in loops.
      options: of the compiler.
    """

    exact: bool
    unrolled: bool = False
    options: Mapping[str, Any] = {}


FORMS = {
    "exact": Form(True),
    "shared": Form(False),
    "unrolled": Form(True, unrolled=True),
    "exact, graphs": Form(True, options=_GRAPHS),
    "shared, graphs": Form(False, options=_GRAPHS),
    "exact, graphs of any size": Form(True, options={**_GRAPHS, **_ANY_SIZE}),
    "shared, graphs of any size": Form(False, options={**_GRAPHS, **_ANY_SIZE}),
}
EAGER = "pytorch"
_BESIDE = ("exact", EAGER)
# What is compared at once; after "pytorch, " stands a mode of torch.compile, whose first has CUDA
# graphs. The first stage is the safest and says most.
STAGES: Mapping[str, Sequence[str]] = {
    "base": ("exact", "shared", "unrolled", EAGER),
    "compiled with graphs": (f"{EAGER}, reduce-overhead",),
    "graphs": ("exact, graphs", "shared, graphs"),
    "graphs of any size": ("exact, graphs of any size", "shared, graphs of any size"),
    "compiled": (f"{EAGER}, default",),
}
# How far the losses of the first dispatch may be apart, relative. One rounding of the weights moves
# that of a plain net of 60 layers by a hundredth, whatever the learning rate.
_TOLERANCES = {"float32": 2e-3, "tf32": 2e-2, "bfloat16": 5e-2}
_DEEP, _TOLERANCE_OF_DEEP = 8, 5e-2
_IMAGE_SHAPE = (32, 32, 1)  # MNIST's, once padded.
_LEARNING_RATE = 1e-3


class Cell:
    """A net, its batch and its start, which all forms share.

    Args:
      family: "plain3" or "basic3".
      depth: blocks in each stage.
      batch: images of a step.
      precision: "float32", "tf32" (its products of 10 bits) or "bfloat16".
      steps: of a dispatch.
    """

    def __init__(self, family: str, depth: int, batch: int, precision: str, steps: int):
        self.family, self.depths, self.batch = family, (depth,) * 3, batch
        self.precision, self.steps = precision, steps
        self.dtype = "bfloat16" if precision == "bfloat16" else "float32"
        self.network = build_network(
            family, self.depths, image_channels=_IMAGE_SHAPE[2], dtype=self.dtype
        )
        self._recipe = Recipe(
            network=self.network,
            optimizer=make_optimizer("sgd", momentum=0.9, weight_decay=5e-4),
            preprocessing=Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False),
            batch_size=batch,
            ema=0.0,
            parallel="jit",
            mesh=make_mesh(1, batch),
        )
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (batch, *_IMAGE_SHAPE), np.uint8)
        self.labels = rng.integers(0, 10, batch, np.int32)
        init = partial(init_state, self.network, self._recipe.optimizer)
        self.start: TrainState = jax.device_get(
            jax.jit(lambda key: init(key, _IMAGE_SHAPE, False))(jax.random.key(0))
        )

    def lower(self, form: Form) -> tuple[Any, tuple[Any, ...]]:
        """The program of a form, not compiled yet, and its arguments."""
        room = self.depths if form.exact else choose_capacities(self.depths, (4, 4, 4))
        recipe = self._recipe._replace(network=self.network.clone(depths=room), exact=form.exact)
        init = partial(init_state, recipe.network, recipe.optimizer)
        shapes = jax.eval_shape(lambda: init(jax.random.key(0), _IMAGE_SHAPE, False))
        state = jax.tree.map(jnp.array, pad_state(self.start, shapes))
        # The same batch again and again: an epoch as long as there are steps.
        order = jnp.tile(jnp.arange(self.batch, dtype=jnp.int32), self.steps)
        arguments = (
            *(state, Sums.zero(), jnp.asarray(self.images), jnp.asarray(self.labels), order),
            *(jax.random.key(0), jnp.asarray(self.depths, jnp.int32)),
            *(jnp.float32(_LEARNING_RATE), jnp.int32(0), jnp.int32(self.steps)),
        )
        function = make_train_steps(recipe, self.steps if form.exact else None)
        # "highest" is float32 as it is; by default XLA takes a GPU's TF32.
        precise = "highest" if self.precision == "float32" else "default"
        stacks = unrolled_stacks() if form.unrolled else nullcontext()
        with jax.default_matmul_precision(precise), stacks:
            return jax.jit(function, donate_argnums=(0,)).lower(*arguments), arguments


class Turn:
    """Trains on from where it was, a dispatch a call; returns the mean loss in nats."""

    def __init__(self, program: Any, arguments: tuple[Any, ...], images: int):
        self._program, self._images = program, images
        self._state, self._given = arguments[0], arguments[1:]

    def __call__(self) -> float:
        self._state, sums = self._program(self._state, *self._given)
        return float(sums.loss) / self._images


def measure_steps(job: Job) -> None:
    """Measures the cell that the job names, "FAMILY-DEPTH-BATCH-PRECISION", a stage at a time.

    A stage that an earlier try ended is not done again, and one that ended an earlier try is passed
    over: what is new to XLA may end the process, or never return.
    """
    began = time.monotonic()
    family, depth, batch, precision = job.what.split("-")
    cell = Cell(family, int(depth), int(batch), precision, 2 if job.tiny else 20)
    about = {"family": family, "depths": cell.depths, "batch": cell.batch, "precision": precision}
    note = partial(job.note, **about)
    rows = [row for row in read_rows(job.out / "results.jsonl") if row.get("task") == job.task]
    begun, ended = ({row[word] for row in rows if word in row} for word in ("begun", "ended"))
    bench = _Bench(cell, note, tiny=job.tiny)
    stages = list(STAGES.items())
    for number, (stage, forms) in enumerate(stages[:1] if job.tiny else stages):
        if stage in ended:
            continue
        if number and stage in begun:
            for form in forms:
                note(form=form, error="an earlier try ended with it, see log.txt")
        elif time.monotonic() - began > 0.7 * job.seconds:
            sys.exit(LATER)
        else:
            note(begun=stage)
            bench.measure(forms)
        note(ended=stage)


class _Bench:
    """Times forms of a cell by turns with "exact" and PyTorch's eager step, which are made once."""

    def __init__(self, cell: Cell, note: Callable[..., None], tiny: bool):
        self._cell, self._note = cell, note
        self._rounds, self._limit = (1, 1.0) if tiny else (7, 10.0)
        self._work = count_work(cell.network, _IMAGE_SHAPE, cell.batch, "train")._asdict()
        self._beside: dict[str, Callable[[], float]] = {}
        self._loss = math.nan  # Of "exact".
        self._theirs = _make_theirs(cell, note)

    def measure(self, forms: Sequence[str]) -> None:
        """Notes a row of each form, or why there is none."""
        wanted = [form for form in (*_BESIDE, *forms) if form not in self._beside]
        turns: dict[str, Callable[[], float]] = {}
        seconds, losses = self._make(list(dict.fromkeys(wanted)), turns)
        if not math.isfinite(self._loss):
            self._loss = losses["exact"]
        for name, loss in losses.items():
            most = _TOLERANCES[self._cell.precision]
            most = max(most, _TOLERANCE_OF_DEEP) if self._cell.depths[0] > _DEEP else most
            if not abs(loss / self._loss - 1) < most:
                text = f"its loss is {loss:.6g}, that of exact {self._loss:.6g}"
                self._note(form=name, error=text)
                del turns[name]
        if not turns:
            return
        times = take_turns(self._beside | turns, self._rounds, self._limit)
        for name in [name for name in turns if name in forms]:
            step = median(times[name]) / self._cell.steps
            self._note(
                form=name,
                milliseconds=1000 * step,
                images_per_second=self._cell.batch / step,
                over_eager=ratio(times, name, EAGER) if EAGER in times else None,
                over_exact=ratio(times, name, "exact"),
                **{"rounds": times[name], "steps": self._cell.steps, "work": self._work},
                compile_seconds=seconds[name],
                loss=losses[name],
            )
        self._beside |= {name: turn for name, turn in turns.items() if name in _BESIDE}

    def _make(
        self, names: Sequence[str], turns: dict[str, Callable[[], float]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Puts what works into `turns`; returns seconds of compilation, and first losses."""
        seconds: dict[str, float] = {}
        losses: dict[str, float] = {}
        compiled = _compile_all(self._cell, {n: FORMS[n] for n in names if n in FORMS})
        for name in names:
            start = time.monotonic()
            try:
                if name in compiled:
                    turn, seconds[name] = compiled[name].result()
                elif self._theirs is None:
                    continue  # It is noted why.
                else:
                    turn = self._theirs(name.partition(", ")[2])
                losses[name] = turn()
                for _ in range(2):  # CUDA graphs are recorded in a later call than the first.
                    turn()
            except Exception as error:  # A flag or a compiler that this machine does not have.
                if name == "exact":
                    raise
                losses.pop(name, None)
                self._note(form=name, error=f"does not work here: {error!r}"[:300])
                continue
            turns[name] = turn
            seconds.setdefault(name, time.monotonic() - start)
            print(f"made {name} in {seconds[name]:.1f} s", file=sys.stderr, flush=True)
        return seconds, losses


def _compile_all(cell: Cell, forms: Mapping[str, Form]) -> dict[str, Future[Any]]:
    """Compiles side by side, as the processor has more cores than a program needs."""

    def compile_one(lowered: Any, arguments: Any, form: Form) -> tuple[Turn, float]:
        start = time.monotonic()
        program = lowered.compile(compiler_options=dict(form.options) or None)
        images = cell.batch * cell.steps
        return Turn(program, arguments, images), time.monotonic() - start

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        return {n: pool.submit(compile_one, *cell.lower(f), f) for n, f in forms.items()}


def _make_theirs(
    cell: Cell, note: Callable[..., None]
) -> Callable[[str], Callable[[], float]] | None:
    """Makes PyTorch's step by a mode of `torch.compile`, "" for eager; None without PyTorch."""
    try:
        import torch
    except ImportError as error:
        note(form=EAGER, error=f"PyTorch is not there: {error}")
        return None
    from benchmarks import pytorch_nets

    is_gpu = jax.default_backend() == "gpu"
    if is_gpu and not torch.cuda.is_available():
        note(form=EAGER, error="PyTorch finds no GPU")
        return None
    torch.backends.cudnn.benchmark = True
    allowed = cell.precision != "float32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed

    def make(mode: str) -> Callable[[], float]:
        net = pytorch_nets.build_net(cell.family, cell.depths, image_channels=_IMAGE_SHAPE[2])
        pytorch_nets.load_variables(net, {"params": cell.start.params}, cell.depths)
        net.to("cuda" if is_gpu else "cpu")
        batch = torch.from_numpy(cell.images), torch.from_numpy(cell.labels).long()
        run = torch.compile(net, mode=mode) if mode else None
        return partial(
            pytorch_nets.Training(net, *batch, _LEARNING_RATE, run, cell.dtype).step, cell.steps
        )

    return make
