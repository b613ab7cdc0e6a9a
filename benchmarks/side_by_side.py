"""Figures of both servers, one row each, with their ratio."""

from __future__ import annotations

import json

Figures = dict[str, float]


def print_side_by_side(table: dict[str, Figures]) -> None:
    """Print what "coord-server" and "etcd" reached, and the same as a line of JSON."""
    ours, theirs = table["coord-server"], table["etcd"]
    print(f"{'':30} {'coord-server':>14} {'etcd':>14} {'ratio':>8}")
    for row, figure in ours.items():
        other = theirs[row]
        print(f"{row:30} {figure:14.3f} {other:14.3f} {figure / other if other else 0:8.2f}")
    print(json.dumps(table))
