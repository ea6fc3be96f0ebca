"""Plain4Net on SVHN with the paper's protocol.

python -m autogrow_jax.main --config=configs/svhn_plain4.py --config.data.dir=DATA

The paper found 12-12-12-11: 97.08 % on the test set, +0.32 points against that net trained
from scratch. One seed, so expect other depths. The protocol is in `paper.py`.
"""

from ml_collections import ConfigDict

from .paper import paper_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return paper_config("plain4", "svhn")
