"""`python -m autogrow_jax`: the command line of `autogrow_jax.main`."""

from autogrow_jax.main import start

start()
