"""Four virtual CPU devices for all tests, and where the real data lie."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before JAX is imported anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import pytest

# A shell that starts the tests in its background has them, and what they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Silent promotion hides mistakes: float32 parameters that become bfloat16, or the reverse.
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Tests build the same programs again and again: compile each once a session. The workers of xdist
# inherit the folder from the process that started them, which removes it at the end.
_CACHE = os.environ.get("AUTOGROW_TEST_CACHE") or tempfile.mkdtemp(prefix="autogrow_jax_tests_")
if "AUTOGROW_TEST_CACHE" not in os.environ:
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["AUTOGROW_TEST_CACHE"] = _CACHE
jax.config.update("jax_compilation_cache_dir", _CACHE)
# Also for processes that tests start: none is to leave anything in the user's home.
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _shared(name: str) -> Path:
    return Path(__file__).resolve().parents[2] / "shared" / name


@pytest.fixture
def data_dir() -> Path:
    """The folder of real data sets; skips the test where there is none."""
    path = Path(os.environ.get("AUTOGROW_DATA_DIR", _shared("data")))
    if not path.is_dir():
        pytest.skip("no real data: set AUTOGROW_DATA_DIR")
    return path


@pytest.fixture
def fixtures_dir() -> Path:
    """The folder of recorded behaviour of the authors' code; skips where there is none."""
    path = _shared("fixtures")
    if not path.is_dir():
        pytest.skip("no recorded fixtures beside the project")
    return path
