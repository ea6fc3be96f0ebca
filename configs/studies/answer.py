r"""Growth against what a user would do instead, at equal budget: the answer to "how deep?".

python -m autogrow_jax.studies --study=configs/studies/answer.py \
    --workdir=runs/answer --config.data.dir=DATA --workers=2
python -m benchmarks.answer --study=configs/studies/answer.py --workdir=runs/answer \
    --out=results/answer/whole

Plain3Net and Basic3ResNet on a tenth of FashionMNIST (6,000 images) and on 5,000 of CIFAR10, a
tenth of them held out for validation; test is looked at once a run. Every net is trained for 80
epochs by the same staircase, optimiser, batch and augmentation, grown ones once growth, of some 40
epochs at most, is over; so the paper compares them, too:

- `default`: the package's own growth with its front.
- `periodic`, `convergent`: the paper's rules, the last net alone; K = 2 and J = 16, and K = 8, as
  the paper's 3 and 100, and 100, would not fit.
- `1` to `12`: so many blocks in each stage from scratch. From the files of these cells, exactly,
  `benchmarks.answer` adds what users do with them: the sweep, successive halving, and Optuna's TPE
  with Hyperband.

What differs is what growth costs on top, at a constant rate; it counts in the cost of the answer.

108 cells (9 rows, 4 parts, 3 seeds). `answer.py:cifar10` and `answer.py:fashion_mnist_plain3` run a
part; `answer_small.py` is the same on digits, in minutes. With a quarter of CIFAR10 in DATA give
`answer.py:cifar10` the option `--config.data.fraction=0.4`.
"""

from typing import Any

from autogrow_jax.studies import Row, Section, Study

from ._parts import names_of, select

PARTS = (
    "fashion_mnist_plain3",
    "fashion_mnist_basic3",
    "cifar10_plain3",
    "cifar10_basic3",
)
BLOCKS = (1, 2, 3, 5, 8, 12)
# Of all images: 6,000 of 60,000 and 5,000 of 50,000.
_BASE: dict[str, Any] = {
    "data.fraction": 0.1,
    "data.batch_size": 64,
    "data.validation": "held-out",
    "finetune.epochs": 80,
    "finetune.schedule": "staircase",
}


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a set or a network, or both, such as "cifar10_plain3"; "" for all.
    """
    sections = []
    for part in select(PARTS, wanted):
        dataset, _, family = part.rpartition("_")
        network, name = names_of(part)
        base = _BASE | {"model.family": family, "data.name": dataset}
        sections.append(make_section(f"{network} on {name}", base))
    return Study("Growth against a sweep", sections)


def make_section(title: str, base: dict[str, Any], config: str = "") -> Section:
    """The methods on one set, each as a row.

    Args:
      title: of the section.
      base: overrides of all rows, with `finetune.epochs`; growth takes half as many at most.
      config: file that they are laid over; "" for the package's defaults.
    """
    paper: dict[str, Any] = {"finetune.front": False, "growth.initializer": "gaussian"}
    paper |= {"growth.noise": 0.0, "growth.threshold": 0.05, "finetune.perturb": 0.0}
    convergent = {"growth.policy": "convergent", "growth.interval": 8}
    grown: dict[str, dict[str, Any]] = {
        "default": {},
        "periodic": paper | {"growth.interval": 2, "growth.window": 16},
        "convergent": paper | convergent,
    }
    most = {"growth.max_epochs": base["finetune.epochs"] // 2}
    rows = [Row((name,), config, base | most | changes) for name, changes in grown.items()]
    rows += [
        Row((str(n),), config, base | {"mode": "scratch", "model.depths": (n,) * 3}) for n in BLOCKS
    ]
    note = (
        "Numbers are blocks in each stage, trained from scratch. The cost of `default` is that of"
        " growth and of all nets of its front."
    )
    return Section(title, ("method",), rows, note)
