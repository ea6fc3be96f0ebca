"""`autogrow export`: the net that a run found, in the file of another program, and tried there."""

import argparse
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np

from autogrow_jax import build
from autogrow_jax.cli.predict import add_net, note_unfinished, register_own
from autogrow_jax.command_line import Parser, add_config, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.interop.export import FORMATS, Format, Net, Predict
from autogrow_jax.models import num_params
from autogrow_jax.process import keep_freed_memory, user_path
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.training import Loaded, load

# Of probabilities, between the net here and in the program that it is written for.
TOLERANCE = 1e-4
_IMAGES = 256
_BATCH = 64
_SECONDS = 1.0  # That each speed is measured for.
_CHANNELS_FIRST = ("torch", "safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(make_parser().read, _export, arguments)


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser(
        "autogrow export",
        "Writes the net that a run found for another program, normalisation and class names"
        " included. The file is opened by that program and compared on real images first; it is"
        " kept if no probability differs by more than 0.0001.",
        epilog="example: autogrow export --workdir=runs/photos --to=onnx",
    )
    add = parser.add_argument
    add("--workdir", metavar="DIR", required=True, help="folder of the run")
    add_config(parser)
    kinds = ", ".join(f"{name} ({form.what})" for name, form in FORMATS.items())
    add("--to", choices=tuple(FORMATS), required=True, help=kinds)
    where = "file to write, or folder for it (default: export/ in the workdir)"
    add("--output", metavar="PATH", type=Path, help=where)
    add_net(parser)
    return parser


def _export(given: argparse.Namespace) -> None:
    form = FORMATS[given.to]
    if missing := [package for package in form.needs if not find_spec(package)]:
        raise UserError(
            f"--to={given.to} needs {' and '.join(missing)}: pip install 'autogrow_jax[{given.to}]'"
        )
    keep_freed_memory()
    register_own(given)
    loaded = load(given.workdir, given.which, depths=given.depths)
    note_unfinished(loaded)
    net = Net(
        loaded.network,
        loaded.variables,
        loaded.preprocessing,
        loaded.class_names,
        loaded.known.image_shape,
    )
    path = _choose_path(given.output, loaded.workdir, form.suffix)
    images, what = _find_images(loaded)
    print(
        f"{loaded.workdir}: {net.network.family.name} {format_depths(loaded.depths)} after"
        f" {loaded.epoch} epochs, {num_params(loaded.variables):,} parameters"
    )
    if (dtype := loaded.network.options.dtype.name) != "float32":
        print(f"the run computed in {dtype}; what is written computes in float32")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In float32 as files compute: on a GPU XLA takes TF32 otherwise.
        precise = jax.default_matmul_precision("highest")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder, precise:
            draft = Path(folder) / path.name
            beside = form.write(net, draft)
            predict = form.open(net, draft)
            _compare(net, predict, images, what, form)
            _time(predict, images, form)
            for file in (*beside, draft):
                file.chmod(0o644)
                file.replace(path.with_name(file.name))
    except OSError as error:
        why = error.strerror
        raise UserError(f"cannot write {path} ({why}); choose another --output") from None
    height, width, channels = net.image_shape
    layout = (channels, height, width) if given.to in _CHANNELS_FIRST else net.image_shape
    takes, classes = ", ".join(map(str, layout)), len(net.class_names)
    print(f"takes images [N, {takes}], pixels 0..255, and knows {classes} classes")
    for file in (path, *(path.with_name(file.name) for file in beside)):
        print(f"wrote {file}, {file.stat().st_size:,} bytes")


def _choose_path(output: Path | None, workdir: Path, suffix: str) -> Path:
    name = workdir.resolve().name
    if output is None:
        return workdir / "export" / f"{name}{suffix}"
    output = user_path(output)
    if output.is_dir() or not output.suffix:
        return output / f"{name}{suffix}"
    return output if output.suffix == suffix else output.with_name(output.name + suffix)


def _find_images(loaded: Loaded) -> tuple[np.ndarray, str]:
    """Images to compare on, and what they are."""
    shape = loaded.known.image_shape
    try:
        settings = build.resolve(loaded.config, to_read=True)
        found = build.load_data(settings, to_train=False).test.images
        if found.shape[1:] == shape:
            return np.array(found[:_IMAGES]), "test images of the run"
        reason = "the run's data changed"
    except UserError as error:
        reason = str(error).partition("; ")[0]
    random = np.random.default_rng(0).integers(0, 256, (_IMAGES, *shape), np.uint8)
    return random, f"random images, as its own are not here ({reason})"


def _compare(net: Net, predict: Predict, images: np.ndarray, what: str, form: Format) -> None:
    expected = net.predict()(images)
    found = predict(images)
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    one = float(np.abs(predict(images[:1]) - expected[:1]).max())
    version = metadata.version(form.program)
    if not max(worst, one) <= TOLERANCE:  # NaN is none.
        raise UserError(
            f"{form.program} {version} gives other probabilities than the run's net, by up to"
            f" {max(worst, one):.2g} on {len(images)} {what}; nothing was written. Try another --to"
        )
    print(
        f"compared on {len(images)} {what}, by {form.program} {version}: probabilities differ by"
        f" {max(worst, one):.1e} at most"
    )


def _time(predict: Predict, images: np.ndarray, form: Format) -> None:
    many = np.resize(images, (_BATCH, *images.shape[1:]))
    seconds = []
    for batch in (many[:1], many):
        predict(batch)  # Compiles, warms up.
        taken: list[float] = []
        while len(taken) < 100 and sum(taken) < _SECONDS:
            start = time.perf_counter()
            predict(batch)
            taken.append(time.perf_counter() - start)
        seconds.append(min(taken))
    one, all_ = (f"{1000 * time:.3g} ms" for time in seconds)
    print(f"speed here, by {form.program}: {one} for an image, {all_} for {_BATCH} at once")
