"""How a run ends: the test set, once, and its result."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

import autogrow_jax
from autogrow_jax import build, hosts
from autogrow_jax.data import Split
from autogrow_jax.errors import UserError
from autogrow_jax.models import num_params
from autogrow_jax.process import cores, processor_name
from autogrow_jax.reporting import Reporter, Result, Workdir, read_result
from autogrow_jax.reporting.metrics import bring_back
from autogrow_jax.reporting.predictions import Predictions
from autogrow_jax.reporting.result import RESULT_KEYS
from autogrow_jax.saving import CheckpointStore, evaluated_arrays, read_last, rebuild
from autogrow_jax.settings import Settings
from autogrow_jax.steps import EXACT, SHARED, Sums, Trainer, mean_loss, percent
from autogrow_jax.training.run_state import Clock, RunState


def finish(trainer: Trainer, state: RunState, clock: Clock) -> Result:
    """Looks at the test set, once, and puts the result together."""
    settings, dataset = trainer.settings, trainer.dataset
    tested = trainer.evaluate("test")
    variables = trainer.exact_variables()
    clock.update()
    return Result(
        family=settings.model.family,
        dataset=dataset.name,
        seed_depths=tuple(settings.model.depths),
        depths=trainer.depths,
        test_accuracy=percent(tested),
        best_validation_accuracy=state.best_validation_accuracy,
        validation=settings.data.validation,
        num_params=num_params(variables),
        growth=tuple(state.growth),
        epochs=state.epoch,
        seconds=state.seconds,
        compilations=state.compilations.get("train", 0),
        seed=settings.seed,
        versions=find_versions(),
        network=trainer.network,
        variables=variables,
        more={
            "mode": settings.mode,
            "test_loss": mean_loss(tested),
            "growth_epochs": state.phase_start if state.phase == "finetune" else 0,
            "trial_epochs": state.trial_epochs,
            "perturbed": state.perturbed,
            **({"divergences": state.divergences} if state.divergences else {}),
            "train_examples": len(dataset.train.labels),
            "validation_examples": len(dataset.validation.labels),
            "compilations_by_program": state.compilations,
            "compilations_ahead": state.compilations_ahead,
            "devices": {
                **describe_devices(),
                "convolution": trainer.convolution,
                "programs": EXACT if trainer.is_exact else SHARED,
            },
            "test_examples": len(dataset.test.labels),
            **measure_classes(tested, dataset.test, dataset.class_names),
            "num_classes": dataset.num_classes,
            "class_names": dataset.class_names,
            "mean": dataset.preprocessing.mean,
            "std": dataset.preprocessing.std,
            "image_shape": dataset.image_shape,
            **({"init_from": state.init_from} if state.init_from else {}),
            **({"own": own} if (own := settings.own.named()) else {}),
            **({"front": state.front, "recommended": trainer.depths} if state.front else {}),
        },
    )


def measure_classes(sums: Sums, part: Split, class_names: Sequence[str]) -> dict[str, Any]:
    """What an evaluation of a part gives of its classes, by name; in percent.

    Beside the accuracy of each class that has images, that of always answering the commonest one.
    """
    counts = np.bincount(part.labels, minlength=len(class_names)).tolist()
    found = zip(class_names, np.asarray(sums.by_class).tolist(), counts, strict=True)
    most = int(np.argmax(counts))
    return {
        "class_accuracy": {name: 100 * right / count for name, right, count in found if count},
        "commonest_class": class_names[most],
        "commonest_class_accuracy": 100 * counts[most] / sum(counts),
    }


def keep_predictions(folder: Workdir, trainer: Trainer, reporter: Reporter) -> None:
    """Keeps what the net answers to validation and test images, which the report shows.

    Whatever fails is told in a line, but a disk that takes no more: then the run is not over.
    """
    try:
        kept = {
            folder.validation_predictions: _predict(trainer, "validation"),
            folder.test_predictions: _predict(trainer, "test"),
        }
        for path, predictions in () if jax.process_index() else kept.items():
            predictions.write(path)
    except OSError:
        raise
    except Exception as error:
        reporter.message(f"no predictions are kept ({type(error).__name__}: {error})")


def _predict(trainer: Trainer, part: str) -> Predictions:
    dataset, logits = trainer.dataset, trainer.predict(part)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    images = dataset.parts[part]
    return Predictions(
        chances / chances.sum(axis=1, keepdims=True),
        np.argmax(logits, axis=1).astype(np.int32),
        images.labels,
        images.ids,
        np.array(dataset.class_names),
        np.array(dataset.files.get(part, ()), dtype=str),
    )


def read_finished(settings: Settings, workdir: Workdir, store: CheckpointStore) -> Result:
    """The result of a run that is finished, with its weights; without its data or a compilation.

    UserError where result.json lacks something, or the checkpoint is gone.
    """
    content = read_result(workdir.result)
    lacking = [key for key in (*RESULT_KEYS, "image_shape", "num_classes") if key not in content]
    again = "delete it, and the same command makes it again"
    if lacking:
        raise UserError(f"{workdir.result} lacks {', '.join(lacking)}; {again}")
    if store.latest() is None:
        raise UserError(f"{workdir.result} is there, but no checkpoint; {again}")
    shape, num_classes = content["image_shape"], content["num_classes"]
    network = build.make_network(settings, num_classes, shape[-1], content["depths"])
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    like = jax.eval_shape(lambda: network.lazy_init(jax.random.key(0), image))
    last = read_last(store, workdir, "load")
    if text := last.memory.get("metrics"):
        hosts.first(lambda: bring_back(workdir.metrics, text))
    variables = rebuild(evaluated_arrays(last.arrays), like)
    return Result.from_dict(content, network, jax.tree.map(np.asarray, variables))


def find_versions() -> dict[str, str]:
    """Versions of all that numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "autogrow_jax": autogrow_jax.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def describe_devices() -> dict[str, Any]:
    """What the run computed on: the devices, the processor's name and the cores it may use."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processor": processor_name(),
        "cores": cores(),
    }
