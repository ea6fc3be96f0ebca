"""Many runs, one table: studies, and pictures of the paths that runs take.

python -m autogrow_jax.studies --study=configs/studies/smoke.py --workdir=runs/smoke
"""

from autogrow_jax.studies.study import Published, Row, Section, Study

__all__ = ["Published", "Row", "Section", "Study"]
