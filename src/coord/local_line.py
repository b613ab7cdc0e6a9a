"""The line of one process for one name: only its head talks to the store (spec recipes 3, step 0)."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Protocol

from coord._telemetry import link_to_head, own_span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.trace import SpanContext

    from coord.session import Session


_serials = itertools.count(1)


class Turn(Protocol):
    """Being at the head of one line or of several: what an attempt gives back in the end."""

    def give_up(self) -> None:
        """Tell that the head will leave without having got what it stood for."""
        ...

    def leave(self) -> None:
        """Let the next one become the head."""
        ...


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
        self.owner: str = ""
        """Who is the head, if it has told."""
        self.waiting: dict[int, str] = {}
        """Who waits here and has told, by a number that rises with each."""

    @classmethod
    async def join(cls, session: Session, name: bytes, owner: str = "") -> LocalLine:
        """Wait until this caller is the head. A cancelled wait leaves no place in line.

        ``owner`` says who it is, to those who look for circles of waits.
        """
        line = session.lines.get(name)
        if line is None:
            line = session.lines[name] = cls(session, name)
        line._users += 1
        link_to_head(line._head)
        serial = next(_serials)
        line.waiting[serial] = owner
        try:
            await line._lock.acquire()
        except BaseException:
            line._forget()
            raise
        finally:
            del line.waiting[serial]
        line._head, line.owner = own_span(), owner
        return line

    @classmethod
    async def try_join(cls, session: Session, name: bytes, owner: str = "") -> LocalLine | None:
        """Become the head if nobody is before us, else return None at once.

        Somebody who has given up and only takes back the entry is nobody: that is waited for.
        """
        line = session.lines.get(name)
        if line is not None and not line.is_clearing:
            return None
        return await cls.join(
            session, name, owner
        )  # a free lock is taken without giving up the loop

    @property
    def is_clearing(self) -> bool:
        """Whether the only one in it has given up and will leave."""
        return self._is_given_up and self._users == 1

    def give_up(self) -> None:
        """Tell that the head will leave without having got what it stood for."""
        self._is_given_up = True

    def leave(self) -> None:
        """Let the next one become the head."""
        self._head, self.owner = None, ""
        self._is_given_up = False
        self._lock.release()
        self._forget()

    def _forget(self) -> None:
        self._users -= 1
        if not self._users:
            self._session.lines.pop(self._name, None)


class LocalLines:
    """The head of several lines at once."""

    def __init__(self) -> None:
        self._lines: list[LocalLine] = []

    @classmethod
    async def join(cls, session: Session, names: Iterable[bytes], owner: str = "") -> LocalLines:
        """Wait until this caller is the head of all lines. A cancelled wait leaves no place in any.

        ``names`` must be sorted: two who want some of the same cannot wait for each other then.
        """
        lines = cls()
        try:
            for name in names:
                lines._lines.append(await LocalLine.join(session, name, owner))
        except BaseException:
            lines.leave()
            raise
        return lines

    @classmethod
    async def try_join(
        cls, session: Session, names: Iterable[bytes], owner: str = ""
    ) -> LocalLines | None:
        """Become the head of all lines if nobody is before us in any, else return None at once."""
        lines = cls()
        try:
            for name in names:
                line = await LocalLine.try_join(session, name, owner)
                if line is None:
                    lines.leave()
                    return None
                lines._lines.append(line)
        except BaseException:
            lines.leave()
            raise
        return lines

    def give_up(self) -> None:
        """Tell that the head will leave without having got what it stood for."""
        for line in self._lines:
            line.give_up()

    def leave(self) -> None:
        """Let the next ones become the heads."""
        lines, self._lines = self._lines, []
        for line in lines:
            line.leave()
