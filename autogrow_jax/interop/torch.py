"""Weights of the authors' PyTorch networks, in and out; PyTorch itself is never imported.

A state dict holds one entry for each block (`layer2.3.conv1.weight`), our variables one leaf for
all later blocks of a stage (`stage1/rest/conv1/kernel`, leading axis depth - 1). Which entries a
network has is read off the shapes of its variables and their names, so a family added with
`register_family` converts too, as long as its blocks name their layers like ours: `conv1`, `bn1`
and so on, `shortcut_conv`, `shortcut_bn`, `switch`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from autogrow_jax.errors import UserError
from autogrow_jax.models import build_network, get_family

# What a part of a variable's path is called in a state dict; other parts are called the same.
_TORCH_NAMES = {
    "stem_conv": "conv1",
    "stem_bn": "bn1",
    "head": "linear",
    "shortcut_conv": "shortcut.0",
    "shortcut_bn": "shortcut.1",
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_NAMED_IN_BLOCK = re.compile(
    r"(conv\d+|shortcut_conv)/(kernel|bias)|(bn\d+|shortcut_bn)/(scale|bias|mean|var)|switch"
)
# PyTorch counts batches in each batch normalisation and never reads the count back as long as
# its momentum is a number, as it is here.
_COUNTER = "num_batches_tracked"
_SWITCH = "switch"
_LISTED = 20

_TO_OIHW, _TO_HWIO = (3, 2, 0, 1), (2, 3, 1, 0)


def variables_from_state_dict(
    family: str, depths: Sequence[int], state_dict: Mapping[str, Any]
) -> dict[str, Any]:
    """Turns the state dict of one of the authors' networks into variables of ours.

    The number of classes, the image's channels and the stem (7x7: "imagenet") are read off the
    entries' shapes. A `module.` in front of the names (`DataParallel`) is dropped and
    `num_batches_tracked` ignored. In families whose blocks have a `switch`, a block's one further
    entry of one element is taken as the switch, whatever its name.

    Args:
      family: a name of `autogrow_jax.models.FAMILIES`, such as "basic3".
      depths: blocks in each stage; `depths_from_state_dict` reads them off the names.
      state_dict: name -> anything `numpy.asarray` takes: arrays or tensors in the CPU's memory
        without a gradient, as `torch.load(path, map_location="cpu")` gives them. Convolution
        weights are [out, in, height, width], the linear layer's [classes, features].

    Returns:
      `{"params": ..., "batch_stats": ...}` (no "batch_stats" in families without batch
      normalisation) with the structure of
      `build_network(family, depths, num_classes, image_channels, stem=stem).init(...)`; leaves
      are float32 numpy arrays of their own.

    Raises:
      UserError: where entries are missing, unexpected, of the wrong shape or no arrays of
        numbers, listing all of them; where a block of the family has variables without a PyTorch
        name; for an unknown family and for depths that do not fit it.

    >>> variables = variables_from_state_dict("plain3", (2, 1, 1), state_dict)  # doctest: +SKIP
    >>> build_network("plain3", (2, 1, 1)).apply(variables, images)  # doctest: +SKIP
    """
    entries = _entries(state_dict)
    leaves = _leaves(family, depths, entries.get("conv1.weight"), entries.get("linear.weight"))
    expected = {name: leaf.entry_shape for leaf in leaves for name in leaf.names}
    _adopt_switches(entries, expected)

    problems = _differences({name: entry.shape for name, entry in entries.items()}, expected)
    if problems:
        found = _found_depths(entries)
        if found and found != tuple(depths):
            problems.append(f"the depths in its names are {found}")
        raise UserError(
            f"the state dict does not fit {family!r} with depths {tuple(depths)}:\n  "
            + "\n  ".join(problems)
            + "\nGive the family and the depths of the network it was saved from"
            " (depths_from_state_dict reads the depths), and all of its entries."
        )
    return traverse_util.unflatten_dict({leaf.path: leaf.gather(entries) for leaf in leaves})


def state_dict_from_variables(
    family: str, depths: Sequence[int], variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Turns variables of one of our networks into a state dict for the authors' networks.

    Hand each array to `torch.from_numpy` and the whole to `load_state_dict`.

    Args:
      family: a name of `autogrow_jax.models.FAMILIES`, such as "basic3".
      depths: blocks in each stage.
      variables: what `network.init` of this family and these depths returns: "params" and, with
        batch normalisation, "batch_stats". Other collections are left out.

    Returns:
      name -> float32 array of its own, named and laid out as `variables_from_state_dict`
      describes. Every batch normalisation has a `num_batches_tracked` of int64 0; a block's
      switch is called `layerI.J.switch` and has shape [1].

    Raises:
      UserError: where variables are missing, unexpected or of the wrong shape, listing all of
        them; where a block of the family has variables without a PyTorch name; for an unknown
        family and for depths that do not fit it.
    """
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise UserError(
            f"variables is a {type(variables).__name__} without 'params'; give the tree that"
            ' network.init returns, {"params": ..., "batch_stats": ...}'
        )
    collections = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    flat = {path: np.asarray(leaf) for path, leaf in _flatten(collections).items()}
    stem, head = (flat.get(("params", name, "kernel")) for name in ("stem_conv", "head"))
    leaves = _leaves(
        family,
        depths,
        stem.transpose(_TO_OIHW) if stem is not None and stem.ndim == 4 else None,
        head.T if head is not None else None,
    )
    problems = _differences(
        {"/".join(path): leaf.shape for path, leaf in flat.items()},
        {"/".join(leaf.path): leaf.shape for leaf in leaves},
    )
    if problems:
        raise UserError(
            f"the variables do not fit {family!r} with depths {tuple(depths)}:\n  "
            + "\n  ".join(problems)
            + "\nGive the family and the depths they were made for; the leading axis of a stage's"
            " 'rest' is its depth - 1."
        )

    state_dict: dict[str, np.ndarray] = {}
    for leaf in leaves:
        state_dict.update(leaf.split(flat[leaf.path]))
        if leaf.path[-1] == "mean":
            for name in leaf.names:
                counter = name.removesuffix("running_mean") + _COUNTER
                state_dict[counter] = np.zeros((), np.int64)
    return state_dict


def depths_from_state_dict(family: str, state_dict: Mapping[str, Any]) -> tuple[int, ...]:
    """Counts the blocks of each stage in the names of a state dict.

    Args:
      family: a name of `autogrow_jax.models.FAMILIES`; says how many stages there must be.
      state_dict: name -> anything; only the names are read.

    Returns:
      One number of blocks for each stage.

    Raises:
      UserError: for an unknown family, and where the names are not those of blocks 0, 1, 2, ...
        of each of the family's stages.

    >>> depths_from_state_dict("plain3", {f"layer{i}.0.conv1.weight": 0 for i in (1, 2, 3)})
    (1, 1, 1)
    """
    stages = len(get_family(family).widths)
    depths = _found_depths([name.removeprefix("module.") for name in state_dict])
    if depths is None or len(depths) != stages:
        raise UserError(
            f"the names of the state dict hold {'no' if not depths else len(depths)} whole stages"
            f" (layer1.0, layer1.1, ..., layer2.0, ...); {family!r} has {stages}. Give the state"
            " dict of the whole network, and its family"
        )
    return depths


class _Leaf(NamedTuple):
    """One leaf of our variables and the entries of the state dict it is made of.

    Attributes:
      path: where it stands, ("params", "stage0", "rest", "conv1", "kernel").
      shape: of the whole leaf.
      names: of its entries; one for each slot of the leading axis where it is stacked.
      stacked: whether the leading axis counts blocks.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: bool

    @property
    def entry_shape(self) -> tuple[int, ...]:
        shape = self.shape[1:] if self.stacked else self.shape
        return tuple(shape[axis] for axis in self._axes(_TO_OIHW))

    def gather(self, entries: Mapping[str, np.ndarray]) -> np.ndarray:
        slices = [entries[name].transpose(self._axes(_TO_HWIO)) for name in self.names]
        # Filling an empty array works for a stage without later blocks, too, and copies.
        leaf = np.empty((len(slices), *self.shape[int(self.stacked) :]), np.float32)
        for slot, value in enumerate(slices):
            leaf[slot] = value
        return leaf if self.stacked else leaf[0]

    def split(self, leaf: np.ndarray) -> dict[str, np.ndarray]:
        slices = leaf if self.stacked else leaf[None]
        return {
            # A copy: torch.from_numpy warns of read-only memory, which JAX's arrays have.
            name: np.array(value.transpose(self._axes(_TO_OIHW)), np.float32, order="C")
            for name, value in zip(self.names, slices, strict=True)
        }

    def _axes(self, of_convolution: tuple[int, ...]) -> tuple[int, ...]:
        rank = len(self.shape) - int(self.stacked)
        if self.path[-1] != "kernel":
            return tuple(range(rank))
        return of_convolution if rank == 4 else (1, 0)


def _leaves(family, depths, stem_weight, head_weight) -> list[_Leaf]:
    """The leaves of a network whose stem and head have weights of the given, PyTorch's shapes."""
    # Where one is missing or bent the network is built for the default and the difference listed.
    stem = stem_weight.shape if stem_weight is not None and stem_weight.ndim == 4 else (0, 3, 3, 3)
    classes = head_weight.shape[0] if head_weight is not None and head_weight.ndim == 2 else 10
    network = build_network(
        family, depths, classes, stem[1], stem="imagenet" if stem[2:] == (7, 7) else "small"
    )
    # 224 pixels leave room for the stages of any family; nothing is computed.
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, 224, 224, stem[1])))
    )
    leaves, nameless = [], []
    for path, leaf in _flatten(shapes).items():
        stacked = path[2:3] == ("rest",)
        names = _entry_names(path, leaf.shape[0] if stacked else 1)
        kernel_rank = len(leaf.shape) - int(stacked)
        if names is None or (path[-1] == "kernel" and kernel_rank not in (2, 4)):
            nameless.append("/".join(path))
        else:
            leaves.append(_Leaf(path, leaf.shape, names, stacked))
    if nameless:
        raise UserError(
            f"variables of {family!r} have no name in a PyTorch state dict: {_listing(nameless)}."
            " In a block, convolutions called conv1, conv2, ... and shortcut_conv, batch"
            " normalisations called bn1, bn2, ... and shortcut_bn, and a parameter called switch"
            " have one; name the block's layers so, or convert them by hand"
        )
    return leaves


def _flatten(tree: Any) -> dict[tuple[str, ...], Any]:
    return traverse_util.flatten_dict(tree)


def _entry_names(path: tuple[str, ...], num_entries: int) -> tuple[str, ...] | None:
    """The entries a leaf is made of; None where the rule has no name for it."""
    _, place, *inner = path
    if not place.startswith("stage"):
        return (f"{_TORCH_NAMES[place]}.{_TORCH_NAMES.get(inner[0], inner[0])}",)
    position, *inner = inner
    if not _NAMED_IN_BLOCK.fullmatch("/".join(inner)):
        return None
    stage = int(place.removeprefix("stage")) + 1
    start = 0 if position == "first" else 1
    name = ".".join(_TORCH_NAMES.get(part, part) for part in inner)
    return tuple(f"layer{stage}.{start + block}.{name}" for block in range(num_entries))


def _entries(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The entries as arrays, without prefix and without the batch counters."""
    whole = [name for name, value in state_dict.items() if isinstance(value, Mapping)]
    if whole:
        raise UserError(
            f"this is a whole checkpoint, not a state dict: {_listing(map(repr, whole))} hold"
            " dicts themselves. Give the one with the network's weights"
        )
    entries: dict[str, np.ndarray] = {}
    bad = []
    for given, value in state_dict.items():
        name = given.removeprefix("module.")
        if name.rpartition(".")[2] == _COUNTER:
            continue
        try:
            # The cast copies nothing where the entry is float32, and refuses what is no number.
            entries[name] = np.asarray(value).astype(np.float32, casting="same_kind", copy=False)
        except (TypeError, ValueError, RuntimeError) as error:
            bad.append(f"{name} ({error})")
    if bad:
        raise UserError(
            f"entries of the state dict are no arrays of real numbers: {_listing(bad)}. Tensors"
            " must be in the CPU's memory, free of gradients and of a dtype numpy has:"
            " tensor.detach().cpu().float()"
        )
    return entries


def _adopt_switches(entries: dict[str, np.ndarray], expected: Mapping[str, tuple]) -> None:
    """Brings each block's switch under our name for it and into our shape, in place."""
    for name, shape in expected.items():
        block, _, last = name.rpartition(".")
        if last != _SWITCH or math.prod(shape) != 1:
            continue
        if name not in entries:
            # The authors' name for it is not known to us.
            others = [n for n in entries if n.startswith(f"{block}.") and n not in expected]
            single = [n for n in others if entries[n].size == 1]
            if len(single) != 1:
                continue
            entries[name] = entries.pop(single[0])
        if entries[name].size == 1:
            entries[name] = entries[name].reshape(shape)


def _found_depths(names: Sequence[str] | Mapping[str, Any]) -> tuple[int, ...] | None:
    """Blocks of each stage in the names; None where stages or blocks are left out."""
    blocks: dict[int, set[int]] = {}
    for name in names:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    depths = tuple(len(blocks[stage]) for stage in sorted(blocks))
    whole = sorted(blocks) == list(range(1, len(depths) + 1)) and all(
        max(found) == len(found) - 1 for found in blocks.values()
    )
    return depths if whole else None


def _differences(found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> list[str]:
    """One line each for what is missing, unexpected and of another shape."""
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    kinds = (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
    return [f"{kind}: {_listing(names)}" for kind, names in kinds if names]


def _listing(names) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
