"""The keys of a cron, and what stands in them.

``jobs/<job>`` is written by people, ``state/<job>`` by the job's scheduler, ``ticks/<job>/<tick>`` by whoever runs it:
under the runner's lease while it runs, then under one that lasts as long as the history.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from coord.errors import InvalidArgument
from coord.recipes.cron.job import Job, TickRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.store.values import KeyValue

_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_WHOLE = "%Y%m%dT%H%M%SZ"
_MOST_ASKED = 32
_MS = 1000


class Layout:
    """The keys of one cron."""

    def __init__(self, name: bytes) -> None:
        self.jobs: bytes = name + b"/jobs/"
        self.state: bytes = name + b"/state/"
        self.ticks: bytes = name + b"/ticks/"

    def ticks_of(self, job: bytes) -> bytes:
        """Return the prefix of a job's ticks."""
        return self.ticks + job + b"/"

    def tick(self, job: bytes, tick: str) -> bytes:
        """Return the key of one tick."""
        return self.ticks + job + b"/" + tick.encode()


def tick_id(moment: datetime) -> str:
    """Return a tick as it stands in keys: UTC, ISO 8601 in its basic form, with milliseconds only if it has some."""
    moment = moment.astimezone(UTC)
    ms = moment.microsecond // _MS
    text = moment.strftime(_WHOLE)
    return f"{text[:-1]}.{ms:03d}Z" if ms else text


def tick_time(text: str) -> datetime | None:
    """Return the instant that a tick's id names, None if it names none."""
    whole, point, rest = text.removesuffix("Z").partition(".")
    try:
        moment = datetime.strptime(whole + "Z", _WHOLE).replace(tzinfo=UTC)
        return moment.replace(microsecond=int(rest) * _MS) if point else moment
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDoc:
    """What ``jobs/<job>`` says: the job, from when on its ticks count, and the runs that people have asked for."""

    job: Job
    since: datetime
    asked: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return it as the value of a key."""
        said: dict[str, object] = {"v": 1, **asdict(self.job), "since": tick_id(self.since)}
        del said["name"]
        if self.asked:
            said["asked"] = list(self.asked)
        return _to_json(said).encode()

    @classmethod
    def decode(cls, name: str, value: bytes) -> JobDoc | None:
        """Read the value of a key; None if it says no job. Raises :class:`MissingExtra`."""
        found = parse(value)
        since = tick_time(str(found.get("since", "")))
        known = {f.name for f in fields(Job)} - {"name"}
        given: dict[str, Any] = {key: found[key] for key in known if key in found}
        try:
            job = Job(name=name, **given)
            job.check()
        except (InvalidArgument, TypeError, AttributeError):
            return None
        if since is None:
            return None
        asked = found.get("asked")
        listed = cast("list[object]", asked) if isinstance(asked, list) else []
        return cls(job=job, since=since, asked=tuple([a for a in listed if isinstance(a, str)]))

    def with_asked(self, tick: str, done: str) -> JobDoc | None:
        """Return it with one more run that is asked for, without those up to ``done``; None if there are too many."""
        asked = [each for each in self.asked if each > done]
        return None if len(asked) >= _MOST_ASKED else replace(self, asked=(*asked, tick))


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A tick that was begun: how often, and from when on (ms since 1970) it may be begun again, 0: at once.

    ``given_back``: its scheduler has given it back, so this is no death.
    """

    attempt: int
    due_ms: int = 0
    given_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What ``state/<job>`` says: up to where the ticks are dealt with, and which are begun and not ended."""

    last_tick: str = ""
    last_asked: str = ""
    running: Mapping[str, Begun] = field(default_factory=dict[str, Begun])

    def encode(self) -> bytes:
        """Return it as the value of a key."""
        running = {
            tick: {key: value for key, value in asdict(begun).items() if value}
            for tick, begun in self.running.items()
        }
        return _to_json(
            {
                "v": 1,
                "last_tick": self.last_tick,
                "last_asked": self.last_asked,
                "running": running,
            }
        ).encode()

    @classmethod
    def decode(cls, value: bytes) -> State:
        """Read the value of a key; what cannot be read counts as nothing."""
        found = parse(value)
        running: dict[str, Begun] = {}
        listed = found.get("running")
        for tick, said in (
            cast("dict[str, object]", listed).items() if isinstance(listed, dict) else ()
        ):
            if isinstance(said, dict) and tick_time(tick) is not None:
                parts = cast("dict[str, object]", said)
                attempt, due = parts.get("attempt"), parts.get("due_ms")
                running[tick] = Begun(
                    attempt=attempt if isinstance(attempt, int) else 0,
                    due_ms=due if isinstance(due, int) else 0,
                    given_back=parts.get("given_back") is True,
                )
        return cls(
            last_tick=str(found.get("last_tick", "")),
            last_asked=str(found.get("last_asked", "")),
            running=running,
        )

    def is_new(self, tick: str) -> bool:
        """Whether nobody has begun this tick yet, by what the state says."""
        return tick not in self.running

    def begun(self, tick: str, attempt: int, *, asked: bool) -> State:
        """Return it with an attempt at a tick that begins now."""
        running = {**self.running, tick: Begun(attempt=attempt)}
        if attempt > 1 or tick in self.running:
            return replace(self, running=running)
        if asked:
            return replace(self, last_asked=max(self.last_asked, tick), running=running)
        return replace(self, last_tick=max(self.last_tick, tick), running=running)

    def missed(self, tick: str) -> State:
        """Return it with the ticks up to this one left out."""
        return replace(self, last_tick=max(self.last_tick, tick))

    def ended(self, tick: str) -> State:
        """Return it without a tick that has ended."""
        return replace(
            self, running={key: value for key, value in self.running.items() if key != tick}
        )

    def again(self, tick: str, begun: Begun) -> State:
        """Return it with a tick that is to be begun again."""
        return replace(self, running={**self.running, tick: begun})


def encode_record(record: TickRecord, nonce: str) -> bytes:
    """Return what a tick's key says of its run."""
    said: dict[str, object] = {"v": 1, "nonce": nonce, "outcome": record.outcome}
    for name in ("attempt", "error", "host", "pid"):
        if value := getattr(record, name):
            said[name] = value
    for name in ("started_at", "ended_at", "missed_since"):
        moment: datetime | None = getattr(record, name)
        if moment is not None:
            said[name] = tick_id(moment)
    return _to_json(said).encode()


def decode_record(kv: KeyValue, prefix: bytes) -> TickRecord | None:
    """Read what a tick's key says; None if it says no tick."""
    tick = tick_time(kv.key[len(prefix) :].decode(errors="replace"))
    if tick is None:
        return None
    found = parse(kv.value)
    attempt, pid = found.get("attempt"), found.get("pid")
    return TickRecord(
        tick=tick,
        outcome=cast("Any", str(found.get("outcome", "lost"))),
        attempt=attempt if isinstance(attempt, int) else 0,
        token=kv.create_revision,
        started_at=tick_time(str(found.get("started_at", ""))),
        ended_at=tick_time(str(found.get("ended_at", ""))),
        missed_since=tick_time(str(found.get("missed_since", ""))),
        error=str(found.get("error", "")),
        host=str(found.get("host", "")),
        pid=pid if isinstance(pid, int) else 0,
    )


def nonce_of(value: bytes) -> str:
    """Return the nonce of whoever wrote a tick's key."""
    return str(parse(value).get("nonce", ""))


def is_running(value: bytes) -> bool:
    """Whether a tick's key says that it runs."""
    return parse(value).get("outcome") == "running"


def parse(value: bytes) -> Mapping[str, object]:
    """Read a JSON object; anybody may have written the value."""
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else {}
