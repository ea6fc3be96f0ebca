"""Weights of the authors' PyTorch networks, in and out; PyTorch itself is never imported.

A state dict holds one entry for each block (`layer2.3.conv1.weight`), our variables one leaf for
all later blocks of a stage (`stage1/rest/conv1/kernel`, leading axis depth - 1). A family added
with `register_family` converts too, as long as its blocks name their layers like ours: `conv1`,
`bn1` and so on, `shortcut_conv`, `shortcut_bn`, `switch`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from autogrow_jax.errors import UserError
from autogrow_jax.models import build_network, get_family

# What a part of a variable's path is called in a state dict; other parts are called the same.
_TORCH_NAMES = {"stem_conv": "conv1", "stem_bn": "bn1", "head": "linear"}
_TORCH_NAMES |= {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1"}
_TORCH_NAMES |= {"kernel": "weight", "scale": "weight"}
_TORCH_NAMES |= {"mean": "running_mean", "var": "running_var"}
_NAMED_IN_BLOCK = re.compile(
    r"(conv\d+|shortcut_conv)/(kernel|bias)|(bn\d+|shortcut_bn)/(scale|bias|mean|var)|switch"
)
# PyTorch counts batches and never reads the count back where momentum is a number, as it is here.
_COUNTER = "num_batches_tracked"
_Shape = tuple[int, ...]
_Shapes = Mapping[str, _Shape]


def variables_from_state_dict(
    family: str, depths: Sequence[int], state_dict: Mapping[str, Any]
) -> dict[str, Any]:
    """Turns the state dict of one of the authors' networks into variables of ours.

    The number of classes, the image's channels and the stem (7x7: "imagenet") are read off the
    entries' shapes; `module.` (of `DataParallel`) and `num_batches_tracked` are dropped. Where
    blocks have a `switch`, a block's one further entry of one element is it, whatever its name.

    Args:
      family: a name of `autogrow_jax.models.FAMILIES`, such as "basic3".
      depths: blocks in each stage; `depths_from_state_dict` reads them off the names.
      state_dict: name -> anything `numpy.asarray` takes: arrays or tensors in the CPU's memory
        without a gradient, as `torch.load(path, map_location="cpu")` gives them. Convolution
        weights are [out, in, height, width], the linear layer's [classes, features].

    Returns:
      What `build_network(family, depths, num_classes, image_channels, stem=stem).init(...)` does,
      `{"params": ..., "batch_stats": ...}`, the latter with batch normalisation only; leaves are
      float32 numpy arrays of their own.

    Raises:
      UserError: where entries are missing, unexpected, of the wrong shape or no arrays of
        numbers, listing all of them; where a block of the family has variables without a PyTorch
        name; for an unknown family and for depths that do not fit it.

    >>> variables = variables_from_state_dict("plain3", (2, 1, 1), state_dict)  # doctest: +SKIP
    >>> build_network("plain3", (2, 1, 1)).apply(variables, images)  # doctest: +SKIP
    """
    entries = _entries(state_dict)
    weights = (entries.get(f"{name}.weight") for name in ("conv1", "linear"))
    stem, head = (getattr(weight, "shape", ()) for weight in weights)
    leaves = _leaves(family, depths, stem, head)
    # Filling empty arrays copies, and works for a stage without later blocks, too.
    variables = {leaf.path: np.empty(leaf.shape, np.float32) for leaf in leaves}
    slots = {n: s for leaf in leaves for n, s in leaf.slots(variables[leaf.path]).items()}
    expected = {name: slot.shape for name, slot in slots.items()}
    _adopt_switches(entries, expected)
    found = _found_depths(entries) or tuple(depths)
    note = f"\n  the depths in its names are {found}" if found != tuple(depths) else ""
    _check_fit(
        f"the state dict does not fit {family!r} with depths {tuple(depths)}",
        {name: entry.shape for name, entry in entries.items()},
        expected,
        f"{note}\nGive the family and the depths of the network it was saved from"
        " (depths_from_state_dict reads the depths), and all of its entries.",
    )
    for name, slot in slots.items():
        slot[...] = entries[name]
    return traverse_util.unflatten_dict(variables)


def state_dict_from_variables(
    family: str, depths: Sequence[int], variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Does the reverse of `variables_from_state_dict`, with the same errors.

    The variables are what `network.init` of this family and these depths returns: "params" and,
    with batch normalisation, "batch_stats". Other collections are left out.

    Returns:
      name -> float32 array of its own, for `torch.from_numpy` and `load_state_dict`. Every batch
      normalisation has a `num_batches_tracked` of int64 0; a block's switch is called
      `layerI.J.switch` and has shape [1].
    """
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise UserError(
            f"variables is a {type(variables).__name__} without 'params'; give the tree that"
            ' network.init returns, {"params": ..., "batch_stats": ...}'
        )
    collections = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    flat = {k: np.asarray(leaf) for k, leaf in traverse_util.flatten_dict(collections).items()}
    kernels = (flat.get(("params", name, "kernel")) for name in ("stem_conv", "head"))
    # Reversed, a kernel's shape is PyTorch's, up to height and width.
    stem, head = (getattr(kernel, "shape", ())[::-1] for kernel in kernels)
    leaves = _leaves(family, depths, stem, head)
    _check_fit(
        f"the variables do not fit {family!r} with depths {tuple(depths)}",
        {"/".join(path): leaf.shape for path, leaf in flat.items()},
        {"/".join(leaf.path): leaf.shape for leaf in leaves},
        "\nGive the family and the depths they were made for; the leading axis of a stage's 'rest'"
        " is its depth - 1.",
    )
    state_dict: dict[str, np.ndarray] = {}
    for leaf in leaves:
        for name, slot in leaf.slots(flat[leaf.path]).items():
            # A copy: torch.from_numpy warns of read-only memory, which JAX's arrays have.
            state_dict[name] = np.array(slot, np.float32, order="C")
            if leaf.path[-1] == "mean":
                state_dict[name.replace("running_mean", _COUNTER)] = np.zeros((), np.int64)
    return state_dict


def depths_from_state_dict(family: str, state_dict: Mapping[str, Any]) -> tuple[int, ...]:
    """Counts the blocks of each stage in the names, all that is read, of a state dict.

    Raises:
      UserError: for an unknown family, or where not each of its stages has blocks 0, 1, 2, ...

    >>> depths_from_state_dict("plain3", {f"layer{i}.0.conv1.weight": 0 for i in (1, 2, 3)})
    (1, 1, 1)
    """
    stages = len(get_family(family).widths)
    depths = _found_depths([name.removeprefix("module.") for name in state_dict])
    if len(depths) != stages:
        raise UserError(
            f"the names of the state dict hold {len(depths) or 'no'} whole stages"
            f" (layer1.0, layer1.1, ..., layer2.0, ...); {family!r} has {stages}. Give the state"
            " dict of the whole network, and its family"
        )
    return depths


class _Leaf(NamedTuple):
    """A leaf of our variables and the entries of the state dict it is made of."""

    path: tuple[str, ...]  # ("params", "stage0", "rest", "conv1", "kernel")
    shape: tuple[int, ...]
    names: tuple[str, ...]  # Of its entries.
    stacked: bool  # Whether the leading axis counts blocks, with an entry for each.
    axes: tuple[int, ...]  # Ours, in the order of an entry's.

    def slots(self, leaf: np.ndarray) -> dict[str, np.ndarray]:
        """Views of the leaf, laid out as its entries."""
        blocks = leaf if self.stacked else leaf[None]
        return {name: blocks[i, ...].transpose(self.axes) for i, name in enumerate(self.names)}


def _leaves(family: str, depths: Sequence[int], stem: _Shape, head: _Shape) -> list[_Leaf]:
    """The leaves of a network whose stem and head have weights of the given, PyTorch's shapes."""
    # Where one is missing or bent the network is built for the default and the difference listed.
    stem = stem if len(stem) == 4 else (0, 3, 3, 3)
    classes = head[0] if len(head) == 2 else 10
    kind = "imagenet" if stem[2:] == (7, 7) else "small"
    network = build_network(family, depths, classes, stem[1], stem=kind)
    # 224 pixels leave room for the stages of any family; nothing is computed.
    images = jax.ShapeDtypeStruct((1, 224, 224, stem[1]), np.float32)
    shapes = traverse_util.flatten_dict(jax.eval_shape(network.init, jax.random.key(0), images))
    leaves, nameless = [], []
    for path, leaf in shapes.items():
        stacked = path[2:3] == ("rest",)
        names = _entry_names(path, leaf.shape[0] if stacked else 1)
        axes = tuple(range(leaf.ndim - stacked))
        if path[-1] == "kernel":
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(axes), ())
        if names is None or (path[-1] == "kernel" and not axes):
            nameless.append("/".join(path))
        else:
            leaves.append(_Leaf(path, leaf.shape, names, stacked, axes))
    if nameless:
        raise UserError(
            f"variables of {family!r} have no name in a PyTorch state dict: {_listing(nameless)}."
            " In a block, convolutions called conv1, conv2, ... and shortcut_conv, batch"
            " normalisations called bn1, bn2, ... and shortcut_bn, and a parameter called switch"
            " have one; name the block's layers so, or convert them by hand"
        )
    return leaves


def _entry_names(path: tuple[str, ...], num_entries: int) -> tuple[str, ...] | None:
    """The entries a leaf is made of; None where the rule has no name for it."""
    _, place, *inner = path
    if not place.startswith("stage"):
        return (f"{_TORCH_NAMES[place]}.{_TORCH_NAMES.get(inner[0], inner[0])}",)
    position, *inner = inner
    if not _NAMED_IN_BLOCK.fullmatch("/".join(inner)):
        return None
    stage, start = int(place.removeprefix("stage")) + 1, 0 if position == "first" else 1
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
    entries, bad = {}, []
    for given, value in state_dict.items():
        name = given.removeprefix("module.")
        if name.rpartition(".")[2] == _COUNTER:
            continue
        try:
            # The cast refuses what is no number.
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
        if last != "switch" or math.prod(shape) != 1:
            continue
        others = [n for n in entries if n.startswith(f"{block}.") and n not in expected]
        # The authors' name for it is not known to us.
        single = [name] if name in entries else [n for n in others if entries[n].size == 1]
        if len(single) == 1 and entries[single[0]].size == 1:
            entries[name] = entries.pop(single[0]).reshape(shape)


def _found_depths(names: Iterable[str]) -> tuple[int, ...]:
    """Blocks of each stage in the names; none where stages or blocks are left out."""
    blocks: dict[int, set[int]] = {}
    for name in names:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    depths = tuple(len(blocks[stage]) for stage in sorted(blocks))
    whole = {stage: set(range(depth)) for stage, depth in enumerate(depths, start=1)}
    return depths if blocks == whole else ()


def _check_fit(what: str, found: _Shapes, expected: _Shapes, advice: str) -> None:
    """UserError that lists all that is missing, unexpected and of another shape."""
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    kinds = (
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        ("wrong shape", [f"{name} {found[name]} instead of {expected[name]}" for name in wrong]),
    )
    problems = "".join(f"\n  {kind}: {_listing(names)}" for kind, names in kinds if names)
    if problems:
        raise UserError(f"{what}:{problems}{advice}")


def _listing(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
