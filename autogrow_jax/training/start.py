"""Where a run begins: anew, or at the newest checkpoint that it can go on from."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax

from autogrow_jax import build, hosts
from autogrow_jax.errors import DivergedError, UserError
from autogrow_jax.growth import Policy
from autogrow_jax.optim import OPTIMIZERS, as_steps
from autogrow_jax.reporting import Result, Workdir
from autogrow_jax.reporting.metrics import bring_back, truncate
from autogrow_jax.saving import CheckpointStore, Restored, read_arrays, rebuild
from autogrow_jax.steps import Trainer, Tree, check_optimizer
from autogrow_jax.training.amid import read_amid
from autogrow_jax.training.front import candidate_file
from autogrow_jax.training.run_state import RunState
from autogrow_jax.trees import cut

# After each divergence the learning rate is so much of what it was, and so often is it tried again.
_CALMER, _MOST_RESTARTS = 0.5, 5

Divergences = list[dict[str, Any]]


def go_on_if_diverged(
    train: Callable[[float, dict[str, float], Divergences], Result],
    started: float,
    seconds: dict[str, float],
    is_wanted: bool,
    tell: Callable[[str], None],
) -> Result:
    """Trains, and where the loss diverges again from the last checkpoint, as a later start would.

    A run that is killed in between diverges at the same step again, so its end is the same.

    Args:
      train: takes `started`, `seconds` spent before and all divergences so far, to which it adds.
      is_wanted: whether it is to be tried again at all.
      tell: is told of each divergence.
    """
    divergences: Divergences = []
    while True:
        try:
            return train(started, seconds, divergences)
        except DivergedError as error:
            if not is_wanted or len(divergences) > _MOST_RESTARTS:
                raise
            what = str(error).partition(". ")[0]
            times = f"restart {len(divergences)} of at most {_MOST_RESTARTS}"
            rate = calm(divergences)
            tell(
                f"{what}; back to the last checkpoint with {rate:g} of the learning rate ({times})"
            )
        started, seconds = time.perf_counter(), {}


def calm(divergences: Divergences) -> float:
    """The factor on the learning rate of all epochs that follow."""
    return _CALMER ** len(divergences)


class Origin(Protocol):
    """The net of another run that a new one goes on from; see `inherited.Inherited`."""

    @property
    def told(self) -> dict[str, Any]: ...

    def put_into(self, fresh: Tree) -> Tree: ...


def find_start(
    workdir: Workdir, store: CheckpointStore, tell: Callable[[str], None]
) -> Restored | None:
    """Reads the newest checkpoint that is whole, with its candidates, and brings its lines back.

    Or where the run stood amid a later epoch, see `Amid`. None where there is nothing. `tell` is
    told of those that are passed over and why, and of a metrics.jsonl that was damaged; UserError
    where that is all that there is.
    """

    def why_not(memory: Mapping[str, Any]) -> str:
        if "metrics" not in memory:  # It is of before they were kept.
            lines = hosts.first(partial(truncate, workdir.metrics, math.inf))
            epochs = [line["epoch"] for line in lines]
            gap = next((i for i, epoch in enumerate(epochs) if i != epoch), len(epochs))
            if memory["epoch"] > gap:
                return f"{workdir.metrics} has no line of epoch {gap}"
        return find_lacking(workdir.candidates, memory)

    amid = _read_usable(workdir, why_not, tell)
    restored = store.read_newest(why_not, tell, str(workdir.amid) if amid else "")
    if amid and not (restored and restored.memory["epoch"] > amid.memory["epoch"]):
        restored = amid
    memory = restored.memory if restored else {}
    text = memory.get("metrics")
    if text is not None and hosts.first(partial(bring_back, workdir.metrics, text)):
        tell(f"{workdir.metrics} was damaged; it is as it was after {memory['epoch']} epochs")
    return restored


def _read_usable(
    workdir: Workdir, why_not: Callable[[Mapping[str, Any]], str], tell: Callable[[str], None]
) -> Restored | None:
    """Where the run stood amid an epoch, if anywhere and if it can go on from there."""
    try:
        amid = read_amid(workdir.amid)
    except UserError as error:
        tell(f"{error}; it is passed over")
        return None
    if amid and (reason := why_not(amid.memory)):
        tell(f"{workdir.amid} cannot be used: {reason}; it is passed over")
        return None
    return amid


def resume(trainer: Trainer, restored: Restored, to_train: bool = True) -> RunState:
    """The state of a checkpoint, whose arrays, depths and capacities go to the trainer.

    One that is not to train has no optimiser's state, nor blocks that no epoch has seen. UserError
    where it does not fit the settings.
    """
    depths, capacities = (tuple(restored.memory[name]) for name in ("depths", "capacities"))
    state = RunState.from_dict(restored.memory)
    if to_train:
        exact = rebuild(restored.arrays, trainer.abstract_state(depths))
        trainer.restore(exact, depths, capacities)
        return state
    arrays = restored.arrays.items()
    needed = {name: leaf for name, leaf in arrays if not name.startswith("opt_state.")}
    seen = state.evaluated_depths
    trainer.restore(cut(rebuild(needed, trainer.abstract_state(depths)), seen), seen, capacities)
    return state


def begin(
    trainer: Trainer,
    restored: Restored | None,
    policy: Policy | None,
    tell: Callable[[str], None],
    origin: Origin | None = None,
) -> RunState:
    """Resumes from a checkpoint, or starts a new run; without a policy nothing grows.

    A new one starts with what its origin, if any, puts into fresh variables. `tell` is told where
    batches are normalised in other parts than before.
    """
    settings = trainer.settings
    compile_ahead, devices = settings.growth.compile_ahead, 0
    if settings.parallel == "pmap":
        devices = settings.num_devices or jax.device_count()
    own, given, name = settings.own.named(), settings.own.optimizer, settings.optimizer.name
    if given is not None or OPTIMIZERS.find(name) is not None:  # Not the package's.
        optimizer = as_steps(build.make_optimizer(settings))
        check_optimizer(trainer.network, optimizer, trainer.dataset.image_shape)
    if restored is not None:
        state = resume(trainer, restored)
        if state.normalized_apart not in (0, devices):
            tell(
                "config.parallel is 'pmap', which normalises by each device's part of a batch: that"
                f" was on {state.normalized_apart} device(s) and now is on {devices}, so the run"
                " goes on otherwise than on as many as before"
            )
        state.normalized_apart = devices
        for part in sorted(state.own.keys() | own.keys()) if state.own else ():
            if (was := state.own.get(part)) != (now := own.get(part)):
                tell(f"{part} was {was} when the run began and is {now} now: it goes on with that")
        state.own = own
        if compile_ahead:
            trainer.compile_ahead(grows=state.phase == "growth")
        return state
    # First what may refuse the seed network.
    policy_state = policy.init() if policy else {}
    if compile_ahead:
        trainer.compile_ahead(grows=policy is not None)
    trainer.start(origin.put_into if origin else None)
    phase = "growth" if policy else "scratch"
    told = origin.told if origin else {}
    more: dict[str, Any] = {"init_from": told, "normalized_apart": devices, "own": own}
    return RunState(0, phase, 0, trainer.depths, policy_state, **more)


def find_lacking(folder: Path, memory: Mapping[str, Any]) -> str:
    """Says which candidate is gone or damaged of those that a checkpoint needs; "" where none is.

    Of the one that it holds itself it needs no file.
    """
    entries = [*memory.get("candidates", ())]
    if (own := memory.get("candidate")) is not None:
        del entries[own]
    for file in (candidate_file(folder, entry) for entry in entries if "saved" in entry):
        try:
            read_arrays(file)
        except UserError as error:
            return str(error) if file.exists() else f"{file} is gone"
    return ""
