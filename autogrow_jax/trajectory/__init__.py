"""Pictures of the path that a run's weights took over the loss (PAPER: "Trajectory pictures").

`python -m autogrow_jax.trajectory --runs A B C --out DIR` reads the snapshots that runs
kept (`snapshots.every`), pads each to the depths that all of them fit in, finds a plane near all of
them, evaluates the loss over a grid in that plane, and draws the paths over it.

Where this differs from the authors. They pad with blocks whose weights are all zero. For residual
nets so do we, and the padded net computes the same function. A plain net with an all-zero block
computes nothing of its input any more; there we pad with blocks that are the identity. Their code
does not say on what the loss was evaluated; what we do is in `surface` and in the figure.
"""

from autogrow_jax.trajectory.compute import trajectory

__all__ = ["trajectory"]
