r"""Where growth starts: seed networks of one, three and five blocks in each stage.

python -m autogrow_jax.studies --study=configs/studies/seed_depth.py \
    --workdir=runs/seed_depth --config.data.dir=DATA

Basic3ResNet and Basic4ResNet on CIFAR10, periodic growth with K = 3. The paper starts from one and
from five and finds nets of about the same depth and accuracy: the start does not matter much. Mind
the floor of J = 100, which lies as many blocks higher as the seed has more.

18 cells (6 rows, 3 seeds), about 7e18 FLOP if depths are as in the paper, nearly all of it Basic4:
a week of one GPU at 10 TFLOP/s. `seed_depth.py:basic3` runs one network, in a day.
"""

from autogrow_jax.studies import Row, Section, Study

from ._parts import config_of, names_of, select
from ._published import SEED_DEPTH

BLOCKS = (1, 3, 5)


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a network, such as "basic3"; "" for both.
    """
    rows = [
        Row(
            (names_of(part)[0], "-".join([str(blocks)] * stages)),
            config_of(part),
            {"model.depths": (blocks,) * stages},
            published=published.get(blocks),
        )
        for part in select(SEED_DEPTH, wanted)
        for published, stages in [(SEED_DEPTH[part], len(SEED_DEPTH[part][1].depths))]
        for blocks in BLOCKS
    ]
    note = (
        "On CIFAR10. The paper has no row of three blocks. The depth that J forces upon every run"
        " grows with the seed."
    )
    return Study("Seed depth", [Section("Seed depth", ("net", "seed network"), rows, note)])
