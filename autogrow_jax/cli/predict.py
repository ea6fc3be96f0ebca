"""`autogrow predict`: classes and probabilities of image files, by the net that a run found."""

import argparse
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from autogrow_jax.command_line import Parser, UsageError, add_config, run_command
from autogrow_jax.data import is_image, walk_files
from autogrow_jax.errors import UserError, printable
from autogrow_jax.process import keep_freed_memory, user_path
from autogrow_jax.reporting import Workdir
from autogrow_jax.reporting.numbers import format_count, format_depths
from autogrow_jax.reporting.workdir import replacing
from autogrow_jax.settings import parse_value
from autogrow_jax.settings_files import load_config
from autogrow_jax.steps import choose_folder
from autogrow_jax.training import Loaded, load
from autogrow_jax.training.loading import WHICH

Answers = list[tuple[str, float]]  # Classes and their probabilities, the likeliest first.
# Of data sets, which no answer is to be written over.
_DATA = {".npz", ".npy", ".gz", ".mat", ".zip", ".tar", ".h5", ".parquet"}
Write = Callable[[str, Answers], None]
FORMATS = ("table", "csv", "json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, 1 where a file had to be passed over."""
    return run_command(_parse, _predict, arguments)


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser(
        "autogrow predict",
        "Tells the classes of image files, as the net that a run found sees them. Files are read"
        " and resized as the run's own were. What cannot be read is named and passed over, and the"
        " exit status is 1 then.",
        epilog="example: autogrow predict --workdir=runs/photos holidays/ --output=found.csv",
    )
    add = parser.add_argument
    add("images", metavar="IMAGE|FOLDER", nargs="+", help="folders are searched at any depth")
    add("--workdir", metavar="DIR", required=True, help="folder of the run")
    add_config(parser)
    add_output(parser, "the answers")
    add("--top", metavar="N", type=int, default=3, help="likeliest classes of each (default: 3)")
    add_net(parser)
    add("--batch-size", metavar="N", type=int, default=128, help="images at a time (default: 128)")
    return parser


def register_own(given: argparse.Namespace) -> None:
    """Runs the config file that was given, if any, for what it registers."""
    if given.config:
        load_config(given.config)


def add_net(parser: Parser) -> None:
    """Adds the options that say which of the run's nets is meant."""
    default, meant = WHICH[0], "of a net of the run's front, which is taken instead"
    parser.add_argument(
        "--which", choices=WHICH, default=default, help=f"of the run's nets (default: {default})"
    )
    parser.add_argument("--depths", metavar="N-N-N", type=_read_depths, default=(), help=meant)


def _read_depths(text: str) -> tuple[int, ...]:
    found = parse_value("model.depths", text)
    if not isinstance(found, tuple):
        raise argparse.ArgumentTypeError(f"it takes depths such as 2-1-1, not {text!r}")
    return found


def add_output(parser: Parser, what: str) -> None:
    """Adds the options that say how and where `what` is written."""
    default = "the ending of --output, else table"
    how, where = f"how to write {what} (default: {default})", f"write {what} there, not to stdout"
    parser.add_argument("--format", choices=FORMATS, help=how)
    parser.add_argument("--output", metavar="FILE", type=Path, help=where)


def find_format(output: Path | None) -> str:
    """The format of `FORMATS` that the ending of a file stands for."""
    found = output.suffix[1:].lower() if output else ""
    return found if found in FORMATS else FORMATS[0]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    given = make_parser().read(arguments)
    for name in ("top", "batch_size"):
        if getattr(given, name) < 1:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is {getattr(given, name)}; it takes a whole number from 1")
    return given


def _predict(given: argparse.Namespace) -> int:
    keep_freed_memory()
    register_own(given)
    loaded = load(given.workdir, given.which, depths=given.depths, convolution="auto")
    note_unfinished(loaded)
    with suppress(OSError):  # Without, every start compiles.
        choose_folder(loaded.config.get("compilation_cache", ""))
    if loaded.known.image_shape[2] not in (1, 3):
        raise UserError(
            f"the net takes images of {loaded.known.image_shape[2]} channels, which image files do"
            " not have; give it arrays from Python: autogrow_jax.training.load(DIR).predict(images)"
        )
    kind = given.format or find_format(given.output)
    top = min(given.top, len(loaded.class_names))
    others: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    failed = 0
    with (
        open_output(given.output) as stream,
        _WRITERS[kind](stream, loaded.class_names, top) as write,
    ):
        paths = _find(given.images, others)
        bar = tqdm(disable=None if given.output else True, unit=" images", leave=False)
        for path, found in loaded.predict_files(paths, given.batch_size):
            if isinstance(found, UserError):
                failed += 1
                bar.write(f"passed over: {found}", file=sys.stderr)
            else:
                order = np.argsort(-found, kind="stable")[:top]
                answers = [(loaded.class_names[k], float(found[k])) for k in order]
                counts[answers[0][0]] += 1
                write(printable(str(path)), answers)
            bar.update()
        bar.close()
        if not counts:
            raise UserError(f"no image that could be read in {', '.join(given.images)}")
    _sum_up(given, counts, others, failed)
    return 1 if failed else 0


def note_unfinished(loaded: Loaded) -> None:
    """Says on stderr where a run has not ended, as the net that it finds may be another one."""
    if not Workdir(loaded.workdir).result.exists():
        print(
            f"{loaded.workdir} has not finished: this is its net {format_depths(loaded.depths)}"
            f" after {format_count(loaded.epoch, 'epoch')}",
            file=sys.stderr,
        )


def _find(given: Sequence[str], others: Counter[str]) -> Iterator[Path]:
    """The files that are given, and the images of folders; counts what else lies in these."""
    for name in given:
        try:
            path = user_path(name)
        except UserError:  # As "~$photo.jpg"; whoever reads it says what is wrong.
            yield Path(name)
            continue
        if not path.is_dir():
            yield path
            continue
        for file in walk_files(path):
            try:
                is_one = is_image(file)
            except UserError:  # Whoever reads it says what is wrong.
                is_one = True
            if is_one:
                yield file
            else:
                others[file.suffix.lower() or "without suffix"] += 1


def _sum_up(
    given: argparse.Namespace, counts: Counter[str], others: Counter[str], failed: int
) -> None:
    """Says on stderr, out of the way of the answers, what there was."""
    classes = ", ".join(f"{count:,} {name}" for name, count in counts.most_common(5))
    more = ", ..." if len(counts) > 5 else ""
    lines = [f"{counts.total():,} image{'s' if counts.total() > 1 else ''}: {classes}{more}"]
    if others:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(5))
        lines.append(f"passed over as no images: {kinds}")
    if failed:
        lines.append(f"passed over as they cannot be read: {failed:,}, named above")
    if given.output:
        lines.append(f"wrote {given.output}")
    print("\n".join(lines), file=sys.stderr)


@contextmanager
def open_output(output: Path | None) -> Iterator[TextIO]:
    """Opens a file that is there once it is whole; None is stdout. UserError if it cannot be.

    A link stays, and the file it leads to is replaced; a pipe or a device is written to as it is.
    """
    if output is None:
        yield sys.stdout
        return
    output = user_path(output)
    if output.is_dir():
        raise UserError(f"--output is {output}, a folder; name a file in it")
    # As where the shell made --output *.png of it.
    if is_image(output) or output.suffix.lower() in _DATA:
        raise UserError(f"--output is {output}, called like images or data; name a .csv or .json")
    # What /dev/stdout and the like lead to is open already, and goes on where it is.
    in_place = output.is_relative_to("/dev") or (output.exists() and not output.is_file())
    if not in_place:
        output = Path(os.path.realpath(output))
    with ExitStack() as opened:
        try:
            writing = output.open("wb") if in_place else replacing(output)
            file = opened.enter_context(writing)
        except OSError as error:
            raise UserError(f"cannot write {output} ({error.strerror}); choose another") from None
        stream = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        yield stream
        stream.detach()


@contextmanager
def _table(stream: TextIO, class_names: Sequence[str], top: int) -> Iterator[Write]:
    width = max(map(len, class_names))

    def write(file: str, answers: Answers) -> None:
        words = (f"{name:<{width}} {100 * part:6.2f} %" for name, part in answers)
        print("   ".join(words), file, sep="   ", file=stream)

    yield write


@contextmanager
def _csv(stream: TextIO, class_names: Sequence[str], top: int) -> Iterator[Write]:
    writer = csv.writer(stream, lineterminator="\n")
    more = (f"{word}_{place}" for place in range(2, top + 1) for word in ("class", "probability"))
    writer.writerow(["file", "class", "probability", *more])

    def write(file: str, answers: Answers) -> None:
        writer.writerow([file, *(word for name, part in answers for word in (name, f"{part:.6f}"))])

    yield write


@contextmanager
def _json(stream: TextIO, class_names: Sequence[str], top: int) -> Iterator[Write]:
    before = "[\n"

    def write(file: str, answers: Answers) -> None:
        nonlocal before
        each = [{"class": name, "probability": round(part, 6)} for name, part in answers]
        stream.write(before + json.dumps({"file": file, **each[0], "top": each}))
        before = ",\n"

    yield write
    stream.write("\n]\n")


_WRITERS = {"table": _table, "csv": _csv, "json": _json}
