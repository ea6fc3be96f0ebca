"""Sets of TensorFlow Datasets whose images stay, encoded, in their ArrayRecord files."""

import bisect
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from autogrow_jax.data.tfds_source import find_labels, open_builder
from autogrow_jax.errors import UserError
from autogrow_jax.files import (
    PARTS,
    Split,
    array_path,
    entry_name,
    image_ids,
    make_split,
    new_entry,
    reason,
    write_info,
)
from autogrow_jax.stream.images import Streamed

# Records that a thread looks at in turn, before training.
_PIECE = 256


class Records:
    """The encoded images of a part, read by number; each process opens the files for itself.

    Args:
      source: the bytes of a record by its number: TFDS's protocol buffer.
      files: where the records lie, in their order, and how many lie in each.
      image: what TFDS calls the image in a record.
      label: likewise its label.
    """

    def __init__(
        self, source: Sequence[bytes], files: Sequence[tuple[Path, int]], image: str, label: str
    ):
        self._source, self._image, self._label = source, image, label
        self._paths = [path for path, _ in files]
        self._ends = [*accumulate(count for _, count in files)]

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, row: int) -> Path:
        """The file, and which of its records."""
        number = bisect.bisect_right(self._ends, row)
        before = self._ends[number - 1] if number else 0
        return Path(f"{self._paths[number]}, record {row - before}")

    def read(self, row: int) -> bytes:
        """The image as it is encoded; OSError where it is gone or damaged."""
        return self.look(row)[0]

    def look(self, row: int) -> tuple[bytes, int]:
        """The image as it is encoded, and its label."""
        # Half a second to import: only who asks pays.
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            found = tf_example_pb2.Example.FromString(self._source[row]).features.feature
            image, label = found[self._image].bytes_list, found[self._label].int64_list
            return image.value[0], int(label.value[0])
        except Exception as error:  # Of Riegeli's or protocol buffers' own classes.
            raise OSError(reason(error)) from error

    def look_at_all(self, place: Path) -> tuple[np.ndarray, np.ndarray]:
        """Labels, int64 [N], and the ids of the images' bytes, uint64 [N].

        All records are read for it, once: what was found is kept in the folder `place`, under a
        name made of the files' names, sizes and times.

        Raises:
          UserError: names the record that cannot be read, or what is kept and damaged.
        """
        stats = [(str(path), path.stat()) for path in self._paths]
        facts = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        print_of_files = hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()
        entry = place.with_name(f"{place.name}-{print_of_files}")
        kept = [array_path(entry, "all", kind) for kind in ("labels", "ids")]
        if not entry.exists():
            with new_entry(entry) as folder, ThreadPoolExecutor() as threads:
                pieces = [*threads.map(self._look_at_piece, range(0, len(self), _PIECE))]
                for path, arrays in zip(kept, zip(*pieces, strict=True), strict=True):
                    np.save(folder / path.name, np.concatenate(arrays))
                write_info(folder, (), files=facts)
        try:
            labels, ids = map(np.load, kept)
            if not len(labels) == len(ids) == len(self):
                raise ValueError(f"{len(labels)} labels and {len(ids)} ids of {len(self)} records")
        except (OSError, EOFError, ValueError) as error:
            raise UserError(
                f"the labels kept in {entry} are damaged ({reason(error)}); delete that folder, and"
                " the next run makes it anew"
            ) from error
        return labels, ids

    def _look_at_piece(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        rows = range(first, min(first + _PIECE, len(self)))
        labels, ids = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint64)
        for place, row in enumerate(rows):
            try:
                image, labels[place] = self.look(row)
            except OSError as error:
                raise UserError(
                    f"{self.name(row)}: cannot be read ({error}); have TFDS prepare the set again"
                ) from error
            ids[place] = image_ids([image])[0]
        return labels, ids


def read_records(
    name: str, make: Callable[[Records, np.ndarray], Streamed], directory: str, cache: Path
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Finds the parts of a set, which TFDS prepares first where it is not, and its classes.

    Labels lie among the images, so all records are read once; labels and ids are kept in `cache`.

    Args:
      name: what TFDS calls the set.
      make: images of some rows, int64 [M], of records.
      directory: as for `load_dataset`.
      cache: a folder, see above.

    Raises:
      UserError: as for `load_dataset`; the set was prepared in a format without random access.
    """
    builder = open_builder(name, directory)
    image_key, label_key, class_names = find_labels(builder, name)
    found = {}
    for part in (part for part in PARTS if part in builder.info.splits):
        records = Records(*_open(builder, part), image_key, label_key)
        labels, ids = records.look_at_all(cache / entry_name("labels", name, part))
        # TFDS labels the images of a test part without labels -1.
        rows = np.flatnonzero((labels >= 0) | (part == "train"))
        if len(rows):
            where = f"TFDS set {name!r}, part {part!r}"
            images = make(records, rows)
            found[part] = make_split(images, labels[rows], len(class_names), where, ids[rows])
    if not found:
        raise UserError(
            f"TFDS set {name!r} has the parts {', '.join(builder.info.splits)}, expected one of"
            f" {', '.join(PARTS)} with labels"
        )
    return found, class_names


def _open(builder: Any, part: str) -> tuple[Sequence[bytes], list[tuple[Path, int]]]:
    """The bytes of records by number, and the files in which they lie."""
    try:
        source = builder.as_data_source(part, file_format="array_record").data_source
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"{builder.data_path} is in a format that cannot be read by number, as streams are;"
            f" convert it: tfds convert_format --dataset_version_dir={builder.data_path}"
            " --out_file_format=array_record; or set data.stream=no"
        ) from error
    except ImportError as error:
        raise UserError(
            f"ArrayRecord files are read by array_record, which cannot be imported ({error}): pip"
            " install array_record"
        ) from error
    files = builder.info.splits[part].file_instructions
    return source, [(Path(file.filename), file.take) for file in files]
