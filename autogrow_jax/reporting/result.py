"""result.json: what a finished run found, what it cost, and the text of it for a terminal."""

import dataclasses
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.numbers import (
    count_times,
    format_behind,
    format_count,
    format_depths,
    format_duration,
    round_percent,
)
from autogrow_jax.reporting.workdir import read_object, replace_file, to_json

if TYPE_CHECKING:  # A result is read and printed without waiting for flax.
    from autogrow_jax.models import Network

TIMED = ("start", "build", "train", "evaluate", "compile", "growth", "checkpoint")
# Beside these, not among them: the run did not wait for it.
AHEAD = "compile_ahead"
# Of more classes a terminal gets the lowest accuracies only.
_CLASSES_SHOWN = 10
_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth", 20: "a twentieth"}


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run. The first fields are those of result.json."""

    family: str  # Of the network.
    dataset: str  # Its name.
    seed_depths: tuple[int, ...]  # Where growth started; of a run from scratch, the net itself.
    depths: tuple[int, ...]  # Of the network that was found.
    test_accuracy: float  # In percent, of the final weights, measured once.
    # In percent, over all epochs of networks that were kept, not only tried (with the paper's
    # protocol this is its reported number).
    best_validation_accuracy: float
    validation: str  # Which split steered growth: "held-out", a fraction, or "test".
    num_params: int  # Trainable, of the final network.
    growth: tuple[dict[str, Any], ...]  # Of each block: epoch before which, stage, depths after it.
    epochs: int  # Trained in all.
    # Where the time went, over all starts; compile_ahead went beside the rest, in its own thread.
    seconds: dict[str, float]
    compilations: int  # Executables that the training step used.
    seed: int  # Of all randomness.
    versions: dict[str, str]  # Of Python and the libraries.
    network: "Network"  # At its final depths.
    variables: dict[str, Any]  # Its weights and running statistics.
    more: dict[str, Any] = dataclasses.field(default_factory=dict)  # More of result.json.

    @property
    def front(self) -> list[dict[str, Any]]:
        """Of each net of the front, the cheapest first, what it costs and how good it is.

        Depths, accuracy on the validation images and its standard error in percent, Brier score
        there, how far it is behind the best one's and the standard error of that, parameters, FLOPs
        of one image forward, milliseconds an image, epochs of growth and of fine-tuning, and
        whether it was stopped early. Empty of a run without a front.
        """
        return self.more.get("front", [])

    def to_dict(self) -> dict[str, Any]:
        """The content of result.json."""
        return {key: getattr(self, key) for key in RESULT_KEYS} | self.more

    @staticmethod
    def from_dict(content: dict[str, Any], network: "Network", variables: Any) -> "Result":
        """The reverse of `to_dict`."""
        known: dict[str, Any] = {k: v for k, v in content.items() if k in RESULT_KEYS}
        for name in ("seed_depths", "depths", "growth"):
            known[name] = tuple(known[name])
        more = {k: v for k, v in content.items() if k not in RESULT_KEYS}
        return Result(**known, network=network, variables=variables, more=more)


# What every result.json holds: all fields but network, variables and more.
RESULT_KEYS = tuple(field.name for field in dataclasses.fields(Result))[:-3]


def write_result(path: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Writes result.json, whole or not at all; an old one is replaced.

    It must hold `RESULT_KEYS`, see `Result`, and may hold more; `seconds` holds `total`, the parts
    `TIMED`, and perhaps `AHEAD`, which is no part of the total. NaN is written as null.

    ValueError if a key is missing, TypeError if a value is nothing JSON can hold.
    """
    missing = [key for key in RESULT_KEYS if key not in result]
    if missing:
        raise ValueError(f"A result needs the keys {', '.join(RESULT_KEYS)}; missing: {missing}.")
    replace_file(path, to_json(result, "result", indent=2).encode("ascii") + b"\n")


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a result.json; depths are lists, a NaN is None.

    UserError if the file is missing (the run has not finished) or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no result file {str(path)!r}. A run writes result.json into its workdir "
            "when it ends; start it again with the same workdir to let it finish."
        )
    try:
        return read_object(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and run again.") from error


def format_result(result: Mapping[str, Any]) -> str:
    """The result as lines for a terminal; what is missing from `result` is left out.

    UserError where a part of it is not what a run writes.
    """
    try:
        return _format(result)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the result is damaged ({type(error).__name__}: {error}); delete result.json, and the"
            " same command that began the run makes it again"
        ) from error


def _format(result: Mapping[str, Any]) -> str:
    seconds, trials = result.get("seconds") or {}, on_trial(result.get("trial_epochs"))
    rows = {
        "found depths": "depths" in result and _format_growth(result),
        "started from": describe_start(result.get("init_from")),
        "test accuracy": "test_accuracy" in result and _format_percent(result["test_accuracy"]),
        "  by class": _format_classes(result),
        "  commonest class": _format_commonest(result),
        "validation accuracy": "best_validation_accuracy" in result and _format_best(result),
        "front": _format_front(result),
        "parameters": "num_params" in result and f"{result['num_params']:,}",
        "epochs": "epochs" in result and f"{result['epochs']:,}{trials}",
        "compilations": "compilations" in result and f"{result['compilations']:,}",
        "random seed": "seed" in result and str(result["seed"]),
        "versions": ", ".join(f"{k} {v}" for k, v in (result.get("versions") or {}).items()),
        "time": seconds.get("total") is not None and format_duration(seconds["total"]),
    }
    lines = [f"{result.get('family', 'a net')} on {result.get('dataset', 'unnamed data')}"]
    lines += [f"  {label:<21}{text}" for label, text in rows.items() if text]
    return "\n".join(lines + _format_time_split(seconds))


def on_trial(num_epochs: int | None) -> str:
    """How many of the epochs before only tried a block, to stand behind their number."""
    return f" ({num_epochs:,} on trial)" if num_epochs else ""


def describe_validation(validation: Any, num_images: int | None = None) -> str:
    """Says which images steered growth and chose the best net, to stand after "on" or "by".

    Args:
      validation: `data.validation` as config.json and result.json hold it: "held-out", "test" or
        a fraction of train such as "0.2"; anything else is returned as it is.
      num_images: how many they are, where that is known: `validation_examples` of result.json.

    >>> describe_validation("held-out", 145), describe_validation("0.2", 286)
    ('145 held-out images', 'a fifth of train (286 images)')
    """
    if validation == "test":
        return "the test set (the paper's protocol)"
    images = "images" if num_images is None else format_count(num_images, "image")
    if validation == "held-out":
        return images.replace("image", "held-out image")
    try:
        fraction = float(validation)
    except (TypeError, ValueError):
        return str(validation)
    names = (name for part, name in _PARTS.items() if abs(fraction - 1 / part) < 5e-4)
    words = next(names, f"{100 * fraction:.4g} %")
    return f"{words} of train" + ("" if num_images is None else f" ({images})")


def describe_machine(devices: Mapping[str, Any]) -> str:
    """The device of a result.json in words: "2 x NVIDIA H200" or "AMD EPYC 9B14, 2 cores"."""
    if devices.get("platform") == "cpu":
        processor, cores = devices.get("processor") or "CPU", devices.get("cores")
        words = f"{processor}, {cores} {'core' if cores == 1 else 'cores'}" if cores else processor
        count = devices.get("count", 1)
        return words if count == 1 else f"{words} as {count} devices"
    return f"{devices.get('count', 1)} x {devices.get('kind', 'unknown device')}"


def validation_label(validation: Any, num_images: int | None = None) -> str:
    """The name of the validation curve in a plot, with what `describe_validation` says."""
    if validation is None:
        return "validation"
    if validation == "test":
        return "validation, on the test set"
    return f"validation, on\n{describe_validation(validation, num_images)}"


def _format_growth(result: Mapping[str, Any]) -> str:
    depths, growth, seed = (result.get(key) for key in ("depths", "growth", "seed_depths"))
    start = f" from {format_depths(seed)}" if seed else ""
    course = f"grown {count_times(len(growth))}{start}" if growth else "not grown"
    if (front := result.get("front")) and front[-1]["depths"] != list(depths or ()):
        course += f"; growth went on to {format_depths(front[-1]['depths'])}"
    return f"{format_depths(depths or ())} ({course})"


def describe_start(start: Mapping[str, Any] | None) -> str:
    """The net that a run went on from, `init_from` of its result.json; "" where there is none."""
    if not start:
        return ""
    kept = len(start["classes_kept"])
    classes = f"{kept} class{'' if kept == 1 else 'es'} of the same name" if kept else "no class"
    net = f"{format_depths(start['depths'])} on {start['dataset']}, {classes}"
    return f"{net}; {start['workdir']}"


def _format_best(result: Mapping[str, Any]) -> str:
    images = describe_validation(result.get("validation"), result.get("validation_examples"))
    on = f", on {images}" if "validation" in result else ""
    return f"{_format_percent(result['best_validation_accuracy'])} at best{on}"


def _format_front(result: Mapping[str, Any]) -> str:
    """A line for each net of the front, under their names; a star marks the recommended one."""
    if not (front := result.get("front")):
        return ""
    lines = [
        f"{'depths':<15} {'val. acc. %':<13} {'Brier, behind':<15} {'parameters':>11}"
        f" {'MFLOPs':>8} {'ms/image':>8}"
    ]
    for net in front:
        star = "*" if net["depths"] == list(result["recommended"]) else ""
        accuracy = f"{round_percent(net['validation_accuracy']):>6} ± {net['standard_error']:.2f}"
        stopped = f"  stopped after {net['finetune_epochs']:,}" if net["stopped"] else ""
        lines.append(
            f"{format_depths(net['depths']) + star:<15} {accuracy:<13} {format_behind(net):<15}"
            f" {net['num_params']:>11,} {net['flops'] / 1e6:>8,.1f} {net['milliseconds']:>8.3f}"
            f"{stopped}"
        )
    return f"\n{'':23}".join([*lines, "* recommended"])


def _format_classes(result: Mapping[str, Any]) -> str:
    """The accuracy of each class, of many classes the lowest, on as many lines as it takes."""
    found = result.get("class_accuracy") or {}
    shown, head = list(found.items()), ""
    if len(found) > _CLASSES_SHOWN:
        shown = sorted(shown, key=lambda pair: pair[1])[:_CLASSES_SHOWN]
        head = f"the lowest of {len(found):,}: "
    # No line ends within a class: textwrap does not break at these spaces.
    classes = (f"{name} {round_percent(value, 1)}".replace(" ", "\xa0") for name, value in shown)
    text = textwrap.fill(head + ", ".join(classes), 75, subsequent_indent=" " * 23)
    return text.replace("\xa0", " ")


def _format_commonest(result: Mapping[str, Any]) -> str:
    if "commonest_class_accuracy" not in result:
        return ""
    accuracy = _format_percent(result["commonest_class_accuracy"])
    return f"{accuracy} by always answering {result['commonest_class']}"


def _format_percent(accuracy: float | None) -> str:
    return "not a number" if accuracy is None else f"{round_percent(accuracy)} %"


def split_time(seconds: Mapping[str, Any]) -> dict[str, float]:
    """The parts of `seconds.total` that are timed, and the rest; none where no total is known."""
    total = seconds.get("total")
    if not total:
        return {}
    split = {name: seconds[name] for name in TIMED if seconds.get(name) is not None}
    # Parts are timed one by one, so their sum may pass the total by the clock's error.
    return split | {"rest": max(0.0, total - sum(split.values()))}


def _format_time_split(seconds: Mapping[str, Any]) -> list[str]:
    if not (split := split_time(seconds)):
        return []
    total = seconds["total"]
    lines = [f"    {k:<19}{v:>10,.1f} s  {100 * v / total:5.1f} %" for k, v in split.items()]
    if ahead := seconds.get(AHEAD):
        lines.append(f"    {'beside: compile':<19}{ahead:>10,.1f} s")
    return lines
