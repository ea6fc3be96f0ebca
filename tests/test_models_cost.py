"""The cost of depths: against the paper's and XLA's counts, and for any block one may write."""

import functools
import json
import logging
from functools import partial
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autogrow_jax.errors import UserError
from autogrow_jax.models import (
    FAMILIES,
    BlockOptions,
    Cost,
    Family,
    build_network,
    convolution,
    estimate_cost,
    network,
    num_params,
    piece_costs,
    register_family,
)
from autogrow_jax.models.cost import count_macs
from autogrow_jax.models.stack import num_slots
from autogrow_jax.reporting.cost import main

KEY = jax.random.key(0)
# Even and odd sizes, and so small that convolutions become matrix products.
STEM_AND_IMAGE = {
    "plain3": ("small", (7, 5, 1)),
    "plain4": ("imagenet", (65, 64, 3)),
    "bottleneck4": ("small", (28, 28, 1)),
    "plain4_nobn": ("small", (8, 8, 3)),
}
NETWORKS = [
    *((family, *STEM_AND_IMAGE.get(family, ("small", (28, 33, 3)))) for family in FAMILIES),
    ("basic3", "imagenet", (224, 224, 3)),
]


def _abstract(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _shapes(net, image_shape):
    return jax.eval_shape(net.init, KEY, _abstract(1, *image_shape))


@functools.cache
def _example(family, stem, image_shape):
    """A network, the shapes of its variables and of an image."""
    # XLA's count has 24 bits, too few for more blocks of the widest nets.
    depths = (1, 2, 1, 1) if family in ("basic4", "bottleneck4") else (2, 1, 3, 1)
    depths = depths[: len(FAMILIES[family].widths)]
    net = build_network(family, depths, 64, image_shape[-1], stem=stem)
    return net, _shapes(net, image_shape), _abstract(1, *image_shape)


# --- Against numbers that others published.


@pytest.mark.parametrize(
    ("family", "depths", "params"),
    [
        ("basic3", (1, 1, 1), 78_042),
        ("basic3", (2, 1, 1), 82_714),
        ("plain3", (1, 1, 1), 26_682),
        ("basic4", (1, 1, 1, 1), 4_903_242),
    ],
)
def test_parameters_are_the_papers(family, depths, params):
    assert estimate_cost(build_network(family, depths), (32, 32, 3)).num_params == params


@pytest.mark.parametrize(
    ("family", "depths", "millions"), [("basic3", (42, 42, 42), 593), ("plain3", (23, 22, 22), 156)]
)
def test_multiply_adds_of_the_papers_nets(family, depths, millions):
    cost = estimate_cost(build_network(family, depths), (32, 32, 3))
    assert round(cost.macs / 1e6) == millions
    assert cost.flops == 2 * cost.macs


@pytest.mark.parametrize(
    ("family", "depths", "millions"),
    [("basic4", (2, 2, 2, 2), 1814), ("basic4", (3, 4, 6, 3), 3664), ("bottleneck4", None, 4089)],
)
def test_multiply_adds_of_the_residual_nets_of_imagenet(family, depths, millions):
    """ResNet-18, 34 and 50, as torchvision's table of models has them."""
    net = build_network(family, depths or (3, 4, 6, 3), num_classes=1000, stem="imagenet")
    assert round(estimate_cost(net, (224, 224, 3)).macs / 1e6) == millions


@pytest.mark.parametrize(
    ("family", "depths", "published", "more", "millions"),
    [
        ("basic4", (2, 2, 2, 2), 11_689_512, (0, 0, 0, 0), 0),
        ("basic4", (3, 4, 6, 3), 21_797_672, (0, 0, 0, 0), 0),
        ("bottleneck4", (3, 4, 6, 3), 25_557_032, (0, 0, 0, 0), 0),
        # What the paper found, from ResNet-34 and ResNet-50 on.
        ("basic4", (12, 12, 11, 11), 21_797_672, (9, 8, 5, 8), 231),
        ("bottleneck4", (6, 6, 6, 17), 25_557_032, (3, 2, 0, 14), 218),
    ],
)
def test_imagenets_nets_are_torchvisions_and_blocks_more(family, depths, published, more, millions):
    """Of ResNet-18, 34 and 50 all parameters are those that torchvision publishes."""
    bottleneck = family == "bottleneck4"
    expected = published
    for width, count in zip((64, 128, 256, 512), more, strict=True):
        # Kernels, then two numbers a channel for batch normalisation.
        block = 17 * width**2 + 12 * width if bottleneck else 18 * width**2 + 4 * width
        expected += count * block
    net = build_network(family, depths, num_classes=1000, stem="imagenet")
    cost = estimate_cost(net, (224, 224, 3))
    assert cost.num_params == expected
    if millions:
        seed = {"basic4": (3, 4, 6, 3), "bottleneck4": (3, 4, 6, 3)}[family]
        before = estimate_cost(net, (224, 224, 3), seed).macs
        # A block costs the same in every stage: half the side, twice the width.
        assert round((cost.macs - before) / sum(more) / 1e6) == millions


# --- Against the variables, and against the network traced at that very depth.


@pytest.mark.parametrize(("family", "stem", "image_shape"), NETWORKS)
def test_any_depths_cost_what_the_network_of_those_depths_does(family, stem, image_shape):
    net, shapes, image = _example(family, stem, image_shape)
    seed = net.clone(depths=(1,) * len(net.depths))
    cost = estimate_cost(seed, image_shape, net.depths)
    assert cost.num_params == num_params(shapes)
    assert cost.macs == count_macs(net.apply, shapes, image)
    assert cost == estimate_cost(net, image_shape)


def test_what_does_not_multiply_costs_nothing():
    plain = build_network("plain3", (2, 2, 2))
    cost = estimate_cost(plain, (9, 9, 3))
    for options in ({"dtype": "bfloat16"}, {"remat": True}):
        assert estimate_cost(build_network("plain3", (2, 2, 2), **options), (9, 9, 3)) == cost
    without = estimate_cost(build_network("plain3_nobn", (2, 2, 2)), (9, 9, 3))
    assert without.macs == cost.macs
    assert without.num_params < cost.num_params


@pytest.mark.parametrize("pixels", [0, 1000], ids=["convolutions", "matrix products"])
def test_the_form_of_a_convolution_does_not_matter(pixels, monkeypatch):
    expected = piece_costs(build_network("plain3", (1, 1, 1)), (8, 8, 3))
    monkeypatch.setattr(convolution, "_MATRIX_PRODUCT_PIXELS", pixels)
    # Another number of classes each time: nothing of it has been counted before.
    other = build_network("plain3", (1, 1, 1), num_classes=1000 + pixels)
    found = piece_costs(other, (8, 8, 3))
    assert found.first == expected.first
    assert found.rest == expected.rest


# --- Against XLA.
#
# XLA counts two operations for a product, none where a kernel lies on padding, and one for each
# element of most other results. Both are added here, rule by rule, and then the counts agree to
# the last digit. XLA adds up in float32: with 64 classes every term has so many factors of two
# that nothing is rounded below a billion.


def _xla_flops(function, *inputs):
    return jax.jit(function).lower(*inputs).cost_analysis()["flops"]


def _flat(jaxpr):
    """The equations of a jaxpr without loops and branches, those of its calls in their place."""
    for eqn in jaxpr.eqns:
        assert eqn.primitive.name not in ("scan", "while", "cond")
        inner = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
        inner = [value for value in inner if hasattr(value, "eqns")]
        if eqn.primitive.name == convolution.CANONICAL:
            compute = partial(convolution._compute, **eqn.params)
            inner = [jax.make_jaxpr(compute)(*(var.aval for var in eqn.invars)).jaxpr]
        for value in inner:
            yield from _flat(value)
        if not inner:
            yield eqn


def _products_on_padding(eqn):
    """Multiply-adds of one image's convolution, NHWC, whose input lies outside the image."""
    if eqn.primitive.name != "conv_general_dilated":
        return 0
    x, kernel, y = (var.aval.shape for var in (*eqn.invars, *eqn.outvars))
    all_places, places = 1, 1
    for axis in (0, 1):
        stride, (low, _) = eqn.params["window_strides"][axis], eqn.params["padding"][axis]
        starts = [stride * output - low for output in range(y[axis + 1])]
        size = kernel[axis]
        all_places *= len(starts) * size
        places *= sum(0 <= start + k < x[axis + 1] for start in starts for k in range(size))
    return (all_places - places) * kernel[2] * kernel[3]


# One operation for each element of the result.
ELEMENTWISE = {"add", "sub", "mul", "div", "max", "convert_element_type"}
# None; XLA lists 1/sqrt apart, among the transcendentals.
FREE = {"reshape", "squeeze", "slice", "pad", "concatenate", "broadcast_in_dim", "name", "rsqrt"}
PRODUCTS = {"conv_general_dilated", "dot_general"}


def _other_operations(eqn):
    name, size = eqn.primitive.name, prod(eqn.outvars[0].aval.shape)
    if name in ELEMENTWISE:
        return size
    if name == "reduce_sum":
        return prod(eqn.invars[0].aval.shape) - size
    if name == "reduce_window_max":
        return (prod(eqn.params["window_dimensions"]) - 1) * size
    assert name in FREE | PRODUCTS, f"no rule for {name}: add what XLA counts for it"
    return 0


def _unrolled(block, params, stats, x, depth, empty=None):
    """`run_stack` without a loop, the body of which XLA counts once."""
    for slot in range(num_slots(params)):
        own = jax.tree.map(lambda leaf, slot=slot: leaf[slot], (params, stats))
        x, _ = block(*own, x)
    return x, stats


@pytest.mark.parametrize(("family", "stem", "image_shape"), NETWORKS)
def test_a_whole_network_costs_what_xla_says(family, stem, image_shape, monkeypatch):
    net, *inputs = _example(family, stem, image_shape)
    monkeypatch.setattr(network, "run_stack", _unrolled)

    def apply(variables, image):  # Not `net.apply`, which JAX may know with its loops.
        return net.apply(variables, image)

    eqns = list(_flat(jax.make_jaxpr(apply)(*inputs).jaxpr))
    products = estimate_cost(net, image_shape).macs - sum(map(_products_on_padding, eqns))
    flops = _xla_flops(apply, *inputs)
    assert flops < 2**30
    assert flops == 2 * products + sum(map(_other_operations, eqns))


CONVOLUTIONS = {
    "plain": {},
    "strided": {"window_strides": (2, 3)},
    "dilated": {"rhs_dilation": (2, 1)},
    "grouped": {"feature_group_count": 2},
    "batch groups": {"batch_group_count": 3},
    "channels first": {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_one_convolution_costs_what_xla_says_of_the_padded_image(options):
    """XLA counts the zeros of an image that was padded before, not those of the padding."""
    options = {
        "window_strides": (1, 1),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        **options,
    }
    images, padded = (3, 11, 10, 8), (3, 11 + 1 + 2, 10 + 0 + 3, 8)
    kernel = (3, 2, 8 // options.get("feature_group_count", 1), 6)
    if options["dimension_numbers"][0] == "NCHW":
        images, padded = ((n, c, h, w) for n, h, w, c in (images, padded))
        kernel = (6, 8, 3, 2)
    convolve = partial(lax.conv_general_dilated, **options)
    macs = count_macs(
        partial(convolve, padding=[(1, 2), (0, 3)]), _abstract(*images), _abstract(*kernel)
    )
    valid = partial(convolve, padding="VALID")
    assert 2 * macs == _xla_flops(valid, _abstract(*padded), _abstract(*kernel))


def test_a_transposed_convolution_costs_what_xla_says_where_it_is_full():
    """Each pixel of the input meets the whole kernel; the holes between them cost nothing."""
    inputs = _abstract(2, 5, 7, 4), _abstract(3, 3, 4, 6)
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding=[(2, 2), (2, 2)],
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert 2 * count_macs(convolve, *inputs) == _xla_flops(convolve, *inputs)


@pytest.mark.parametrize("subscripts", ["ij,jk->ik", "bij,bkj->bik", "ijk,jkl->il", "i,i->"])
def test_a_matrix_product_costs_what_xla_says(subscripts):
    sizes = {"b": 3, "i": 5, "j": 7, "k": 4, "l": 2}
    operands = subscripts.partition("->")[0].split(",")
    inputs = [_abstract(*(sizes[letter] for letter in letters)) for letters in operands]
    product = partial(jnp.einsum, subscripts)
    assert 2 * count_macs(product, *inputs) == _xla_flops(product, *inputs)


# --- What a block of one's own may hold.

MATRIX = _abstract(4, 4)


def _cube(x):
    return x @ x @ x


_custom_jvp = jax.custom_jvp(_cube)
_custom_jvp.defjvps(lambda tangent, y, x: tangent)


def _scan(x, length):
    return lax.scan(lambda x, _: (_cube(x), None), x, None, length)[0]


CALLS = {
    "jit": (jax.jit(_cube), 2),
    "remat": (jax.checkpoint(_cube), 2),
    "custom_jvp": (_custom_jvp, 2),
    "vmap": (lambda x: jax.vmap(_cube)(jnp.stack([x, x])), 4),
    "scan": (lambda x: _scan(x, 5), 10),
    "empty scan": (lambda x: _scan(x, 0), 0),
    "nested loops": (lambda x: lax.fori_loop(0, 3, lambda _, x: _scan(x, 2), x), 12),
    "like branches": (lambda x: lax.cond(x[0, 0] > 0, _cube, lambda x: _cube(-x), x), 2),
    "a loop without products": (
        lambda x: lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x + 1, x @ x),
        1,
    ),
}


@pytest.mark.parametrize(("function", "products"), CALLS.values(), ids=CALLS)
def test_products_are_found_wherever_they_stand(function, products):
    assert count_macs(function, MATRIX) == products * 4**3


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        (
            lambda x: lax.while_loop(lambda x: x[0, 0] < 1, _cube, x),
            ["'while'", "length is not known", "lax.scan"],
        ),
        (
            lambda x: lax.cond(x[0, 0] > 0, _cube, jnp.negative, x),
            ["'cond'", "0 and 128", "make them alike"],
        ),
        (lambda x: jax.pure_callback(_cube, x, x), ["'pure_callback'", "matrix products"]),
    ],
    ids=["while", "unlike branches", "callback"],
)
def test_what_cannot_be_known_is_refused(function, parts):
    with pytest.raises(UserError) as error:
        count_macs(function, MATRIX)
    for part in parts:
        assert part in str(error.value)


class GroupedBlock(nn.Module):
    """A grouped convolution and a gate over channels; counts how often it is traced."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()
    hidden: int = 2
    traced = 0

    @nn.compact
    def __call__(self, x, train):
        type(self).traced += 1
        y = nn.Conv(self.features, (3, 3), self.stride, feature_group_count=4, use_bias=False)(x)
        gate = nn.Dense(self.hidden)(jnp.mean(y, (1, 2)))
        return nn.relu(y * nn.sigmoid(nn.Dense(self.features)(gate))[:, None, None])


@pytest.fixture
def grouped():
    """The name of a registered family, taken back afterwards."""
    name = "grouped2"
    register_family(name, Family(GroupedBlock, (8, 16), 8, 0.1, False, batch_norm=False))
    yield name
    del FAMILIES[name]


def test_a_family_of_ones_own_is_counted(grouped):
    net = build_network(grouped, (1, 1), num_classes=5, image_channels=1)
    pieces = piece_costs(net, (9, 9, 1))
    assert pieces.stem_and_head == Cost(9 * 8 + 8 + 16 * 5 + 5, 81 * 9 * 8 + 16 * 5)
    assert pieces.rest == (
        Cost(9 * 2 * 8 + 8 * 2 + 2 + 2 * 8 + 8, 81 * 9 * 2 * 8 + 2 * 8 * 2),
        Cost(9 * 4 * 16 + 16 * 2 + 2 + 2 * 16 + 16, 25 * 9 * 4 * 16 + 2 * 16 * 2),
    )
    deep = estimate_cost(net, (9, 9, 1), (3, 4))
    shapes = _shapes(net.clone(depths=(3, 4)), (9, 9, 1))
    assert deep.num_params == num_params(shapes)
    stages = [pieces.stage(0, 3), pieces.stage(1, 4)]
    assert deep == tuple(map(sum, zip(pieces.stem_and_head, *stages, strict=True)))


def test_a_name_given_to_another_family_is_counted_anew(grouped):
    net = build_network(grouped, (1, 2))
    before = estimate_cost(net, (9, 9, 3))
    FAMILIES[grouped] = FAMILIES[grouped]._replace(block=partial(GroupedBlock, hidden=3))
    anew = build_network(grouped, (1, 2))
    assert estimate_cost(anew, (9, 9, 3)).macs == before.macs + 2 * 8 + 2 * 2 * 16
    assert estimate_cost(net, (9, 9, 3)) == before, "a network keeps the family it was built of"


# --- How it counts.


def test_other_depths_trace_nothing_anew(grouped):
    shallow = build_network(grouped, (1, 1), num_classes=3)
    GroupedBlock.traced = 0
    estimate_cost(shallow, (8, 8, 3))
    traced = GroupedBlock.traced
    assert traced > 0
    for depths in ((200, 200), (2, 1), (1, 7)):
        assert estimate_cost(shallow, (8, 8, 3), depths) == estimate_cost(
            build_network(grouped, depths, num_classes=3), [8, 8, 3]
        )
    assert GroupedBlock.traced == traced
    estimate_cost(shallow, (8, 9, 3))
    assert GroupedBlock.traced == 2 * traced


def test_nothing_is_compiled_and_no_array_is_made(caplog):
    def compilations():
        return [line for line in caplog.messages if line.startswith("Compiling")]

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        # Its activations would take terabytes.
        cost = estimate_cost(build_network("plain4", (200,) * 4), (100_000, 100_000, 3))
        assert cost.macs > 10**17
        assert not compilations()
        jax.jit(lambda x: 3 * x - 11)(1.0)
        assert compilations(), "a compilation would not have been seen"


def test_numpys_whole_numbers_do_and_come_back_as_pythons():
    net = build_network("plain3", (1, 1, 1))
    cost = estimate_cost(net, np.array([17, 11, 3]), np.array([2, 1, 1]))
    assert cost == estimate_cost(net, (17, 11, 3), (2, 1, 1))
    assert json.loads(json.dumps(cost._asdict())) == cost._asdict()


# --- Mistakes.


@pytest.mark.parametrize(
    "image_shape", [(32, 32), (32, 32, 1), (0, 32, 3), (32.0, 32, 3), (1, 32, 32, 3)]
)
def test_an_image_shape_that_does_not_fit(image_shape):
    with pytest.raises(UserError, match=r"image_shape is .* takes \(H, W, 3\)"):
        estimate_cost(build_network("plain3", (1, 1, 1)), image_shape)


@pytest.mark.parametrize("depths", [(1, 1), (1, 0, 1), (1, 1.5, 1), 3])
def test_depths_that_do_not_fit(depths):
    with pytest.raises(UserError, match="give 3 whole numbers of at least 1"):
        estimate_cost(build_network("plain3", (1, 1, 1)), (8, 8, 3), depths)


# --- The command.


def test_the_command_prints_what_adds_up(capsys):
    assert main(["--family=basic3", "--depths=4-2-3", "--image=33x28x1", "--num_classes=7"]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "basic3 4-2-3, images 33x28x1, 7 classes"
    assert header.split() == ["blocks", "parameters", "multiply-adds"]
    numbers = [[int(word.replace(",", "")) for word in row.split()[-3:]] for row in rows[1:]]
    cost = estimate_cost(build_network("basic3", (4, 2, 3), 7, 1), (33, 28, 1))
    *stages, total = numbers
    assert total == [9, *cost]
    assert [blocks for blocks, *_ in stages] == [4, 2, 3]
    ends = [int(word.replace(",", "")) for word in rows[0].split()[-2:]]
    stages.append([0, *ends])
    assert [sum(column) for column in zip(*stages, strict=True)] == total


def test_the_command_takes_the_stem_and_depths_as_either_is_written(capsys):
    images = ["--family=plain3", "--image=64x64x3"]
    assert main([*images, "--depths=2-1-1", "--stem=imagenet"]) == 0
    by_dashes = capsys.readouterr().out
    assert main([*images, "--depths=2,1,1", "--stem=imagenet"]) == 0
    assert capsys.readouterr().out == by_dashes
    assert main([*images, "--depths=2-1-1"]) == 0
    assert capsys.readouterr().out != by_dashes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--family=basik3"], ["no network family 'basik3'", "did you mean 'basic3'"]),
        (["--depths=4-4"], ["depths (4, 4) do not fit 'basic3'", "give 3 whole numbers"]),
        (["--depths=4-x-4"], ["--depths is '4-x-4'", "4-4-4"]),
        (["--image=32x32"], ["--image is '32x32'", "32x32x3"]),
        (["--image=0x32x3"], ["image_shape is (0, 32, 3)"]),
        (["--stem=large"], ["stem is 'large'", "imagenet"]),
        (["--num_classes=0"], ["num_classes 0"]),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments, parts, capsys):
    assert main(["--family=basic3", "--depths=1-1-1", *arguments]) == 1
    told = capsys.readouterr()
    assert not told.out
    assert len(told.err.splitlines()) == 1
    for part in parts:
        assert part in told.err
