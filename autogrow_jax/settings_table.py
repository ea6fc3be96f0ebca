"""The table of keys: of each its default, what it accepts and what it is, once and for all uses.

A section of a config is a frozen class here, whose fields are typed for those who read them. The
error messages, `--help` and docs/settings.md take their words from the same place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autogrow_jax.data import AUGMENTATIONS
from autogrow_jax.growth import POLICIES
from autogrow_jax.growth.initializers import INITIALIZERS
from autogrow_jax.keys import (
    blocks,
    choice,
    flag,
    is_colour,
    is_validation,
    key,
    number,
    text,
    whole,
)
from autogrow_jax.models import FAMILIES, STEMS
from autogrow_jax.models.layers import BN_SCALE_INITS, CONVOLUTIONS, KERNEL_INITS
from autogrow_jax.optim import OPTIMIZERS, SCHEDULES, Schedule

# What tables of keys end with.
OWN_HELP = (
    "growth.own.POLICY.SETTING: a setting of a policy of one's own, as `register_policy` was told;"
    " of a policy that is not chosen it is passed over"
)


# fmt: off
@dataclass(frozen=True)
class Model:
    """The network."""

    family: str = choice("plain3", FAMILIES,
        "`plain3`, `basic3` (residual), `switch3`, `plain3_nobn`: three stages; `plain4`, `basic4`,"
        " `bottleneck4`, `plain4_nobn`: four")
    depths: tuple[int, ...] = blocks("; none means one block each",
        "blocks in each stage where growth starts; the whole net in mode `scratch`")
    dtype: str = choice("float32", ("float32", "bfloat16"),
        "of the computation; parameters stay float32")
    stem: str = choice("small", STEMS,
        "`small` (3x3) or `imagenet` (7x7 with stride 2, then max-pooling)")
    bn_scale_init: str = choice("ones", BN_SCALE_INITS,
        "where batch normalisation's scale starts: at `ones`, or `uniform` in [0, 1)")
    kernel_init: str = choice("torch", KERNEL_INITS,
        "how kernels start; `torch` is uniform in ±1/√fan_in")
    remat: bool = flag(False,
        "keep less for the gradient and compute it again: less memory, more time")
    convolution: str = choice("auto", ("auto", *CONVOLUTIONS),
        "`native`: on a CPU and in float32 the package's own, faster, built once by a C++ compiler,"
        " XLA's where there is none; `auto`: `native` where JAX has nothing but one CPU device")


@dataclass(frozen=True)
class Data:
    """The images."""

    name: str = text("digits", "digits, mnist5k, mnist, fashion_mnist, cifar10, cifar100, svhn,"
        " tfds:NAME, npz:PATH or folder:PATH", "the set of images")
    dir: str = text("", "the folder of the set's files", "where official files lie", free=True)
    cache_dir: str = text("", "the folder for decoded sets; none means data.dir, or where that is"
        " none ~/.cache/autogrow_jax", "where decoded folders and prepared sets are kept",
        free=True)
    batch_size: int = whole(128, 1, "images", "images in a step, over all devices")
    fraction: float = number(1.0, "above 0 and up to 1",
        "part of the training images that is used, held-out validation images included",
        lambda v: 0 < v <= 1)
    validation: str = key("held-out",
        "'held-out', 'test' (the paper's protocol) or a fraction of train such as '0.2'",
        is_validation,
        "the images that steer growth; a fraction is taken even where the set has validation"
        " images")
    classes: str = text("", "names of at least two classes with commas between; none means all",
        "the classes whose images are used, such as '0,1,2,3,4' of `digits`")
    validation_fraction: float = number(0.1, "between 0 and 1",
        "part of train that `held-out` takes, where the set has no validation images",
        lambda v: 0 < v < 1)
    image_size: int = whole(0, 0, "pixels", "side of the images", "0 means as it is")
    crop_padding: int = whole(-1, -1, "pixels", "zeros around before a random crop",
        "0 means no crop, -1 the set's own")
    augment: str = choice("crop_flip", AUGMENTATIONS,
        "`crop_flip` is what `data.crop_padding` and `data.flip` say; or one that you registered")
    flip: str = choice("auto", ("auto", "yes", "no"),
        "mirror half of the training images; `auto` is the set's own")
    layout: str = choice("auto", ("auto", "classes", "parts"),
        "whether folders among the images that are called like parts, as `train`, are parts or"
        " classes; `auto` asks where both can be meant")
    background: str = key("white", "white, black, or a colour as #rrggbb", is_colour,
        "what shows behind transparent images of a folder")
    allow_changes: bool = flag(False,
        "go on with a run whose images changed since it began", free=True)
    stream: str = choice("auto", ("auto", "yes", "no"),
        "decode the images of a folder or of tfds:NAME anew each epoch, cropped at random"
        " from all of the photograph; `auto` does where decoded they would take more than 16 GiB",
        before="no")
    workers: int = whole(-1, -1, "processes", "processes that decode a stream",
        "0 means threads of this one, -1 one a core but one", free=True)
    on_device: str = choice("auto", ("auto", "yes", "no"),
        "keep all images on the device; `auto` goes by their size")


@dataclass(frozen=True)
class Growth:
    """When, where and how to grow."""

    policy: str = choice("periodic", POLICIES,
        "the paper's `periodic` (a block every interval) or `convergent` (only once accuracy"
        " stalls); `slope`, `gap` and `efficiency` grow as `periodic` does but stop by a fitted"
        " line, by the gap between train and validation, by gain against FLOPs; `lookahead` grows"
        " the stage whose next block does best in an epoch of trial")
    interval: int = whole(6, 1, "epochs",
        "K, epochs between two growths; for `convergent` between two looks, where the authors use"
        " 100")
    window: int = whole(15, 1, "epochs",
        "J, epochs over which the gain is measured; `convergent` takes the interval")
    threshold: float = number(0.05, "of at least 0, in percentage points",
        "gain below which a stage is frozen")
    noise: float = number(1.0, "of at least 0, in standard errors of the validation accuracy",
        "a smaller gain counts as none; 0, the paper's, counts every gain", before=0.0)
    max_gap: float = number(5.0, "of at least 0, in percentage points",
        "`gap`: how far train may be ahead of validation before a stalled stage is frozen")
    price: float = number(0.5, "of at least 0, in percentage points for a doubling of FLOPs",
        "`efficiency`: what a growth has to gain")
    metric: str = choice("max", ("max", "avg"),
        "gain of the highest accuracy so far or of its moving average; `slope` takes neither")
    mode: str = choice("group", ("group", "all", "sub", "rate"),
        "one stage by turns (`group`), `all`, as `growth.sub` says, or at random by `growth.rate`")
    sub: tuple[int, ...] = blocks("; blocks that mode 'sub' adds", "used in that mode only", 0)
    rate: float = number(0.4, "of at least 0",
        "blocks that mode `rate` adds, as a part of those there")
    max_depths: tuple[int, ...] = blocks("; one number serves all, none means 200",
        "the most blocks of each stage")
    max_epochs: int = whole(4000, 1, "epochs", "the longest growth phase, in whole intervals")
    max_params: float = number(0.0, "of parameters, at least 0; 0 is no limit",
        "the most parameters; a stage whose next block would pass it is closed")
    max_flops: float = number(0.0, "of FLOPs for one image, at least 0; 0 is no limit",
        "the same for FLOPs of a forward pass, two for each multiply-add")
    max_seconds: float = number(0.0, "of seconds, at least 0; 0 is no limit",
        "growth ends once the run has taken so many seconds")
    max_latency: float = number(0.0, "of milliseconds for one image, at least 0; 0 is no limit",
        "in evaluation: a slower network grows no more")
    initializer: str = choice(None, INITIALIZERS,
        "how a new block starts; none means the family's own, `morphism` of this package's,"
        " `gaussian` of others that do not say; `zero` is another name of `morphism`")
    programs: str = choice("auto", ("auto", "shared", "exact"),
        "`shared`: one program for all depths up to a capacity; `exact`: one for each depth, whose"
        " loops have known lengths, compiled (`growth.compile_ahead`) while those before train;"
        " `auto`: `exact` on a GPU, `shared` elsewhere")
    capacity: int = whole(4, 0, "blocks in each stage that the first shared program has room for",
        "doubled when they are used up", "0 is `growth.programs=exact`")
    compile_ahead: bool = flag(True,
        "compile in a thread: the first programs beside the start, those of the next capacity"
        " while the present one trains", free=True)
    reset_optimizer: bool = flag(False, "forget the optimiser's state at each growth")
    # Of the policy that is chosen, where users registered it: {its name: its own settings}.
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Optimizer:
    """The steps."""

    name: str = choice("sgd", OPTIMIZERS, "what makes steps of gradients")
    learning_rate: float = number(None, "above 0; none means the family's own",
        "of the growth phase, where it is constant; residual nets' own is 0.1, plain nets' 0.01",
        lambda v: v > 0)
    momentum: float = number(0.9, "from 0 to below 1",
        "of `sgd` and `rmsprop`; b1 of `adam` and `amsgrad`", lambda v: 0 <= v < 1)
    nesterov: bool = flag(False, "Nesterov's momentum")
    weight_decay: float = number(0.0005, "of at least 0",
        "L2, added to the gradient of every parameter")
    ema: float = number(0.0, "from 0 (none) to below 1, such as 0.999",
        "evaluate a moving average of the weights", lambda v: 0 <= v < 1)


@dataclass(frozen=True)
class Finetune:
    """What follows growth."""

    epochs: int = whole(200, 0, "epochs",
        "epochs after growth, of each net of the front; of the whole run in mode `scratch`")
    total_epochs: int = whole(0, 0, "epochs",
        "of growth and one fine-tuning, which takes what growth leaves, at least `finetune.epochs`",
        "0 means no total")
    schedule: str = choice("auto", SCHEDULES,
        "`staircase` (x0.1 at 1/2 and 3/4), `thirds`, `convergent` (x0.1 at once and at 1/2),"
        " `cosine`, `constant`; `auto` goes by the policy")
    perturb: float | None = number(None, "from 0 to 1; none means 0.5 where fine-tuning is as long"
        " as growth was, or longer, and for a time at least half as fast; else, and with"
        " `init_from`, 0",
        "how far all weights are moved towards a fresh draw of them as fine-tuning begins, so that"
        " they learn on: shrink and perturb", lambda v: 0 <= v <= 1, before=0.0)
    front: bool = flag(True, "in mode `grow`, fine-tune nets that growth passed through, too; those"
        " that a cheaper one does as well as are stopped early", before=False)
    choose: str = choice("one_se_brier", ("one_se_brier", "half_se_brier", "one_se", "best",
        "last"), "which net is recommended: the cheapest within a standard error of the best in the"
        " Brier score, within half of one, within one in accuracy; the most accurate; the last")
    max_latency: float = number(0.0, "of milliseconds for one image, at least 0; 0 is no limit",
        "in evaluation, of the net that is recommended")

    def length(self, phase_start: int) -> int:
        """Epochs of fine-tuning that began with epoch `phase_start`, or of a run from scratch."""
        return self.total_epochs - phase_start if self.total_epochs else self.epochs

    def share(self, phase_start: int, schedule: Schedule) -> float:
        """How far weights are moved as fine-tuning begins that follows so many epochs of growth.

        Where the config leaves it open, `schedule` has to give fine-tuning half of growth's highest
        learning rate at some time: what was lost is not learnt again at a tenth of it.
        """
        length = self.length(phase_start)
        if self.perturb is not None:
            return self.perturb if length else 0.0
        if length < phase_start:
            return 0.0
        growth = max(schedule("growth", epoch, phase_start) for epoch in range(phase_start))
        few = range(0, length, max(length // 1000, 1))  # Of millions of epochs not each is asked.
        later = max(schedule("finetune", epoch, length) for epoch in few)
        return 0.5 if later >= growth / 2 else 0.0


@dataclass(frozen=True)
class Checkpoint:
    """What a stopped run goes on from."""

    every: int = whole(1, 1, "epochs", "epochs between two checkpoints", free=True)
    keep: int = whole(2, 1, "", "newest checkpoints kept, beside the best", free=True)
    minutes: float = number(10.0, "of minutes, at least 0; 0 is never",
        "within a long epoch, after how many it is saved how far that is", free=True)


@dataclass(frozen=True)
class Snapshots:
    """Weights for pictures of a run's path."""

    every: int = whole(0, 0, "epochs",
        "epochs between two snapshots of the weights; the paper's pictures take 4",
        "0 means none", free=True)


@dataclass(frozen=True)
class Log:
    """What is shown."""

    progress: bool = flag(True, "a bar within each epoch", free=True)
    tensorboard: bool = flag(True, "TensorBoard events, where tensorboardX is installed", free=True)
    tracker: str = key("", "'' for none, wandb, trackio or mlflow",
        lambda v: v in ("", "wandb", "trackio", "mlflow"),
        "a tracker of experiments that is told of the run, too; its package is an extra", free=True)
    report: bool = flag(True, "at the end `report.html`, and the net's answers in files", free=True)
    plot_every: int = whole(0, 0, "epochs", "epochs between two drawings of the plot",
        "0 means at the end only", free=True)
