"""What a run's folder tells of it, finished or not; what is missing there is empty or None."""

import dataclasses
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from autogrow_jax import build
from autogrow_jax.data import AUGMENTATIONS, Augmentation, Dataset, Known
from autogrow_jax.errors import UserError
from autogrow_jax.models import Network, estimate_cost, piece_costs
from autogrow_jax.models.cost import Cost, PieceCosts
from autogrow_jax.reporting.metrics import find_kept, kept_depths, read
from autogrow_jax.reporting.result import read_result
from autogrow_jax.reporting.workdir import Workdir, read_config, read_object
from autogrow_jax.settings import all_keys, flatten

T = TypeVar("T")


class Passed(NamedTuple):
    """Depths that a run passed on its way."""

    depths: tuple[int, ...]
    epochs: int  # For how many it had them.
    best: float | None  # Validation accuracy meanwhile, in percent.
    cost: Cost | None
    phase: str


@dataclasses.dataclass
class Facts:
    """A run's files as they are now; `dataset` is given by who has it loaded."""

    workdir: Workdir
    dataset: Dataset | None = None
    augmentation: Augmentation | None = None  # Of one's own.
    no_pictures: str = ""  # Why there is no `dataset`, where one was looked for.
    no_costs: str = ""  # Why there is no `network`, once one was looked for.

    def _ask(self, read: Callable[..., T], *given: Any) -> T | None:
        try:
            return read(*given)
        except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl."""
        return read(self.workdir.metrics) if self.workdir.metrics.is_file() else []

    @cached_property
    def result(self) -> dict[str, Any]:
        """Of result.json; empty of a run that has not finished."""
        return self._ask(read_result, self.workdir.result) or {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """{"a.b": value}; empty where config.json is missing or damaged."""
        return flatten(self._ask(read_config, self.workdir) or {})

    @cached_property
    def known(self) -> Known | None:
        """Of dataset.json, which runs from before it was kept lack."""
        return self._ask(lambda: Known.from_dict(read_object(self.workdir.dataset)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels; none where nobody knows."""
        return self.known.class_names if self.known else tuple(self.result.get("class_names", ()))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels; () where nobody knows."""
        return self.known.image_shape if self.known else tuple(self.result.get("image_shape", ()))

    @property
    def num_classes(self) -> int:
        """0 where nobody knows."""
        return len(self.class_names) or self.result.get("num_classes", 0)

    @property
    def family(self) -> str:
        """Of the network."""
        return self.config.get("model.family") or self.result.get("family") or "a net"

    @property
    def data_name(self) -> str:
        """What the data were asked for by."""
        return self.config.get("data.name") or self.result.get("dataset") or "unnamed data"

    @property
    def depths(self) -> tuple[int, ...]:
        """Of the net that was found, or of the one that is training."""
        if "depths" in self.result:
            return tuple(self.result["depths"])
        return tuple(kept_depths(self.lines)[-1]) if self.lines else ()

    @cached_property
    def network(self) -> Network | None:
        """At the depths that were found; None where nobody knows what it is made of."""
        if not (self.depths and self.num_classes and self.image_shape):
            return None
        model = {name: self.config[name] for name in self.config if name.startswith("model.")}
        data = self.num_classes, self.image_shape[-1], self.depths
        try:
            settings = build.resolve_own({"mode": "evaluate", **model})
        except UserError as error:  # A family of one's own may not be registered here.
            self.no_costs = str(error)
            return None
        return self._ask(lambda: build.make_network(settings, *data))

    @cached_property
    def pieces(self) -> PieceCosts | None:
        """What stem, head and blocks cost."""
        return self._ask(piece_costs, self.network, self.image_shape) if self.network else None

    def cost(self, depths: tuple[int, ...]) -> Cost | None:
        """Of a net of this run at some depths."""
        if self.network is None or self.pieces is None:
            return None
        return estimate_cost(self.network, self.image_shape, depths)

    @cached_property
    def passed(self) -> list[Passed]:
        """All depths on the way, in the order of their first epochs; trials are left out.

        A net of a front is there once, however many turns it had.
        """
        lines = [line for line, kept in zip(self.lines, find_kept(self.lines), strict=True) if kept]
        if self.front:  # Which tells it of those that were fine-tuned.
            lines = [line for line in lines if line.get("phase") == "growth"]

        nets: dict[tuple[Any, ...], list[float | None]] = {}
        for line in lines:
            net = tuple(line["depths"]), line.get("phase", "")
            nets.setdefault(net, []).append(line.get("validation_accuracy"))
        found = []
        for (depths, phase), values in nets.items():
            best = max((value for value in values if value is not None), default=None)
            found.append(Passed(depths, len(values), best, self.cost(depths), phase))
        return found

    @cached_property
    def changed(self) -> list[tuple[str, Any, Any]]:
        """Of each key that the run sets to no default its name, its value and the default."""
        asked = {k: self.config[k] for k in ("mode", "model.family") if k in self.config}
        # What goes by the family is no choice of anyone's.
        defaults = {name: key.default for name, key in all_keys().items()}
        usual = defaults | (self._ask(lambda: flatten(build.resolve(asked))) or {})
        usual |= {name: defaults[name] for name in asked}
        pairs = ((name, value, usual.get(name)) for name, value in self.config.items())
        # As JSON has them, which knows no tuples.
        return [each for each in pairs if json.dumps(each[1]) != json.dumps(each[2])]

    @property
    def front(self) -> list[dict[str, Any]]:
        """The nets that were fine-tuned, of a finished run with several."""
        return self.result.get("front") or []

    @property
    def tuned(self) -> int:
        """How many nets were fine-tuned by turns, so far; 0 of a run without a front."""
        turns = [line["depths"] for line in self.lines if line.get("candidate") is not None]
        return len(self.front) or len(set(map(tuple, turns)))

    def load_data(self) -> None:
        """Loads the data again, or says in `no_pictures` why that cannot be done."""
        asked = {k: v for k, v in self.config.items() if k.startswith("data.") or k == "seed"}
        if not asked:
            self.no_pictures = "config.json is missing, so nobody knows which they are"
            return
        self.augmentation = AUGMENTATIONS.get(self.config.get("data.augment", ""))
        try:
            settings = build.resolve({"mode": "evaluate", **asked})
            self.dataset = build.load_data(settings, to_train=False)
        except (UserError, OSError) as error:
            self.no_pictures = str(error)


def gather(root: Path, dataset: Dataset | None, augmentation: Augmentation | None) -> Facts:
    """What the folder `root` tells of a run; its data are loaded again where they are not given."""
    facts = Facts(Workdir(root), dataset, augmentation)
    if dataset is None:
        facts.load_data()
    return facts
