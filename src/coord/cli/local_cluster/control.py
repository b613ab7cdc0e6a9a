"""Orders to a running cluster: one line of JSON over a unix socket, and one line back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from coord.cli.options import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# A restart waits for the member to end and to serve again.
_ANSWER_WITHIN_S = 60.0
_LINE_BYTES = 1 << 20
# sockaddr_un.sun_path holds 108 bytes on Linux and 104 elsewhere, one of them the last zero.
_PATH_BYTES = 103
_PRIVATE = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done, to which members."""

    verb: str
    names: tuple[str, ...] = ()
    sides: tuple[tuple[str, ...], ...] = ()

    def encode(self) -> bytes:
        """Return the order's line."""
        return json.dumps({"verb": self.verb, "names": self.names, "sides": self.sides}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of an order: an error, or lines to show and the same as values."""

    error: str = ""
    lines: list[str] = field(default_factory=list[str])
    values: list[dict[str, object]] = field(default_factory=list[dict[str, object]])


def socket_path(data_dir: str | None) -> Path:
    """Return where the control socket is. Raises CommandFailed for a place that cannot be used."""
    if data_dir is not None:
        path = Path(data_dir).resolve() / "control.sock"
    else:
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        path = Path(base) / f"coord-cluster-{os.geteuid()}" / "control.sock"
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise CommandFailed(f"{path} is too long for a socket: give a shorter --data-dir")
    return path


def make_private(directory: Path) -> None:
    """Make the directory of a socket, which nobody else may write to. Raises CommandFailed."""
    directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise CommandFailed(f"{directory} is no directory of this user")
    directory.chmod(_PRIVATE)


def _decode(line: bytes) -> Order | None:
    try:
        given = json.loads(line)
        return Order(
            verb=str(given["verb"]),
            names=tuple(str(name) for name in given["names"]),
            sides=tuple(tuple(str(name) for name in side) for side in given["sides"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


class ControlSocket:
    """Takes orders until it is closed. ``obey`` carries one out; one at a time."""

    def __init__(self, path: Path, obey: Callable[[Order], Awaitable[Answer]]) -> None:
        self._path = path
        self._obey = obey
        self._turn = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. Raises CommandFailed if another cluster does already."""
        if self._path.exists():
            if await _answers(self._path):
                raise CommandFailed(
                    f"a cluster runs already (control socket {self._path}); stop it with"
                    " `coord cluster stop`, or give this one a --data-dir of its own"
                )
            self._path.unlink()
        self._server = await asyncio.start_unix_server(
            self._serve, str(self._path), limit=_LINE_BYTES
        )

    async def close(self) -> None:
        """Take no more orders, and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                order = _decode(await reader.readline())
                async with self._turn:
                    answer = Answer(error="no such order")
                    if order is not None:
                        answer = await self._obey(order)
            shown = {"error": answer.error, "lines": answer.lines, "values": answer.values}
            writer.write(json.dumps(shown).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, TimeoutError):
            pass  # whoever asked has gone, or never said what
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _answers(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def give(path: Path, order: Order) -> Answer:
    """Give an order to the cluster that listens at ``path``. Raises CommandFailed, also for its refusal."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=_LINE_BYTES)
    except OSError:
        raise CommandFailed(
            f"no cluster runs here (no answer at {path}); `coord cluster start` starts one"
        ) from None
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            writer.write(order.encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
    except (OSError, TimeoutError) as error:
        raise CommandFailed("the cluster did not answer") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not line:
        raise CommandFailed("the cluster ended before it answered")
    given = json.loads(line)
    answer = Answer(error=given["error"], lines=given["lines"], values=given["values"])
    if answer.error:
        raise CommandFailed(answer.error)
    return answer
