"""What an entry of ours says of its owner: for people who look at a line, and for whoever links a wait to a holder."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from coord._telemetry import entry_context
from coord.runtime import process_identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.coordination import Coordination


def metadata(home: Coordination, nonce: str, owner: str, *, label: str | None = None) -> str:
    """Return what the entry with ``nonce`` says of ``owner``, a task or a thread of this process, as JSON.

    Written out: an encoder for all of it would be made anew each time.
    """
    host, pid = process_identity()
    since = round(home.env.clock.wall(), 3)
    text = (
        f'{{"v":1,"nonce":"{nonce}","owner":{_quoted(owner)},"host":{_quoted(host)}'
        f',"pid":{pid},"since":{since}'
    )
    more = entry_context()
    if label is not None:
        more = {"label": label, **more}
    for key, value in more.items():
        text += f',"{key}":{json.dumps(value)}'
    return text + "}"


@lru_cache(maxsize=256)  # the same tasks and threads come again and again
def _quoted(text: str) -> str:
    return json.dumps(text)


def parse(value: bytes) -> Mapping[str, object]:
    """Return what an entry says; nothing, if it is not ours."""
    try:
        parsed: object = json.loads(value)
    except (ValueError, RecursionError):  # anybody may have written it
        return {}
    return cast("Mapping[str, object]", parsed) if isinstance(parsed, dict) else {}


def nonce(home: Coordination) -> str:
    """Return 64 random bits in hexadecimal, which tell one attempt from all others (spec recipes C2)."""
    return format(home.env.rand.bits(64), "016x")


def place_of(said: Mapping[str, object]) -> str:
    """Return host and process for a message, with a comma before them; empty if the entry does not say."""
    host, pid = said.get("host"), said.get("pid")
    return f", {host} pid {pid}" if host else ""
