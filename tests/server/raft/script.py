"""Runs a scenario: commands for one member, and what each of them changed.

A scenario is a text file of blocks: one command per line, ``----``, the expected output. Lines that
begin with ``#`` are kept. One that has a command ``cluster`` is about several members, and has the
commands of `cluster_script`. Commands::

    new [term=T] [vote=N] [commit=C] [base=I@T] [log=T,T,...]   a member with this on its disk
    tick | propose DATA | read CONTEXT | receive FROM [term=T]
    persist            the oldest write reaches the disk and the core hears of it
    persisted I@T      the core hears of a write with this index and term
    crash              lose what is not on the disk, and start again from it
    compact I          forget entries in memory
    state              print everything
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from coord.runtime import InvariantViolation
from coord_server.raft import (
    Effects,
    Entry,
    EntryKind,
    Event,
    HardState,
    Index,
    Membership,
    NodeId,
    Persist,
    Persisted,
    ProposalDropped,
    Proposed,
    RaftConfig,
    RaftCore,
    RaftLog,
    ReadRequested,
    Received,
    Term,
    Tick,
    TimeoutNow,
)
from tests.server.raft.cluster_script import ClusterScript

ME = NodeId(1)


class Script:
    """One member, its disk, and the writes that are on their way to it."""

    def __init__(self) -> None:
        self._hard_state = HardState()
        self._base = (0, 0)
        self._disk: list[Entry] = []
        self._writes: deque[Persist] = deque()
        self._commands: dict[str, Callable[[list[str]], Iterator[str]]] = {
            "new": self._new,
            "tick": lambda _: self._step(Tick()),
            "propose": lambda words: self._step(Proposed(words[0].encode())),
            "read": lambda words: self._step(ReadRequested(int(words[0]))),
            "receive": self._receive,
            "persist": self._persist,
            "persisted": self._persisted,
            "crash": lambda _: self._start(),
            "compact": self._compact,
            "state": lambda _: self._state(),
        }
        self._core = self._load()

    def run(self, commands: str) -> str:
        """Run the commands of a block and return what they print."""
        lines: list[str] = []
        for command in commands.splitlines():
            name, *words = command.split()
            try:
                lines.extend(self._commands[name](words))
            except (InvariantViolation, ProposalDropped) as error:
                lines.append(f"{type(error).__name__}: {error}")
        return "\n".join(lines or ["(nothing)"])

    def _load(self) -> RaftCore:
        index, term = self._base
        log = RaftLog(base_index=Index(index), base_term=Term(term), entries=self._disk)
        return RaftCore(
            RaftConfig(node_id=ME, membership=Membership(voters=(ME,))), self._hard_state, log
        )

    def _start(self) -> Iterator[str]:
        self._writes.clear()
        self._core = self._load()
        yield from self._state()

    def _new(self, words: list[str]) -> Iterator[str]:
        options = dict(word.split("=") for word in words)
        self._hard_state = HardState(
            Term(int(options.get("term", 0))),
            NodeId(int(options.get("vote", 0))),
            Index(int(options.get("commit", 0))),
        )
        base, _, base_term = options.get("base", "0@0").partition("@")
        self._base = (int(base), int(base_term))
        terms = [int(term) for term in options.get("log", "").split(",") if term]
        self._disk = [
            Entry(Term(term), Index(place), EntryKind.NORMAL, b"old")
            for place, term in enumerate(terms, self._base[0] + 1)
        ]
        yield from self._start()

    def _receive(self, words: list[str]) -> Iterator[str]:
        term = int(words[1].removeprefix("term=")) if len(words) > 1 else 0
        return self._step(
            Received(TimeoutNow(sender=NodeId(int(words[0])), to=ME, term=Term(term)))
        )

    def _persist(self, _: list[str]) -> Iterator[str]:
        persist = self._writes.popleft()
        self._hard_state = persist.hard_state or self._hard_state
        for entry in persist.entries:
            del self._disk[entry.index - self._base[0] - 1 :]
            self._disk.append(entry)
        return self._step(Persisted(persist.index, persist.last_term, persist.term))

    def _persisted(self, words: list[str]) -> Iterator[str]:
        index, _, term = words[0].partition("@")
        return self._step(Persisted(Index(int(index)), Term(int(term)), Term(int(term))))

    def _compact(self, words: list[str]) -> Iterator[str]:
        self._core.compact(Index(int(words[0])))
        yield from ()

    def _step(self, event: Event) -> Iterator[str]:
        effects = self._core.step(event)
        if effects.persist is not None:
            self._writes.append(effects.persist)
        yield from _shown(effects)

    def _state(self) -> Iterator[str]:
        core = self._core
        yield (
            f"{core.role.value}@{core.term} leader={core.leader} commit={core.commit_index} "
            f"last={core.last_index}"
        )


def _entries(entries: tuple[Entry, ...]) -> str:
    return " ".join(f"{e.index}@{e.term}:{e.data.decode() or '(empty)'}" for e in entries)


def _shown(effects: Effects) -> Iterator[str]:
    if effects.status is not None:
        status = effects.status
        yield f"status {status.role.value}@{status.term} leader={status.leader}"
    if effects.persist is not None:
        parts = ["persist"]
        state = effects.persist.hard_state
        if state is not None:
            parts.append(f"term={state.term} vote={state.vote} commit={state.commit}")
        if effects.persist.entries:
            parts.append(_entries(effects.persist.entries))
        yield " ".join(parts)
    for message in effects.send + effects.send_after_persist:
        yield f"send {message}"
    if effects.committed:
        yield f"committed {_entries(effects.committed)}"
    for read in effects.reads:
        yield f"read {read.context} at {read.index}"


def rewritten(text: str) -> str:
    """Return a scenario with the output that its commands really give."""
    several = any(line.startswith("cluster ") for line in text.splitlines())
    script = ClusterScript() if several else Script()
    blocks: list[str] = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        comments = [line for line in lines if line.startswith("#")]
        commands: list[str] = []
        for line in lines:
            if line == "----":
                break
            if not line.startswith("#"):
                commands.append(line)
        if commands:
            output = script.run("\n".join(commands))
            blocks.append("\n".join([*comments, *commands, "----", output]))
        else:
            blocks.append("\n".join(comments))
    return "\n\n".join(blocks) + "\n"
