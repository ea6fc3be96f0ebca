"""Where a run begins: anew, or at the newest checkpoint that it can go on from."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from autogrow_jax import hosts
from autogrow_jax.growth import Policy
from autogrow_jax.reporting import Workdir
from autogrow_jax.reporting.metrics import truncate
from autogrow_jax.training.arrays import Restored
from autogrow_jax.training.checkpoint import CheckpointStore, rebuild
from autogrow_jax.training.front import find_lacking
from autogrow_jax.training.run_state import RunState
from autogrow_jax.training.state import Tree
from autogrow_jax.training.trainer import Trainer


def find_start(
    workdir: Workdir, store: CheckpointStore, tell: Callable[[str], None]
) -> Restored | None:
    """Reads the newest checkpoint that is whole, with its lines of metrics and its candidates.

    None where there is none. `tell` is told of those that are passed over and why; UserError where
    that is all of them.
    """
    lines = hosts.first(partial(truncate, workdir.metrics, math.inf))
    epochs = [line["epoch"] for line in lines]
    gap = next((i for i, epoch in enumerate(epochs) if i != epoch), len(epochs))

    def why_not(memory: Mapping[str, Any]) -> str:
        if memory["epoch"] > gap:
            return f"{workdir.metrics} has no line of epoch {gap}"
        return find_lacking(workdir.candidates, memory)

    return store.read_newest(why_not, tell)


def resume(trainer: Trainer, restored: Restored, to_train: bool = True) -> RunState:
    """The state of a checkpoint, whose arrays, depths and capacities go to the trainer.

    One that is not to train has no optimiser's state. UserError where it does not fit the settings.
    """
    if not to_train:
        arrays = restored.arrays.items()
        needed = {name: leaf for name, leaf in arrays if not name.startswith("opt_state.")}
        restored = restored._replace(arrays=needed)
    depths, capacities = (tuple(restored.memory[name]) for name in ("depths", "capacities"))
    trainer.restore(rebuild(restored.arrays, trainer.abstract_state(depths)), depths, capacities)
    return RunState.from_dict(restored.memory)


def begin(
    trainer: Trainer,
    restored: Restored | None,
    policy: Policy | None,
    replace: Callable[[Tree], Tree] | None = None,
) -> RunState:
    """Resumes from a checkpoint, or starts a new run; without a policy nothing grows.

    `replace` is as for `Trainer.start`.
    """
    compile_ahead = trainer.settings.growth.compile_ahead
    if restored is not None:
        state = resume(trainer, restored)
        if compile_ahead:
            trainer.compile_ahead(grows=state.phase == "growth")
        return state
    # First what may refuse the seed network.
    policy_state = policy.init() if policy else {}
    if compile_ahead:
        trainer.compile_ahead(grows=policy is not None)
    trainer.start(replace)
    return RunState(0, "growth" if policy else "scratch", 0, trainer.depths, policy_state)
