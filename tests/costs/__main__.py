"""Count what the recipes cost with many clients, and write the table into ``docs/reliability/costs.md``.

``python -m tests.costs`` counts with 500 clients, which takes some minutes; ``--clients 50`` with fewer; ``--print``
changes nothing. The exit status is 1 when something costs more than it may.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.costs.counting import count
from tests.costs.rows import ROWS, Cost

PAGE = Path(__file__).parents[2] / "docs" / "reliability" / "costs.md"
BEGIN, END = "<!-- counted: begin -->\n", "<!-- counted: end -->\n"


def main() -> int:
    """Count, and print or write."""
    parser = argparse.ArgumentParser(prog="python -m tests.costs", description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--print", action="store_true", dest="only_print")
    options = parser.parse_args()
    counted: dict[str, list[Cost]] = {}
    for recipe in ROWS:
        counted[recipe] = count(recipe, options.clients)
        sys.stdout.write(f"{recipe}: {len(counted[recipe])} figures\n")
        sys.stdout.flush()
    text = table(counted)
    if options.only_print:
        sys.stdout.write(text)
    else:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(before + BEGIN + text + END + after)
    return int(any(cost.figure > cost.at_most for costs in counted.values() for cost in costs))


def table(counted: dict[str, list[Cost]]) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| recipe | what | counted | at most |", "| --- | --- | --- | --- |"]
    for recipe, costs in counted.items():
        lines += [f"| {recipe} | {c.what} | {c.figure:g} | {c.at_most:g} |" for c in costs]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
