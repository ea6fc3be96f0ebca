"""Plain3Net on scikit-learn's digits: the default run, no download, under a minute on two cores.

python -m autogrow_jax.main

1,797 handwritten digits of 8x8 pixels; validation is held out of train. The paper has no such set:
its smallest is MNIST (`mnist_plain3.py`).
"""

from autogrow_jax.config import default_config


def get_config():
    """See the module's docstring."""
    config = default_config()
    config.model.family = "plain3"
    config.data.name = "digits"
    config.data.batch_size = 64
    # Images this small make spare room cheap; compiling twice would take longer than the growth.
    config.growth.capacity = 8
    config.finetune.epochs = 30
    return config
