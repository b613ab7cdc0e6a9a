"""Holding something exclusive for as long as a command runs, or until a signal says to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from coord.cli.options import CommandFailed
from coord.runtime import start_task
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Coroutine, Generator, Mapping

    from coord.cli.connection import Store
    from coord.election import Leader
    from coord.grants import Grant
    from coord.signals import OneShot

T = TypeVar("T")

CANNOT_RUN = 126  # as shells and env(1) report it
NOT_FOUND = 127
_SIGNAL_BASE = 128

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PASSED_ON = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2)
# A terminal sends these to the child itself.
_FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT})


class Held(Protocol):
    """What a command runs under: a grant, or something else that can be lost."""

    @property
    def name(self) -> str:
        """The name of it."""
        ...

    @property
    def token(self) -> int:
        """The token of it."""
        ...

    @property
    def lost(self) -> OneShot:
        """Fires when it is lost."""
        ...


@dataclass(slots=True)
class Signals:
    """The signals that this process was sent, since :func:`caught` began."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: list[signal.Signals] = field(default_factory=list[signal.Signals])
    on_signal: Callable[[signal.Signals], None] | None = None

    def receive(self, number: signal.Signals) -> None:
        """Take note of a signal, or hand it to who wants it."""
        if number in _ENDING:
            self.numbers.append(number)
            self.arrived.set()
        if self.on_signal is not None:
            self.on_signal(number)


@contextlib.contextmanager
def caught() -> Generator[Signals]:
    """Catch signals on the running loop instead of dying of them."""
    loop = asyncio.get_running_loop()
    signals = Signals()
    for number in _PASSED_ON:
        loop.add_signal_handler(number, signals.receive, number)
    try:
        yield signals
    finally:
        for number in _PASSED_ON:
            loop.remove_signal_handler(number)


class Interrupted(CommandFailed):
    """A signal ended the wait."""

    def __init__(self, what: str, number: signal.Signals) -> None:
        super().__init__(f"{what}: {number.name}", _SIGNAL_BASE + number)


async def or_signal(waiting: Coroutine[Any, Any, T], signals: Signals, what: str) -> T:
    """Return what ``waiting`` gives. Raises :class:`Interrupted` at a signal; a place in line is given up then."""
    task, signalled = start_task(waiting), start_task(signals.arrived.wait())
    try:
        await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Interrupted(what, signals.numbers[0])
        return task.result()
    finally:
        for each in (task, signalled):
            each.cancel()
        await asyncio.wait({task, signalled})


async def entry_of(store: Store, held: Grant | Leader) -> rpc_pb2.RangeResponse:
    """Read the entry that stands for what is held."""
    return await store.call(methods.KV_RANGE, rpc_pb2.RangeRequest(key=held.key))


async def hold(store: Store, signals: Signals, grant: Grant, noun: str) -> int:
    """Show the entry of ``grant``, and hold that until a signal comes."""
    entry = await entry_of(store, grant)
    if store.printer.as_json:
        store.printer.json(entry)
    else:
        store.printer.get(entry)
    code = await until_signal(signals, grant, noun)
    await grant.release()
    return code


async def run_under(
    signals: Signals,
    grant: Grant,
    noun: str,
    command: list[str],
    told: Mapping[str, str],
    kill_after: float,
) -> int:
    """Run a command while ``grant`` is held, release that, and return the command's exit code."""
    code = await while_running(signals, grant, noun, command, told, kill_after)
    if not await grant.release():
        # It ended by itself, but what it needed was no longer surely held.
        raise CommandFailed(
            f"{noun} lost: {grant.name} (token {grant.token}), before the command ended"
        )
    return code


async def until_signal(signals: Signals, grant: Held, noun: str) -> int:
    """Hold ``grant`` until a signal comes, and return 0. Raises :class:`CommandFailed` when it is lost."""
    if not await _still_held(signals.arrived.wait(), grant):
        raise _lost(noun, grant)
    return 0


async def while_running(
    signals: Signals,
    grant: Held,
    noun: str,
    command: list[str],
    told: Mapping[str, str],
    kill_after: float,
    *,
    given: bytes | None = None,
) -> int:
    """Run ``command`` while ``grant`` is held, and return its exit code, 128 + n if signal n ended it.

    ``given``: what it gets on its standard input, None: ours.
    Signals are passed on to it.
    When the grant is lost it gets SIGTERM, after ``kill_after`` seconds SIGKILL, and :class:`CommandFailed` is raised.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **told},
            stdin=None if given is None else asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{command[0]}: command not found", NOT_FOUND) from error
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}", CANNOT_RUN) from error

    def pass_on(number: signal.Signals) -> None:
        if number not in _FROM_TERMINAL or not _in_foreground():
            _send(child, number)

    signals.on_signal = pass_on
    for number in tuple(signals.numbers):  # arrived while the child was being started
        pass_on(number)
    try:
        if not await _still_held(_feed(child, given), grant):
            await _end(child, kill_after)
            raise _lost(noun, grant)
    finally:
        if child.returncode is None:
            await _end(child, kill_after)
    code = child.returncode or 0
    return _SIGNAL_BASE - code if code < 0 else code


async def _feed(child: Process, given: bytes | None) -> None:
    """Write ``given`` to the child, which need not read it, and wait for its end."""
    if given is not None and child.stdin is not None:
        child.stdin.write(given)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await child.stdin.drain()
        child.stdin.close()
    await child.wait()


async def _still_held(work: Coroutine[Any, Any, object], grant: Held) -> bool:
    """Wait until ``work`` ends or ``grant`` is lost; say whether it is still held."""
    working, losing = start_task(work), start_task(grant.lost.wait())
    try:
        await asyncio.wait({working, losing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, losing):
            task.cancel()
        await asyncio.wait({working, losing})
    return not grant.lost.is_set()


async def _end(child: Process, kill_after: float) -> None:
    """End the child: politely, then not."""
    _send(child, signal.SIGTERM)
    try:
        async with asyncio.timeout(kill_after):
            await child.wait()
    except TimeoutError:
        _send(child, signal.SIGKILL)
        await child.wait()


def _send(child: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


def _in_foreground() -> bool:
    """Whether a terminal has sent this process's group, and so the child, what it sent us."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _lost(noun: str, grant: Held) -> CommandFailed:
    return CommandFailed(f"{noun} lost: {grant.name} (token {grant.token}): {grant.lost.reason}")
