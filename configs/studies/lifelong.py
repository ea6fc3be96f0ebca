r"""Going on from a net that was found, against starting anew: lifelong learning.

python -m autogrow_jax.studies --study=configs/studies/lifelong.py \
    --workdir=runs/lifelong --config.data.dir=DATA --workers=2

Digits 0 to 4, then all ten (Plain3Net, scikit-learn's 8x8 images, no download); a twentieth of
MNIST, then a twentieth of FashionMNIST (Basic3ResNet at 32x32). The second run of each pair starts
from the net of the first, `init_from`: its depths are the seed, its weights the start, and outputs
stay for classes that both know. Beside it the same run from the family's own start, 1-1-1, for as
many epochs on the second set, and for as many as both runs of the pair took together.

24 cells (8 rows, of which 2 only lead to others, 3 seeds). `lifelong.py:digits` runs one pair.
"""

from typing import Any

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.studies import Row, Section, Study

_GROWTH: dict[str, Any] = {
    "growth.interval": 2,
    "growth.window": 4,
    "growth.max_depths": (8,),
    "finetune.front": False,
    "finetune.perturb": 0.0,
    "checkpoint.every": 5,
}
_DIGITS = _GROWTH | {
    "data.batch_size": 32,
    "growth.threshold": 1.0,
    "finetune.epochs": 4,
}
_FRACTION = _GROWTH | {
    "data.fraction": 0.05,
    "data.batch_size": 128,
    "data.validation": "held-out",
    "data.validation_fraction": 0.2,
    "growth.threshold": 0.5,
    "growth.capacity": 3,
    "growth.max_depths": (3,),
    "finetune.epochs": 3,
}


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: "digits" or "mnist"; "" for both.
    """
    sections = {"digits": _digits(), "mnist": _mnist()}
    if wanted and wanted not in sections:
        raise UserError(f"this study has no part {wanted!r}{nearest(wanted, sections)}")
    chosen = [sections[wanted]] if wanted else list(sections.values())
    return Study("Going on from a net that was found", chosen)


def _digits() -> Section:
    first = _DIGITS | {"data.classes": "0,1,2,3,4"}
    rows = _rows("digits 0 to 4", "configs/digits_plain3.py", first, _DIGITS, (16, 16))
    return Section("All ten digits after 0 to 4", ("start", "epochs on all ten"), rows, _note(16))


def _mnist() -> Section:
    name = "configs/{}_basic3.py".format
    rows = _rows("MNIST", name("fashion_mnist"), _FRACTION, _FRACTION, (8, 8), name("mnist"))
    columns = ("start", "epochs on FashionMNIST")
    return Section("FashionMNIST after MNIST", columns, rows, _note(8))


def _rows(
    before: str,
    config: str,
    first: dict[str, Any],
    second: dict[str, Any],
    epochs: tuple[int, int],
    first_config: str = "",
) -> list[Row]:
    def last(num_epochs: int) -> dict[str, Any]:
        return {"finetune.total_epochs": num_epochs}

    lead, follow = epochs
    start = Row((before, str(lead)), first_config or config, first | last(lead))
    return [
        Row((f"the net of {before}", str(follow)), config, second | last(follow), start=start),
        Row(("anew", str(follow)), config, second | last(follow)),
        Row(("anew", str(lead + follow)), config, second | last(lead + follow)),
    ]


def _note(lead: int) -> str:
    return (
        f"The net to start from took {lead} epochs on its own images before, which are not in"
        " the columns. From these on the way is the same: periodic growth every two epochs, then"
        " fine-tuning."
    )
