"""What puts the items of one queue object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from coord.entry import check_name
from coord.names import as_text
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.recipes.queues.items import QueueItem


class Producer(ABC):
    """Puts items of one queue, and puts them back. Its name is checked and claimed here."""

    def __init__(self, home: Coordination, name: str | bytes) -> None:
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        self.text: str = as_text(self.name)
        self.prefix: bytes = self.name + b"/"

    @abstractmethod
    async def put_back(self, item: QueueItem) -> object:
        """Put an item into the queue again."""

    def value(self, value: str | bytes) -> bytes:
        """Return a value as bytes. Raises :class:`PayloadTooLarge`."""
        return to_value(value, f"an item of queue {self.text!r}", self._home.txn.max_value_bytes)

    def nonce(self) -> bytes:
        """Return what makes a key unlike any other."""
        return format(self._home.env.rand.bits(64), "016x").encode()
