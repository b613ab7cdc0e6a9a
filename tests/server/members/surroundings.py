"""What is around a member, for tests: peers that answer or not, a name service, a log that is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coord.runtime import RealClock
from coord.wire import rpc_pb2 as pb
from coord_server.log import Log
from coord_server.srv_records import SrvTarget


def quiet() -> tuple[Log, list[dict[str, Any]]]:
    """A log, and what was written to it."""
    lines: list[dict[str, Any]] = []
    log = Log(clock=RealClock(), write=lambda line: lines.append(json.loads(line)), level="info")
    return log, lines


class Peers:
    """Members behind peer URLs; nobody is behind any other."""

    def __init__(self, answers: Mapping[str, pb.MemberListResponse | Exception]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, url: str) -> pb.MemberListResponse:
        self.asked.append(url)
        answer = self.answers.get(url, OSError("connection refused"))
        if isinstance(answer, Exception):
            raise answer
        return answer


class Dns:
    """A name service with these records."""

    def __init__(
        self, services: Mapping[str, Sequence[SrvTarget]], addresses: Mapping[str, Sequence[str]]
    ) -> None:
        self._services = services
        self._addresses = addresses

    async def services(self, name: str) -> Sequence[SrvTarget]:
        if name not in self._services:
            raise OSError(f"lookup {name}: no such host")
        return self._services[name]

    async def addresses(self, host: str) -> Sequence[str]:
        if host not in self._addresses:
            raise OSError(f"lookup {host}: no such host")
        return self._addresses[host]


class NoDns(Dns):
    def __init__(self) -> None:
        super().__init__({}, {})
