"""Plain3Net on SVHN with the paper's protocol.

python -m autogrow_jax.main --config=configs/svhn_plain3.py --config.data.dir=DATA

The paper found 36-35-35: 96.79 % on the test set, +77.20 points against that net trained
from scratch. One seed, so expect other depths. The protocol is in `paper.py`.
"""

from ml_collections import ConfigDict

from .paper import paper_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return paper_config("plain3", "svhn")
