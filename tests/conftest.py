"""How tests are set up: devices, cheap compilation, caches, and where the real data lie.

Tests see one CPU device, as on a laptop; `pytest --devices=4` gives them four virtual ones. A test
that needs a number of its own says so with `@pytest.mark.devices(4)`.
"""

import atexit
import functools
import gc
import os
import shutil
import signal
import tempfile
from importlib import metadata
from pathlib import Path

# Before JAX is imported anywhere; processes that tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is XLA's compiler. Level 1 computes the same bits as the default, and the
# older emitters of fusions take half the time. jaxlib 0.11 has them no longer: there level 0 does,
# whose programs take twice as long to run and multiply and add in two steps.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
    if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11)
    else "--xla_backend_optimization_level=0",
)

import hypothesis
import jax
import pytest
from jax.extend.backend import clear_backends

from autogrow_jax import build, native, optim
from autogrow_jax.growth import get_initializer
from autogrow_jax.reporting import plots
from autogrow_jax.steps.programs import Programs
from autogrow_jax.training import loop

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
# The library of convolutions outlives a session, in a folder that git ignores.
os.environ.setdefault(
    "XDG_CACHE_HOME", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "user")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Of random inputs few and always the same, unless AUTOGROW_EXAMPLES asks for some number of others.
_MANY = int(os.environ.get("AUTOGROW_EXAMPLES", "0"))
hypothesis.settings.register_profile(
    "ours",
    max_examples=_MANY or 40,
    derandomize=not _MANY,
    print_blob=bool(_MANY),
    database=None,
    deadline=None,  # Another process may have the core.
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ours")

# What was imported stays: the collector need not look at it after every test. Tracing makes so many
# objects that it would be at work a tenth of the time.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


def pytest_addoption(parser):
    parser.addoption("--devices", type=int, default=1, help="CPU devices that tests see")


def _num_devices(item: pytest.Item) -> int:
    marker = item.get_closest_marker("devices")
    return marker.args[0] if marker else item.config.getoption("devices")


def _have(count: int) -> None:
    """Gives this process `count` CPU devices; arrays of before are those of devices now gone."""
    if count != jax.config.jax_num_cpu_devices:
        clear_backends()
        jax.config.update("jax_num_cpu_devices", count)
        os.environ["JAX_NUM_CPU_DEVICES"] = str(count)  # For processes that tests start.


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        native.why_unavailable()  # Builds the library: once, not in every worker of xdist.
    _have(config.getoption("devices"))


def pytest_collection_modifyitems(items):
    """Tests of one file that want as many devices run together: a change drops all programs.

    Of the two halves that two workers begin with each has files with slow tests first, so that
    neither waits for the other's last one.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = [path for path in files if any(t.get_closest_marker("slow") for t in files[path])]
    quick = [path for path in files if path not in slow]
    order = (*slow[::2], *quick[::2], *slow[1::2], *quick[1::2])
    items[:] = [item for path in order for item in sorted(files[path], key=_num_devices)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    _have(_num_devices(item))


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


@pytest.fixture(autouse=True, scope="module")
def without_reports(request):
    """Leaves out the page at a run's end, a second each, but for files that say so.

    Its picture, another second, is made there and not written.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("reports") is None:
            patch.setattr(loop, "report", lambda *given: None)
            patch.setattr(plots, "save_figure", lambda drawing, *paths, **how: [*paths])
        yield


@pytest.fixture(autouse=True, scope="module")
def traced_once():
    """Runs of one file whose steps are the same share them: JAX traces and compiles them once.

    Runs count their programs as ever. A file that looks at what JAX does has a fixture of this name
    that does nothing.
    """
    made = {}

    def make(programs, function, recipe, *more):
        key = function, recipe, *more
        if key not in made:
            made[key] = function(recipe, *more)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Programs, "make", make)
        # It is part of a recipe, and none of optax's equals another.
        patch.setattr(optim, "make_optimizer", functools.cache(optim.make_optimizer))
        # Each config that is resolved has its start traced.
        starts, check = set(), build.check_start

        def check_start(network, initializer, ema):
            key = network, get_initializer(initializer), ema
            if key not in starts:
                check(network, initializer, ema)
                starts.add(key)

        patch.setattr(build, "check_start", check_start)
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """For files whose programs run a few times: optimising them costs more than it saves."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optax_promotion():
    """optax's Adam raises a Python float to an int32 power, which strict promotion refuses."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # In all threads.
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")
