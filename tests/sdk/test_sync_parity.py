"""Every public class and method has a blocking twin with the same signature; a new one without fails here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import coord
import coord.sync
from coord import signals

# Of the loop that the client lives on: not for applications.
INTERNAL = {
    "AtomicValue.exchange",
    "AtomicValue.updating",
    "AtomicValue.versioned",
    "Gate.discard",
    "Grant.discard",
    "HandOff.give_back",
    "GroupSeat.discard",
    "MultiLock.acquire_for",
    "MultiLock.try_acquire_for",
    "Mutex.acquire_for",
    "Mutex.try_acquire_for",
    "MutexGrant.enter_again",
    "OneShot.set",
    "OneShot.watch",
    "Ownership.needs_fence",
    "Ownership.revoke",
    "Registration.begin",
    "Registration.discard",
    "Session.attempt_limit",
    "Session.beat_on",
    "Session.confirm_lost",
    "Session.drop_lease",
    "Session.expire",
    "Session.on_renewed",
    "Session.prove_alive",
    "Session.shut",
    "StmTxn.base",
    "StmTxn.conditions",
    "StmTxn.end",
    "StmTxn.needs_check",
    "StmTxn.prefetch",
    "StmTxn.read_keys",
    "StmTxn.writes",
    "Subscription.save",
    "Tick.close",
    "Tick.end",
    "Tick.revoke",
    "Term.revoked",
    "Typed.updating",
    "_Side.acquire_for",
    "_Side.try_acquire_for",
    "Semaphore.acquire_for",
    "Semaphore.try_acquire_for",
    "WorkItem.revoke",
    "WorkQueue.give_back",
}
# `connect()`, `register()` and the like are done when they return, so there is nothing between.
WITHOUT_TWIN = {"Connecting", "Opening"}
# Only here: an asynchronous caller wraps the read in asyncio.timeout().
EXTRA = {"Subscription.read", "TypedWatch.read", "Watch.read"}
# Parameters that a thread has no use for.
LEFT_OUT = {
    "connect": {"runtime"},
    "Mutex.hold": {"on_loss"},
    "MultiLock.hold": {"on_loss"},
    "Election.lead": {"on_loss"},
    "ReadLock.hold": {"on_loss"},
    "WriteLock.hold": {"on_loss"},
    "Semaphore.hold": {"on_loss"},
}
# Parameters of another type: no loops, and plain functions instead of coroutine functions.
RETYPED = {
    "Client.session": {"liveness"},
    "Client.stm": {"fn"},
    "Election.run": {"fn"},
    "Partitioner.run": {"on_assign", "on_revoke"},
    "Registry.discover": {"probe"},
    "Registry.register": {"health"},
    "StmTxn.guard": {"grant"},
}

DUNDERS = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}


def is_awaited(member: object) -> bool:
    return inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


def public_members(cls: type) -> dict[str, Any]:
    """Functions and properties that callers see, inherited ones too."""
    return {
        name: member
        for name, member in inspect.getmembers(cls)
        if (not name.startswith("_") or name in DUNDERS)
        and (inspect.isfunction(member) or isinstance(member, property))
    }


def asynchronous_classes() -> dict[str, type]:
    public = {name: getattr(coord, name) for name in coord.__all__}
    public["OneShot"] = signals.OneShot  # what `grant.lost` and `session.expired` are
    return {
        name: value
        for name, value in public.items()
        if inspect.isclass(value)
        and name not in WITHOUT_TWIN
        and any(is_awaited(member) for member in public_members(value).values())
    }


CLASSES = asynchronous_classes()
PAIRS = [
    (f"{name}.{member}", name, member)
    for name, cls in CLASSES.items()
    for member in public_members(cls)
    if not any(f"{base.__name__}.{member}" in INTERNAL for base in cls.__mro__)
]


def parameters(function: Callable[..., Any], omit: set[str]) -> list[tuple[object, ...]]:
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
        if each.name not in omit
    ]


def types(function: Callable[..., Any], omit: set[str]) -> dict[str, object]:
    return {
        each.name: each.annotation
        for each in inspect.signature(function).parameters.values()
        if each.name not in omit
    }


def compare(
    label: str, ours: property | Callable[..., Any], twin: property | Callable[..., Any]
) -> None:
    if isinstance(ours, property) or isinstance(twin, property):
        assert type(ours) is type(twin)
        return
    assert not is_awaited(twin)
    left_out = LEFT_OUT.get(label, set())
    assert parameters(twin, set()) == parameters(ours, left_out)
    omit = left_out | RETYPED.get(label, set())
    assert types(twin, omit) == types(ours, omit)


def test_there_is_something_to_compare() -> None:
    assert set(CLASSES) >= {"Client", "Session", "Mutex", "MutexGrant", "Election", "Term", "Watch"}
    assert len(PAIRS) > 70


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_asynchronous_class_has_a_twin(name: str) -> None:
    assert name in coord.sync.__all__


@pytest.mark.parametrize(("label", "name", "member"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_every_method_has_a_twin(label: str, name: str, member: str) -> None:
    twin = getattr(coord.sync, name)
    wanted = DUNDERS.get(member, member)
    assert hasattr(twin, wanted)
    compare(label, public_members(CLASSES[name])[member], inspect.getattr_static(twin, wanted))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_no_twin_knows_more(name: str) -> None:
    known = set(public_members(CLASSES[name]))
    twins = {m for m in public_members(getattr(coord.sync, name)) if m not in DUNDERS}
    # Attributes of instances are properties of twins; test_sync looks at those.
    extra = {
        member
        for member in twins - known
        if not isinstance(inspect.getattr_static(getattr(coord.sync, name), member), property)
    }
    assert {f"{name}.{member}" for member in extra} <= EXTRA


def test_functions() -> None:
    functions = [name for name in coord.__all__ if inspect.isfunction(getattr(coord, name))]
    assert functions == ["connect"]
    compare("connect", coord.connect, coord.sync.connect)


def test_the_exceptions_are_still_needed() -> None:
    known = {
        f"{base.__name__}.{member}"
        for cls in CLASSES.values()
        for base in cls.__mro__
        for member in vars(base)
    }
    assert known >= INTERNAL
    assert all(hasattr(coord, name) for name in WITHOUT_TWIN)
    assert all(hasattr(getattr(coord.sync, c), m) for c, m in (e.split(".") for e in EXTRA))
    for label, names in {**LEFT_OUT, **RETYPED}.items():
        owner, _, member = label.rpartition(".")
        function = getattr(getattr(coord, owner) if owner else coord, member)
        assert names <= set(inspect.signature(function).parameters)
