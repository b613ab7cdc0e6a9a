"""A graph of what must come before what, and the cycles in it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EdgeKind = Literal["ww", "wr", "rw", "rt"]
EDGE_KINDS: tuple[EdgeKind, ...] = get_args(EdgeKind)


class Edge(NamedTuple):
    """``start`` comes before ``end``, for a reason of a kind; ``label`` tells where."""

    start: int
    end: int
    kind: EdgeKind
    label: str


class Graph:
    """Nodes are numbers below ``size``."""

    def __init__(self, size: int) -> None:
        self._edges: list[dict[tuple[int, EdgeKind], Edge]] = [{} for _ in range(size)]

    def add(self, start: int | None, end: int | None, kind: EdgeKind, label: str) -> None:
        """Add an edge, unless an end is missing or both are the same."""
        if start is not None and end is not None and start != end:
            self._edges[start].setdefault((end, kind), Edge(start, end, kind, label))

    def _following(self, node: int, kinds: frozenset[EdgeKind]) -> Iterator[Edge]:
        return (edge for edge in self._edges[node].values() if edge.kind in kinds)

    def components(self, kinds: frozenset[EdgeKind]) -> list[list[int]]:
        """Return the strongly connected components of more than one node (Tarjan, without recursion)."""
        order: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: list[int] = []
        on_stack: set[int] = set()
        found: list[list[int]] = []
        for root in range(len(self._edges)):
            if root in order:
                continue
            work: list[tuple[int, Iterator[Edge]]] = []
            self._enter(root, order, low, stack, on_stack)
            work.append((root, self._following(root, kinds)))
            while work:
                node, edges = work[-1]
                edge = next(edges, None)
                if edge is not None:
                    if edge.end not in order:
                        self._enter(edge.end, order, low, stack, on_stack)
                        work.append((edge.end, self._following(edge.end, kinds)))
                    elif edge.end in on_stack:
                        low[node] = min(low[node], order[edge.end])
                    continue
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == order[node]:
                    cut = stack.index(node)
                    component = stack[cut:]
                    del stack[cut:]
                    on_stack.difference_update(component)
                    if len(component) > 1:
                        found.append(sorted(component))
        return found

    @staticmethod
    def _enter(
        node: int,
        order: dict[int, int],
        low: dict[int, int],
        stack: list[int],
        on_stack: set[int],
    ) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        on_stack.add(node)

    def cycle(
        self, within: Sequence[int], kinds: frozenset[EdgeKind], *, through: EdgeKind | None
    ) -> list[Edge] | None:
        """Return a shortest cycle among nodes, of edges of ``kinds``; None if there is none.

        ``through``: it has to have one edge of this kind besides, and starts with it.
        """
        nodes = set(within)
        first = kinds if through is None else frozenset[EdgeKind]({through})
        best: list[Edge] | None = None
        for start in sorted(nodes):
            for edge in self._following(start, first):
                if edge.end not in nodes:
                    continue
                way = self._path(edge.end, start, nodes, kinds, None if best is None else len(best))
                if way is not None and (best is None or len(way) + 1 < len(best)):
                    best = [edge, *way]
        return best

    def _path(
        self,
        start: int,
        end: int,
        nodes: set[int],
        kinds: frozenset[EdgeKind],
        shorter_than: int | None,
    ) -> list[Edge] | None:
        """Return a shortest way, breadth first."""
        came: dict[int, Edge | None] = {start: None}
        depth = {start: 0}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            if shorter_than is not None and depth[node] + 1 >= shorter_than:
                return None
            for edge in self._following(node, kinds):
                if edge.end not in nodes or edge.end in came:
                    continue
                came[edge.end] = edge
                depth[edge.end] = depth[node] + 1
                if edge.end == end:
                    return _way(came, end)
                queue.append(edge.end)
        return None


def _way(came: dict[int, Edge | None], end: int) -> list[Edge]:
    way: list[Edge] = []
    edge = came[end]
    while edge is not None:
        way.append(edge)
        edge = came[edge.start]
    return way[::-1]
