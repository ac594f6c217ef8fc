"""That nothing is lost: cut links, killed managers and stopped readers; journals past their bound. tests/bench/survive and
tests/bench/punch are the long forms."""
import asyncio

import survive


def test_what_came_through_cuts_a_killed_manager_and_stops_is_what_was_printed(own_server, name):
    own_server.ssh(name, "true")
    wrong, _ = asyncio.run(survive.run(own_server, name, cuts=5, stopped_lines=160))
    assert wrong == []
