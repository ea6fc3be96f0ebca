"""A net that a run has found, taken out of its workdir to be used elsewhere."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax import build
from autogrow_jax.data import (
    Known,
    Preprocessing,
    fit_images,
    list_images,
    normalize,
    parse_ground,
    read_bytes,
    read_image,
    resize_center_crop,
    whole,
)
from autogrow_jax.errors import UserError, nearest
from autogrow_jax.models import Network
from autogrow_jax.models.convolution import why_not_native
from autogrow_jax.models.layers import CONVOLUTIONS, NATIVE, XLA
from autogrow_jax.process import user_path
from autogrow_jax.reporting import Workdir
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.workdir import read_config
from autogrow_jax.saving import (
    CheckpointStore,
    Restored,
    evaluated_arrays,
    read_arrays,
    read_last,
    rebuild,
)
from autogrow_jax.steps import AUTO
from autogrow_jax.stream import crop_centre, decode_centre
from autogrow_jax.training.evaluation import read_known
from autogrow_jax.trees import cut

WHICH = ("recommended", "final", "best")


@dataclass(frozen=True)
class Loaded:
    """A net with its weights, and what it takes to use it.

    Attributes:
      network: the Flax module, `network.apply(variables, normalized_images)` gives logits.
      variables: its weights, averaged ones where the run kept those, and running statistics.
      class_names: in the order of the logits.
      preprocessing: how images are normalised; nothing is augmented.
      known: what the run knows of its data: size and channels of images, numbers, fingerprints.
      config: of the run, nested dicts as config.json has them.
      epoch: how many epochs were done.
      workdir: where it comes from.
    """

    network: Network
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    known: Known
    config: dict[str, Any]
    epoch: int
    workdir: Path

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return self.network.depths

    def prepare(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Brings images to the size and channels that the net takes, as the run did with its own.

        Args:
          images: uint8 [N, H, W, C] or [N, H, W], or a sequence of [H, W, C] or [H, W] of any
            sizes. Those of the run's own size are taken as they are, padded where the run padded
            them; others are resized and their centre cropped, as those of a folder are.

        Returns:
          uint8 [N, H, W, C] of `known.image_shape`.

        Raises:
          UserError: no uint8 images, or one alone; another size where the run's images are no
            squares; another number of channels than the run's, but for grey and colour.
        """
        prepared = [self._prepare_one(image) for image in list_images(images)]
        return np.stack(prepared) if prepared else np.zeros((0, *self.known.image_shape), np.uint8)

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Reads an image file as the run read its own, and prepares it: uint8 [H, W, C].

        It is turned upright as its tags say, and laid on the run's background where transparent;
        of an animated one the first frame is taken.

        Raises:
          UserError: names the file; no image, a damaged one, one that cannot be made to fit.
        """
        ground = parse_ground(self.config.get("data", {}).get("background", "white"))
        if self.known.resized:
            data, size = read_bytes(Path(path)), self.known.image_shape[0]
            return decode_centre(data, Path(path), size, ground)
        # A file is resized as the run's own files were, also one of the size that these got.
        return self._prepare_one(read_image(Path(path), ground), str(path), is_file=True)

    def _prepare_one(
        self, image: np.ndarray, where: str = "the image", is_file: bool = False
    ) -> np.ndarray:
        if image.ndim not in (2, 3) or image.dtype != np.uint8 or 0 in image.shape:
            raise UserError(
                f"an image is {image.dtype} {list(image.shape)}; the net takes uint8 [H, W, C] or"
                " [H, W], pixels 0..255"
            )
        image = image[..., None] if image.ndim == 2 else image
        height, width = self.known.source_size
        is_padded = not is_file and image.shape[:2] == self.known.image_shape[:2]
        fits = is_padded or image.shape[:2] == (height, width)
        if not fits and height == width and image.shape[2] in (1, 3):
            # Once in the middle of a larger one, as a stream's, or of all of it, as a folder's.
            image = (crop_centre if self.known.resized else resize_center_crop)(image, height)
        return fit_images(image[None], self.known, where)[0][0]

    def predict(
        self, images: np.ndarray | Sequence[np.ndarray], batch_size: int = 128
    ) -> np.ndarray:
        """Gives the probability of each class, float32 [N, num_classes], in the run's own order.

        Takes what `prepare` takes, and computes on JAX's default device, so many at a time. What
        the run's own evaluation counts as right is the class of the highest probability.

        Raises:
          UserError: as for `prepare`.
        """
        prepared = self.prepare(images)
        size = min(whole("batch_size", batch_size, least=1), max(len(prepared), 1))
        batches = (prepared[first : first + size] for first in range(0, len(prepared), size))
        none = np.zeros((0, self.network.num_classes), np.float32)
        return np.concatenate([none, *(self._predict_batch(batch, size) for batch in batches)])

    def predict_files(
        self, paths: Iterable[str | os.PathLike[str]], batch_size: int = 128
    ) -> Iterator[tuple[Path, np.ndarray | UserError]]:
        """Yields image files in their order, each with its probabilities [num_classes].

        Of one that `read` refuses it yields the UserError instead. No more than a batch of files is
        in memory at a time.
        """
        rest, size, most = map(Path, paths), 0, whole("batch_size", batch_size, least=1)
        with ThreadPoolExecutor() as threads:
            while files := list(islice(rest, most)):
                size = size or len(files)
                read = list(threads.map(self._try_to_read, files))
                images = [image for image in read if not isinstance(image, UserError)]
                found = iter(self._predict_batch(np.stack(images), size) if images else ())
                for path, image in zip(files, read, strict=True):
                    yield path, image if isinstance(image, UserError) else next(found)

    def _try_to_read(self, path: Path) -> np.ndarray | UserError:
        try:
            return self.read(path)
        except UserError as error:
            return error

    def _predict_batch(self, batch: np.ndarray, size: int) -> np.ndarray:
        # Filled up, so that one program serves all batches.
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        result = _probabilities(self.network, self.preprocessing, self.variables, filled)
        return np.asarray(result)[: len(batch)]


@partial(jax.jit, static_argnums=(0, 1))
def _probabilities(
    network: Network, preprocessing: Preprocessing, variables: Any, images: jax.Array
) -> jax.Array:
    logits: Any = network.apply(variables, normalize(images, preprocessing), train=False)
    return jax.nn.softmax(logits.astype(jnp.float32))


def load(
    workdir: str | os.PathLike[str],
    which: Literal["recommended", "final", "best"] = "recommended",
    *,
    depths: Sequence[int] = (),
    convolution: str = "xla",
) -> Loaded:
    """Loads the net of a run, finished or not; on any machine, without data and without policy.

    A family of one's own has to be registered as it was for the run.

    Args:
      workdir: folder of the run, or a copy of it; nothing is written there.
      which: "final" is the net of the newest checkpoint, the one that was tested where the run is
        finished; "best" that of the highest validation accuracy among checkpoints, of which a
        front's other nets, as they ended, are none; "recommended" the final one.
      depths: of a net of the run's front, which is then loaded whatever `which` says, as it is so
        far. Of a net that is still to be fine-tuned, as it left growth.
      convolution: "xla", which all of JAX's transformations and devices know, "native", or "auto":
        those that the run computes with, where they can be had here.

    Raises:
      UserError: no run there, none with a checkpoint, one that is damaged; no such depths in its
        front; native convolutions where there are none.
    """
    if which not in WHICH:
        raise UserError(f"which is {which!r}{nearest(which, WHICH)}")
    if convolution not in (kinds := (*CONVOLUTIONS, AUTO)):
        raise UserError(f"convolution is {convolution!r}{nearest(convolution, kinds)}")
    if convolution == NATIVE and (reason := why_not_native()):
        raise UserError(f"convolution='native' cannot be had here: {reason}; take 'xla'")
    there = Workdir(user_path(workdir))
    config = read_config(there)
    known = read_known(there)
    if known is None:
        raise UserError(
            f"{there.root} has no dataset.json, which holds class names and how images were"
            " normalised; start the run again with the same command, and it writes one"
        )
    if not there.checkpoints.is_dir():
        raise UserError(f"{there.root} holds no checkpoint yet; nothing to load")
    with closing(CheckpointStore(there.checkpoints)) as store:
        best = store.best() if which == "best" and not depths else None
        if depths:
            saved = _read_of_front(there, store, depths)
        else:
            saved = read_last(store, there, "load") if best is None else store.read(best)
    epoch = saved.memory["epoch"]
    settings = build.resolve_own(config, to_read=True)
    if convolution == AUTO:
        was_native = settings.model.convolution == NATIVE and not why_not_native()
        convolution = NATIVE if was_native else XLA
    *_, channels = known.image_shape
    data = len(known.class_names), channels
    network = build.make_network(settings, *data, saved.memory["depths"])
    network = network.clone(options=network.options._replace(convolution=convolution))
    image = jax.ShapeDtypeStruct((1, *known.image_shape), np.float32)
    like = jax.eval_shape(lambda: network.lazy_init(jax.random.key(0), image))
    variables = rebuild(evaluated_arrays(saved.arrays), like)
    # A checkpoint right after a growth holds blocks that no epoch has seen.
    seen = tuple(saved.memory["evaluated_depths"])
    return Loaded(
        network.clone(depths=seen),
        jax.tree.map(jnp.asarray, cut(jax.tree.map(np.asarray, variables), seen)),
        known.class_names,
        Preprocessing(known.mean, known.std, crop_padding=0, flip=False),
        known,
        config,
        epoch,
        there.root,
    )


def _read_of_front(workdir: Workdir, store: CheckpointStore, depths: Sequence[int]) -> Restored:
    """The newest state of a front's net: the checkpoint has that which trained last, if newer."""
    found = []
    if not workdir.result.exists():
        with suppress(UserError):  # There is none, or it is damaged.
            training = read_last(store, workdir, "load")
            trains = training.memory.get("candidate") is not None
            if trains and tuple(training.memory["depths"]) == tuple(depths):
                found.append(training)
    with suppress(UserError) if found else nullcontext():
        found.append(read_candidate(workdir, depths))
    return max(found, key=lambda each: each.memory["epoch"])


def read_candidate(workdir: Workdir, depths: Sequence[int]) -> Restored:
    """Reads the newest state of the candidate of some depths, of a run that is over or going on.

    Returns:
      What a checkpoint holds; of its memory, `depths`, `evaluated_depths`, `epoch`, and what else
      `Front` says of a candidate.

    Raises:
      UserError: there is no such candidate, which lists those there are; or its file is damaged.
    """
    # Names end in the epochs done, of as many digits each.
    files = sorted(workdir.candidates.glob("*.npz"))
    found = {path.name.split(".")[0]: path for path in files}
    name = format_depths(depths)
    if name not in found:
        known = f"it has {', '.join(found)}" if found else "it has none, as without a front"
        raise UserError(f"{workdir.root} has no candidate of depths {name}; {known}")
    return read_arrays(found[name])
