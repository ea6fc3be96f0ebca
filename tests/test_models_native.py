"""The package's own convolutions: equal to JAX's, in every shape and place they are called from."""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autogrow_jax import native
from autogrow_jax.models import BlockOptions, build_network
from autogrow_jax.models.convolution import (
    DIMENSION_NUMBERS,
    conv_general_dilated,
    native_conv_general_dilated,
    why_not_native,
)
from autogrow_jax.native import build

pytestmark = pytest.mark.skipif(bool(why_not_native()), reason=why_not_native() or "built")

# (kernel, stride) of every convolution in the networks, and one whose stride exceeds its kernel.
KINDS = [(3, 1), (3, 2), (1, 1), (1, 2), (7, 2), (5, 1)]
# Even and odd, oblong, one pixel, wider than a tile, and a batch that no task divides.
SHAPES = [(5, 8, 8), (5, 9, 6), (3, 5, 33), (37, 2, 2), (19, 1, 1), (1, 16, 20)]
# The stems', whole blocks of 16, several, and parts of one.
CHANNELS = [(1, 16), (3, 16), (16, 16), (16, 32), (40, 24), (5, 3)]
QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


def _padding(kernel):
    return ((kernel - 1) // 2,) * 2, ((kernel - 1) // 2,) * 2


def _reference(x, w, stride):
    """In float64, patch by patch."""
    size, pad = w.shape[0], (w.shape[0] - 1) // 2
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", patches[:, ::stride, ::stride], w, optimize=True)


def _example(shape, kernel, stride, channels):
    """x, w and a cotangent of the output, small whole numbers: sums of these are exact."""
    generator = np.random.default_rng(0)
    x = generator.integers(-4, 5, (*shape, channels[0])).astype(np.float32)
    w = generator.integers(-4, 5, (kernel, kernel, *channels)).astype(np.float32)
    y = _reference(x, w, stride)
    return x, w, generator.integers(-4, 5, y.shape).astype(np.float32), y


def _ours(x, w, stride):
    return native_conv_general_dilated(x, w, (stride, stride), _padding(w.shape[0]))


def _xla(x, w, stride):
    return lax.conv_general_dilated(
        x, w, (stride, stride), _padding(w.shape[0]), dimension_numbers=DIMENSION_NUMBERS
    )


def _is_direct(shape, kernel, stride, channels):
    """Whether sums are taken as they stand, not of values at a polynomial's points."""
    filled = -(-shape[1] // 4) * -(-shape[2] // 4) * 16
    return (kernel, stride) != (3, 1) or min(channels) < 8 or filled > 1.6 * shape[1] * shape[2]


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize(("kernel", "stride"), KINDS)
def test_value_and_gradients_are_exact_or_close(kernel, stride, channels):
    examples, expected = [], []
    for shape in SHAPES:
        x, w, g, y = _example(shape, kernel, stride, channels)
        examples.append((x, w, g))
        expected.append((y, *_gradients(x, w, g, stride)))

    def run(examples):
        return [_value_and_gradients(_ours, *example, stride) for example in examples]

    found = jax.jit(run, compiler_options=QUICK_COMPILATION)(examples)
    for shape, ours, exact in zip(SHAPES, found, expected, strict=True):
        for name, a, b in zip(("value", "x", "kernel"), ours, exact, strict=True):
            exact = _is_direct(shape, kernel, stride, channels)
            atol = 0 if exact else 1e-5 * np.abs(b).max()
            np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=f"{name} at {shape}")


def _value_and_gradients(convolution, x, w, g, stride):
    y, pullback = jax.vjp(lambda x, w: convolution(x, w, stride), x, w)
    return y, *pullback(g)


def _gradients(x, w, g, stride):
    """Those of sum(g * y), tap by tap in float64."""
    (_, height, width, _), pad = x.shape, (w.shape[0] - 1) // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    grad_x, grad_w = np.zeros_like(padded), np.zeros(w.shape)
    rows, columns = ((size - 1) * stride + 1 for size in g.shape[1:3])
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            place = np.s_[:, i : i + rows : stride, j : j + columns : stride]
            grad_x[place] += g.astype(np.float64) @ w[i, j].T
            grad_w[i, j] = np.einsum("nhwc,nhwf->cf", padded[place], g, optimize=True)
    return grad_x[:, pad : pad + height, pad : pad + width], grad_w


def _normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# As the networks have them: many images, bands of rows, chunks of the batch, large kernels, sizes
# that no tile divides.
@pytest.mark.parametrize(
    "shape",
    [
        (33, 32, 32, 16, 16),
        (3, 56, 56, 64, 64),
        (6, 4, 4, 512, 512),
        (11, 7, 7, 128, 128),
        (9, 14, 13, 20, 72),
    ],
    ids=str,
)
def test_large_sums_are_close_to_those_of_float64(shape):
    *image, channels, features = shape
    x, w = _normal((*image, channels)), _normal((3, 3, channels, features), 1)
    g = _normal((*image, features), 2)
    found = jax.jit(_value_and_gradients, static_argnums=(0, 4))(_ours, x, w, g, 1)
    x, w, g = (np.asarray(a) for a in (x, w, g))
    for a, b in zip(found, (_reference(x, w, 1), *_gradients(x, w, g, 1)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_in_a_loop_and_again_it_gives_the_same_bits():
    x, w, g = _normal((20, 9, 9, 32)), 0.01 * _normal((3, 3, 32, 32), 1), _normal((20, 9, 9, 32), 2)

    def step(_, carry):
        x, w = carry
        y, grad_x, grad_w = _value_and_gradients(_ours, x, w, g, 1)
        return x - 0.01 * grad_x * y, w - 0.01 * grad_w

    run = jax.jit(lambda n, x, w: lax.fori_loop(0, n, step, (x, w)))
    first = run(4, x, w)
    once, expected = jax.jit(lambda x, w: step(0, (x, w))), (x, w)
    for _ in range(4):
        expected = once(*expected)
    for a, b, c in zip(first, run(4, x, w), expected, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5)


def test_calls_at_the_same_time_do_not_disturb_each_other():
    run = jax.jit(_value_and_gradients, static_argnums=(0, 4))
    examples = [
        (_normal((16, 8, 8, 16), i), _normal((3, 3, 16, 32), i), _normal((16, 8, 8, 32), i))
        for i in range(8)
    ]
    alone = [run(_ours, *example, 1) for example in examples]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            together = list(threads.map(lambda example: run(_ours, *example, 1), examples))
            jax.tree.map(np.testing.assert_array_equal, together, alone)


@pytest.mark.devices(4)
def test_devices_compute_their_parts_at_the_same_time():
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    x, w = _normal((4 * len(devices), 8, 8, 16)), _normal((3, 3, 16, 16), 1)
    batch, everywhere = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()

    def run(x, w):
        y, grad_x, grad_w = _value_and_gradients(_ours, x, w, x, 1)
        return y, grad_x, lax.psum(grad_w, "batch")

    mapped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(batch, everywhere),
        out_specs=(batch, batch, everywhere),
        check_vma=False,
    )
    for a, b in zip(jax.jit(mapped)(x, w), _value_and_gradients(_ours, x, w, x, 1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_vmap_and_a_second_derivative():
    x, w = _normal((5, 1, 5, 5, 2)), _normal((3, 3, 2, 2), 1)

    def curvature(convolution):
        def norm(x, w):
            grads = jax.grad(lambda x, w: jnp.sum(jnp.tanh(convolution(x, w, 1))), (0, 1))(x, w)
            return sum(jnp.sum(jnp.square(a)) for a in grads)

        return jax.jit(jax.vmap(jax.grad(norm, (0, 1)), (0, None)))(x, w)

    for a, b in zip(curvature(_ours), curvature(_xla), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_gradients_of_a_network_are_those_with_xla():
    # Blocks of all kinds: with stride and without, in the loop and before it, 3x3 and 1x1.
    images, weights = _normal((5, 8, 8, 3)), _normal((5, 10), 1)
    live = jnp.array([2, 1, 1], jnp.int32)
    init = jax.jit(build_network("basic3", (2, 2, 2)).init, compiler_options=QUICK_COMPILATION)
    start = init(jax.random.key(0), images)

    def gradients(convolution):
        network = build_network("basic3", (2, 2, 2), convolution=convolution)

        def loss(params):
            logits, stats = network.apply(
                {**start, "params": params}, images, True, live, mutable=["batch_stats"]
            )
            return jnp.sum(logits * weights), stats

        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(start["params"])
        assert ("autogrow_layer_kernel_gradient" in lowered.as_text()) == (convolution == "native")
        return lowered.compile(QUICK_COMPILATION)(start["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()),
        gradients("native"),
        gradients("xla"),
    )


def test_what_the_kernels_do_not_take_goes_to_xla():
    x, w = _normal((2, 9, 9, 4)), _normal((3, 3, 4, 4), 1)

    def has_call(convolution, x, w, strides):
        jaxpr = jax.make_jaxpr(lambda x, w: convolution(x, w, strides, _padding(3)))(x, w)
        return "ffi_call" in str(jaxpr)

    assert has_call(native_conv_general_dilated, x, w, (2, 2))
    assert not has_call(conv_general_dilated, x, w, (2, 2))
    assert not has_call(native_conv_general_dilated, x, w, (3, 3))
    half = (x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    assert not has_call(native_conv_general_dilated, *half, (1, 1))
    assert not has_call(native_conv_general_dilated, x[:0], w, (1, 1))


def test_a_kernel_larger_than_the_image_leaves_no_output():
    x, w = _normal((2, 1, 1, 3)), _normal((3, 3, 3, 4))
    arguments = (x, w, (1, 1), ((0, 0), (0, 0)))
    assert native_conv_general_dilated(*arguments).shape == (2, 0, 0, 4)
    expected = lax.conv_general_dilated(*arguments, dimension_numbers=DIMENSION_NUMBERS)
    assert expected.shape == (2, 0, 0, 4)


def test_other_numbers_are_refused():
    x, w = _normal((1, 4, 4, 3)), _normal((3, 3, 3, 4)).astype(jnp.bfloat16)
    with pytest.raises(TypeError, match="takes float32 and not bfloat16"):
        native.forward(x, w, (1, 1), _padding(3))


def test_without_the_library_xla_takes_over(monkeypatch):
    monkeypatch.setattr(native, "why_unavailable", lambda: "no compiler")
    jaxpr = jax.make_jaxpr(lambda x, w: _ours(x, w, 1))(
        _normal((1, 4, 4, 3)), _normal((3, 3, 3, 4))
    )
    assert "ffi_call" not in str(jaxpr)
    assert not BlockOptions(convolution="native").is_native


def _fake_compiler(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_compiler_that_fails_is_named_with_its_first_error(tmp_path, monkeypatch, cache):
    script = 'echo "warning: odd" >&2; echo "conv.cc:1: error: no headers" >&2; exit 1'
    monkeypatch.setenv(
        "CXX", str(_fake_compiler(tmp_path / "cxx", f'test "$1" = --version || {{ {script}; }}'))
    )
    library = build.load.__wrapped__()
    assert library.handle is None
    assert str(tmp_path / "cxx") in library.reason
    assert library.reason.endswith("conv.cc:1: error: no headers")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_no_compiler_is_a_reason(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    library = build.load.__wrapped__()
    assert library.handle is None and "no C++ compiler" in library.reason


def test_what_is_no_library_is_a_reason(tmp_path, monkeypatch, cache):
    script = 'test "$1" = --version && exit; while [ "$1" != -o ]; do shift; done; echo no > "$2"'
    monkeypatch.setenv("CXX", str(_fake_compiler(tmp_path / "cxx", script)))
    assert build.load.__wrapped__().handle is None


@pytest.fixture
def quick_sources(tmp_path, monkeypatch):
    """That a compiler is done with at once; all other tests build and use the kernels."""
    (tmp_path / "one.cc").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    monkeypatch.setattr(build, "_SOURCES", ("one.cc",))


@pytest.mark.usefixtures("quick_sources")
@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_library_that_is_there_is_loaded(cache, monkeypatch, is_read_only):
    assert build.load.__wrapped__().handle is not None
    (library,) = cache.rglob("*.so")
    if is_read_only:
        access = os.access
        monkeypatch.setattr(
            os, "access", lambda path, *how: path != library.parent and access(path, *how)
        )
    monkeypatch.setattr(build, "_build", None)
    assert not build.has_to_build()
    assert build.load.__wrapped__().handle is not None
    assert list(cache.rglob("*.so")) == [library]


@pytest.mark.usefixtures("quick_sources")
def test_a_damaged_library_is_built_again(cache):
    name = build.library_name.__wrapped__()
    path = build._cache_folder() / name
    path.write_bytes(b"")
    assert build.load.__wrapped__().handle is not None
    assert path.stat().st_size > 0


def test_variables_of_the_compiler_are_read_as_a_shell_would(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("CXX", f"{tmp_path / 'cxx'} --quick")
    _fake_compiler(tmp_path / "cxx", f'echo "$@" >> {tmp_path}/said; test "$2" = --version')
    assert build.load.__wrapped__().handle is None
    assert "--quick --version" in (tmp_path / "said").read_text()
    monkeypatch.setenv("CXXFLAGS", "-DNAME='unfinished")
    assert "No closing quotation" in build.load.__wrapped__().reason
    assert not build.has_to_build()
    assert build.library_name.__wrapped__() == ""


def test_builds_at_the_same_time_leave_one_whole_file(tmp_path):
    script = (
        'while [ "$1" != -o ]; do shift; done; printf begun > "$2"; sleep 0.1; printf done >> "$2"'
    )
    compiler = [str(_fake_compiler(tmp_path / "cxx", script))]
    path = tmp_path / "library.so"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: build._build(compiler, path), range(4)))
    assert path.read_text() == "begundone"
    assert sorted(os.listdir(tmp_path)) == ["cxx", "library.so"]


def test_the_key_follows_the_compiler(tmp_path):
    keys = [
        build._name([str(_fake_compiler(tmp_path / f"cxx{i}", f"echo version {i}"))])
        for i in range(2)
    ]
    assert keys[0] != keys[1]
