"""What every explanation is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.names import as_text

if TYPE_CHECKING:
    from collections.abc import Iterator


class Explanation:
    """What was found; ``str()`` of it is for people, its fields are for programs."""

    def lines(self) -> Iterator[str]:
        """Yield the text line by line."""
        raise NotImplementedError

    @override
    def __str__(self) -> str:
        return "\n".join(self.lines())


def text_of(raw: bytes) -> str:
    """Return a key or a name as it is shown."""
    return repr(as_text(raw))
