"""Memory that a process keeps: the second time, large arrays lie on pages it has touched before."""

import os
import platform
import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import resource, statistics, sys, tempfile
import jax, jax.numpy as jnp, numpy as np
from autogrow_jax import process
from autogrow_jax.config import default_config
from autogrow_jax.training import run
from autogrow_jax.training import loop

def begin_a_run():
    loop._train = lambda *_: None  # What comes before training is meant.
    run(default_config(), tempfile.mkdtemp())

if "array first" in sys.argv:
    jnp.ones(3).block_until_ready()
{"keep": process.keep_freed_memory, "run": begin_a_run, "leave": lambda: None}[sys.argv[1]]()
size = 2**int(sys.argv[3])
if sys.argv[2] == "array":
    work = lambda: np.ones(size // 2)
else:
    # A program's temporaries.
    keep_all = jax.lax.optimization_barrier
    program = jax.jit(lambda x: jnp.sum(keep_all(jnp.sin(x * jnp.arange(float(size))))))
    work = lambda: program(2.0).block_until_ready()
def count():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(2):
    work()
# Of many: now and then the heap is not in one piece where a program wants all of it.
print(int(statistics.median(count() for _ in range(15))))
"""


def _count(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", _COUNT_FAULTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.splitlines()[-1])


pytestmark = [
    pytest.mark.multiprocess,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is meant"),
]


@pytest.mark.parametrize("what", ["array", pytest.param("program", marks=pytest.mark.slow)])
def test_freed_memory_is_used_again(what):
    """Arrays and temporaries of 128 MB."""
    assert _count("keep", what, "25") < 10 < _count("leave", what, "25")


@pytest.mark.slow
def test_a_run_from_python_keeps_it_too():
    assert _count("run", "program", "25") < 10


@pytest.mark.slow
def test_a_run_keeps_it_where_jax_was_used_before():
    """As in a notebook; 32 MB. Its threads are there already, and glibc gives them 64 MB each."""
    first = ("program", "23", "array first")
    assert _count("leave", *first) > 10
    # What else lies in a thread's 64 MB differs from process to process, and now and then the piece
    # does not fit beside it.
    assert any(_count("run", *first) < 10 for _ in range(4))
