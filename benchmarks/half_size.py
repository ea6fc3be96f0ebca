"""A set with images half as wide and high, in one .npz file: a fourth of the work for a net.

python -m benchmarks.half_size --name=cifar10 --data=DATA --out=half/cifar10.npz

Four pixels become their mean, rounded. For studies of many runs, such as
configs/studies/small_sets.py; their tables then say so.
"""

import argparse
from pathlib import Path

import numpy as np

from autogrow_jax.data import load_dataset


def halve(images: np.ndarray) -> np.ndarray:
    """[N, H, W, C] uint8 -> [N, H // 2, W // 2, C] uint8; an odd last row or column is left out."""
    count, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    parts = even.reshape(count, height // 2, 2, width // 2, 2, channels)
    return np.rint(parts.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def main() -> None:
    """Reads the set, halves its images and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="as data.name takes it")
    parser.add_argument("--data", default="", help="folder of the set's files")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.name, directory=arguments.data, validation="test")
    train, test = (
        {f"x_{name}": halve(np.asarray(part.images)), f"y_{name}": np.asarray(part.labels)}
        for name, part in (("train", dataset.train), ("test", dataset.test))
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.out, **train, **test)


if __name__ == "__main__":
    main()
