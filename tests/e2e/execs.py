"""Many fast execs over several connections, each with output of its own: what came back wrong, and what the
server says of them afterwards."""
import asyncio
import contextlib
import hashlib
import sqlite3

import asyncssh

AT_ONCE = 4  # of one connection


def expected(number):
    """stdout, stderr and exit of one: sizes from nothing to some frames, so that calls overlap in every way."""
    text = hashlib.sha256(str(number).encode()).hexdigest()
    return f"{number} {text}\n" * (1 + 50 * (number % 97 == 0)), f"err {number}\n" if number % 3 == 0 else "", number % 251


def command(number):
    text = hashlib.sha256(str(number).encode()).hexdigest()
    times = 1 + 50 * (number % 97 == 0)
    many = f"for i in $(seq {times}); do echo {number} {text}; done" if times > 1 else f"echo {number} {text}"
    return f"{many}; {f'echo err {number} >&2; ' if number % 3 == 0 else ''}exit {number % 251}"


async def run(port, user, key, n, connections=8):
    """The numbers of those that lost, mixed or bent something, with what came."""
    wrong, numbers = [], iter(range(n))

    async def some(link):
        for number in numbers:  # shared: each number once
            try:
                r = await link.run(command(number))
                came = (r.stdout, r.stderr, r.exit_status)
            except (asyncssh.Error, OSError) as e:
                came = repr(e)
            if came != expected(number):
                wrong.append((number, came))

    async with contextlib.AsyncExitStack() as stack:
        links = [await stack.enter_async_context(asyncssh.connect(
            "127.0.0.1", port, username=user, known_hosts=None, client_keys=[str(key)], config=None, agent_path=None))
            for _ in range(connections)]
        await asyncio.gather(*(some(link) for link in links for _ in range(AT_ONCE)))
    return wrong


def in_index(state, session):
    """How many calls of a session have ended, how many are twice or open, and the sum of their exits."""
    with contextlib.closing(sqlite3.connect(f"file:{state}/index.db?mode=ro", uri=True)) as db:
        return db.execute(
            "SELECT count(*), count(*) - count(DISTINCT command), coalesce(sum(exit_status), 0) FROM calls "
            "WHERE session = ? AND ended_ns > 0 AND command LIKE '%exit %'", (session,)).fetchone()
