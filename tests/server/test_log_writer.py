"""What waits for a write to the log never leaves if the write fails."""

from __future__ import annotations

import asyncio

import pytest

from coord.runtime import RealClock, Supervisor
from coord_server.log_writer import LogWriter
from coord_server.raft import HardState, Index, NodeId, Persist, Term, VoteResponse
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.storage.wal import Wal
from tests.server.wire import Wire
from tests.support.virtual import InlineOffload

ME, OTHER = NodeId(7), NodeId(8)


def vote(term: int) -> tuple[Persist, VoteResponse]:
    """What raft asks for when it votes."""
    hard_state = HardState(Term(term), OTHER, Index(0))
    return (
        Persist(hard_state, (), Index(0), Term(0), Term(term)),
        VoteResponse(sender=ME, to=OTHER, term=Term(term), granted=True),
    )


@pytest.mark.parametrize("inline_limit_s", [1.0, 0.0], ids=["in place", "aside"])
async def test_a_vote_never_leaves_after_a_failed_write(inline_limit_s: float) -> None:
    """Simulated seed 13338: the next event of another kind sent what the failed write had left behind."""
    disk, wire = MemoryDisk(), Wire()
    failures: list[BaseException] = []
    supervisor = Supervisor(lambda _, error: failures.append(error))
    written: list[Persist] = []
    writer = LogWriter(
        Wal.create(disk, "/wal", b""),
        clock=RealClock(),
        offload=InlineOffload(),
        supervisor=supervisor,
        peers=wire,
        written=written.append,
        inline_limit_s=inline_limit_s,
    )
    persist, answer = vote(2)
    writer.queue(persist, [answer])
    disk.fail_next_sync()
    if inline_limit_s:
        with pytest.raises(OSError, match="Input/output error"):
            writer.write()
    else:
        assert writer.write() is None
        async with asyncio.timeout(10):
            while not failures:
                await asyncio.sleep(0)
    assert writer.busy
    assert writer.write() is None
    later, answer = vote(3)
    writer.queue(later, [answer])
    assert writer.write() is None
    await supervisor.close()
    assert wire.sent == []
    assert written == []
