"""Plain3Net on CIFAR100 with the paper's protocol.

python -m autogrow_jax.main --config=configs/cifar100_plain3.py --config.data.dir=DATA

The paper found 28-28-27: 66.34 % on the test set, +31.53 points against that net trained
from scratch. One seed, so expect other depths. The protocol is in `paper.py`.
"""

from ml_collections import ConfigDict

from .paper import paper_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return paper_config("plain3", "cifar100")
