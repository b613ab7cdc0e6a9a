"""The explorer finds planted faults: each guard that is taken out here is missed within a few hundred schedules."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from typing_extensions import override

from coord import waiter
from coord.contender import Contender
from coord.entry import Entry
from coord.recipes.double_barrier import _View
from coord.recipes.rwlock.place import Place
from coord.session import Session
from coord.store import comparing as compare
from coord.store import marker
from coord.store.comparing import Compare
from coord.store.txn import TxnResult
from coord.store.watch import WatchSpec
from tests.exploration.catalogue import RECIPES
from tests.exploration.explorer import run_one

Plant = Callable[[pytest.MonkeyPatch], object]


class _Holding:
    """A comparison that always holds, whatever it is compared with."""

    __hash__ = None  # type: ignore[assignment] # as of comparisons in the making

    def __init__(self, key: bytes) -> None:
        self._key = key

    @override
    def __eq__(self, _: object) -> Compare:  # type: ignore[override] # builds a comparison
        return compare.create_revision(self._key) > -1

    def __lt__(self, _: object) -> Compare:
        return self == 0


def no_gate_compare(patch: pytest.MonkeyPatch) -> None:
    """A create does not compare the fence."""
    blind = SimpleNamespace(create_revision=compare.create_revision, mod_revision=_Holding)
    patch.setattr("coord.entry.compare", blind)


def no_gate_bump_on_release(patch: pytest.MonkeyPatch) -> None:
    """Leaving after an unanswered create does not change the fence."""
    leave = Entry._leave_once

    async def other(self: Entry) -> None:
        self._doubtful = False
        await leave(self)

    patch.setattr(Entry, "_leave_once", other)


def no_token_compare(patch: pytest.MonkeyPatch) -> None:
    """A grant's transactions compare nothing."""

    def always(self: Entry) -> tuple[Compare, ...]:
        del self
        return ()

    patch.setattr("coord.grants.Grant.guards", always)


def no_anchor(patch: pytest.MonkeyPatch) -> None:
    """A wait watches from the revision after the next one."""

    def late(self: waiter.Sight, revision: int) -> WatchSpec:
        spec = original(self, revision)
        return WatchSpec(
            key=spec.key,
            end=spec.end,
            start_revision=0,
            no_put=spec.no_put,
            no_delete=spec.no_delete,
        )

    original = waiter.Sight.spec
    patch.setattr(waiter.Sight, "spec", late)


def no_confirmation(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits takes the first deletion it sees for its turn."""

    async def at_once(self: Contender) -> waiter.Done[None]:
        del self
        return waiter.Done(None)

    patch.setattr(Contender, "_look", at_once)


def no_marker(patch: pytest.MonkeyPatch) -> None:
    """A marked transaction that is sent again has a marker of its own."""
    send = marker._Attempt._send

    async def other(self: marker._Attempt, left: float) -> TxnResult:
        self._key = self._markers.nonce()
        return await send(self, left)

    patch.setattr(marker._Attempt, "_send", other)


def no_margin(patch: pytest.MonkeyPatch) -> None:
    """A renewal counts from when its answer came."""
    confirm = Session._confirm

    def other(self: Session, sent_at: float) -> None:
        del sent_at
        confirm(self, self._clock.mono() + 1.0)

    patch.setattr(Session, "_confirm", other)


def no_limit_compare(patch: pytest.MonkeyPatch) -> None:
    """A semaphore does not compare what was counted with, neither the entries nor the limit."""

    def holding(key: bytes, *, prefix: bool = False) -> _Holding:
        del prefix
        return _Holding(key)

    blind = SimpleNamespace(**{**vars(compare), "mod_revision": holding})
    patch.setattr("coord.recipes.semaphore.attempt.compare", blind)


def no_place_in_round(patch: pytest.MonkeyPatch) -> None:
    """A party of a double barrier does not look whether it is one of the first."""

    def second(self: _View, token: int) -> int:
        del self, token
        return 1

    patch.setattr(_View, "ahead_of", second)


def no_readers(patch: pytest.MonkeyPatch) -> None:
    """A writer waits for writers only."""
    init = Place.__init__

    def other(self: Place, *args: object, **more: object) -> None:
        init(self, *args, **more)  # type: ignore[arg-type] # handed on
        self._in_way = self.name + b"/write/"

    patch.setattr(Place, "__init__", other)


@pytest.mark.parametrize(
    ("recipe", "plant", "within"),
    [
        ("mutex", no_gate_compare, 400),
        ("mutex", no_gate_bump_on_release, 800),
        ("mutex", no_token_compare, 800),
        ("mutex", no_anchor, 400),
        ("mutex", no_confirmation, 400),
        ("rwlock", no_readers, 200),
        ("semaphore", no_limit_compare, 400),
        ("double-barrier", no_place_in_round, 200),
        ("counter", no_marker, 100),
        ("session", no_margin, 400),
    ],
)
def test_a_missing_guard_is_found(
    monkeypatch: pytest.MonkeyPatch, recipe: str, plant: Plant, within: int
) -> None:
    plant(monkeypatch)
    for seed in range(within):
        if run_one(RECIPES[recipe], seed).error is not None:
            return
    pytest.fail(f"{plant.__name__} was not found in {within} schedules")
