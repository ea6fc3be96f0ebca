"""Photographs that nobody took: a tree in ImageNet's layout, and the same as a set of TFDS."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# Width and height in pixels, as often as ImageNet has about such: most are 500 on the longer side.
_SIZES = [(500, 375)] * 9 + [(375, 500)] * 4 + [(500, 333)] * 3 + [(333, 500)] * 2
_SIZES += [(500, 500), (640, 480), (1024, 768), (240, 180)]


def write_tree(root: Path, classes: int, parts: dict[str, int]) -> None:
    """Writes so many images of each class into each part, JPEGs of some 110 kB on average.

    Smooth noise in a colour of the class, by whose number each image is drawn.
    """

    def write(number: int) -> None:
        draw, name = np.random.default_rng(number), f"n{number:08}"
        colour = np.array([number // 100, number // 10 % 10, number % 10]) * 20
        for part, count in parts.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for image in range(count):
                width, height = _SIZES[draw.integers(len(_SIZES))]
                noise = draw.integers(0, 76, (height // 3, width // 3, 3))
                coarse = Image.fromarray((noise + colour).astype(np.uint8))
                photograph = coarse.resize((width, height), Image.Resampling.BICUBIC)
                photograph.save(folder / f"{image}.JPEG", quality=95)

    with ThreadPoolExecutor() as threads:  # Pillow lets others compute while it does.
        list(threads.map(write, range(classes)))


class Photographs(tfds.core.GeneratorBasedBuilder):
    """A tree of parts and classes; a part called test has no labels, as ImageNet's."""

    VERSION = tfds.core.Version("1.0.0")
    tree: Path

    def _info(self) -> Any:
        classes = sorted(path.name for path in (self.tree / "train").iterdir())
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=classes),
            "file_name": tfds.features.Text(),
        }
        features = tfds.features.FeaturesDict(features)
        keys = {"supervised_keys": ("image", "label")}
        return tfds.core.DatasetInfo(builder=self, features=features, **keys)

    def _split_generators(self, _: Any) -> dict[str, Any]:
        names = {"val": "validation"}
        parts = sorted(path.name for path in self.tree.iterdir())
        return {names.get(part, part): self._generate_examples(part) for part in parts}

    def _generate_examples(self, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted((self.tree / part).glob("*/*")):
            name = f"{path.parent.name}/{path.name}"
            label = -1 if part == "test" else path.parent.name
            # A file that is encoded; TFDS would need TensorFlow to encode pixels.
            yield name, {"image": path, "label": label, "file_name": name}


def pack(tree: Path, folder: Path, shards: int | None = None) -> None:
    """Has TFDS prepare a tree as its set "photographs" in `folder`, of so many files a part."""
    Photographs.tree = tree
    builder = Photographs(data_dir=folder, file_format="array_record")
    how = tfds.download.DownloadConfig(num_shards=shards)
    builder.download_and_prepare(download_config=how)
