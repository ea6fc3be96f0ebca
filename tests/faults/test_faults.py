"""A few of the faults that `python -m tests.faults` does many of."""

import pytest

from .harness import SCENARIOS
from .kills import kill_often

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


def test_runs_that_were_killed_at_random_moments_end_as_if_they_had_not_been(tmp_path):
    for row in kill_often(tmp_path, 4, seed=7, scenarios=SCENARIOS[:1]):
        assert row[-1] == "nothing", row
