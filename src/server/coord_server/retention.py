"""How much of the log stays in memory behind what is applied and flushed, for followers that lag."""

from __future__ import annotations

from collections import deque
from typing import Final, final

# A follower that lags by more gets a snapshot (etcd: --snapshot-catchup-entries).
CATCH_UP_ENTRIES: Final = 5_000
CATCH_UP_BYTES: Final = 64 << 20


@final
class Retention:
    """Counts the applied entries; bounded by ``entries`` and, in bytes of data, by ``size_bytes``."""

    def __init__(
        self, *, entries: int = CATCH_UP_ENTRIES, size_bytes: int = CATCH_UP_BYTES
    ) -> None:
        self._entries = entries
        self._limit_bytes = size_bytes
        self._sizes: deque[tuple[int, int]] = deque()
        self._held_bytes = 0

    def applied(self, index: int, size_bytes: int) -> None:
        """Note an applied entry."""
        self._sizes.append((index, size_bytes))
        self._held_bytes += size_bytes

    def release(self, flushed_index: int, *, has_followers: bool) -> int:
        """Return up to where the log may be forgotten, now that this much is in the backend; 0: nothing."""
        upto = 0
        sizes = self._sizes
        while sizes and sizes[0][0] <= flushed_index and (not has_followers or self._is_over()):
            upto, size = sizes.popleft()
            self._held_bytes -= size
        return upto

    def restart(self) -> None:
        """Forget everything: the log begins anew."""
        self._sizes.clear()
        self._held_bytes = 0

    def _is_over(self) -> bool:
        return len(self._sizes) > self._entries or self._held_bytes > self._limit_bytes
