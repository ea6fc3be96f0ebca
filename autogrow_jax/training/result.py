"""What `run` returns: result.json as a value, with the network and its weights."""

import dataclasses
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import autogrow_jax
from autogrow_jax.models import Network


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
    network: Network
    variables: dict[str, Any]
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of result.json."""
        hidden = ("network", "variables", "more")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in fields.items() if k not in hidden} | self.more

    @staticmethod
    def from_dict(content: dict[str, Any], network: Network, variables: Any) -> "Result":
        """The reverse of `to_dict`."""
        names = {f.name for f in dataclasses.fields(Result)} - {"network", "variables", "more"}
        known: dict[str, Any] = {k: v for k, v in content.items() if k in names}
        for name in ("seed_depths", "depths", "growth"):
            known[name] = tuple(known[name])
        more = {k: v for k, v in content.items() if k not in names}
        return Result(**known, network=network, variables=variables, more=more)


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
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()
