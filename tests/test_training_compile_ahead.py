"""The next capacity's programs are made while the present one trains, and change nothing."""

import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stand_ins import tiny_config

from autogrow_jax import config as config_lib
from autogrow_jax import process as background
from autogrow_jax.build import load_data
from autogrow_jax.growth import Decision, Limits, ask, convergent, limited, periodic
from autogrow_jax.models import FAMILIES, get_family
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.metrics import read
from autogrow_jax.steps import programs as programs_lib
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import choose_capacities
from autogrow_jax.steps.trainer import Trainer
from autogrow_jax.training import run
from autogrow_jax.training.growing import foresee_end, foresee_growths

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).resolve().parents[1]
ALL_MADE = {"growth": 1, "train": 1, "evaluate": 1}
AT_START = 3  # Programs that a run lets the background compile before its first epoch.


@pytest.fixture(autouse=True, scope="module")
def traced_once():
    """What JAX does is looked at here."""


class Gate:
    """Lets the background compile once it is open; what it compiled is counted.

    Attributes:
      free: how many programs pass all the same.
    """

    def __init__(self, monkeypatch):
        self.opened, self.arrived, self.compiled = threading.Event(), threading.Event(), 0
        self.free = 0
        compile_now = programs_lib._compile

        def compile_at_gate(*args):
            if threading.current_thread() is threading.main_thread():
                return compile_now(*args)
            if self.compiled >= self.free:
                self.arrived.set()
                assert self.opened.wait(200)
            self.compiled += 1
            return compile_now(*args)

        monkeypatch.setattr(programs_lib, "_compile", compile_at_gate)


def _wait_until(condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def gate(monkeypatch):
    made = Gate(monkeypatch)
    yield made
    made.opened.set()
    _wait_until(lambda: not background.is_busy())


# --- Programs.


def _double(x):
    return 2 * x


def test_a_program_made_ahead_is_taken_over(gate):
    gate.opened.set()
    programs, x = Programs(), jnp.arange(3.0)
    programs.compile_ahead(_double, jax.ShapeDtypeStruct((3,), jnp.float32))
    programs.compile_ahead(_double, x)  # The same once more.
    np.testing.assert_array_equal(programs.call("double", _double, x), [0.0, 2.0, 4.0])
    programs.call("double", _double, x)
    assert programs.counts == programs.counts_ahead == {"double": 1}
    assert gate.compiled == 1
    assert programs.seconds_ahead > 0


def test_other_arguments_are_another_program(gate):
    gate.opened.set()
    programs = Programs()
    programs.compile_ahead(_double, jnp.arange(3.0))
    programs.call("double", _double, jnp.arange(4.0))
    assert (programs.counts, programs.counts_ahead) == ({"double": 1}, {})


def test_what_has_not_begun_is_compiled_in_the_foreground(gate):
    programs = Programs()
    programs.compile_ahead(_double, jnp.arange(3.0))
    programs.compile_ahead(_double, jnp.arange(4.0))
    assert gate.arrived.wait(100)
    # The thread is stuck, yet this one gets its program.
    programs.call("double", _double, jnp.arange(4.0))
    assert (programs.counts, programs.counts_ahead) == ({"double": 1}, {})


def test_a_run_can_be_stopped_while_a_program_is_compiled(gate, monkeypatch):
    """In the background, and in the foreground, which C++ would not let go of."""
    programs, opened = Programs(), threading.Event()
    compile_now = jax.stages.Lowered.compile

    def compile_late(lowered, *args, **kwargs):
        assert opened.wait(200)
        return compile_now(lowered, *args, **kwargs)

    def stop():
        raise KeyboardInterrupt

    programs.compile_ahead(_double, jnp.arange(3.0))
    assert gate.arrived.wait(100)
    programs.look = stop
    with pytest.raises(KeyboardInterrupt):
        programs.call("double", _double, jnp.arange(3.0))
    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_late)
    with pytest.raises(KeyboardInterrupt):
        programs.call("double", _double, jnp.arange(4.0))
    opened.set()
    programs.look = lambda: None
    np.testing.assert_array_equal(programs.call("double", _double, jnp.ones(5)), 2 * np.ones(5))


def test_closing_does_not_wait(gate):
    programs = Programs()
    for size in (3, 4, 5):
        programs.compile_ahead(_double, jnp.zeros(size))
    assert gate.arrived.wait(100)
    programs.close()
    assert background.is_busy()
    gate.opened.set()
    _wait_until(lambda: not background.is_busy())
    assert gate.compiled == 1


def test_a_failure_in_the_background_is_the_foregrounds_to_meet(monkeypatch):
    tries = []
    compile_now = programs_lib._compile

    def fail_first(*args):
        tries.append(threading.current_thread())
        if len(tries) == 1:
            raise RuntimeError("out of memory")
        return compile_now(*args)

    monkeypatch.setattr(programs_lib, "_compile", fail_first)
    programs = Programs()
    programs.compile_ahead(_double, jnp.arange(3.0))
    _wait_until(lambda: tries and not background.is_busy())
    programs.call("double", _double, jnp.arange(3.0))
    assert (programs.counts, programs.counts_ahead) == ({"double": 1}, {})


def test_settings_of_the_callers_thread_are_respected(gate):
    gate.opened.set()
    programs = Programs()

    def cosine(x):
        return jnp.cos(x @ x)

    with jax.default_matmul_precision("bfloat16"):
        programs.compile_ahead(cosine, jnp.ones((3, 3)))
        programs.call("cosine", cosine, jnp.ones((3, 3)))
    assert (programs.counts_ahead, gate.compiled) == ({}, 0)


@pytest.mark.multiprocess
def test_the_end_of_a_process_does_not_wait():
    code = (
        "import time; from concurrent.futures import ThreadPoolExecutor\n"
        "from autogrow_jax.command_line import leave; from autogrow_jax.process import *\n"
        "submit(ThreadPoolExecutor(1), lambda: time.sleep(1000))\n"
        "while not is_busy(): time.sleep(0.01)\n"
        "print('done'); leave(0)"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, timeout=100, check=True, capture_output=True)
    assert ended.stdout == b"done\n"


def test_programs_called_long_ago_are_forgotten(monkeypatch):
    monkeypatch.setattr(programs_lib, "_MOST_KEPT", 2)
    programs, sizes = Programs(), (3, 4, 3, 5, 3, 4)
    for size in sizes:
        programs.call("double", _double, jnp.arange(float(size)))
    # 3, 4 and 5 once each, and 4 again: it was called before 3 was.
    assert programs.counts == {"double": 4}


# --- Which capacities come next.


def _foresee(policy, depths, capacities, patience=6, **more):
    measurements = {"validation_accuracy": 50.0, "train_accuracy": 60.0}
    state = policy.init()
    return next(
        foresee_growths(
            policy, state, depths, capacities, choose_capacities, measurements, patience, **more
        ),
        (),
    )


def test_round_robin_is_followed_to_the_first_stage_without_room():
    policy = periodic(seed_depths=(4, 3, 3), interval=3)
    # Stage 0 first, which is full; the others are within a quarter of their capacity or not.
    assert _foresee(policy, (4, 3, 3), (4, 4, 4)) == ((8, 4, 4),)
    # There is room for stages 0, 1 and 2; then stage 0 again, and by then the others are full.
    policy = periodic(seed_depths=(3, 3, 3), interval=3)
    assert _foresee(policy, (3, 3, 3), (4, 4, 4)) == ((8, 8, 8),)
    policy = periodic(seed_depths=(2, 4, 2), interval=3)
    assert _foresee(policy, (2, 4, 2), (4, 4, 4)) == ((4, 8, 4),)


@pytest.mark.parametrize(
    "mode, sub, wanted", [("all", None, ((8, 4, 4),)), ("sub", (0, 0, 3), ((8, 4, 8),))]
)
def test_modes_that_grow_several_stages_do_so_one_after_the_other(mode, sub, wanted):
    policy = periodic(seed_depths=(4, 3, 2), interval=2, mode=mode, sub=sub)
    assert _foresee(policy, (4, 3, 2), (4, 4, 4)) == wanted


def test_every_depth_on_the_way_has_a_growth_of_its_own():
    policy = periodic(seed_depths=(1, 1, 1), interval=2, mode="all")

    def exactly(depths, now):
        return depths

    measurements = {"validation_accuracy": 50.0, "train_accuracy": 60.0}
    given = (1, 1, 1), (1, 1, 1), exactly, measurements
    foreseen = foresee_growths(policy, policy.init(), *given, patience=6)
    assert next(foreseen) == ((2, 1, 1), (2, 2, 1), (2, 2, 2))
    assert next(foreseen) == ((3, 2, 2), (3, 3, 2), (3, 3, 3))


def test_growths_are_foreseen_until_growth_ends():
    policy = periodic(seed_depths=(1, 1), interval=2, max_depths=(2, 3))
    measurements = {"validation_accuracy": 50.0, "train_accuracy": 60.0}
    given = policy, policy.init(), (1, 1), (1, 1), lambda depths, now: depths, measurements
    foreseen = list(foresee_growths(*given, patience=4))
    assert foreseen == [((2, 1),), ((2, 2),), ((2, 3),)]


def test_the_end_of_growth_is_foreseen_where_nothing_gets_better():
    policy = periodic(seed_depths=(1, 1, 1), interval=2, window=4)
    state, depths, left = policy.init(), (1, 1, 1), []
    for accuracy in (50.0, 60.0, 70.0, *[70.0] * 20):
        state, decision = ask(policy, state, depths, accuracy)
        known = {"validation_accuracy": accuracy, "seconds": 0.0}
        left.append(foresee_end(policy, state, decision, depths, known, 1.0))
        depths = decision.depths
        if decision.action == "finetune":
            break
    assert left[-4:] == [3, 2, 1, 0]
    # Its clock goes on; a policy that never ends is given up.
    policy = limited(
        periodic(seed_depths=(1, 1, 1), interval=2, window=600), Limits(max_seconds=55)
    )
    given = policy, policy.init(), Decision("train", (1, 1, 1)), (1, 1, 1), known
    assert foresee_end(*given, 10.0) == 6
    assert foresee_end(*given, 0.001) is None


def test_no_growth_no_program():
    policy = periodic(seed_depths=(4, 4, 4), max_depths=(4, 4, 4))
    assert _foresee(policy, (4, 4, 4), (4, 4, 4)) == ()
    policy = convergent(seed_depths=(4, 4, 4), interval=3, max_growth_epochs=2)
    assert _foresee(policy, (4, 4, 4), (4, 4, 4)) == ()


def test_convergent_growth_comes_when_accuracy_stalls():
    policy = convergent(seed_depths=(4, 1, 1), interval=5)
    assert _foresee(policy, (4, 1, 1), (4, 4, 4), patience=10) == ((8, 4, 4),)


def test_a_trial_needs_room_too():
    policy = periodic(seed_depths=(4, 1, 1))
    assert _foresee(policy, (1, 1, 4), (4, 4, 4), trial=2) == ((4, 4, 8),)


# --- The trainer.


@pytest.fixture(scope="module", autouse=True)
def one_stage():
    """A family of one stage: the programs are the same in kind and compile in a third."""
    FAMILIES["plain1"] = get_family("plain3")._replace(widths=(8,), stem_width=8)
    yield
    del FAMILIES["plain1"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"num_devices": 4, "parallel": "jit", "optimizer.ema": 0.9},
            marks=pytest.mark.devices(4),
            id="jit",
        ),
        pytest.param(
            {"num_devices": 4, "parallel": "pmap", "growth.initializer": "morphism"},
            marks=pytest.mark.devices(4),
            id="pmap",
        ),
        pytest.param({"num_devices": 1, "data.on_device": "no"}, id="host"),
    ],
)
def test_growth_asks_for_exactly_what_was_made(changes):
    trainer = _make_trainer(**changes)
    trainer.train_epoch(0, 0.05, None)
    trainer.evaluate("validation")
    trainer.compile_ahead(((8,),))
    # What the thread has not begun when it is asked for, the foreground would compile.
    _wait_until(lambda: all(future.done() for future in trainer.programs._ahead.values()))
    trainer.grow((0,), 1, 0.0)
    assert trainer.capacities == (8,)
    for epoch in (1, 2):
        trainer.train_epoch(epoch, 0.05, None)
        trainer.evaluate("validation")
    assert trainer.programs.counts == {"init": 1, "train": 2, "evaluate": 2, "growth": 1}
    assert trainer.programs.counts_ahead == ALL_MADE


def _make_trainer(**changes):
    config = config_lib.default_config()
    config.update_from_flattened_dict(
        {
            "data.fraction": 0.1,
            "data.batch_size": 32,
            "model.family": "plain1",
            "model.depths": (4,),
            "log.progress": False,
            **changes,
        }
    )
    resolved = config_lib.resolve(config)
    trainer = Trainer(resolved, load_data(resolved))
    trainer.start()
    return trainer


# --- Whole runs: depth 4 fills the capacity after epoch 2, depth 5 leaves it after epoch 3.


def _config(**changes):
    own = {
        "model.family": "plain1",
        "growth.max_epochs": 5,
        "growth.max_depths": (5,),
        "finetune.epochs": 1,
        "log.tensorboard": True,
    }
    return tiny_config(**own | changes)


class _AtEpoch(QuietReporter):
    """Does something once an epoch is over, before the policy is asked.

    Until what is compiled at the start is there, the first epoch does not end: what the thread has
    not begun when it is asked for, the foreground would compile.
    """

    def __init__(self, gate, epoch, action):
        self._gate, self._epoch, self._action = gate, epoch, action
        gate.free = AT_START

    def end_epoch(self, line):
        if line["epoch"] == 0:
            _wait_until(lambda: self._gate.compiled == AT_START)
        if line["epoch"] == self._epoch:
            self._action()


def _stop():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("without")
    config = _config(**{"growth.compile_ahead": False})
    return workdir, run(config, workdir, reporter=QuietReporter())


def _assert_same(first, second):
    (workdir, result), (other_workdir, other) = first, second
    clocks = ("seconds", "elapsed")
    lines, others = (
        [{k: v for k, v in line.items() if k not in clocks} for line in read(w / "metrics.jsonl")]
        for w in (workdir, other_workdir)
    )
    assert lines == others
    assert result.more["compilations_by_program"] == other.more["compilations_by_program"]
    jax.tree.map(np.testing.assert_array_equal, result.variables, other.variables)


def test_training_goes_on_while_the_next_capacity_is_compiled(gate, without, tmp_path):
    seen = []

    def open_gate():
        # Epoch 3 is over, and the compilation that began before it is not.
        assert gate.arrived.wait(100)
        seen.append(gate.compiled)
        gate.opened.set()
        # What the thread has not begun when it is asked for, the foreground would compile.
        _wait_until(lambda: gate.compiled == AT_START + 3 and not background.is_busy())

    result = run(_config(), tmp_path, reporter=_AtEpoch(gate, 3, open_gate))
    assert seen == [AT_START]
    # Once at the start, once for the next capacity.
    assert result.more["compilations_ahead"] == {"growth": 2, "train": 2, "evaluate": 2}
    assert result.seconds["compile_ahead"] > 0
    _assert_same((tmp_path, result), without)
    assert without[1].more["compilations_ahead"] == {}
    assert without[1].seconds["compile_ahead"] == 0


@pytest.mark.slow
def test_a_program_for_each_depth_trains_as_one_for_all(without, tmp_path):
    config = _config(**{"growth.capacity": 0})
    result = run(config, tmp_path, reporter=QuietReporter())
    assert result.depths == (5,)
    # Depths 1 to 5, wherever they were compiled; the loss is that of programs of another shape.
    counts = {"init": 1, "train": 5, "evaluate": 5, "growth": 4}
    assert result.more["compilations_by_program"] == counts
    lines, others = read(tmp_path / "metrics.jsonl"), read(without[0] / "metrics.jsonl")
    assert [line["depths"] for line in lines] == [line["depths"] for line in others]
    found, expected = ([line["train_loss"] for line in each] for each in (lines, others))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_modes_that_grow_all_stages_find_what_was_compiled(tmp_path, monkeypatch):
    FAMILIES["plain2"] = get_family("plain3")._replace(widths=(8, 8), stem_width=8)
    monkeypatch.setattr(programs_lib, "submit", _submit_now)
    changes = {
        "model.family": "plain2",
        "growth.capacity": 0,
        "growth.mode": "all",
        "growth.interval": 2,
        "growth.max_epochs": 5,
        "growth.max_depths": (3,),
    }
    try:
        result = run(_config(**changes), tmp_path, reporter=QuietReporter())
    finally:
        del FAMILIES["plain2"]
    assert result.depths == (3, 3)
    # Depths 1-1, 2-2 and 3-3 train; growth goes by way of 2-1 and 3-2.
    assert result.more["compilations_ahead"] == {"growth": 4, "train": 3, "evaluate": 3}
    counts = {"init": 1, "growth": 4, "train": 3, "evaluate": 3}
    assert result.more["compilations_by_program"] == counts


def _submit_now(executor, work):
    """Does at once what is asked of the background."""
    future = Future()
    future.set_result(work())
    return future


def test_a_run_stopped_meanwhile_ends_at_once_and_goes_on_the_same(gate, without, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=_AtEpoch(gate, 3, _stop))
    assert gate.arrived.wait(100)
    assert gate.compiled == AT_START
    assert background.is_busy()
    gate.opened.set()
    result = run(_config(), tmp_path, reporter=QuietReporter())
    assert result.depths == (5,)
    lines, others = read(tmp_path / "metrics.jsonl"), read(without[0] / "metrics.jsonl")
    assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in others]
    jax.tree.map(np.testing.assert_array_equal, result.variables, without[1].variables)


def test_a_run_that_does_not_grow_compiles_no_growth(gate, tmp_path):
    gate.free = AT_START
    config = _config(mode="scratch")
    run(config, tmp_path, reporter=QuietReporter())
    _wait_until(lambda: not background.is_busy())
    assert gate.compiled == 2
