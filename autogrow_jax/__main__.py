"""`python -m autogrow_jax`: the command `autogrow`; where it is told nothing, it trains."""

from autogrow_jax.cli import start

start(["train"])
