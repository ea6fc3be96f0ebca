"""Basic4ResNet on ImageNet with the paper's protocol: K = 2, J = 30.

python -m autogrow_jax.main --config=configs/imagenet_basic4.py --config.data.dir=DATA

DATA/imagenet holds train/CLASS/*.JPEG and val/CLASS/*.JPEG; --config.data.name=tfds:imagenet2012
reads what TFDS has prepared in DATA instead. Images are decoded while the net trains,
by `data.workers` processes: boxes at random, mirrored at random; evaluated at 256 pixels, of which
the centre of 224 is kept. It needs `pip install 'autogrow_jax[stream]'`. The paper's second
interval is --config.growth.interval=5.

The paper found 12-12-11-11: 76.28 % top-1 on the validation images, +0.43 points against that net
trained from scratch. This config has not been run to its end.

What it costs, by count: up to 12-12-11-11, which has 68.5 M parameters and 10.6 G multiply-adds an
image (ResNet-34: 21.8 M and 3.7 G), 86 epochs of growth are 3.8 exaFLOPs and 90 of fine-tuning 7.3.
Where each of 8 H100s sustains 75 TFLOP/s in bfloat16 (about 3,000 images a second of ResNet-50, an
assumption, not measured here) that is 5 hours; float32 takes longer. Epochs after the last growth
in which stages only freeze come on top. The 225 million images that this decodes take 128 cores
that decode 250 a second each 2 hours: the small nets of the first epochs wait for the images.
"""

from ml_collections import ConfigDict

from .paper import imagenet_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return imagenet_config("basic4")
