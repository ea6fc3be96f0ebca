r"""Growth against a sweep in miniature, on scikit-learn's digits: the methods of `answer.py`.

python -m autogrow_jax.studies --study=configs/studies/answer_small.py \
    --workdir=runs/answer_small --workers=2
python -m benchmarks.answer --study=configs/studies/answer_small.py \
    --workdir=runs/answer_small --out=results/answer/small

Plain3Net on all digits (1,438 to train on, 145 of them held out, 359 to test), 60 epochs a net. It
shows that everything runs, and what growth costs beside a sweep where one block in each stage is
enough. A point of test accuracy is 3.6 images: do not read the order of methods out of it.

27 cells (9 rows, 3 seeds).
"""

from typing import Any

from autogrow_jax.studies import Study

from .answer import make_section

_BASE: dict[str, Any] = {
    "finetune.epochs": 60,
    "finetune.schedule": "staircase",
    "checkpoint.every": 10,
}


def get_study() -> Study:
    """See the module's docstring."""
    section = make_section("Plain3Net on digits", _BASE, "configs/digits_plain3.py")
    return Study("Growth against a sweep, in miniature", [section])
