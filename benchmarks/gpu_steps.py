"""Training steps in each form of the loop, by turns with PyTorch's: part 2 of `benchmarks.gpu`."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from autogrow_jax.data import Preprocessing
from autogrow_jax.models import build_network
from autogrow_jax.models.network import Stage
from autogrow_jax.models.stack import num_slots
from autogrow_jax.optim import make_optimizer
from autogrow_jax.training.state import (
    TrainState,
    choose_capacities,
    init_state,
    make_mesh,
    pad_state,
)
from autogrow_jax.training.step import Recipe, Sums, make_train_steps
from benchmarks.gpu_worker import Job
from benchmarks.measure import Times, ratio, take_turns
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
# Of torch.compile; the first has CUDA graphs.
MODES = ("reduce-overhead", "default")
# How far the first losses may be apart, relative.
_TOLERANCES = {"float32": 2e-3, "tf32": 2e-2, "bfloat16": 5e-2}
_IMAGE_SHAPE = (32, 32, 1)  # MNIST's, once padded.
_LEARNING_RATE = 1e-3  # So low that rounding does not grow from step to step.


@contextmanager
def unrolled_stacks() -> Iterator[None]:
    """While it lasts, networks of exact depth are traced with a stage's blocks one by one."""

    def run(stage, block, apply, params, stats, x, train, live_depth):
        del stage, block, train, live_depth
        if not num_slots(params):
            return x, stats
        blocks = params, stats
        return lax.scan(lambda x, slot: apply(slot[0], slot[1], x), x, blocks, unroll=True)

    with mock.patch.object(Stage, "_run", run):
        yield


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
    """Measures the cell that the job names, "FAMILY-DEPTH-BATCH-PRECISION"."""
    began = time.monotonic()
    family, depth, batch, precision = job.what.split("-")
    cell = Cell(family, int(depth), int(batch), precision, 2 if job.tiny else 20)
    about = {"family": family, "depths": cell.depths, "batch": cell.batch, "precision": precision}
    note = partial(job.note, **about)
    work = count_work(cell.network, _IMAGE_SHAPE, cell.batch, "train")
    forms = dict(list(FORMS.items())[:3]) if job.tiny else FORMS
    turns, compiled = _compile_all(cell, forms, note)
    losses = {name: turn() for name, turn in turns.items()}
    theirs = _make_theirs(cell, note)
    if theirs is not None:
        turns[EAGER] = theirs("")
        losses[EAGER] = turns[EAGER]()
    base = losses["exact"]
    for name in [n for n in turns if not abs(losses[n] / base - 1) < _TOLERANCES[precision]]:
        note(form=name, error=f"its loss is {losses[name]:.6g}, that of exact {base:.6g}")
        del turns[name]
    rounds, limit = (1, 1.0) if job.tiny else (7, 12.0)
    times = take_turns(turns, rounds, limit)
    for name in times:
        figures = {"compile_seconds": compiled.get(name), "loss": losses[name]}
        note(**_row(cell, name, times), **figures, work=work._asdict())
    if theirs is None or job.tiny:
        return
    fastest = min((name for name in times if name != EAGER), key=lambda name: median(times[name]))
    for mode in MODES:  # The longest to build last, one after the other.
        if time.monotonic() - began > 0.7 * job.seconds:
            note(form=f"{EAGER}, {mode}", error="no time was left to compile it")
            continue
        start = time.monotonic()
        try:
            turn = theirs(mode)
            for _ in range(3):  # CUDA graphs are recorded in the second call.
                loss = turn()
        except Exception as error:  # Its compiler needs more of a machine than PyTorch does.
            note(form=f"{EAGER}, {mode}", error=f"does not work here: {error!r}"[:300])
            continue
        spent = time.monotonic() - start
        name = f"{EAGER}, {mode}"
        chosen = {name: turn, EAGER: turns[EAGER], fastest: turns[fastest]}
        found = take_turns(chosen, rounds, limit)
        note(
            **_row(cell, name, found),
            compile_seconds=spent,
            loss=loss,
            work=work._asdict(),
            over={"form": fastest, "ratio": ratio(found, name, fastest)},
        )


def _row(cell: Cell, name: str, times: Times) -> dict[str, Any]:
    step = median(times[name]) / cell.steps
    over = ratio(times, name, EAGER) if EAGER in times else None
    return {
        "form": name,
        "milliseconds": 1000 * step,
        "images_per_second": cell.batch / step,
        "over_eager": over,
        "rounds": times[name],
        "steps": cell.steps,
    }


def _compile_all(
    cell: Cell, forms: Mapping[str, Form], note: Callable[..., None]
) -> tuple[dict[str, Callable[[], float]], dict[str, float]]:
    """Compiles side by side, as the processor has more cores than a program needs."""
    lowered = {name: cell.lower(form) for name, form in forms.items()}

    def compile_one(name: str) -> tuple[Any, float]:
        start = time.monotonic()
        options = dict(forms[name].options) or None
        program = lowered[name][0].compile(compiler_options=options)
        return program, time.monotonic() - start

    turns: dict[str, Callable[[], float]] = {}
    seconds = {}
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        futures = {name: pool.submit(compile_one, name) for name in forms}
        for name, future in futures.items():
            try:
                program, seconds[name] = future.result()
            except Exception as error:  # A jaxlib that lacks a flag, or cannot do it.
                note(form=name, error=f"does not compile: {error}"[:300])
                if name == "exact":
                    raise
                continue
            turns[name] = Turn(program, lowered[name][1], cell.batch * cell.steps)
            print(f"compiled {name} in {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    return turns, seconds


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
