"""Capacities, padding, and checkpoints of exact-depth trees."""

import dataclasses
import json
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import tiny_config

from autogrow_jax.build import resolve
from autogrow_jax.errors import UserError
from autogrow_jax.models import build_network
from autogrow_jax.saving.checkpoint import CheckpointStore, Restored, rebuild
from autogrow_jax.steps.state import choose_capacities, init_state, pad_state
from autogrow_jax.training.run_state import Clock, RunState
from autogrow_jax.training.start import begin
from autogrow_jax.trees import cut

_SHAPE = (8, 8, 1)


def _round_robin(last, seed):
    depths = list(seed)
    yield tuple(depths)
    while min(depths) < last:
        stage = depths.index(min(depths))
        depths[stage] += 1
        yield tuple(depths)


@pytest.mark.parametrize("seed", [(1, 1, 1), (1, 3, 2), (3, 1, 1, 2)])
def test_a_run_to_depth_20_changes_capacity_at_most_five_times(seed):
    capacities, seen = (4,) * len(seed), []
    for depths in _round_robin(20, seed):
        capacities = choose_capacities(depths, capacities)
        assert all(d <= c for d, c in zip(depths, capacities, strict=True))
        if capacities not in seen:
            seen.append(capacities)
    assert len(seen) <= 6


def test_capacity_follows_a_stage_that_grows_alone():
    capacities = (4, 4, 4)
    for depth in range(1, 40):
        capacities = choose_capacities((2, depth, 2), capacities)
    assert capacities == (4, 64, 4)
    assert choose_capacities((100, 1, 1), (4, 4, 4)) == (128, 4, 4)


@pytest.fixture(scope="module")
def state():
    network = build_network("basic3", (3, 1, 2), image_channels=1)
    optimizer = optax.scale_by_adam()
    made = init_state(network, optimizer, jax.random.key(0), _SHAPE, ema=True)
    return network, optimizer, jax.device_get(made)


def test_cutting_undoes_padding(state):
    network, optimizer, exact = state
    roomy = network.clone(depths=(4, 8, 4))
    room = jax.eval_shape(lambda: init_state(roomy, optimizer, jax.random.key(0), _SHAPE, True))
    padded = pad_state(exact, room)
    assert padded.params["stage1"]["rest"]["conv1"]["kernel"].shape == (7, 3, 3, 32, 32)
    assert not padded.params["stage0"]["rest"]["conv1"]["kernel"][2:].any()
    again = cut(padded, (3, 1, 2))
    assert jax.tree.structure(again) == jax.tree.structure(exact)
    jax.tree.map(np.testing.assert_array_equal, again, exact)


def test_checkpoints_keep_the_newest_and_the_best(state, tmp_path):
    _, _, exact = state
    store = CheckpointStore(tmp_path, keep=2)
    for epoch, accuracy in enumerate([50.0, 90.0, 60.0, 70.0, 80.0]):
        changed = exact._replace(ema=jax.tree.map(lambda a, e=epoch: a + e, exact.ema))
        store.save(epoch, changed, {"epoch": epoch, "pi": 3.141592653589793}, accuracy)
    store.wait()
    assert store.all_epochs() == [1, 3, 4]
    assert store.latest() == 4
    assert store.best() == 1
    restored = store.read(1)
    store.close()
    assert restored.memory == {"epoch": 1, "pi": 3.141592653589793}
    rebuilt = rebuild(restored.arrays, exact)
    assert jax.tree.structure(rebuilt) == jax.tree.structure(exact)
    jax.tree.map(np.testing.assert_array_equal, rebuilt.params, exact.params)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), rebuilt.ema, exact.ema)


def test_a_checkpoint_of_other_depths_is_refused():
    """Orbax itself restores a shallower checkpoint into a deeper target without a word."""
    deep = {"rest": jnp.zeros((3, 2)), "head": jnp.zeros(4)}
    arrays = {"rest": np.zeros((2, 2), np.float32), "other": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match="does not fit") as error:
        rebuild(arrays, deep)
    for complaint in ("rest: float32[2, 2] in the checkpoint, float32[3, 2]", "head: not in",
                      "other: only in the checkpoint"):  # fmt: skip
        assert complaint in str(error.value)


def test_reading_a_damaged_checkpoint_changes_no_hook(state, tmp_path, capfd):
    _, _, exact = state
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, exact, {}, 50.0)
    store.wait()
    for file in (tmp_path / "epoch_1" / "arrays").glob("**/d/*"):
        file.write_bytes(b"torn")
    before = sys.unraisablehook
    with pytest.raises(UserError, match="epoch_1 is damaged"):
        store.read(1)
    assert sys.unraisablehook is before
    store.close()
    # Nor are the errors printed of all the arrays that could not be read either.
    assert capfd.readouterr().err == ""


def test_what_an_older_run_remembered_is_read():
    """As its checkpoints have it: with depths and capacities, without what came later."""
    older = {
        "epoch": 7, "phase": "growth", "phase_start": 0, "depths": [2, 1, 1],
        "evaluated_depths": [1, 1, 1], "capacities": [4, 4, 4], "policy": {"epochs": 7},
        "trial": None, "trial_epochs": 0, "train_accuracy": 60.0, "validation_accuracy": 50.0,
        "best_validation_accuracy": 55.0, "growth": [{"epoch": 7, "stage": 0, "depths": [2, 1, 1]}],
        "seconds": {"total": 9.0, "train": 5.0, "compile": 3.0},
        "compilations": {"train": 1}, "compilations_ahead": {},
    }  # fmt: skip
    state = RunState.from_dict(older)
    assert state.evaluated_depths == (1, 1, 1)
    # Of a trainer only these are asked for.
    programs = SimpleNamespace(
        seconds=0.5, seconds_ahead=0.0, counts={"train": 1}, counts_ahead={"train": 1}
    )
    seconds = {"start": 2.0, "train": 1.0}
    trainer = SimpleNamespace(
        depths=(2, 1, 1), capacities=(4, 4, 4), programs=programs, seconds=seconds
    )
    kept = state.to_dict(trainer)
    assert json.loads(json.dumps(kept)) == older | {
        **{"kept": None, "candidate": None},
        **{"candidates": [], "front": [], "init_from": {}, "divergences": [], "metrics": ""},
        "normalized_apart": 0,
        "perturbed": 0.0,
        "own": {},
    }
    Clock(state, trainer, time.perf_counter() - 4).update()
    assert 13 <= state.seconds["total"] < 14
    parts = {name: state.seconds[name] for name in ("start", "train", "compile")}
    assert parts == {"start": 2.0, "train": 6.0, "compile": 3.5}
    assert (state.compilations, state.compilations_ahead) == ({"train": 2}, {"train": 1})


def test_a_run_that_normalises_by_parts_says_that_it_goes_on_on_other_devices(monkeypatch):
    """On others it went on without a word, and every part had other statistics."""
    memory = {"depths": (1, 1, 1), "capacities": (4, 4, 4)}

    def trainer(parallel):
        settings = resolve(tiny_config(parallel=parallel, num_devices=0))
        ignore = {"restore": lambda *_: None, "compile_ahead": lambda **_: None}
        return SimpleNamespace(settings=settings, abstract_state=lambda depths: {}, **ignore)

    def go_on(parallel, devices, before):
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        state = RunState(3, "growth", 0, (1, 1, 1), {}, normalized_apart=before)
        restored = Restored({}, dataclasses.asdict(state) | memory)
        told: list[str] = []
        return begin(trainer(parallel), restored, None, told.append).normalized_apart, told

    assert go_on("pmap", devices=2, before=2) == (2, [])
    assert go_on("pmap", devices=2, before=0) == (2, [])  # Of before it was remembered.
    assert go_on("jit", devices=4, before=0) == (0, [])
    devices, (line,) = go_on("pmap", devices=4, before=2)
    assert devices == 4
    assert "was on 2 device(s) and now is on 4" in line
