"""A run that goes on from the net that another run has found: `init_from`."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from autogrow_jax import build, hosts
from autogrow_jax.data import Dataset, list_names
from autogrow_jax.errors import UserError
from autogrow_jax.process import user_path
from autogrow_jax.reporting import Workdir, read_result
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.workdir import read_config
from autogrow_jax.settings import Settings
from autogrow_jax.training.evaluation import keep_known, read_known, read_normalization
from autogrow_jax.training.loading import Loaded, load

Tree = Any


class Inherited(NamedTuple):
    """The net that a run goes on from.

    Attributes:
      loaded: the net.
      places: of each class of the run the net's output for it, -1 where it knows none of that name.
      told: what result.json says of it.
    """

    loaded: Loaded
    places: tuple[int, ...]
    told: dict[str, Any]

    def describe(self, class_names: tuple[str, ...]) -> str:
        """Says in a line what the run starts from."""
        kept = self.told["classes_kept"]
        classes = f"{list_names(kept)} keep their outputs, the others start anew"
        if len(kept) in (0, len(class_names)):
            classes = "all classes keep their outputs" if kept else "no class is one of its classes"
        depths, found_on = format_depths(self.loaded.depths), self.told["dataset"]
        return f"starts from {depths}, found on {found_on} in {self.told['workdir']}; {classes}"

    def put_into(self, fresh: Tree) -> Tree:
        """Replaces the fresh variables of the same net, but outputs of classes that are new.

        UserError lists the leaves that differ in shape.
        """
        old = jax.tree.map(np.asarray, self.loaded.variables)
        params, head = fresh["params"], old["params"]["head"]
        known = np.array(self.places) >= 0

        def put(new: Any, before: np.ndarray) -> np.ndarray:
            made = np.array(new)
            made[..., known] = before[..., np.array(self.places)[known]]
            return made

        merged = old | {"params": old["params"] | {"head": jax.tree.map(put, params["head"], head)}}
        shapes = [
            {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
            for leaves in map(jax.tree_util.tree_leaves_with_path, (merged, fresh))
        ]
        if shapes[0] != shapes[1]:
            names = sorted(n for n in shapes[0] | shapes[1] if shapes[0].get(n) != shapes[1].get(n))
            lines = (f"  {n}: {shapes[0].get(n)} there, {shapes[1].get(n)} here" for n in names)
            raise UserError(
                f"config.init_from is {self.told['workdir']}, whose net is made otherwise than this"
                " one; was the family registered otherwise?\n" + "\n".join(lines)
            )
        return merged


def settle_inherited(settings: Settings, workdir: Workdir) -> Settings:
    """The settings with the whole path and the depths of the net that `init_from` names, if any.

    A run that was begun knows them itself.

    Raises:
      UserError: there is no finished run, its net is of another family or stem, or its depths are
        none that this run can start with.
    """
    if not settings.init_from:
        return settings
    path = user_path(settings.init_from).absolute()
    where = f"config.init_from is {path}"
    begun = read_config(workdir) if workdir.is_begun else {}
    if begun.get("init_from") == str(path):
        model = dataclasses.replace(settings.model, depths=tuple(begun["model"]["depths"]))
        return dataclasses.replace(settings, init_from=str(path), model=model)
    if begun:  # Of another run: who opens the workdir says so.
        return dataclasses.replace(settings, init_from=str(path))
    there, its = Workdir(path), read_config(Workdir(path)).get("model", {})
    if not there.result.exists():
        raise UserError(
            f"{where}, a run that has not finished; start it again with its own command and let it"
            " end, as a net that still changes is no start"
        )
    for name in ("family", "stem"):
        if (found := its.get(name)) != (wanted := getattr(settings.model, name)):
            raise UserError(
                f"{where}, whose net has the {name} {found!r}, but config.model.{name} is"
                f" {wanted!r}; give --config.model.{name}={found}, or start from another run"
            )
    depths, given = tuple(read_result(there.result)["depths"]), settings.model.depths
    if set(given) != {1} and given != depths:
        raise UserError(
            f"config.model.depths is {given}, but {where}, whose net of {depths} is the start;"
            " leave config.model.depths out"
        )
    model = dataclasses.replace(settings.model, depths=depths)
    try:
        return build.resolve(dataclasses.replace(settings, init_from=str(path), model=model))
    except UserError as error:
        raise UserError(f"{where}, whose net of {depths} is the start: {error}") from None


def load_data(
    settings: Settings, workdir: Workdir, is_new: bool
) -> tuple[Dataset, Inherited | None]:
    """Loads a run's data, and of one that `is_new`, without a checkpoint, the net to start from.

    A net goes on to see pixels as it did, normalised by the mean and standard deviation of the
    images that it was first trained on.

    Raises:
      UserError: the data cannot be used, changed since the run began, or have other channels than
        the net to start from takes.
    """
    dataset = hosts.in_turn(partial(build.load_data, settings))
    inherited, known = None, None
    if settings.init_from and is_new:
        loaded = load(settings.init_from)
        inherited, known = _inherit(loaded, settings, dataset), loaded.known
        notes = *dataset.notes, inherited.describe(dataset.class_names)
        dataset = dataclasses.replace(dataset, notes=notes)
    elif settings.init_from:
        known = read_known(workdir) or read_normalization(settings.init_from)
    dataset = dataset.normalized_as(known)
    origin = Workdir(user_path(settings.init_from)) if settings.init_from else None
    return keep_known(workdir, dataset, settings.data.allow_changes, origin), inherited


def _inherit(loaded: Loaded, settings: Settings, dataset: Dataset) -> Inherited:
    known, where = loaded.known, f"config.init_from is {settings.init_from}"
    channels, wanted = known.image_shape[-1], dataset.image_shape[-1]
    if channels != wanted:
        raise UserError(
            f"{where}, whose net takes images of {channels} channel{'s'[: channels - 1]}, but those"
            f" of {dataset.name} have {wanted}; bring images of {channels}, or start anew"
        )
    if loaded.depths != settings.model.depths:
        raise UserError(
            f"{where}, whose net is {format_depths(loaded.depths)} now, but this run was begun with"
            f" {format_depths(settings.model.depths)} and has no checkpoint; choose another"
            " --workdir"
        )
    places = {name: place for place, name in enumerate(known.class_names)}
    told = {
        "workdir": settings.init_from,
        "dataset": known.name,
        "depths": list(loaded.depths),  # As JSON has them, which a resumed run reads.
        "epochs": loaded.epoch,
        "classes_kept": [name for name in dataset.class_names if name in places],
    }
    return Inherited(loaded, tuple(places.get(name, -1) for name in dataset.class_names), told)
