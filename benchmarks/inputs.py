"""Images a second from each source, into the training step without the network.

First the set is loaded, which decodes it, then loaded again, which a cache may make faster. Then
epochs of the real step, shuffled and augmented, by a network that only averages the pixels: by the
feed that keeps all images on the device and by the one that sends batch after batch from the host.
Official files and sets of TensorFlow Datasets are measured where they are found; nothing is
fetched.

python -m benchmarks.inputs [--data-dir DIR] [--cache-dir DIR] [--images 20000] [--files 2000]
    [--batch 128] [--repeats 5] [--limit 10] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from autogrow_jax.data import Dataset, load_dataset
from autogrow_jax.files.cache import cache_root
from autogrow_jax.files.official import OFFICIAL_SETS, read_official
from autogrow_jax.models import Network
from autogrow_jax.steps.feed import Epoch
from autogrow_jax.steps.host_feed import make_feed
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import TrainState, make_mesh, replicate
from autogrow_jax.steps.step import Recipe
from autogrow_jax.training import make_optimizer
from benchmarks.measure import (
    describe_machine,
    print_machine,
    print_table,
    ratio,
    take_turns,
    write_json,
)

DEVICE, HOST = "device", "host"
_ON_DEVICE = {DEVICE: "yes", HOST: "no"}
_IMAGE_SHAPE = (32, 32, 3)
_NUM_CLASSES = 10

# What `load_dataset` is called with.
Source = dict[str, Any]


class Averages(nn.Module):
    """A linear layer on the mean of the pixels: a step that does next to nothing but be fed."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, live_depths: jax.Array) -> jax.Array:
        """Logits [N, num_classes] of images [N, H, W, C]."""
        return nn.Dense(self.num_classes)(jnp.mean(images, axis=(1, 2)))


class Fed:
    """Trains `Averages`, an epoch a call.

    Args:
      dataset: loaded.
      batch_size: images a step, at most as many as there are to train on.
      feed: "device" or "host".
    """

    def __init__(self, dataset: Dataset, batch_size: int, feed: str):
        network = Averages(dataset.num_classes)
        optimizer = make_optimizer("sgd")
        mesh = make_mesh(1, batch_size)
        self._recipe = Recipe(
            network=cast(Network, network),
            optimizer=optimizer,
            preprocessing=dataset.preprocessing,
            batch_size=batch_size,
            ema=0.0,
            parallel="jit",
            mesh=mesh,
        )
        self._feed = make_feed(dataset, self._recipe, Programs(), _ON_DEVICE[feed])
        self.images = self._feed.steps_per_epoch * batch_size
        live = replicate(jnp.zeros(0, jnp.int32), mesh)
        pixels = jnp.zeros((1, *dataset.image_shape))
        params = network.init(jax.random.key(0), pixels, True, live)["params"]
        self._state = replicate(TrainState(params, {}, optimizer.init(params), {}), mesh)
        self._epoch = Epoch(jax.random.key(1), jax.random.key(2), live, 0.01)

    def __call__(self) -> Any:
        """One epoch; returns its sums."""
        self._state, sums = self._feed.train_epoch(self._recipe, self._state, self._epoch)
        return sums


def measure(
    name: str, source: Source, batch_size: int, repeats: int, limit: float
) -> dict[str, Any]:
    """Loads a set twice and trains on it by both feeds.

    Raises:
      AssertionError: when the feeds trained on other images.
    """
    loads = []
    for _ in range(2):
        start = time.perf_counter()
        dataset = load_dataset(**source)
        loads.append(time.perf_counter() - start)
    total = sum(len(part.labels) for part in (dataset.train, dataset.validation, dataset.test))
    batch_size = min(batch_size, len(dataset.train.labels))
    fed = {feed: Fed(dataset, batch_size, feed) for feed in _ON_DEVICE}
    sums = {feed: jax.device_get(train()) for feed, train in fed.items()}
    if not np.allclose(sums[DEVICE].loss, sums[HOST].loss, rtol=1e-3):
        raise AssertionError(f"the feeds give {name} different losses: {sums}")
    times = take_turns(fed, repeats, limit)
    print(f"measured {name}", file=sys.stderr, flush=True)
    return {
        "source": name,
        "images": total,
        "image_shape": dataset.image_shape,
        "load_seconds": loads,
        "images_per_second": {
            "load": total / loads[0],
            "load again": total / loads[1],
            **{feed: fed[feed].images / median(times[feed]) for feed in fed},
        },
        "host_over_device": ratio(times, HOST, DEVICE),
    }


def find_sources(data_dir: str, cache_dir: str) -> Iterator[tuple[str, Source]]:
    """The sets that are there: digits, official files, what TFDS prepared once."""
    yield "digits", {"name": "digits"}
    for name in OFFICIAL_SETS if data_dir else ():
        # Reading them here brings the files into memory, so that decoding is what is timed.
        if read_official(name, data_dir) is not None:
            yield f"{name}, official files", {"name": name, "directory": data_dir}
    for info in sorted(cache_root(cache_dir, data_dir).glob("tfds-*/info.json")):
        name = json.loads(info.read_text())["source"]
        size = info.parent.name.rpartition("-")[2]
        yield (
            f"{info.parent.name}, cached",
            {
                "name": f"tfds:{name}",
                "directory": data_dir,
                "cache_directory": str(info.parents[1]),
                "image_size": int(size) if size.isdigit() else 0,
            },
        )


@contextmanager
def make_sources(num_images: int, num_files: int) -> Iterator[list[tuple[str, Source]]]:
    """Random images in an .npz file and in a folder of PNG files; gone afterwards."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        npz, folder = Path(place, "images.npz"), Path(place, "images")
        images = rng.integers(0, 256, (num_images, *_IMAGE_SHAPE), np.uint8)
        np.savez(npz, x_train=images, y_train=np.arange(num_images) % _NUM_CLASSES)
        for label in range(_NUM_CLASSES):
            (folder / str(label)).mkdir(parents=True)
        # Smooth, as photographs are: noise is the slowest that a decoder can meet.
        small = rng.integers(0, 256, (num_files, 8, 8, 3), np.uint8)
        for number, pixels in enumerate(small):
            image = Image.fromarray(pixels).resize(_IMAGE_SHAPE[:2], Image.Resampling.BICUBIC)
            image.save(folder / str(number % _NUM_CLASSES) / f"{number}.png")
        yield [
            ("npz", {"name": f"npz:{npz}"}),
            (
                "folder of PNG",
                {"name": f"folder:{folder}", "cache_directory": str(Path(place, "cache"))},
            ),
        ]


def print_report(rows: Sequence[dict[str, Any]], batch_size: int) -> None:
    """Prints the table."""
    print(f"\nimages a second; epochs in batches of {batch_size} without a network\n")
    print_table(
        ["source", "images", "shape", "load", "load again", "device", "host", "host/device time"],
        [
            [
                row["source"],
                row["images"],
                "x".join(map(str, row["image_shape"])),
                *(row["images_per_second"][name] for name in ("load", "load again")),
                *(row["images_per_second"][feed] for feed in _ON_DEVICE),
                row["host_over_device"],
            ]
            for row in rows
        ],
    )
    print("\nload again: from the cache of decoded images where the source has one.\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inputs")
    parser.add_argument("--data-dir", default="", help="of official files")
    parser.add_argument("--cache-dir", default="", help="of sets that TFDS prepared")
    parser.add_argument("--images", type=int, default=20_000, help="in the .npz file")
    parser.add_argument("--files", type=int, default=2_000, help="in the folder of images")
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each feed")
    parser.add_argument("--limit", type=float, default=10, help="seconds of epochs a source")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    machine = describe_machine()
    sizes = options.batch, options.repeats, options.limit
    found = find_sources(options.data_dir, options.cache_dir)
    rows = [measure(name, source, *sizes) for name, source in found]
    with make_sources(options.images, options.files) as made:
        rows += [measure(name, source, *sizes) for name, source in made]
    print_report(rows, options.batch)
    print_machine(machine)
    write_json(options.json, {"options": vars(options), "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
