"""Pictures of the path that a run's weights took over the loss (PAPER: "Trajectory pictures").

`python -m autogrow_jax.trajectory --runs A B C --out DIR` reads the snapshots that runs kept, pads
each to the depths that all of them fit in, finds a plane near all of them, evaluates the loss over
a grid in it, and draws the paths over it.

Where this differs from the authors. They pad with blocks whose weights are all zero, after which a
plain net computes nothing of its input; there we pad with the identity, see `pad`. Their code does
not say on what the loss was evaluated; what we do is in `plane` and in the figure.
"""

from autogrow_jax.trajectory.compute import trajectory

__all__ = ["trajectory"]
