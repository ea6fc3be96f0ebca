"""Where a run starts: its data, its newest checkpoint, or the result it has already."""

import jax
import numpy as np

from autogrow_jax import build
from autogrow_jax.data import Dataset, load_dataset
from autogrow_jax.errors import UserError
from autogrow_jax.growth import Policy
from autogrow_jax.reporting import read_result
from autogrow_jax.reporting.result import RESULT_KEYS
from autogrow_jax.reporting.workdir import Workdir
from autogrow_jax.settings import Settings
from autogrow_jax.training.checkpoint import CheckpointStore, evaluated_arrays, rebuild
from autogrow_jax.training.memory import Memory
from autogrow_jax.training.result import Result
from autogrow_jax.training.trainer import Trainer


def load_data(settings: Settings) -> Dataset:
    """The data set of a run."""
    data = settings.data
    dataset = load_dataset(
        data.name,
        directory=data.dir,
        validation=data.validation,
        validation_fraction=data.validation_fraction,
        fraction=data.fraction,
        seed=settings.seed,
        image_size=data.image_size,
        crop_padding=None if data.crop_padding < 0 else data.crop_padding,
        flip={"auto": None, "yes": True, "no": False}[data.flip],
        cache_directory=data.cache_dir,
    )
    if data.batch_size > len(dataset.train.labels):
        raise UserError(
            f"config.data.batch_size is {data.batch_size}, but {dataset.name} has"
            f" {len(dataset.train.labels)} training images; make it smaller"
        )
    return dataset


def begin(
    trainer: Trainer,
    store: CheckpointStore,
    policy: Policy | None = None,
    compile_ahead: bool = False,
) -> Memory:
    """The memory of the newest checkpoint, or of a new run; its state goes to the trainer.

    Args:
      trainer: takes over the arrays.
      store: of the run.
      policy: of a new run that grows; None for one that does not.
      compile_ahead: whether a thread compiles at once what training will ask for.

    Raises:
      UserError: where the checkpoint is damaged or does not fit the settings.
    """
    latest = store.latest()
    if latest is None:
        # First what may refuse the seed network.
        policy_state = policy.init() if policy else {}
        if compile_ahead:
            trainer.compile_ahead(grows=policy is not None)
        trainer.start()
        return Memory(
            epoch=0,
            phase="growth" if policy else "scratch",
            phase_start=0,
            depths=trainer.depths,
            evaluated_depths=trainer.depths,
            capacities=trainer.capacities,
            policy=policy_state,
        )
    restored = store.read(latest)
    memory = Memory.from_dict(restored.memory)
    exact = rebuild(restored.arrays, trainer.abstract_state(memory.depths))
    trainer.restore(exact, memory.depths, memory.capacities)
    if compile_ahead:
        trainer.compile_ahead(grows=memory.phase == "growth")
    return memory


def read_finished(settings: Settings, workdir: Workdir, store: CheckpointStore) -> Result:
    """The result of a run that is finished, with its weights; without its data or a compilation.

    Raises:
      UserError: where result.json lacks something, or the checkpoint is gone.
    """
    content = read_result(workdir.result)
    lacking = [key for key in (*RESULT_KEYS, "image_shape", "num_classes") if key not in content]
    latest = store.latest()
    if lacking or latest is None:
        what = f"lacks {', '.join(lacking)}" if lacking else "is there, but no checkpoint"
        raise UserError(f"{workdir.result} {what}; delete it, and the same command makes it again")
    height_width_channels = tuple(content["image_shape"])
    network = build.make_network(
        settings, content["num_classes"], height_width_channels[-1], content["depths"]
    )
    image = jax.ShapeDtypeStruct((1, *height_width_channels), np.float32)
    like = jax.eval_shape(lambda: network.lazy_init(jax.random.key(0), image))
    variables = rebuild(evaluated_arrays(store.read(latest).arrays), like)
    return Result.from_dict(content, network, jax.tree.map(np.asarray, variables))
