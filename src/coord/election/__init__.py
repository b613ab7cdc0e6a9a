"""One leader at a time, with a published value and a fencing token per term (spec recipes 7; Go's concurrency.Election).

Candidates of Go's ``Election``, ``etcdctl elect`` and the server's Election service take part in the same line.

``candidate`` stands in the line; ``term`` is what who comes first gets; ``transfer`` hands it on; ``leading`` keeps a
function running in term after term; ``observation`` looks on.
"""

from coord.election.election import Election
from coord.election.term import Leader, Term

__all__ = ["Election", "Leader", "Term"]
