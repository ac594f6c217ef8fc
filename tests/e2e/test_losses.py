"""That nothing is lost: cut links, killed managers and stopped readers; journals past their bound. tests/bench/survive and
tests/bench/punch are the long forms."""
import asyncio

import punch
import survive
from conftest import running


def test_what_came_through_cuts_a_killed_manager_and_stops_is_what_was_printed(own_server, name):
    own_server.ssh(name, "true")
    wrong, _ = asyncio.run(survive.run(own_server, name, cuts=5, stopped_lines=160))
    assert wrong == []


def test_past_its_bound_a_journal_tells_of_every_byte_that_it_dropped_and_drops_none_of_its_owners(name):
    with running(f"journal_max = {4 * punch.MIB}\n") as server:
        wrong, what = punch.run(server, name, 50 * punch.MIB + 12345, 4 * punch.MIB, 24 * punch.MIB + 5)
    assert wrong == [], what
