"""The twin of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

from coord.recipes import config
from coord.sync._portal import Iteration, Twin

if TYPE_CHECKING:
    from types import TracebackType

    from coord.recipes.atomic import Versioned
    from coord.recipes.config import ConfigInvalid, ConfigState

T = TypeVar("T")


class Config(Twin[config.Config[T]]):
    """A typed, validated configuration; see :class:`coord.Config`. Made by ``client.config(name, model)``.

    Reading does not wait, and needs no lock. ``with`` closes it at the end, as does the client.
    """

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name: the document's key, or without its ``/`` the prefix of the tree."""
        return self._async.name

    def __enter__(self) -> Self:
        """Close it at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End following the store. What was read last can still be read. Safe to call twice."""
        self._portal.call(self._async.close())

    @property
    def state(self) -> ConfigState[T]:
        """The value, with where it is from and what is wrong, all of one time. Costs nothing."""
        return self._async.state

    @property
    def value(self) -> T:
        """The last good value."""
        return self._async.value

    @property
    def revision(self) -> int:
        """The revision of the newest change."""
        return self._async.revision

    @property
    def invalid(self) -> ConfigInvalid | None:
        """What is wrong with the present document, None if it is the one in use."""
        return self._async.invalid

    @property
    def stale_for(self) -> float:
        """Seconds for which changes may be missing; infinite while the store has not been reached."""
        return self._async.stale_for

    def changes(self, *, jitter: float = 0.0) -> Iteration[ConfigState[T]]:
        """Return an iterator over what comes from now on. Close it, or use it in a ``with``."""
        return Iteration(self._portal, self._async.changes(jitter=jitter))

    def wait_revision(self, revision: int, *, timeout: float | None = None) -> None:
        """Wait until changes up to ``revision`` were looked at."""
        self._portal.call(self._async.wait_revision(revision, timeout=timeout))

    def publish(
        self, value: T, *, expected_revision: int | None = None, timeout: float | None = None
    ) -> int:
        """Replace the configuration, for everybody and at once; return its revision."""
        return self._portal.call(
            self._async.publish(value, expected_revision=expected_revision, timeout=timeout)
        )

    def rollback(self, revision: int, *, timeout: float | None = None) -> int:
        """Publish again what was written at ``revision``, and return the new revision."""
        return self._portal.call(self._async.rollback(revision, timeout=timeout))

    def history(self, *, timeout: float | None = None) -> tuple[Versioned[bytes], ...]:
        """Return the documents before the present one as they were written, the newest first."""
        return self._portal.call(self._async.history(timeout=timeout))

    def canary(self, value: T, percent: float, *, timeout: float | None = None) -> int:
        """Let ``percent`` of all instances take ``value``, until the next publication; return the revision."""
        return self._portal.call(self._async.canary(value, percent, timeout=timeout))
