"""The line of one process for one name: only its head talks to the store (spec recipes 3, step 0)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord._telemetry import link_to_head, own_span

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from coord.session import Session


class LocalLine:
    """First come, first served among the tasks of one session that want the same name.

    Made and forgotten by :meth:`join`; on the runtime's loop only.
    """

    def __init__(self, session: Session, name: bytes) -> None:
        self._session = session
        self._name = name
        self._lock = asyncio.Lock()  # wakes its waiters in order
        self._users = 0
        self._is_given_up = False
        self._head: SpanContext | None = None

    @classmethod
    async def join(cls, session: Session, name: bytes) -> LocalLine:
        """Wait until this caller is the head. A cancelled wait leaves no place in line."""
        line = session.lines.get(name)
        if line is None:
            line = session.lines[name] = cls(session, name)
        line._users += 1
        link_to_head(line._head)
        try:
            await line._lock.acquire()
        except BaseException:
            line._forget()
            raise
        line._head = own_span()
        return line

    @classmethod
    async def try_join(cls, session: Session, name: bytes) -> LocalLine | None:
        """Become the head if nobody is before us, else return None at once.

        Somebody who has given up and only takes back the entry is nobody: that is waited for.
        """
        line = session.lines.get(name)
        if line is not None and not line.is_clearing:
            return None
        return await cls.join(session, name)  # a free lock is taken without giving up the loop

    @property
    def is_clearing(self) -> bool:
        """Whether the only one in it has given up and will leave."""
        return self._is_given_up and self._users == 1

    def give_up(self) -> None:
        """Tell that the head will leave without having got what it stood for."""
        self._is_given_up = True

    def leave(self) -> None:
        """Let the next one become the head."""
        self._head = None
        self._is_given_up = False
        self._lock.release()
        self._forget()

    def _forget(self) -> None:
        self._users -= 1
        if not self._users:
            self._session.lines.pop(self._name, None)
