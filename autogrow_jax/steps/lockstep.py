"""What lets the threads of several seeds go in step, and computes an epoch of all at once."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Dataset
from autogrow_jax.errors import UserError
from autogrow_jax.steps.feed import Begun, DeviceFeed, Epoch, Feed, Progress
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import TrainState
from autogrow_jax.steps.step import (
    Mask,
    Recipe,
    Sums,
    Trained,
    epoch_order,
    make_evaluate,
    make_train_steps,
)
from autogrow_jax.stream import Streamed
from autogrow_jax.trees import cut, pad


@dataclass
class _Request:
    """What a seed waits for: an epoch of training, or the evaluation of a part."""

    feed: "SharedFeed"
    recipe: Recipe
    tree: Any  # The state to train, or the variables to evaluate.
    depths: jax.Array
    part: str  # "train", or the one to evaluate.
    epoch: Epoch | None = None  # Of training.
    answer: Any = None
    seconds: float = 0.0  # What it took, of an evaluation.
    is_done: bool = False


class Lockstep:
    """Lets threads run one at a time, and computes for all once each of them waits."""

    def __init__(self, count: int):
        self.errors: dict[int, BaseException] = {}
        self.programs = Programs()
        self._turn = threading.Condition()
        self._live = set(range(count))
        self._waiting: dict[int, _Request] = {}
        self._stopped: BaseException | None = None
        self._group: _Group | None = None

    @contextmanager
    def turn(self, index: int) -> Iterator[None]:
        """Runs a seed's thread when it is its turn, and lets the others go on after its end."""
        with self._turn:
            try:
                yield
            except BaseException as error:
                self.errors[index] = error
                if not isinstance(error, Exception):  # Ctrl-C is for all of them.
                    self._stopped = self._stopped or error
            finally:
                self._live.discard(index)
                self._serve_if_all_wait()
                self._turn.notify_all()

    def stop(self, error: BaseException) -> None:
        """Ends all threads where they wait next."""
        with self._turn:
            self._stopped = error
            self._turn.notify_all()

    def close(self) -> None:
        """Lets go of what was compiled."""
        self.programs.close()

    def wait_for(self, index: int, request: _Request) -> Any:
        """Called within a turn: the answer to a request, once all others have come to theirs."""
        self._waiting[index] = request
        self._serve_if_all_wait()
        while not request.is_done and self._stopped is None:
            self._turn.wait()
        if self._stopped is not None:
            raise KeyboardInterrupt from self._stopped
        if isinstance(request.answer, Exception):
            raise request.answer
        return request.answer

    def _serve_if_all_wait(self) -> None:
        if not self._live or set(self._waiting) != self._live or self._stopped is not None:
            return
        waiting, self._waiting = [*self._waiting.values()], {}
        for kind in ("train", "evaluate"):
            if chosen := [r for r in waiting if (kind == "train") == bool(r.epoch)]:
                try:
                    # The first time all that will ever ask are here.
                    self._group = self._group or _Group([r.feed for r in waiting], self.programs)
                    self._group.serve(kind, chosen)
                except Exception as error:  # For each of them to raise.
                    for request in chosen:
                        request.answer = error
        for request in waiting:
            request.is_done = True
        self._turn.notify_all()


class _Group:
    """The images of all seeds, once, and the programs for all of them.

    Seeds part their images differently, so each has its own places in the one array. In the place
    of a seed that asks for something else, or has ended, another's work is begun and not done.
    """

    def __init__(self, feeds: "list[SharedFeed]", programs: Programs):
        self._programs, self._lanes = programs, len(feeds)
        at_once = max(feed.recipe.images_evaluated_at_once for feed in feeds)
        self._recipe = feeds[0].recipe._replace(evaluation_batch_size=at_once)
        if isinstance(feeds[0].dataset.train.images, Streamed):
            raise UserError(
                "seeds in lockstep need their images in memory, but these are streamed; run the"
                " seeds one by one, or set data.stream=no"
            )
        parts = [(feed, name, part) for feed in feeds for name, part in feed.dataset.parts.items()]
        self._num_rows = max(len(part.labels) for *_, part in parts)
        # Copies of an image may have several labels.
        pairs = [np.stack([p.ids, p.labels.astype(np.uint64)], axis=1) for _, _, p in parts]
        _, first, rows = np.unique(
            np.concatenate(pairs), axis=0, return_index=True, return_inverse=True
        )
        images = np.empty((len(first), *feeds[0].dataset.image_shape), np.uint8)
        labels = np.empty(len(first), np.int32)
        ends = np.cumsum([len(pair) for pair in pairs])[:-1]
        for (feed, name, part), place in zip(parts, np.split(rows.reshape(-1), ends), strict=True):
            feed.places[name] = place.astype(np.int32)
            images[place], labels[place] = part.images, part.labels
        self._data = jnp.asarray(images), jnp.asarray(labels)

    def serve(self, kind: str, requests: list[_Request]) -> None:
        """Answers requests of one kind."""
        sizes = [request.recipe.network.depths for request in requests]
        capacities = tuple(map(max, zip(*sizes, strict=True)))
        network = self._recipe.network.clone(depths=capacities)
        recipe = self._recipe._replace(network=network)
        make = _make_train if kind == "train" else _make_evaluate
        function = self._programs.make(make, recipe)
        trees = [pad(request.tree, capacities) for request in requests]
        lanes = [self._describe(request) for request in requests]
        missing = self._lanes - len(lanes)
        trees += trees[:1] * missing
        lanes += [lanes[0] | {"count": np.int32(0)}] * missing
        given = {name: jnp.stack([lane[name] for lane in lanes]) for name in lanes[0]}
        compiled, before = self._programs.seconds, self._programs.counts[kind]
        start = time.perf_counter()
        answers = self._programs.call(kind, function, tuple(trees), given, *self._data)
        answers = answers if kind == "train" else jax.block_until_ready(answers)
        waited, programs = self._programs.seconds - compiled, self._programs.counts[kind] - before
        spent = time.perf_counter() - start - waited
        for request, answer, size in zip(requests, answers, sizes, strict=False):
            request.answer, request.seconds = answer, spent / len(requests)
            if kind == "train" and size != capacities:
                state, sums = answer
                request.answer = jax.device_put(cut(jax.device_get(state), size)), sums
            request.feed.account(kind, waited, programs)

    def _describe(self, request: _Request) -> dict[str, Any]:
        """What the program takes of one seed beside its arrays."""
        feed, epoch = request.feed, request.epoch
        preprocessing = feed.dataset.preprocessing
        lane = {
            "depths": request.depths,
            "mean": np.asarray(preprocessing.mean, np.float32),
            "std": np.asarray(preprocessing.std, np.float32),
        }
        place = feed.places[request.part]
        rows = np.zeros(self._num_rows, np.int32)
        if epoch is None:
            rows[: len(place)] = place
            return lane | {"rows": rows, "count": np.int32(len(place))}
        rows[: len(place)] = place[np.asarray(epoch_order(epoch.order_key, len(place)))]
        return lane | {
            "rows": rows,
            "count": np.int32(feed.steps_per_epoch),
            "key": epoch.augment_key,
            "rate": np.float32(epoch.learning_rate),
        }


def _with_statistics(recipe: Recipe, given: dict[str, jax.Array]) -> Recipe:
    """A seed's recipe: it normalises by the images that it trains on."""
    own: Any = {"mean": given["mean"], "std": given["std"]}
    return recipe._replace(preprocessing=replace(recipe.preprocessing, **own))


def _make_train(recipe: Recipe) -> Callable[..., tuple[Trained, ...]]:
    def train_one(state, given, images, labels):
        steps = make_train_steps(_with_statistics(recipe, given))
        how = given["rows"], given["key"], given["depths"], given["rate"]
        return steps(state, Sums.zero(), images, labels, *how, 0, given["count"])

    return _batched(train_one)


def _make_evaluate(recipe: Recipe) -> Callable[..., tuple[Sums, ...]]:
    def evaluate_one(variables, given, images, labels):
        evaluate = make_evaluate(_with_statistics(recipe, given))
        how = 0, given["count"], given["depths"], given["rows"]
        return evaluate(variables, images, labels, *how)

    return _batched(evaluate_one)


def _batched(one: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """`one` for several trees at once; trees go in and come out one by one, as seeds hold them."""
    all_ = jax.vmap(one, in_axes=(0, 0, None, None))

    def run(trees, given, images, labels):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        found = all_(stacked, given, images, labels)
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(trees)))

    return run


class SharedFeed(Feed):
    """The feed of one seed: it hands over what is to be computed and waits for the answer."""

    def __init__(
        self,
        lockstep: Lockstep,
        index: int,
        dataset: Dataset,
        recipe: Recipe,
        programs: Programs,
        on_device: str,
    ):
        super().__init__(dataset, recipe, programs)
        self.dataset, self.recipe = dataset, recipe
        self.places: dict[str, np.ndarray] = {}  # Where the images of each part lie in the group's.
        self._lockstep, self._index = lockstep, index
        self._own: DeviceFeed | None = None

    def train(
        self,
        recipe: Recipe,
        begun: Begun,
        epoch: Epoch,
        progress: Progress | None = None,
        mask: Mask | None = None,
    ) -> Iterator[Begun]:
        """As every feed does; what others need not share at once: pre-training, half an epoch."""
        if mask is not None or begun.steps:
            yield from self._alone().train(recipe, begun, epoch, progress, mask)
            return
        request = _Request(self, recipe, begun.state, epoch.depths, "train", epoch)
        state, sums = self._lockstep.wait_for(self._index, request)
        yield Begun(state, sums, self.steps_per_epoch)

    def evaluate(
        self,
        recipe: Recipe,
        variables: Any,
        part: str,
        depths: jax.Array,
        look: Callable[[], None] | None = None,
    ) -> Sums:
        request = _Request(self, recipe, variables, depths, part)
        sums: Sums = self._lockstep.wait_for(self._index, request)
        self._programs.evaluating += request.seconds
        return sums._replace(logits=None)

    def predict(self, recipe: Recipe, variables: Any, part: str, depths: jax.Array) -> np.ndarray:
        """As every feed does, by a feed of its own, at once: the others may be elsewhere."""
        return self._alone().predict(recipe, variables, part, depths)

    def _alone(self) -> DeviceFeed:
        self._own = self._own or DeviceFeed(self.dataset, self.recipe, self._programs)
        return self._own

    def some_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        train, rows = self.dataset.train, self.dataset.some_rows(count)
        return jnp.asarray(train.images[rows]), jnp.asarray(train.labels[rows])

    def compile_ahead(self, recipe: Recipe, state: TrainState, epoch: Epoch) -> None:
        """Nothing: the programs are the group's."""

    def account(self, kind: str, seconds: float, programs: int) -> None:
        """Notes what the group compiled for this seed as well, and waited for."""
        self._programs.seconds += seconds
        self._programs.counts[kind] += programs
