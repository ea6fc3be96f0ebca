"""The paper's numbers, to be printed beside ours.

Each is of one seed, with K = 3 and the Gaussian initialiser unless the table says otherwise; the
accuracy is the best one on the test set, which steered growth too. The main table and that of
dataset sizes are from the authors' poster; all others from the paper's tables as a third party
transcribed them, and were not compared with the paper itself.

Rows go by the name of their config file, such as "cifar10_basic3".

Reference: Wen, Yan, Chen, Li, "AutoGrow: Automatic Layer Growing in Deep Convolutional Networks",
KDD 2020, arXiv 1906.02909.
"""

from collections.abc import Mapping

from autogrow_jax.studies import Published

# What the paper calls the networks and the sets that configs know as "basic3" and "cifar10".
NETWORKS: Mapping[str, str] = {
    "basic3": "Basic3ResNet",
    "plain3": "Plain3Net",
    "basic4": "Basic4ResNet",
    "plain4": "Plain4Net",
}
DATASETS: Mapping[str, str] = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
}


def _found(depths: str, accuracy: float, delta: float | None = None) -> Published:
    return Published(accuracy, tuple(int(depth) for depth in depths.split("-")), delta)


# The poster's main table.
MAIN_TABLE: Mapping[str, Published] = {
    "cifar10_basic3": _found("42-42-42", 94.27, -0.03),
    "cifar100_basic3": _found("54-53-53", 74.72, -0.95),
    "svhn_basic3": _found("34-34-34", 97.22, +0.04),
    "fashion_mnist_basic3": _found("30-29-29", 94.57, -0.06),
    "mnist_basic3": _found("33-33-33", 99.64, -0.03),
    "cifar10_plain3": _found("23-22-22", 90.82, +6.49),
    "cifar100_plain3": _found("28-28-27", 66.34, +31.53),
    "svhn_plain3": _found("36-35-35", 96.79, +77.20),
    "fashion_mnist_plain3": _found("17-17-17", 94.49, +0.56),
    "mnist_plain3": _found("20-20-20", 99.66, +0.12),
    "cifar10_basic4": _found("22-22-22-22", 95.49, -0.10),
    "cifar100_basic4": _found("17-51-16-16", 79.47, +1.22),
    "svhn_basic4": _found("20-20-19-19", 97.32, -0.08),
    "fashion_mnist_basic4": _found("27-27-27-26", 94.62, -0.17),
    "mnist_basic4": _found("11-10-10-10", 99.66, +0.01),
    "cifar10_plain4": _found("17-17-17-17", 94.20, +5.72),
    "cifar100_plain4": _found("16-15-15-15", 73.91, +29.34),
    "svhn_plain4": _found("12-12-12-11", 97.08, +0.32),
    "fashion_mnist_plain4": _found("13-13-13-13", 94.47, +0.72),
    "mnist_plain4": _found("13-12-12-12", 99.57, +0.03),
}

# "Table 9" on the poster, by the percentage of the training set; K is scaled by 1/r, J is not.
DATASET_SIZE: Mapping[str, Mapping[int, Published]] = {
    "cifar10_basic3": {
        100: _found("42-42-42", 94.27),
        75: _found("32-31-31", 93.54),
        50: _found("17-17-17", 91.34),
        25: _found("21-12-7", 88.18),
    },
    "cifar100_basic4": {
        100: _found("17-51-16-16", 79.47),
        75: _found("17-17-16-16", 77.26),
        50: _found("12-12-12-11", 72.91),
        25: _found("6-6-6-6", 62.53),
    },
    "mnist_plain3": {
        100: _found("20-20-20", 99.66),
        75: _found("12-12-12", 99.54),
        50: _found("12-11-11", 99.46),
        25: _found("10-9-9", 99.33),
    },
    "svhn_plain4": {
        100: _found("12-12-12-11", 97.08),
        75: _found("9-9-9-9", 96.71),
        50: _found("8-8-8-8", 96.37),
        25: _found("5-5-5-5", 95.68),
    },
}

# Periodic growth by its interval K; transcribed.
GROWTH_INTERVAL: Mapping[str, Mapping[int, Published]] = {
    "cifar10_basic3": {
        50: _found("6-5-3", 92.95),
        20: _found("7-7-7", 93.26),
        10: _found("19-19-19", 93.46),
        5: _found("23-22-22", 93.98),
        3: _found("42-42-42", 94.27),
        1: _found("77-76-76", 94.30),
    },
    "cifar100_basic3": {
        50: _found("8-5-7", 72.07),
        20: _found("8-11-10", 72.93),
        10: _found("18-18-18", 73.64),
        5: _found("23-23-23", 73.70),
        3: _found("54-53-53", 74.72),
        1: _found("68-68-68", 74.51),
    },
}

# By policy and initialiser; "morphism" is the paper's "zero". Transcribed.
INITIALIZERS: Mapping[str, Mapping[tuple[str, str], Published]] = {
    "cifar10_basic3": {
        ("periodic", "morphism"): _found("31-30-30", 93.57),
        ("periodic", "adam"): _found("37-37-36", 93.79),
        ("periodic", "uniform"): _found("28-28-28", 93.82),
        ("periodic", "gaussian"): _found("42-42-42", 94.27),
        ("convergent", "morphism"): _found("2-2-4", 92.23),
        ("convergent", "adam"): _found("3-4-4", 92.60),
        ("convergent", "uniform"): _found("3-4-4", 92.93),
        ("convergent", "gaussian"): _found("2-4-3", 93.12),
    },
    "cifar100_basic3": {
        ("periodic", "morphism"): _found("26-25-25", 73.45),
        ("periodic", "adam"): _found("27-27-27", 73.92),
        ("periodic", "uniform"): _found("41-41-41", 74.31),
        ("periodic", "gaussian"): _found("54-53-53", 74.72),
        ("convergent", "morphism"): _found("3-2-4", 70.22),
        ("convergent", "adam"): _found("3-3-3", 70.00),
        ("convergent", "uniform"): _found("4-4-3", 70.39),
        ("convergent", "gaussian"): _found("3-4-3", 70.66),
    },
}

# By the blocks in each stage of the seed network; those of 1 are the main table's. Transcribed.
SEED_DEPTH: Mapping[str, Mapping[int, Published]] = {
    "cifar10_basic3": {1: _found("42-42-42", 94.27), 5: _found("46-46-46", 94.16)},
    "cifar10_basic4": {1: _found("22-22-22-22", 95.49), 5: _found("23-22-22-22", 95.62)},
}
