"""How much a replica holds and how often it does what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from coord_server.retention import CATCH_UP_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Collection

    from coord.runtime import Rand
    from coord_server.raft import NodeId

# How long a reset connection to the leader is slept on, in seconds: a while that is drawn, and a step
# for each voter with a smaller id.
_RESET_WAIT_S: Final = (0.005, 0.015)
_RESET_STEP_S: Final = 0.03
# A leader that has not ticked for so long may have been paused while another was elected: before it
# renews a lease it makes sure (etcd ops: "Leader self-check").
FRESH_TICKS: Final = 3
# A read index that does not come is asked for again (etcd ops: "ReadIndex").
READ_RETRY_S: Final = 0.5


def wait_after_reset(rand: Rand, voters: Collection[NodeId], *, me: int, leader: NodeId) -> float:
    """Return how many seconds ``me`` waits to campaign when ``leader`` has hung up.

    All who follow it see that at once. Two that campaign together split the votes, and then wait for an
    election timeout; so they take turns, and the second hears of the first before its own comes.
    """
    earlier = sum(node < me for node in voters if node != leader)
    return rand.uniform(*_RESET_WAIT_S) + earlier * _RESET_STEP_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaBounds:
    """Bounds and rhythms of a replica; seconds, bytes and counts as the names say."""

    tick_s: float = 0.1
    # An entry holds this much at most, unless a single operation is larger.
    max_batch_ops: int = 4096
    max_batch_bytes: int = 1 << 20
    # Operations that wait for a turn; beyond that they are refused.
    max_queued_ops: int = 100_000
    max_queued_bytes: int = 64 << 20
    # etcd's admission rule, in entries: how far the state may lag behind the committed log.
    max_apply_lag: int = 5000
    # Syncs are waited for on the loop while they take less than this on average.
    inline_sync_s: float = 0.001
    # The backend is written each tick, or sooner when this much waits.
    flush_ops: int = 10_000
    flush_bytes: int = 8 << 20
    # Turns pause when a flush lags so far behind that memory would fill up.
    max_unflushed_ops: int = 200_000
    max_unflushed_bytes: int = 64 << 20
    # Keys that one step of a compaction looks at, and the pause between two steps.
    compaction_step: int = 1000
    compaction_pause_s: float = 0.01
    # Events read from history for lagging watchers in one turn.
    catch_up_events: int = 1000
    # Applied entries that stay at hand for followers that lag.
    catch_up_entries: int = CATCH_UP_ENTRIES


class Settings(Protocol):
    """What a replica needs of the server's configuration."""

    @property
    def election_timeout_s(self) -> float:
        """Return the silence after which a leader is taken for lost, in seconds."""
        ...

    @property
    def request_timeout_s(self) -> float:
        """Return how long a request may wait for its outcome, in seconds."""
        ...
