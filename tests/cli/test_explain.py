"""``coord explain``."""

from __future__ import annotations

import base64
import json
import signal

import pytest

from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes


def test_what_stands_behind_a_name(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    assert coord(endpoint, "explain", "xs").stdout == "'xs' is free\n"
    with started(endpoint, "semaphore", "xs", "--limit=2") as holder:
        key, _ = holder.lines(2)
        shown = coord(endpoint, "explain", "xs").stdout.splitlines()
        assert shown[:2] == ["'xs' is a semaphore", "  limit 2, 1 in use"]
        assert shown[2].startswith(f"  {key!r} (token ")
        assert shown[2].endswith(" holds 1 permit")
        told = json.loads(coord(endpoint, "explain", "xs", "-w", "json").stdout)
        assert (told["layout"], told["waiting"], told["waits"]) == ("semaphore", [], [])
        assert base64.b64decode(told["holders"][0]["key"]).decode() == key
        assert told["holders"][0]["ttl_left"] > 0
        holder.send(signal.SIGINT)
        assert holder.end()[0] == 0
