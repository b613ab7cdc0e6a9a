"""What a checker says: one form for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

EXPLANATION_LINES = 20
"""A reader takes in no more; what is longer is cut in the middle of its lines."""

# Where one cause breaks everything after it, the first reports are the ones that tell.
_REPORTED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that was broken: which rule, by which operations, and how.

    ``operations`` names those that are needed to see it: calls by their id (``call 7``), watchers, attempts,
    leases by their names. ``text`` explains it in at most twenty lines.
    """

    rule: str
    operations: tuple[str, ...]
    text: str

    def __post_init__(self) -> None:
        lines = self.text.splitlines()
        if len(lines) > EXPLANATION_LINES:
            cut = len(lines) - EXPLANATION_LINES + 1
            lines[EXPLANATION_LINES - 1 :] = [f"... and {cut} lines more"]
            object.__setattr__(self, "text", "\n".join(lines))

    @override
    def __str__(self) -> str:
        """Return who, rule and explanation."""
        return f"{', '.join(self.operations)}: {self.rule}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A checker's judgement of a history.

    ``checked`` counts what was judged; a run that should have had something to judge says so with it.
    ``undecided`` tells why a part could not be judged: that is a failure too, of the run or of its record.
    """

    checker: str
    checked: int
    violations: tuple[Violation, ...] = ()
    undecided: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was judged, and nothing was wrong."""
        return not self.violations and not self.undecided

    @property
    def rules(self) -> frozenset[str]:
        """The rules that were broken."""
        return frozenset(violation.rule for violation in self.violations)

    def raise_if_bad(self) -> None:
        """Raise :class:`Rejected` unless it is ``ok``."""
        if not self.ok:
            raise Rejected(self)

    def as_object(self) -> dict[str, Any]:
        """Return it as values that JSON can say."""
        return {
            "checker": self.checker,
            "checked": self.checked,
            "violations": [
                {"rule": v.rule, "operations": list(v.operations), "text": v.text}
                for v in self.violations
            ],
            "undecided": list(self.undecided),
        }

    @override
    def __str__(self) -> str:
        """Return it for a reader: one line if all is well."""
        head = f"{self.checker}: {self.checked} checked"
        if self.ok:
            return f"{head}, all right"
        told = [str(violation) for violation in self.violations]
        return "\n".join([head, *told, *(f"undecided: {reason}" for reason in self.undecided)])


class Rejected(AssertionError):
    """A history was not accepted; ``verdict`` tells why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


def verdict_of(
    checker: str,
    checked: int,
    violations: Iterable[Violation] = (),
    undecided: Iterable[str] = (),
) -> Verdict:
    """Return a verdict; of very many violations the first are kept."""
    return Verdict(
        checker=checker,
        checked=checked,
        violations=tuple(violations)[:_REPORTED],
        undecided=tuple(undecided),
    )
