r"""The poster's main table: four networks on five sets, against the found nets from scratch.

python -m autogrow_jax.studies --study=configs/studies/main_table.py \
    --workdir=runs/main_table --config.data.dir=DATA

Each net is grown with the paper's protocol (periodic, K = 3, J = 100, Gaussian start, steered by
the test set), then trained again from scratch at the depth that was found, by the same 200-epoch
schedule. `main_table.py:mnist`, `:plain3` and `:mnist_plain3` run a part of it.

The paper: residual nets come out as good as from scratch (within a point), plain nets far better,
because deep ones hardly train from scratch. Expect accuracies near the paper's and other depths:
it has one seed, and ours are other random numbers.

120 cells (20 rows, a net that is grown and its baseline, 3 seeds). If the nets are as deep as the
paper's, about 2.5e19 FLOP in all: a month of one GPU at 10 TFLOP/s. A cell of the narrow nets
takes an hour or a few, of the wide ones most of a day.
"""

from autogrow_jax.studies import Row, Section, Study

from ._parts import config_of, names_of, select
from ._published import MAIN_TABLE


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a set, a network or both, such as "mnist_plain3"; "" for all.
    """
    rows = [
        Row(names_of(part), config_of(part), scratch={}, published=MAIN_TABLE[part])
        for part in select(MAIN_TABLE, wanted)
    ]
    note = (
        "Delta is accuracy less that of the found net trained from scratch, seed by seed. In the"
        " paper it is near zero for residual nets and up to 77 points for plain ones."
    )
    return Study("Main table", [Section("Main table", ("net", "set"), rows, note)])
