"""Scripts of etcdctl commands, and what they print.

A script is a text file. Each line is one command as it would be typed after ``etcdctl``; lines indented
by four blanks under it are its standard input. Comments start with ``#``. Besides commands there are

- ``start NAME: COMMAND`` runs a command in the background,
- ``expect NAME LINES`` waits until it has printed so many lines, errors included,
- ``send NAME TEXT`` types a line into it, ``stop NAME`` interrupts it, ``end NAME`` waits for its end;
  both show its exit code and all it printed.

``$L1`` is the id of the first lease that the script granted. A line of input that is only ``.`` stands
for an empty one, ``@repeat 3 put k%d v`` for three numbered lines, and ``@size 9`` for nine letters.

Running a script gives a transcript in which everything that two servers cannot have in common is
replaced by a word: ids, addresses, the Raft term and indexes, sizes, versions, durations.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from google.protobuf import text_format

from coord.wire import rpc_pb2
from tests.support.servers import clean_environment, etcd_binary

_TIMEOUT_S = 30.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a script with its input."""

    text: str
    stdin: str


def parse(script: str) -> list[Line]:
    """Split a script into its lines."""
    lines: list[Line] = []
    for text in script.splitlines():
        if text.startswith("    ") or (not text and lines and lines[-1].stdin):
            # An empty line inside an input belongs to it, one at its end does no harm there.
            last = lines.pop()
            lines.append(Line(last.text, last.stdin + _input_line(text[4:])))
        elif text and not text.startswith("#"):
            lines.append(Line(text, ""))
    return lines


def _input_line(text: str) -> str:
    word, _, rest = text.partition(" ")
    if text == ".":
        return "\n"
    if word == "@size":
        return "x" * int(rest)
    if word == "@repeat":
        count, _, pattern = rest.partition(" ")
        return "".join(pattern.replace("%d", str(n)) + "\n" for n in range(int(count)))
    return text + "\n"


@dataclass(slots=True)
class _Background:
    process: subprocess.Popen[bytes]
    out: Path
    err: Path


@dataclass(slots=True)
class Player:
    """Plays a script against one endpoint and writes its transcript."""

    endpoint: str
    version: str
    directory: Path
    transcript: list[str] = field(default_factory=list[str])
    _leases: list[int] = field(default_factory=list[int])
    _running: dict[str, _Background] = field(default_factory=dict[str, _Background])

    def play(self, lines: list[Line]) -> str:
        """Run the whole script; nothing it started runs any longer when this returns."""
        words: dict[str, Callable[[str], None]] = {
            "start": self._start,
            "expect": self._expect,
            "send": self._send,
            "stop": self._stop,
            "end": self._end,
        }
        try:
            for line in lines:
                self.transcript.append(f"$ {line.text[:200]}")
                word, _, rest = line.text.partition(" ")
                if word in words:
                    words[word](rest)
                else:
                    self._run(line)
        finally:
            for background in self._running.values():
                background.process.kill()
                self._close(background)
        return "\n".join(self.transcript) + "\n"

    # Lines

    def _run(self, line: Line) -> None:
        words = self._words(line.text)
        done = subprocess.run(
            self._command(words),
            input=self._with_leases(line.stdin).encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=_environment(),
        )
        granted = re.match(rb"lease ([0-9a-f]{16}) granted", done.stdout)
        if granted and words[:2] == ["lease", "grant"]:
            self._leases.append(int(granted[1], 16))
        self._tell(words, done.returncode, done.stdout, done.stderr)

    def _start(self, rest: str) -> None:
        name, _, text = rest.partition(": ")
        out, err = self.directory / f"{name}.out", self.directory / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                self._command(self._words(text)),
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=_environment(),
            )
        self._running[name] = _Background(process, out, err)

    def _expect(self, rest: str) -> None:
        name, _, count = rest.partition(" ")
        background = self._running[name]
        give_up = time.monotonic() + _TIMEOUT_S
        while _lines(background.out) + _lines(background.err) < int(count):
            if background.process.poll() is not None or time.monotonic() > give_up:
                self.transcript.append(f"{name} did not print {count} lines")
                break
            time.sleep(_POLL_S)

    def _send(self, rest: str) -> None:
        name, _, text = rest.partition(" ")
        stdin: IO[bytes] | None = self._running[name].process.stdin
        assert stdin is not None
        stdin.write(text.encode() + b"\n")
        stdin.flush()

    def _stop(self, name: str) -> None:
        self._running[name].process.send_signal(signal.SIGINT)
        self._end(name)

    def _end(self, name: str) -> None:
        background = self._running.pop(name)
        try:
            background.process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            background.process.kill()
            self.transcript.append(f"{name} did not end")
        code = self._close(background)
        self._tell([], code, background.out.read_bytes(), background.err.read_bytes())

    # Processes

    def _words(self, text: str) -> list[str]:
        return shlex.split(self._with_leases(text))

    def _with_leases(self, text: str) -> str:
        for number, lease_id in enumerate(self._leases, 1):
            text = text.replace(f"$L{number}", f"{lease_id:016x}")
        return text

    def _command(self, words: list[str]) -> list[str]:
        # Twice the client's own patience: a busy machine is no difference.
        return [
            etcd_binary("etcdctl", self.version),
            f"--endpoints={self.endpoint}",
            "--dial-timeout=20s",
            "--command-timeout=20s",
            *words,
        ]

    @staticmethod
    def _close(background: _Background) -> int:
        if background.process.stdin is not None:
            background.process.stdin.close()
        return background.process.wait()

    # The transcript

    def _tell(self, words: list[str], code: int, stdout: bytes, stderr: bytes) -> None:
        if "protobuf" in words and code == 0:
            out = _decode(words, stdout)
        else:
            out = stdout.decode("utf-8", "backslashreplace")
        self.transcript.append(
            self._plain(out) + f"[{code}] {self._plain(stderr.decode())}".rstrip()
        )

    def _plain(self, text: str) -> str:
        for number, lease_id in enumerate(self._leases, 1):
            for form in (f"{lease_id:016x}", f"{lease_id:x}", str(lease_id)):
                text = text.replace(form, f"<lease {number}>")
        for pattern, replacement in _REPLACED:
            text = pattern.sub(replacement, text)
        # Which key of a lease is named first is nobody's promise.
        text = re.sub(r"(?<=attached keys\(\[)[^]]*", lambda found: _sorted(found[0]), text)
        return re.sub(r"x{100,}", lambda found: f"<{len(found[0])} times x>", text)


def _sorted(words: str) -> str:
    return " ".join(sorted(words.split(" ")))


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


_REPLACED: Final = [
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"(127\.0\.0\.1|localhost):\d+", "<address>"),
        # Locks and elections have leases that the script does not see.
        (r"(?<=/)[0-9a-f]{12,16}\b", "<lease>"),
        (r"remaining\(\d+s\)", "remaining(<time>)"),
        (r'("ttl"|"TTL"|"remaining-ttl") ?: ?\d+', r"\1:<time>"),
        (r"took(:| =)? ?[\d.]+[mµn]?s", r"took <time>"),
        (r'"took":"[^"]+"', '"took":"<time>"'),
        (r'("Took" : |\| )[\d.]+[mµn]?s\b', r"\1<time>"),
        (r"\"ts\":\"[^\"]+\"", '"ts":"<time>"'),
        (r"0xc[0-9a-f]{9}", "<pointer>"),
        (r"etcd-endpoints://[^/]+/", "etcd-endpoints://<pointer>/"),
        (r"endpoint://client-[0-9a-f-]+/", "endpoint://<client>/"),
        (
            r'("cluster_?id"|"member_?id"|"raft_?[tT]erm"|"leader"|"ID") ?: ?("[0-9a-f]+"|\d+)',
            r"\1:<id>",
        ),
        (r'("(?:ClusterID|MemberID|RaftTerm|Leader)") : \d+', r"\1 : <id>"),
        (r'("(?:raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)"):\d+', r"\1:<number>"),
        (r'("(?:RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse)") : \d+', r"\1 : <number>"),
        (r'("[vV]ersion" ?: ?)"[\d.]+"', r"\1<version>"),
        # A line of `endpoint status`, plain and as a table; a line of `member list`, likewise.
        (
            r"(<address>)(,| \|) [0-9a-f]{6,16}(,| \|)\s+3\.\d+\.\d+\2\s+[\d.]+ [kM]?B\2",
            r"\1\2 <id>\2 <version>\2 <size>\2",
        ),
        (r"(,| \|)\s+\d+(,| \|)\s+\d+(,| \|)\s+\d+(,| \|)", r"\1 <term>\1 <index>\1 <index>\1"),
        (r"^(\| )?[0-9a-f]{6,16}(,| \|) started", r"\1<id>\2 started"),
        # The width of a table's columns.
        (r"-{2,}", "--"),
        (r" {2,}", " "),
        # However often a lease is renewed.
        (r"(lease .* keepalived with TTL.*\n)(\1)+", r"\1"),
    )
]


_MESSAGES: Final[dict[str, Callable[[], Any]]] = {
    "get": rpc_pb2.RangeResponse,
    "put": rpc_pb2.PutResponse,
    "del": rpc_pb2.DeleteRangeResponse,
    "txn": rpc_pb2.TxnResponse,
    "compaction": rpc_pb2.CompactionResponse,
    "member": rpc_pb2.MemberListResponse,
}


def _decode(words: list[str], stdout: bytes) -> str:
    message = _MESSAGES[words[0]]()
    message.ParseFromString(stdout)
    header = message.header
    for name in ("cluster_id", "member_id", "raft_term"):
        header.ClearField(name)
    for member in getattr(message, "members", ()):
        member.ClearField("ID")
    return str(text_format.MessageToString(message))


def _environment() -> dict[str, str]:
    return clean_environment({"ETCDCTL_API": "3"})
