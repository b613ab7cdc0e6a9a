"""Judges of recorded runs: each takes a history and returns a verdict, with what was wrong with it.

The problem: a run under load and faults produces thousands of answers, none of which is wrong by
itself; only together can they contradict what was promised. A checker knows the promise and nothing of
the program that should have kept it.

Vocabulary: a *history* is what clients sent and received (``coord.testing.history``); the *reference* is
what really happened, revision by revision, put together from the history; a *violation* names the promise
that was broken, by which operations, and how; a *verdict* is all violations that one checker found, and what
it could not decide. A *witness* is a recorded watch of everything from the beginning: with it (or with a
member's log) nothing is left to guess.

    verdicts = judge(read(lines), strangers=[b"jobs/"])
    for verdict in verdicts.values():
        verdict.raise_if_bad()

Invariants: a checker accepts every history that is legal, and rejects one only for a reason that it can
tell; what it cannot decide it says. Each has its own tests, on histories of known verdict. The order of
revisions, the linearizability search, the ledger and the cycles are four opinions that share nothing but the
reading of the history.
"""

from coord.testing.check.cycles import (
    LIST_APPEND,
    Append,
    ListTxn,
    Read,
    Step,
    check_cycles,
    cycles_of,
    decode_steps,
    encode_steps,
)
from coord.testing.check.election import check_elections
from coord.testing.check.judge import judge
from coord.testing.check.lease import check_leases
from coord.testing.check.ledger import Broken, Ledger, Write, check_ledger
from coord.testing.check.linearizable import check_linearizable
from coord.testing.check.lock import check_locks
from coord.testing.check.order import check_order
from coord.testing.check.replay import IncompleteHistory, replay
from coord.testing.check.verdict import Rejected, Verdict, Violation
from coord.testing.check.watch import check_watches
from coord.testing.check.wgl import Budget, Found, Move, search

__all__ = [
    "LIST_APPEND",
    "Append",
    "Broken",
    "Budget",
    "Found",
    "IncompleteHistory",
    "Ledger",
    "ListTxn",
    "Move",
    "Read",
    "Rejected",
    "Step",
    "Verdict",
    "Violation",
    "Write",
    "check_cycles",
    "check_elections",
    "check_leases",
    "check_ledger",
    "check_linearizable",
    "check_locks",
    "check_order",
    "check_watches",
    "cycles_of",
    "decode_steps",
    "encode_steps",
    "judge",
    "replay",
    "search",
]
