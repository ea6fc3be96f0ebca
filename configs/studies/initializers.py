r"""How a new block starts, under both of the paper's policies; and policies beyond the paper.

python -m autogrow_jax.studies --study=configs/studies/initializers.py \
    --workdir=runs/initializers --config.data.dir=DATA

Basic3ResNet on CIFAR10 and CIFAR100. First the initialisers: network morphism, Adam pre-training,
uniform, Gaussian, and none of them (the block's usual random start), under periodic growth with
K = 3 and under convergent growth. The paper: random starts beat network morphism, Gaussian is best,
and periodic growth beats convergent under each, by one to four points.

Then policies at equal budget: every run takes 600 epochs, at least the last 200 of them fine-tuning
by the same staircase, all with Gaussian start. `gap`, `slope`, `efficiency` and `lookahead` are not
the paper's. Lookahead pays for its trials out of the budget. Convergent growth with the authors'
K = 100 adds two blocks at most in that time, so it is there with K = 25 as well.

102 cells (20 rows of initialisers, 14 of policies, 3 seeds), about 4e18 FLOP if depths are as in
the paper: five days of one GPU at 10 TFLOP/s. `initializers.py:cifar10` runs one set.
"""

from autogrow_jax.studies import Row, Section, Study

from ._parts import CONVERGENT, config_of, names_of, select
from ._published import INITIALIZERS

NAMES = ("morphism", "adam", "uniform", "gaussian", "default")
POLICIES = (
    ("periodic", 3),
    ("convergent", 100),
    ("convergent", 25),
    ("slope", 3),
    ("gap", 3),
    ("efficiency", 3),
    ("lookahead", 3),
)
TOTAL_EPOCHS = 600


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a set, such as "cifar10"; "" for both.
    """
    parts = select(INITIALIZERS, wanted)
    sections = [_compare_initializers(part) for part in parts]
    sections += [_compare_policies(part) for part in parts]
    return Study("Initialisers and policies", sections)


def _compare_initializers(part: str) -> Section:
    rows = [
        Row(
            (policy, name),
            config_of(part),
            {**changes, "growth.initializer": name},
            published=INITIALIZERS[part].get((policy, name)),
        )
        for policy, changes in (("periodic", {}), ("convergent", CONVERGENT))
        for name in NAMES
    ]
    network, dataset = names_of(part)
    note = (
        f"{network}. In the paper random starts beat morphism, and periodic growth beats"
        " convergent, under every start; it has no row for the default start."
    )
    columns = ("policy", "initialiser")
    return Section(f"Initialisers, {dataset}", columns, rows, note, x="initialiser")


def _compare_policies(part: str) -> Section:
    rows = [
        Row(
            (policy, str(interval)),
            config_of(part),
            {
                "growth.policy": policy,
                "growth.interval": interval,
                "finetune.total_epochs": TOTAL_EPOCHS,
            },
        )
        for policy, interval in POLICIES
    ]
    network, dataset = names_of(part)
    note = (
        f"{network}, {TOTAL_EPOCHS} epochs each, trials of lookahead included; at least 200 are"
        " fine-tuning. Only periodic and convergent are the paper's, which did not compare at equal"
        " budget."
    )
    return Section(f"Policies at equal budget, {dataset}", ("policy", "K"), rows, note)
