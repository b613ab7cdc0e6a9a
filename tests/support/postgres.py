"""A real PostgreSQL for tests: on a unix socket in a directory of its own, gone with the context.

It refuses to run as root, so for root it runs as ``nobody``, below a directory that everybody may enter.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

from tests.support import peers
from tests.support.servers import ServerProcess, clean_environment, end, wait_until

USER = "coord"
NEEDS = "PostgreSQL (`make peers` fetches it by apt-get; or install Debian's postgresql)"
_INITDB = ("--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-locale")
_READY = "database system is ready to accept connections"


def is_here() -> bool:
    """Whether this machine has one."""
    return peers.program("initdb") is not None and peers.program("postgres") is not None


@contextlib.contextmanager
def postgres_server() -> Generator[str]:
    """Run a server until the context is left; yields its URL once it takes connections."""
    directory = Path(tempfile.mkdtemp(prefix="coord-postgres-"))
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    try:
        if owner is not None:
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        data = directory / "data"
        subprocess.run(
            [*_words("initdb", directory, owner), f"--pgdata={data}", *_INITDB],
            check=True,
            capture_output=True,
            cwd=directory,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else (),
        )
        log = directory / "postgres.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *_words("postgres", directory, owner),
                    *("-D", str(data), "-k", str(directory), "-h", "", "-F"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=clean_environment(),
                start_new_session=True,
                user=None if owner is None else owner.pw_uid,
                group=None if owner is None else owner.pw_gid,
                extra_groups=None if owner is None else (),
            )
        server = ServerProcess(process, data, log)
        try:
            wait_until(server, lambda: _READY in server.log_text())
            yield f"postgresql:///postgres?host={directory}&user={USER}"
        finally:
            process.send_signal(
                signal.SIGINT
            )  # "fast": without waiting for those who are connected
            end(server)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _words(name: str, directory: Path, owner: pwd.struct_passwd | None) -> list[str]:
    """The words that run the program; a copy of it if it is of root's, whose folders ``owner`` may not enter."""
    words = list(peers.program(name) or ())
    ours = str(peers.UNPACKED)
    if owner is None or not any(ours in word for word in words):
        return words
    copy = directory / "peers"
    if not copy.exists():
        shutil.copytree(peers.UNPACKED, copy, symlinks=True)
    return [word.replace(ours, str(copy)) for word in words]
