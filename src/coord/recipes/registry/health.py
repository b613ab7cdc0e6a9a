"""Asking an instance again and again whether it is well (spec recipes 8, *Health*)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from coord.errors import InvalidArgument
from coord.recipes.asking import Question

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.core import Core
    from coord.recipes.registry.reaching import HealthUrl


HealthPolicy = Literal["remove", "mark"]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How an instance is found to be well.

    ``ask``: a function that returns True (a coroutine function is called on the loop that registers, a plain one on a
    worker thread), ``http://host:port/path``, which must answer GET with 2xx or 3xx, or ``tcp://host:port``, which
    must take a connection. It is asked every ``period`` seconds, and has as long to answer.
    ``fall`` bad answers in a row take the entry away (``policy="remove"``), since resolvers of others use every entry
    that they see, or say so in it (``policy="mark"``); ``rise`` good ones in a row bring it back.
    """

    ask: str | Callable[[], bool | Awaitable[bool]]
    period: float = field(default=5.0, kw_only=True)
    rise: int = field(default=2, kw_only=True)
    fall: int = field(default=3, kw_only=True)
    policy: HealthPolicy = field(default="remove", kw_only=True)

    def __post_init__(self) -> None:
        """Raise :class:`InvalidArgument` for what makes no sense."""
        if not self.period > 0 or self.rise < 1 or self.fall < 1:
            raise InvalidArgument(
                "a health check's period must be more than 0 seconds, rise and fall at least 1"
            )


class Verdict:
    """Turns answers into a verdict: healthy, until ``fall`` bad ones in a row, until ``rise`` good ones in a row."""

    def __init__(self, check: HealthCheck) -> None:
        self._check = check
        self._in_a_row = 0
        self.healthy: bool = True

    def note(self, *, good: bool) -> bool:
        """Take note of an answer; say whether the verdict has turned."""
        if good == self.healthy:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < (self._check.rise if good else self._check.fall):
            return False
        self._in_a_row = 0
        self.healthy = good
        return True


class Checker:
    """One kind of question."""

    def __init__(self, core: Core, check: HealthCheck) -> None:
        self._env = core.env
        self._url: HealthUrl | None = None
        self._question: Question[bool] | None = None
        self.check: HealthCheck = check
        if isinstance(check.ask, str):
            from coord.recipes.registry.reaching import HealthUrl  # h11 is for those who need it

            self._url = HealthUrl(check.ask)
        else:
            self._question = Question(core, check.ask)

    async def ask(self) -> bool:
        """Return whether all is well; no answer within a period, or an exception, says that it is not."""
        try:
            async with asyncio.timeout(self.check.period):
                if self._question is not None:
                    return bool(await self._question.ask())
                return self._url is not None and await self._url.answers(self._env)
        except Exception:  # noqa: BLE001 - whatever keeps it from answering, it is not well
            return False
