"""A deadline that counts against the other server, and not against a busy loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
import uvloop

from gateway.cache.deadline import Deadline


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest):
    """Run a coroutine in either loop; gives its result and how long it took."""

    def runs(work):
        began = time.monotonic()
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(work), time.monotonic() - began

    return runs


async def _pong(after: float) -> str:
    """An answer over a socket, from another process as it were: it arrives whatever this loop does."""
    reader, writer = await asyncio.open_unix_connection(sock=_answering(after))
    found = await reader.readline()
    writer.close()
    return found.decode()


def _answering(after: float):
    ours, theirs = socket.socketpair()

    def answer() -> None:
        time.sleep(after)
        theirs.sendall(b"pong\n")
        theirs.close()

    threading.Thread(target=answer, daemon=True).start()
    return ours


def test_what_comes_in_time_is_taken(run):
    """No deadline is felt."""

    async def work() -> str:
        async with Deadline(1.0):
            return await _pong(0.01)

    assert run(work())[0] == "pong\n"


def test_silence_ends_after_the_time(run):
    """TimeoutError, soon after."""

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with Deadline(0.1):
                await asyncio.Event().wait()

    assert 0.1 <= run(work())[1] < 0.6


def test_an_answer_that_waited_for_the_loop_is_taken(run):
    """It lay in the socket while the loop was held up for three times the deadline."""

    async def work() -> str:
        asyncio.get_running_loop().call_later(0.01, time.sleep, 0.3)
        async with Deadline(0.1):
            return await _pong(0.02)

    assert run(work())[0] == "pong\n"


def test_time_before_the_beginning_does_not_count(run):
    """It begins late in a long turn of the loop, whose clock has stood still since."""

    async def work() -> str:
        time.sleep(0.3)  # noqa: ASYNC251 (what this is about)
        async with Deadline(0.1):
            return await _pong(0.05)

    assert run(work())[0] == "pong\n"


def test_a_loop_that_is_always_busy_is_no_excuse_for_ever(run):
    """Silence ends after twice the time and the loop's own delays."""

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def busy() -> None:
            time.sleep(0.15)
            loop.call_soon(busy)

        loop.call_soon(busy)
        with pytest.raises(TimeoutError):
            async with Deadline(0.1):
                await asyncio.Event().wait()

    assert run(work())[1] < 2.0


def test_a_cancelled_caller_is_cancelled(run):
    """That is not the deadline's."""

    async def work() -> None:
        async def waits() -> None:
            async with Deadline(1.0):
                await asyncio.Event().wait()

        task = asyncio.create_task(waits())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert run(work())[1] < 0.9
