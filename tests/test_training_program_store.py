"""Programs found again by what was traced: the same ones, and no other."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autogrow_jax.training import program_store
from autogrow_jax.training.program_store import compile_or_read, make_key
from autogrow_jax.training.programs import Programs

ROOT = Path(__file__).resolve().parents[1]


def _sine():
    # Another function object each time: JAX remembers what this process compiled.
    return lambda x: jnp.sin(x)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache as on a machine with one device."""
    monkeypatch.setattr(program_store, "_is_one_cpu", lambda: True)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def _trace(function, *args, donate=()):
    return jax.jit(function, donate_argnums=donate).trace(*args)


def _files(folder):
    return list(folder.glob("*.program"))


def _make_step(factor):
    # Another function object each time, as in another process.
    def step(state, x):
        y = lax.fori_loop(0, 3, lambda _, s: s * factor + jnp.sin(x), state["a"])
        return {"a": y}, jnp.sum(y)

    return step


def test_a_program_is_read_and_not_lowered_again(folder, monkeypatch):
    def arguments():
        return {"a": jnp.arange(4.0)}, jnp.ones(4)

    def run(programs):
        return programs.call("step", _make_step(0.5), *arguments(), donate=(0,))

    expected = run(Programs())
    assert len(_files(folder)) == 1
    monkeypatch.setattr(jax.stages.Traced, "lower", None)
    programs, (state, x) = Programs(), arguments()
    found = programs.call("step", _make_step(0.5), state, x, donate=(0,))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert programs.counts == {"step": 1}
    assert state["a"].is_deleted() and not x.is_deleted()


def test_nothing_is_kept_for_several_devices_or_without_a_cache(folder, monkeypatch):
    traced = _trace(_make_step(0.5), {"a": jnp.arange(4.0)}, jnp.ones(4))
    with monkeypatch.context() as patched:
        patched.setattr(program_store, "_is_one_cpu", lambda: False)
        compile_or_read(traced, (), None)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        compile_or_read(traced, (), None)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not _files(folder)


def _flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda b: b[: len(b) // 2], lambda b: b[::-1], _flip_a_bit]
)
def test_a_damaged_program_is_compiled_again(folder, damage):
    x = jnp.arange(4.0)
    expected = compile_or_read(_trace(_sine(), x), (), None)(x)
    (file,) = _files(folder)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    np.testing.assert_array_equal(compile_or_read(_trace(_sine(), x), (), None)(x), expected)
    assert len(file.read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_written_to_stops_nobody(folder, monkeypatch):
    def fail(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(program_store, "replace_file", fail)
    x = jnp.arange(4.0)
    compiled = compile_or_read(_trace(_sine(), x), (), None)
    np.testing.assert_allclose(compiled(x), np.sin(np.arange(4.0)), rtol=1e-6)


def test_a_program_of_another_user_is_read(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError("not the owner")

    x = jnp.arange(4.0)
    expected = compile_or_read(_trace(_sine(), x), (), None)(x)
    monkeypatch.setattr(program_store.os, "utime", refuse)
    monkeypatch.setattr(jax.stages.Traced, "lower", None)
    np.testing.assert_array_equal(compile_or_read(_trace(_sine(), x), (), None)(x), expected)


def test_a_program_that_calls_python_runs_and_is_not_kept(folder):
    seen = []

    def tell(x):
        jax.debug.callback(lambda value: seen.append(float(value)), x)
        return 2 * x

    for _ in range(2):
        assert compile_or_read(_trace(tell, jnp.float32(3.0)), (), None)(jnp.float32(3.0)) == 6.0
    jax.effects_barrier()
    assert seen == [3.0, 3.0]
    assert not _files(folder)


def test_keys_of_random_numbers_are_constants_like_others(folder):
    x = jnp.arange(4.0)

    def add_noise(seed):
        key = jax.random.key(seed)
        return lambda x: x + jax.random.normal(key, x.shape)

    traced = [_trace(add_noise(seed), x) for seed in (0, 0, 1)]
    keys = [make_key(one, (), None) for one in traced]
    assert keys[0] == keys[1] != keys[2]
    first, same, other = (compile_or_read(one, (), None)(x) for one in traced)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert len(_files(folder)) == 2


def test_what_cannot_be_named_is_compiled(folder, monkeypatch):
    def fail(*_):
        raise TypeError("no such constant")

    monkeypatch.setattr(program_store, "make_key", fail)
    x = jnp.arange(4.0)
    compiled = compile_or_read(_trace(_sine(), x), (), None)
    np.testing.assert_allclose(compiled(x), np.sin(np.arange(4.0)), rtol=1e-6)
    assert not _files(folder)


def _constant(values):
    array = np.asarray(values, np.float32)

    def inner(x):
        return lax.scan(lambda c, _: (c + array, None), x, None, length=2)[0]

    return lambda x: jax.jit(inner)(x)


def test_keys_differ_where_programs_do():
    x = jnp.arange(300.0)
    variants = {
        "scale": _trace(lambda x: 2 * x, x),
        "another scale": _trace(lambda x: 3 * x, x),
        "nearly the same": _trace(lambda x: np.float32(2.0000002) * x, x),
        "shape": _trace(lambda x: 2 * x, x[1:]),
        "dtype": _trace(lambda x: 2 * x, x.astype(jnp.bfloat16)),
        "tree": _trace(lambda x: (2 * x,), x),
        # Beyond what is printed of an array.
        "constants": _trace(_constant(np.zeros(300)), x),
        "other constants": _trace(_constant([*np.zeros(299), 1]), x),
    }
    keys = {name: make_key(traced, (), None) for name, traced in variants.items()}
    keys["donated"] = make_key(variants["scale"], (0,), None)
    keys["options"] = make_key(variants["scale"], (), {"xla_backend_optimization_level": "1"})
    assert len(set(keys.values())) == len(keys), keys


def test_keys_differ_with_settings(monkeypatch):
    traced = _trace(lambda x: x @ x, jnp.ones((3, 3)))
    keys = [make_key(traced, (), None)]
    with jax.default_matmul_precision("bfloat16"):
        keys.append(make_key(traced, (), None))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    keys.append(make_key(traced, (), None))
    monkeypatch.setattr(program_store.native, "library_name", lambda: "another.so")
    keys.append(make_key(traced, (), None))
    monkeypatch.setattr(program_store, "machine_key", lambda: "another processor")
    keys.append(make_key(traced, (), None))
    assert len(set(keys)) == len(keys)


def test_functions_of_their_own_in_a_program_leave_its_key():
    def make():
        @partial(jax.custom_vjp, nondiff_argnums=(1,))
        def double(x, helper):
            return helper(x)

        double.defvjp(lambda x, helper: (helper(x), None), lambda helper, _, g: (2 * g,))
        return lambda x: double(x, lambda x: 2 * x)

    x = jnp.arange(4.0)
    assert make_key(_trace(make(), x), (), None) == make_key(_trace(make(), x), (), None)


PROGRAM = """
import jax, jax.numpy as jnp
from autogrow_jax.models import build_network
from autogrow_jax.training.program_store import make_key
network = build_network("basic3", (2, 2, 2))
images = jnp.zeros((4, 8, 8, 3))
variables = jax.eval_shape(network.init, jax.random.key(0), images)
traced = jax.jit(lambda v, x: network.apply(v, x, False)).trace(variables, images)
print(make_key(traced, (), None))
"""


@pytest.mark.multiprocess
def test_the_key_is_the_same_in_every_process():
    command = [sys.executable, "-c", PROGRAM]
    found = [
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert found[0] == found[1] != ""


AGAIN = """
import sys
import jax, jax.numpy as jnp
from autogrow_jax.training import compilation_cache
from autogrow_jax.training.program_store import compile_or_read
compilation_cache.enable(sys.argv[1])
x = jnp.ones((8, 8))
function = lambda x: jax.lax.rsqrt(x) * jnp.sin(x @ x.T)
print(float(compile_or_read(jax.jit(function).trace(x), (), None)(x).sum()))
"""


@pytest.mark.multiprocess
def test_what_jax_read_from_its_cache_is_not_written_again(tmp_path):
    """XLA would write it without its machine code."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}

    def start():
        command = [sys.executable, "-c", AGAIN, str(tmp_path)]
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        return ended.stdout, list(tmp_path.glob("*/*.program"))

    first, (program,) = start()
    assert start() == (first, [program])
    program.unlink()
    # JAX's is found, and found once more.
    assert list(tmp_path.glob("*/*-cache"))
    assert start() == start() == (first, [])
