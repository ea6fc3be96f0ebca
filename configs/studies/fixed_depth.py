r"""Is the depth that growth finds near the best? The found net among fixed depths from scratch.

python -m autogrow_jax.studies --study=configs/studies/fixed_depth.py \
    --workdir=runs/fixed_depth --config.data.dir=DATA

Basic3ResNet and Plain3Net on CIFAR10: 1, 2, 3, 5, 9, 18, 27 and 42 blocks in each stage, each
trained from scratch for the 200 epochs and by the staircase of the paper's baseline, and the net
that periodic growth with K = 3 finds, with its own baseline. The figures have accuracy over blocks
and over FLOPs.

The poster calls the found depth near-optimal. Expect residual nets to gain little from about 9
blocks on (ResNet-56 and deeper), so that the found 42 buys tenths of a point at several times the
FLOPs; plain nets to be best at a few blocks and to fall off from scratch, where the grown net
does not. The published numbers are those of the grown nets.

60 cells (8 depths and the grown net with its baseline, 2 networks, 3 seeds), about 8e17 FLOP if
depths are as in the paper: a day of one GPU at 10 TFLOP/s. `fixed_depth.py:plain3` runs one
network.
"""

from autogrow_jax.studies import Row, Section, Study

from ._parts import config_of, names_of, select
from ._published import MAIN_TABLE

PARTS = ("cifar10_basic3", "cifar10_plain3")
BLOCKS = (1, 2, 3, 5, 9, 18, 27, 42)


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a network, such as "plain3"; "" for both.
    """
    return Study("Fixed depths", [_make_section(part) for part in select(PARTS, wanted)])


def _make_section(part: str) -> Section:
    rows = [
        Row(
            (str(blocks),),
            config_of(part),
            {"mode": "scratch", "model.depths": (blocks,) * 3},
        )
        for blocks in BLOCKS
    ]
    found = Row(("found",), config_of(part), scratch={}, published=MAIN_TABLE[part], found=True)
    network, dataset = names_of(part)
    note = (
        "Blocks in each stage, trained from scratch; at the end the net that growth found, with"
        " delta against the same net from scratch."
    )
    title = f"Fixed depths, {network} on {dataset}"
    return Section(title, ("blocks a stage",), [*rows, found], note)
