"""What the study files share: a set and a network of the paper, named as their config file is.

A part, such as "cifar10_basic3", is the config `configs/cifar10_basic3.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from autogrow_jax.errors import UserError, nearest

from ._published import DATASETS, NETWORKS

# The paper's c-AutoGrow as the authors' code has it: a look every 100 epochs, and its own tail.
CONVERGENT: Mapping[str, Any] = {
    "growth.policy": "convergent",
    "growth.interval": 100,
    "finetune.epochs": 100,
    "finetune.schedule": "convergent",
}


def config_of(part: str) -> str:
    """The config file of a part."""
    return f"configs/{part}.py"


def names_of(part: str) -> tuple[str, str]:
    """Network and set of a part, as the paper writes them."""
    dataset, _, family = part.rpartition("_")
    return NETWORKS[family], DATASETS[dataset]


def select(parts: Iterable[str], wanted: str) -> list[str]:
    """Those of `parts` that the argument of a study file asks for.

    Args:
      parts: what the study has.
      wanted: a part, a set ("cifar10") or a network ("basic3"); "" for all.

    Raises:
      UserError: where that leaves none.
    """
    parts = list(parts)
    chosen = [
        part for part in parts if wanted in ("", part) or wanted in part.rsplit("_", maxsplit=1)
    ]
    if not chosen:
        raise UserError(
            f"this study has no part {wanted!r}{nearest(wanted, parts)}; give one of them, a set"
            " or a network, or none for the whole study"
        )
    return chosen
