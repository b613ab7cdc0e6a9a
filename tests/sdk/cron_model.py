"""What schedulers of one cron may do: an executable model, fed with every change of its keys in the order of the store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import coord


@dataclass(slots=True)
class Model:
    """Per job its state and its policy; per tick the attempts that began, and how it ended."""

    name: str
    states: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    attempts: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    results: dict[str, str] = field(default_factory=dict[str, str])
    running: dict[str, int] = field(default_factory=dict[str, int])
    tokens: dict[str, int] = field(default_factory=dict[str, int])

    def change(self, event: coord.WatchEvent) -> None:
        """Take in one change, and refuse what must not happen."""
        part, _, path = event.kv.key.decode().removeprefix(f"{self.name}/").partition("/")
        gone = event.type is coord.EventType.DELETE
        if part not in ("jobs", "state", "ticks"):
            return  # of those who decide which scheduler sees to which jobs
        said: dict[str, Any] = {} if gone else json.loads(event.kv.value)
        if part == "jobs":
            self.jobs[path] = said or self.jobs[path]
        elif part == "state":
            self._state(path, said)
        elif part == "ticks" and gone:
            self.running.pop(path, None)
        elif part == "ticks":
            self._tick(path, said, event.kv)

    def _state(self, job: str, said: dict[str, Any]) -> None:
        before = self.states.get(job)
        if before and said:
            assert said["last_tick"] >= before["last_tick"], "ticks go forward"
            assert said["last_asked"] >= before["last_asked"], "so do those that are asked for"
        if said and not self.jobs[job]["overlap"]:
            assert len(said["running"]) <= 1, "one at a time"
        self.states[job] = said

    def _tick(self, path: str, said: dict[str, Any], kv: coord.KeyValue) -> None:
        job = path.partition("/")[0]
        assert path not in self.results, "what has ended is never begun nor ended again"
        if said["outcome"] != "running":
            token = self.running.pop(path, None)
            assert token in (None, kv.create_revision), "only who runs it ends it"
            self.results[path] = said["outcome"]
            return
        assert kv.version == 1, "an attempt begins where no other goes on"
        assert kv.create_revision > self.tokens.get(job, 0), "tokens rise"
        begun = self.attempts.setdefault(path, [])
        assert said["attempt"] in ((begun or [0])[-1], (begun or [0])[-1] + 1), (
            "one after the other"
        )
        if self.jobs[job]["policy"] == "at_most_once":
            assert not begun, "at most once"
        begun.append(said["attempt"])
        self.tokens[job] = self.running[path] = kv.create_revision

    def at_rest(self) -> None:
        """Nothing runs any more: what was begun has ended."""
        assert not self.running
        assert not any(state["running"] for state in self.states.values() if state)
        assert self.attempts.keys() <= self.results.keys()


@contextlib.asynccontextmanager
async def judged(client: coord.Client, name: str) -> AsyncGenerator[Model]:
    """Judge everything that happens to the cron in the block, at its end."""
    model = Model(name)
    async with client.watch(name + "/", prefix=True, start_revision=1) as changes:
        yield model
        mark = await client.put(name + "/mark", "")
        async for event in changes:
            if event.kv.mod_revision == mark.revision:
                break
            model.change(event)
    model.at_rest()
