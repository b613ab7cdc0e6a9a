"""Transactions on lists, made of reads and one guarded write: the workload that shows its own history.

A list is a key with its elements as JSON. All keys of a transaction are read at one revision; it commits if none of
them has changed since.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.keys import to_bytes
from coord.testing.check.cycles import LIST_APPEND, Append, Read, encode_steps
from coord.testing.recording.outcome import outcome_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord.store.values import KeyValue
    from coord.testing.check.cycles import Step
    from coord.testing.recording.client import RecordedClient


class ListClient:
    """Runs list transactions under ``prefix``; each is recorded, and so are the calls that it is made of."""

    def __init__(self, client: RecordedClient, prefix: str | bytes) -> None:
        self._client = client
        self._prefix = to_bytes(prefix, "prefix")

    async def run(self, steps: Sequence[Step], *, timeout: float | None = None) -> bool:
        """Try the steps once; say whether they were committed. A conflict is no error, and has no effect.

        Raises what the client raises.
        """
        recorder, name = self._client.recorder, self._client.name
        number = recorder.begin(name, LIST_APPEND, encode_steps(steps))
        writes = any(isinstance(step, Append) for step in steps)
        try:
            done = await self._attempt(steps, timeout)
        except BaseException as error:
            status = outcome_of(error, LIST_APPEND, writes=writes)
            recorder.end(number, status, error=f"{type(error).__name__}: {error}")
            raise
        if done is None:
            recorder.end(number, "fail", error="conflict")
            return False
        recorder.end(number, "ok", response=encode_steps(done))
        return True

    async def _attempt(self, steps: Sequence[Step], timeout: float | None) -> list[Step] | None:
        keys = sorted({step.key for step in steps})
        reads = [op.get(self._key(key)) for key in keys]
        read = await self._client.txn().then(*reads).commit(timeout=timeout)
        present = {key: next(iter(read.range(place).items), None) for place, key in enumerate(keys)}
        lists = {key: _elements(pair) for key, pair in present.items()}
        done: list[Step] = []
        appended: dict[str, None] = {}
        for step in steps:
            if isinstance(step, Append):
                lists[step.key] = [*lists[step.key], step.element]
                appended[step.key] = None
                done.append(step)
            else:
                done.append(Read(step.key, tuple(lists[step.key])))
        if not appended:
            return done
        guards = [
            compare.mod_revision(self._key(key)) == (0 if pair is None else pair.mod_revision)
            for key, pair in present.items()
        ]
        puts = [op.put(self._key(key), json.dumps(lists[key])) for key in appended]
        written = await self._client.txn().when(*guards).then(*puts).commit(timeout=timeout)
        return done if written.succeeded else None

    def _key(self, key: str) -> bytes:
        return self._prefix + key.encode()


def _elements(pair: KeyValue | None) -> list[int]:
    return [] if pair is None else [int(each) for each in json.loads(pair.value)]
