"""SVHN's cropped digits, from the official MATLAB files."""

from pathlib import Path

import numpy as np

from autogrow_jax.data.checks import make_split
from autogrow_jax.data.types import Source, Split
from autogrow_jax.errors import UserError

_FILES = ("train_32x32.mat", "test_32x32.mat")


def read_svhn_folder(folder: Path, class_names: tuple[str, ...]) -> Source | None:
    """Reads train_32x32.mat and test_32x32.mat; the "extra" part is not used, as in the paper.

    Args:
      folder: where to look.
      class_names: one per class.

    Returns:
      Images uint8 [N, 32, 32, 3], or None when neither file is there.

    Raises:
      UserError: one of the two is missing or damaged.
    """
    paths = [folder / name for name in _FILES]
    missing = [path.name for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        return None
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}; both {' and '.join(_FILES)} are needed")
    train, test = (_read(path, len(class_names)) for path in paths)
    return Source(train, None, test, class_names, str(folder))


def _read(path: Path, num_classes: int) -> Split:
    from scipy.io import loadmat  # Comes with scikit-learn; slow to import.

    try:
        raw = loadmat(path)
    except Exception as error:  # scipy raises whatever the damaged byte leads it to.
        raise UserError(
            f"{path}: not readable as a MATLAB file ({error}); it is damaged or cut short, "
            "fetch it again"
        ) from error
    if "X" not in raw or "y" not in raw:
        found = ", ".join(name for name in raw if not name.startswith("__"))
        raise UserError(f"{path}: holds {found or 'nothing'}, expected the variables X and y")
    images, labels = raw["X"], raw["y"]
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise UserError(f"{path}: X has shape {list(images.shape)}, expected [32, 32, 3, N]")
    labels = labels.reshape(-1)
    if labels.size and (labels.min() < 1 or labels.max() > 10):
        raise UserError(f"{path}: labels run from {labels.min()} to {labels.max()}, expected 1..10")
    images = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
    # The digit 0 is labelled 10: MATLAB counts from one.
    return make_split(images, np.where(labels == 10, 0, labels), num_classes, str(path))
