"""Random sequences of every verb, kill and restart beside a model of what must be there: short ones, of fixed seeds.
tests/bench/storm does it for as long as one likes."""
import tempfile

import pytest

import storm


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_is_done_to_them_sessions_and_snapshots_are_what_they_were(seed):
    assert storm.run(tempfile.mkdtemp(prefix="bt."), seed, acts=25) == 25
