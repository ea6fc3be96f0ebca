"""result.json: what a finished run found, what it cost, and the text of it for a terminal."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.workdir import replace_file, to_json

if TYPE_CHECKING:  # A result is read and printed without waiting for flax.
    from autogrow_jax.models import Network

__all__ = [
    "AHEAD",
    "RESULT_KEYS",
    "TIMED",
    "Result",
    "describe_validation",
    "format_depths",
    "format_duration",
    "format_result",
    "read_result",
    "validation_label",
    "write_result",
]

TIMED = ("start", "build", "train", "evaluate", "compile", "growth", "checkpoint")
# Beside these, not among them: the run did not wait for it.
AHEAD = "compile_ahead"
_FRACTIONS = {
    1 / 2: "half",
    1 / 3: "a third",
    1 / 4: "a quarter",
    1 / 5: "a fifth",
    1 / 10: "a tenth",
    1 / 20: "a twentieth",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run. The first fields are those of result.json.

    Attributes:
      family: of the network.
      dataset: its name.
      seed_depths: where growth started; of a run from scratch, the net itself.
      depths: of the network that was found.
      test_accuracy: in percent, of the final weights, measured once.
      best_validation_accuracy: in percent, over all epochs of networks that were kept, not
        only tried (with the paper's protocol this is its reported number).
      validation: which split steered growth: "held-out", a fraction, or "test".
      num_params: trainable parameters of the final network.
      growth: a dict for each block added: epoch before which it was, stage, depths afterwards.
      epochs: trained in all.
      seconds: where the time went, over all starts of the run; compile_ahead went beside the rest,
        in a thread of its own.
      compilations: executables that the training step used.
      seed: of all randomness.
      versions: of Python and the libraries.
      network: at its final depths.
      variables: its weights and running statistics.
      more: further entries of result.json.
    """

    family: str
    dataset: str
    seed_depths: tuple[int, ...]
    depths: tuple[int, ...]
    test_accuracy: float
    best_validation_accuracy: float
    validation: str
    num_params: int
    growth: tuple[dict[str, Any], ...]
    epochs: int
    seconds: dict[str, float]
    compilations: int
    seed: int
    versions: dict[str, str]
    network: "Network"
    variables: dict[str, Any]
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

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


# What every result.json holds: the fields of a Result that JSON can hold.
RESULT_KEYS = tuple(
    field.name
    for field in dataclasses.fields(Result)
    if field.name not in ("network", "variables", "more")
)


def write_result(path: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Writes result.json, whole or not at all; an old one is replaced.

    Args:
      path: the file.
      result: must hold `RESULT_KEYS` and may hold more: accuracies in percent; `growth` a list of
        `{"epoch", "stage", "depths"}`; `seconds` a mapping with `total`, the parts `TIMED`, and
        perhaps `compile_ahead`, which is no part of the total. NaN is written as null.

    Raises:
      ValueError: if a key is missing.
      TypeError: if a value is nothing JSON can hold.
    """
    missing = [key for key in RESULT_KEYS if key not in result]
    if missing:
        raise ValueError(f"A result needs the keys {', '.join(RESULT_KEYS)}; missing: {missing}.")
    replace_file(path, to_json(result, "result", indent=2).encode("ascii") + b"\n")


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a result.json; depths are lists, a NaN is None.

    Raises:
      UserError: if the file is missing (the run has not finished) or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no result file {str(path)!r}. A run writes result.json into its workdir "
            "when it ends; start it again with the same workdir to let it finish."
        )
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}). Delete it and run again.") from error
    if not isinstance(result, dict):
        raise UserError(
            f"{path} holds a JSON {type(result).__name__}, expected an object. "
            "Delete it and run again."
        )
    return result


def format_result(result: Mapping[str, Any]) -> str:
    """The result as lines for a terminal; what is missing from `result` is left out."""
    rows: list[tuple[str, str]] = []
    if "depths" in result:
        rows.append(("found depths", _format_growth(result)))
    if "test_accuracy" in result:
        rows.append(("test accuracy", _format_percent(result["test_accuracy"])))
    if "best_validation_accuracy" in result:
        best = f"{_format_percent(result['best_validation_accuracy'])} at best"
        if "validation" in result:
            num_images = result.get("validation_examples")
            best += f", on {describe_validation(result['validation'], num_images)}"
        rows.append(("validation accuracy", best))
    if "num_params" in result:
        rows.append(("parameters", f"{result['num_params']:,}"))
    if "epochs" in result:
        trials = result.get("trial_epochs")
        on_trial = f" ({trials:,} on trial)" if trials else ""
        rows.append(("epochs", f"{result['epochs']:,}{on_trial}"))
    if "compilations" in result:
        rows.append(("compilations", f"{result['compilations']:,}"))
    if "seed" in result:
        rows.append(("random seed", str(result["seed"])))
    if result.get("versions"):
        versions = result["versions"]
        rows.append(("versions", ", ".join(f"{name} {versions[name]}" for name in versions)))
    seconds = result.get("seconds") or {}
    if seconds.get("total") is not None:
        rows.append(("time", format_duration(seconds["total"])))
    lines = [f"{result.get('family', 'a net')} on {result.get('dataset', 'unnamed data')}"]
    lines += [f"  {label:<21}{text}" for label, text in rows]
    return "\n".join(lines + _format_time_split(seconds))


def format_depths(depths: Sequence[int]) -> str:
    """A net's name, as the paper writes it: `(23, 22, 22)` is `23-22-22`."""
    return "-".join(str(depth) for depth in depths)


def format_duration(seconds: float) -> str:
    """Seconds for a person: `8.4 s`, `12 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


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
    if num_images is None:
        count = "images"
    else:
        count = f"{num_images:,} {'image' if num_images == 1 else 'images'}"
    if validation == "held-out":
        number, _, noun = count.rpartition(" ")
        return f"{number} held-out {noun}".lstrip()
    try:
        fraction = float(validation)
    except (TypeError, ValueError):
        return str(validation)
    words = next(
        (name for part, name in _FRACTIONS.items() if abs(fraction - part) < 5e-4),
        f"{100 * fraction:.4g} %",
    )
    return f"{words} of train" + ("" if num_images is None else f" ({count})")


def validation_label(validation: Any, num_images: int | None = None) -> str:
    """The name of the validation curve in a plot, with what `describe_validation` says."""
    if validation is None:
        return "validation"
    if validation == "test":
        return "validation, on the test set"
    return f"validation, on\n{describe_validation(validation, num_images)}"


def _format_growth(result: Mapping[str, Any]) -> str:
    text = format_depths(result["depths"])
    num_growths = len(result.get("growth") or ())
    if not num_growths:
        return f"{text} (not grown)"
    times = "once" if num_growths == 1 else f"{num_growths:,} times"
    seed_depths = result.get("seed_depths")
    start = f" from {format_depths(seed_depths)}" if seed_depths else ""
    return f"{text} (grown {times}{start})"


def _format_percent(accuracy: float | None) -> str:
    return "not a number" if accuracy is None else f"{accuracy:.2f} %"


def _format_time_split(seconds: Mapping[str, Any]) -> list[str]:
    total = seconds.get("total")
    if not total:
        return []
    split = {name: seconds[name] for name in TIMED if seconds.get(name) is not None}
    # Parts are timed one by one, so their sum may pass the total by the clock's error.
    split["rest"] = max(0.0, total - sum(split.values()))
    lines = [
        f"    {name:<19}{part:>10,.1f} s  {100 * part / total:5.1f} %"
        for name, part in split.items()
    ]
    if ahead := seconds.get(AHEAD):
        lines.append(f"    {'beside: compile':<19}{ahead:>10,.1f} s")
    return lines
