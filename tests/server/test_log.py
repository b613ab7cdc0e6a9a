"""Log lines: keys, times, levels, secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coord_server.log import Log, silent


class FixedClock:
    def __init__(self, now: float = 1_700_000_000.1234) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now


def lines_of(level: str = "info") -> tuple[Log, list[str]]:
    lines: list[str] = []
    return Log(clock=FixedClock(), write=lines.append, level=level), lines


def test_a_line_has_etcds_keys_in_etcds_order() -> None:
    journal, lines = lines_of()
    journal.info("ready to serve client requests", member_id="1f", took=1.5)
    (line,) = lines
    assert line.endswith("}\n")
    parsed: dict[str, Any] = json.loads(line)
    caller = parsed.pop("caller")
    assert caller.startswith("server/test_log.py:")
    assert caller.rpartition(":")[2].isdigit()
    assert parsed == {
        "level": "info",
        "ts": "2023-11-14T22:13:20.123Z",
        "msg": "ready to serve client requests",
        "member-id": "1f",
        "took": 1.5,
    }
    assert list(json.loads(line))[:4] == ["level", "ts", "caller", "msg"]


def test_levels() -> None:
    journal, lines = lines_of("warn")
    journal.debug("d")
    journal.info("i")
    journal.warn("w")
    journal.error("e")
    journal.fatal("f")
    assert [json.loads(line)["msg"] for line in lines] == ["w", "e", "f"]
    journal, lines = lines_of("debug")
    journal.debug("d")
    assert json.loads(lines[0])["level"] == "debug"


def test_a_line_stays_one_line_and_takes_any_value() -> None:
    journal, lines = lines_of()
    journal.info("two\nlines", error=ValueError("x\ny"), urls=("a", "b"), name="ü")
    (line,) = lines
    assert line.count("\n") == 1
    parsed = json.loads(line)
    assert (parsed["error"], parsed["urls"], parsed["name"]) == ("x\ny", ["a", "b"], "ü")


def test_secrets_are_blanked() -> None:
    journal, lines = lines_of()
    journal.info(
        "x", password="p", auth_header_authorization="Bearer q", initial_cluster_token="etcd"
    )
    parsed = json.loads(lines[0])
    assert parsed["password"] == "***"
    assert parsed["auth-header-authorization"] == "***"
    assert parsed["initial-cluster-token"] == "etcd"


def test_an_embedded_server_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    silent(FixedClock()).error("nobody hears")
    assert capsys.readouterr() == ("", "")
