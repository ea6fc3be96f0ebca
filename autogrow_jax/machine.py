"""What kind of machine this is: what compiled programs must not be carried across."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path


def machine_key() -> str:
    """A name for this kind of machine: jaxlib's version and a hash of the processor's features."""
    features = hashlib.sha256(f"{platform.machine()} {_cpu_features()}".encode()).hexdigest()[:12]
    return f"jaxlib-{metadata.version('jaxlib')}-{features}"


@cache
def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0] in names}))
