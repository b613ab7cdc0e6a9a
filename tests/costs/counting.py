"""Counting one recipe, in a world of its own."""

from __future__ import annotations

from tests.costs.fleet import fleet
from tests.costs.rows import ROWS, Cost, Sheet
from tests.support.virtual import VirtualLoop, run_virtual


def count(recipe: str, n: int) -> list[Cost]:
    """Return what ``recipe`` costs with ``n`` clients that wait or look on."""

    async def main(loop: VirtualLoop) -> list[Cost]:
        async with fleet(loop) as made:
            sheet = Sheet(made, n)
            await ROWS[recipe](sheet)
            return sheet.costs

    return run_virtual(main)
