"""A few of the faults that `python -m tests.faults` does many of."""

import numpy as np
import pytest

from .harness import Bench
from .kills import EVERY_EPOCH, kill_often

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


def test_runs_that_were_killed_at_random_moments_end_as_if_they_had_not_been(tmp_path):
    for row in kill_often(Bench(tmp_path, 7), np.random.default_rng(7), 4, EVERY_EPOCH):
        assert row[-1] == "nothing", row
