r"""How fast to grow: K of 1, 3, 5, 10, 20, 50 epochs, and growth only after convergence.

python -m autogrow_jax.studies --study=configs/studies/growth_interval.py \
    --workdir=runs/growth_interval --config.data.dir=DATA

Basic3ResNet with Gaussian start on CIFAR10 and CIFAR100. The paper: the shorter K, the deeper the
net and the better, with little to gain below 3; growing after convergence (2-4-3 and 3-4-3) is
worst. Part of the depth is the floor: J = 100 epochs are at least 100/K blocks. A later paper
(FRAGrow, AAAI 2024, three seeds) finds convergent growth not clearly worse.

Convergent growth looks every 100 epochs, as in the authors' code (the paper is said to have 200),
and has the code's own tail of 100 epochs.

42 cells (7 rows on 2 sets, 3 seeds), about 1.7e18 FLOP if depths are as in the paper: two days of
one GPU at 10 TFLOP/s, though small nets do not fill one. `growth_interval.py:cifar10` runs one set.
"""

from autogrow_jax.studies import Row, Section, Study

from ._parts import CONVERGENT, config_of, names_of, select
from ._published import GROWTH_INTERVAL, INITIALIZERS

INTERVALS = (1, 3, 5, 10, 20, 50)


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a set, such as "cifar10"; "" for both.
    """
    return Study(
        "Growth interval", [_make_section(part) for part in select(GROWTH_INTERVAL, wanted)]
    )


def _make_section(part: str) -> Section:
    published = GROWTH_INTERVAL[part]
    rows = [
        Row((str(k),), config_of(part), {"growth.interval": k}, published=published[k])
        for k in INTERVALS
    ]
    last = INITIALIZERS[part]["convergent", "gaussian"]
    rows.append(Row(("convergent",), config_of(part), CONVERGENT, published=last))
    network, dataset = names_of(part)
    note = (
        f"Epochs K between two growths. {network}, Gaussian start. In the paper short intervals"
        " find deeper and better nets; deeper is in part J = 100, which forces blocks upon a"
        " short K."
    )
    return Section(f"Growth interval, {dataset}", ("K",), rows, note, x="K")
