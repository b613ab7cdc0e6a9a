"""Runs with writers, compactions, slow readers, lost connections and every kind of watch, judged.

``COORD_WATCH_RUNS=500`` makes more of them, ``COORD_WATCH_SEED=17`` starts from another seed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc.aio
import pytest

from coord.wire import rpc_pb2
from coord_server.mvcc import hub
from coord_server.mvcc.hub import Watcher, WatchHub
from tests.server.endpoint import serving
from tests.server.watch.traffic import CHANNEL_OPTIONS, checked_run
from tests.support.servers import coord_server_process

RUNS = int(os.environ.get("COORD_WATCH_RUNS", "6"))
FIRST_SEED = int(os.environ.get("COORD_WATCH_SEED", "1"))
KINDS = {
    *("compactions", "pauses", "reconnects", "progress", "periodic", "events", "fragments"),
    "compacted",
}


async def runs_at(endpoint: str, seed: int) -> Counter[str]:
    async with (
        grpc.aio.insecure_channel(endpoint, CHANNEL_OPTIONS) as writing,
        grpc.aio.insecure_channel(endpoint, CHANNEL_OPTIONS) as watching,
    ):
        return (await checked_run([writing, watching], seed)).counts


def narrow(patch: pytest.MonkeyPatch) -> None:
    """Make bounds so narrow that every watcher is thrown back to history, in small batches."""
    patch.setattr(hub, "BATCH_REVISIONS", 7)
    patch.setattr(hub, "OUTBOX_BYTES", 60_000)
    patch.setattr(hub, "SINK_BACKLOG_BYTES", 100_000)


@pytest.mark.timeout(60 + 20 * RUNS)
async def test_runs_with_narrow_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    counts: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + RUNS, 2):
        async with serving(
            max_request_bytes=256 << 10, watch_progress_notify_interval_s=0.1
        ) as endpoint:
            (address,) = endpoint.server.client_addresses
            counts += await runs_at(str(address), seed)
    assert counts.keys() >= KINDS - {"fragments"}, counts


@pytest.mark.processes
@pytest.mark.timeout(60 + 20 * RUNS)
async def test_runs_on_a_server_process(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for seed in range(FIRST_SEED + 1, FIRST_SEED + RUNS, 2):
        with coord_server_process(
            tmp_path / str(seed),
            "--max-request-bytes=262144",
            "--experimental-watch-progress-notify-interval=100ms",
        ) as server:
            counts += await runs_at(server.endpoint, seed)
    assert counts.keys() >= KINDS, counts


# What the judge is worth: servers that break a promise are found out.


def _lose_one(patch: pytest.MonkeyPatch) -> None:
    fall_back = WatchHub._fall_back

    def wrong(self: WatchHub, watcher: Watcher) -> None:
        watcher.next_revision += 1
        fall_back(self, watcher)

    patch.setattr(WatchHub, "_fall_back", wrong)


def _repeat_one(patch: pytest.MonkeyPatch) -> None:
    fall_back = WatchHub._fall_back

    def wrong(self: WatchHub, watcher: Watcher) -> None:
        watcher.next_revision -= 1
        fall_back(self, watcher)

    patch.setattr(WatchHub, "_fall_back", wrong)


def _promise_too_early(patch: pytest.MonkeyPatch) -> None:
    def wrong(_self: Watcher, _revision: int) -> bool:
        return True

    patch.setattr(Watcher, "has_seen", wrong)


def _tear_revisions(patch: pytest.MonkeyPatch) -> None:
    packed = hub._packed

    def wrong(
        watcher: Watcher, frames: Sequence[tuple[int, bytes, bytes]], header: bytes
    ) -> list[bytes]:
        messages = packed(watcher, frames, header)
        return [part for message in messages for part in _halves(message)]

    patch.setattr(hub, "_packed", wrong)


def _halves(message: bytes) -> list[bytes]:
    whole = rpc_pb2.WatchResponse.FromString(message)
    if len(whole.events) < 2:
        return [message]
    parts = [rpc_pb2.WatchResponse(), rpc_pb2.WatchResponse()]
    for number, part in enumerate(parts):
        part.CopyFrom(whole)
        del part.events[:]
        part.events.extend(whole.events[1:] if number else whole.events[:1])
    return [part.SerializeToString() for part in parts]


def _forget_the_filter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hub, "WITHOUT_PUTS", 0)


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (_lose_one, "reliable|resumable|bookmarkable"),
        (_repeat_one, "unique|ordered|atomic"),
        (_promise_too_early, "bookmarkable"),
        (_tear_revisions, "atomic"),
        (_forget_the_filter, "filter"),
    ],
)
async def test_planted_bugs_are_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], rule: str
) -> None:
    narrow(monkeypatch)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=rule):
        for seed in range(1, 30):
            async with serving(max_request_bytes=256 << 10) as endpoint:
                (address,) = endpoint.server.client_addresses
                await runs_at(str(address), seed)
