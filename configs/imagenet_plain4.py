"""Plain4Net on ImageNet with the paper's protocol: K = 2, J = 30.

python -m autogrow_jax.main --config=configs/imagenet_plain4.py --config.data.dir=DATA

DATA/imagenet holds train/CLASS/*.JPEG and val/CLASS/*.JPEG; --config.data.name=tfds:imagenet2012
reads what TFDS has prepared in DATA instead. Images are decoded while the net trains,
by `data.workers` processes: boxes at random, mirrored at random; evaluated at 256 pixels, of which
the centre of 224 is kept. It needs `pip install 'autogrow_jax[stream]'`. The paper's second
interval is --config.growth.interval=5.

This config has not been run to its end. What it costs, by count, if it finds, say, 6-6-6-6, which
has 17.8 M parameters and 2.7 G multiply-adds an image: 42 epochs of growth are 0.5 exaFLOPs and 90
of fine-tuning 1.9. Where each of 8 H100s sustains 75 TFLOP/s in bfloat16 (about 3,000 images a
second of ResNet-50, an assumption, not measured here) that is 1.1 hours; float32 takes longer.
Epochs after the last growth in which stages only freeze come on top. The 169 million images that
this decodes take 128 cores that decode 250 a second each 1.5 hours: the images are what the run
waits for.
"""

from ml_collections import ConfigDict

from .paper import imagenet_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return imagenet_config("plain4")
