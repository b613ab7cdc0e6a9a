"""The program of the demo's child processes: ``python -m coord.cli.demo.actors ROLE SETTINGS``.

Reports are lines of JSON on standard output, commands are lines on standard input.
When that input ends, the story is gone, and so is the actor.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import coord
import coord.sync
from coord.cli.demo.storage import FencedFile, StaleTokenError

_CRITICAL_SECTION_S = (
    0.002  # between reading and writing: where an unprotected increment would get lost
)
_NEWS_EVERY = 10  # acknowledged increments between two reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the story tells an actor when it starts it."""

    name: str
    endpoint: str
    storage: str = ""
    ttl: int = 10
    rounds: int = 0


class Stage:
    """The line to the story."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._commands.put(line.strip())
        # The story has ended or died: nothing that this process still holds matters to anyone.
        os._exit(0)

    def report(self, event: str, **details: object) -> None:
        """Tell the story what happened."""
        print(json.dumps({"event": event, **details}), flush=True)  # noqa: T201 - the line to the story

    def wait_for(self, command: str) -> None:
        """Wait until the story sends this command."""
        while self._commands.get() != command:
            pass

    def is_told(self) -> bool:
        """Whether a command waits."""
        return not self._commands.empty()

    def connect(self) -> coord.sync.Client:
        """Connect to the demo's server."""
        return coord.sync.connect(self.settings.endpoint)


def worker(stage: Stage) -> None:
    """Increment the shared file a number of times, each time under the mutex."""
    settings = stage.settings
    storage = FencedFile(Path(settings.storage))
    refused = 0
    with stage.connect() as client, client.session(ttl=settings.ttl) as session:
        mutex = client.mutex("demo/file", session=session, label=settings.name)
        stage.report("ready")
        stage.wait_for("go")
        for _ in range(settings.rounds):
            with mutex.hold() as grant:
                value = storage.read()
                time.sleep(_CRITICAL_SECTION_S)
                try:
                    storage.write(value + 1, token=grant.token, writer=settings.name)
                except StaleTokenError:
                    refused += 1
        stage.report("done", refused=refused)


def candidate(stage: Stage) -> None:
    """Stand for election; lead until told to resign."""
    settings = stage.settings
    with stage.connect() as client, client.session(ttl=settings.ttl) as session:
        election = client.election("demo/leader", session=session)
        stage.report("standing")
        term = election.campaign(settings.name)
        stage.report("leading", token=term.token)
        stage.wait_for("resign")
        term.resign()
        stage.report("resigned")


def holder(stage: Stage) -> None:
    """Take the lock, fall asleep in the middle of the work, and go on as if nothing had happened."""
    settings = stage.settings
    storage = FencedFile(Path(settings.storage))
    with stage.connect() as client, client.session(ttl=settings.ttl) as session:
        grant = client.mutex("demo/file", session=session, label=settings.name).acquire()
        value = storage.read()
        grant.check()
        stage.report("holding", token=grant.token, valid_for=grant.valid_for())
        # Here the process is stopped. A real one would not know that it was: it goes on with what it has read.
        stage.wait_for("write")
        try:
            storage.write(value + 1, token=grant.token, writer=settings.name)
            stage.report("written", token=grant.token)
        except StaleTokenError as error:
            stage.report("refused", token=error.token, highest=error.highest)
        try:
            grant.check()
            stage.report("checked", lost=None)
        except coord.LockLost as error:
            stage.report("checked", lost=error.reason)
        result = client.txn().when(grant.guard()).then(coord.op.put("demo/stale", "1")).commit()
        stage.report("guarded", succeeded=result.succeeded)
        stage.wait_for("leave")


def successor(stage: Stage) -> None:
    """Wait for the lock, write once, and give it back."""
    settings = stage.settings
    storage = FencedFile(Path(settings.storage))
    with stage.connect() as client:
        mutex = client.mutex("demo/file", label=settings.name)
        stage.report("waiting")
        with mutex.hold() as grant:
            storage.write(storage.read() + 1, token=grant.token, writer=settings.name)
            stage.report("written", token=grant.token)
        stage.wait_for("leave")


def service(stage: Stage) -> None:
    """Register under a leased key, and serve."""
    settings = stage.settings
    with stage.connect() as client, client.session(ttl=settings.ttl) as session:
        client.put(f"demo/services/{settings.name}", f"pid {os.getpid()}", lease=session.lease_id)
        stage.report("registered")
        stage.wait_for("leave")


def counter(stage: Stage) -> None:
    """Increment a key of the store as fast as possible, and keep an honest account of the outcomes."""
    acknowledged = doubtful = revision = 0
    with stage.connect() as client:
        stage.report("ready")
        while not stage.is_told():
            with contextlib.suppress(coord.Unavailable, coord.CoordTimeout):
                found = client.get("demo/counter")
                value = int(found.value) if found is not None else 0
                unchanged = coord.compare.mod_revision("demo/counter") == (
                    found.mod_revision if found is not None else 0
                )
                step = (
                    client.txn().when(unchanged).then(coord.op.put("demo/counter", str(value + 1)))
                )
                try:
                    result = step.commit()
                except coord.AmbiguousResult:
                    doubtful += 1
                    continue
                if result.succeeded:
                    acknowledged += 1
                    revision = max(revision, result.revision)
                    if acknowledged % _NEWS_EVERY == 0:
                        stage.report("progress", acknowledged=acknowledged, at=time.monotonic())
        stage.report("account", acknowledged=acknowledged, doubtful=doubtful, revision=revision)
        stage.wait_for("stop")


ROLES = {
    "worker": worker,
    "candidate": candidate,
    "holder": holder,
    "successor": successor,
    "service": service,
    "counter": counter,
}


def main(arguments: list[str]) -> None:
    """Play one role."""
    role, settings = arguments
    ROLES[role](Stage(Settings(**json.loads(settings))))


if __name__ == "__main__":
    main(sys.argv[1:])
