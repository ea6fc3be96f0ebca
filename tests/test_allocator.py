"""Memory that a process keeps: the second time, large arrays lie on pages it has touched before."""

import os
import platform
import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import resource, statistics, sys
from autogrow_jax.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import jax, jax.numpy as jnp, numpy as np
if sys.argv[2] == "array":
    work = lambda: np.ones(2**24)
else:
    # A program's temporaries: 128 MB.
    keep_all = jax.lax.optimization_barrier
    program = jax.jit(lambda x: jnp.sum(keep_all(jnp.sin(x * jnp.arange(2.0**25)))))
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


@pytest.mark.multiprocess
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is meant")
@pytest.mark.parametrize("what", ["array", "program"])
def test_freed_memory_is_used_again(what):
    faults = {}
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for mode in ("keep", "leave"):
        command = [sys.executable, "-c", _COUNT_FAULTS, mode, what]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        faults[mode] = int(done.stdout)
    assert faults["keep"] < 10 < faults["leave"]
