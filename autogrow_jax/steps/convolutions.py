"""Which convolutions a run computes with: XLA's, or the package's own."""

import dataclasses

import jax

from autogrow_jax import hosts, native
from autogrow_jax.errors import UserError
from autogrow_jax.models.convolution import why_not_native
from autogrow_jax.models.layers import NATIVE, XLA
from autogrow_jax.reporting import Reporter, Workdir
from autogrow_jax.reporting.workdir import read_config
from autogrow_jax.settings import Settings

AUTO = "auto"  # What `model.convolution` may be beside the kinds of convolutions.


def choose_convolution(settings: Settings) -> tuple[str, str]:
    """Chooses "native" or "xla" for this machine; says why not native where it could have been.

    "auto" is "native" where JAX has nothing but one CPU device, so that all runs of a machine with
    several compute alike, whatever `num_devices` says.
    """
    if settings.model.convolution == XLA:
        return XLA, ""
    reason = _what_rules_it_out(settings) or why_not_native()
    return (XLA, reason) if reason else (NATIVE, "")


def _what_rules_it_out(settings: Settings) -> str:
    """What in the settings or JAX's devices does; looks before anything has to be built."""
    if settings.model.dtype != "float32":
        return f"they compute in float32, not {settings.model.dtype}"
    if settings.model.convolution == AUTO and jax.device_count() > 1:
        return f"JAX has {jax.device_count()} devices"
    if settings.parallel == "jit" and (settings.num_devices or jax.device_count()) > 1:
        return "XLA cannot divide a batch for them; parallel = 'pmap' can"
    return ""


def find_begun(workdir: Workdir) -> str | None:
    """The convolution that a run was begun with; None where none was."""

    def look() -> str | None:
        model = read_config(workdir).get("model") if workdir.is_begun else None
        return model.get("convolution") if isinstance(model, dict) else None

    return hosts.first(look)


def settle_convolution(
    settings: Settings, reporter: Reporter, begun_with: str | None = None
) -> Settings:
    """The settings with "native" or "xla" for `model.convolution`, as it is kept.

    A run goes on with what it was begun with (None for a new one), whatever has been installed
    since; where that cannot be used here, a UserError says so.
    """
    wanted = settings.model.convolution
    if begun_with == XLA and wanted != XLA:
        if wanted == NATIVE:
            reporter.message("this run was begun with XLA's convolutions and goes on with them")
        return _with(settings, XLA)
    on_cpu = wanted != XLA and jax.default_backend() == "cpu"
    is_possible = on_cpu and not _what_rules_it_out(settings)
    if is_possible and native.has_to_build():
        reporter.message("building convolutions for this processor, once; some 15 s")
    convolution, reason = choose_convolution(settings)
    if begun_with == NATIVE and wanted != XLA and convolution != NATIVE:
        raise UserError(
            "this run was begun with the package's own convolutions, which cannot be used here"
            f" ({reason}); go on where they can, or choose another --workdir"
        )
    # "auto" is content with a GPU; a CPU without a compiler is worth a word.
    is_missed = is_possible and reason != native.NO_GAIN
    if reason and (is_missed or wanted == NATIVE):
        slower = ", on a CPU slower than our own" if is_missed else ""
        reporter.message(f"convolutions are XLA's{slower}: {reason}")
    return _with(settings, convolution)


def _with(settings: Settings, convolution: str) -> Settings:
    model = dataclasses.replace(settings.model, convolution=convolution)
    return dataclasses.replace(settings, model=model)
