"""Images a second a core of the stream that folders are read by, beside torchvision's transforms.

A tree of JPEGs of a photograph's usual size, made of smooth noise in ImageNet's layout, is decoded
for training by one thread each: by `stream.Streamed`, and by torchvision's random resized crop and
flip where that is installed. Starting workers and moving pixels between processes is left out.

python -m benchmarks.stream [--classes 10] [--images 8] [--repeats 5] [--json FILE]
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from autogrow_jax.stream import load_stream
from benchmarks.measure import (
    describe_machine,
    print_machine,
    print_table,
    ratio,
    take_turns,
    write_json,
)

OURS, THEIRS = "stream", "torchvision"


def write_tree(root: Path, classes: int, images: int) -> None:
    """Writes so many images of 500x375 pixels a class, each of some 100 kB."""
    draw = np.random.default_rng(0)
    for number in range(classes):
        folder = root / "train" / f"n{number:08}"
        folder.mkdir(parents=True)
        for image in range(images):
            coarse = Image.fromarray(draw.integers(0, 256, (94, 125, 3), np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{image}.JPEG")


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", default="")
    given = parser.parse_args(arguments)
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), given.classes, given.images)
        images = load_stream(f"folder:{folder}", 224, workers=0).train.images
        paths = [str(images.contents.name(int(row))) for row in images.rows]
        functions = {OURS: lambda: [images.decode(row, 0) for row in range(len(images))]}
        try:
            from torchvision import transforms

            crop = transforms.RandomResizedCrop(224)
            both = transforms.Compose([crop, transforms.RandomHorizontalFlip()])
            functions[THEIRS] = lambda: [
                np.asarray(both(Image.open(path).convert("RGB"))) for path in paths
            ]
        except ImportError:
            print("torchvision is not installed: the stream alone")
        times = take_turns(functions, given.repeats)
    print_machine(machine)
    rows = [(n, len(paths) / median(t), ratio(times, n, OURS)) for n, t in times.items()]
    print_table(("decoded by", "images a second a core", "time over the stream's"), rows)
    write_json(given.json, {"machine": machine, "images": len(paths), "times": times})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
