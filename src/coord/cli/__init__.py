"""The command ``coord``: etcdctl's commands with etcdctl's outputs, and what coordination adds to a shell.

Three kinds of module:

* ``app.py`` is the command line as a whole: global options, the list of commands, and the one place where errors
  become a line on stderr and an exit code.
  No traceback reaches a user who did not ask for it with ``--debug``.
* One module per group of commands (``keys.py``, ``leases.py``, ``watches.py``, ``locks.py`` ...).
  They are loaded when their command is called, and build the same requests that etcdctl builds: what goes over the
  wire and what is printed do not differ.
* ``demo/`` tells the whole story on real processes.

Requests go through the SDK's own carrier and retry rules, so a write whose outcome is unknown is reported as such
and never repeated.
This room may start processes, install signal handlers and read files: it is a program, not a library.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from coord.cli.app import (
        run,
    )  # click is loaded by those who run commands, not by those who import

    raise SystemExit(run())
