"""A process that outlives the one that runs a cluster, only to end the members if that one cannot.

It is run by its path, without any of the packages: it is there at once, and small. Its standard input names each
member that begins (``+pid``) and ends (``-pid``); at the end of the input, which comes however its starter
has ended, it kills those that are left.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Read to the end, then kill."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    running: dict[int, None] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            running[pid] = None
        else:
            running.pop(pid, None)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
