"""Memory that a process keeps: the second time, large arrays lie on pages it has touched before."""

import platform
import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import ctypes, resource, sys
from autogrow_jax.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import numpy as np
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.multiprocess
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is meant")
def test_freed_memory_is_used_again():
    faults = {}
    for mode in ("keep", "leave"):
        command = [sys.executable, "-c", _COUNT_FAULTS, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    assert faults["keep"] < 10 < faults["leave"]
