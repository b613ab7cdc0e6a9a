"""Faults of single requests, for tests of programs that use ``coord``.

The problem: a write whose answer is lost has happened, and its caller cannot know.
Programs meet this once in a million calls, in production; a test wants it at the third ``Put``.

Vocabulary: a *call* is one request of one client, be it a call of its own or one message of a stream; a *rule* is one
fault and says which calls it takes; a *gate* holds what must wait.

    faults = Faults()
    with faults.everywhere():
        async with coord.connect(url) as client:
            faults.drop_reply("Put")
            with pytest.raises(coord.AmbiguousResult):
                await client.put("k", "v")

Invariants: a fault does what networks and servers do, nothing else, so that whatever a client does wrong under it is a
bug; streams keep their order and have no gaps.

The faults stand between a client and its carrier, in this process.
Faults of the network itself, for clients of any kind, are those of :mod:`coord.testing.local`.
"""

from coord.rpc.status import StatusCode
from coord.testing.faults.faults import OBSERVER, Faults
from coord.testing.faults.rules import Call, FaultRule
from coord.testing.faults.transport import FaultyTransport

__all__ = ["OBSERVER", "Call", "FaultRule", "Faults", "FaultyTransport", "StatusCode"]
