"""Measure the import graph of the core and of export: rooms, edges, upward edges, cycles.

A room is a direct child of a package: a folder or a module. An edge means that a module of one room imports a module of
another, including type-only imports and imports inside functions. An upward edge is one that must be removed before the
rooms can be ordered so that every edge goes down. A cycle is a set of rooms that all import each other, directly or
through others. `make lint` checks the order in scripts/floors.toml.

    python scripts/import_graph.py                # this checkout
    python scripts/import_graph.py ../before      # another one, for comparison
    python scripts/import_graph.py --edges        # every edge, upward ones marked
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp

Graph = Mapping[str, frozenset[str]]
"""The rooms that each room imports."""

PACKAGES = {"distillkit": ".", "distillkit_export": "export"}


def rooms(package: str) -> Graph:
    """The rooms of an importable package, and which of the others each imports. The package itself is not a room."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    edges: dict[str, set[str]] = {child.split(".")[1]: set() for child in graph.find_children(package)}
    for module in graph.modules - {package}:
        room = module.split(".")[1]
        imported = graph.find_modules_directly_imported_by(module) - {package}
        edges[room] |= {name.split(".")[1] for name in imported} - {room}
    return {room: frozenset(imports) for room, imports in sorted(edges.items())}


def cycles(graph: Graph) -> list[list[str]]:
    """The sets of two or more rooms that reach each other."""
    reach = {room: _reachable(graph, room) for room in graph}
    found = {frozenset(other for other in reach[room] if room in reach[other]) for room in graph if room in reach[room]}
    return sorted(sorted(cycle) for cycle in found)


def upward(graph: Graph) -> list[tuple[str, str]]:
    """A small feedback edge set: without these edges there is no cycle (heuristic of Eades, Lin and Smyth, 1993).

    Of the remaining rooms, those that import none of the others go to the bottom, those that none of the others imports
    to the top. If there are neither, the room with the largest out-degree minus in-degree goes to the top.
    """
    remaining = {room: set(imports) for room, imports in graph.items()}
    top: list[str] = []
    bottom: list[str] = []
    while remaining:
        importers = _importers(remaining)
        sinks = [room for room, imports in remaining.items() if not imports & remaining.keys()]
        sources = [room for room in remaining if not importers[room]]
        if sinks:
            bottom.insert(0, sinks[0])
        else:
            top.append(
                sources[0] if sources else max(remaining, key=lambda room: len(remaining[room]) - len(importers[room]))
            )
        placed = bottom[0] if sinks else top[-1]
        del remaining[placed]
        for imports in remaining.values():
            imports.discard(placed)
    position = {room: number for number, room in enumerate(top + bottom)}
    return [
        (room, other)
        for room, imports in graph.items()
        for other in sorted(imports)
        if position[other] < position[room]
    ]


def _importers(graph: Mapping[str, Iterable[str]]) -> Mapping[str, set[str]]:
    importers: dict[str, set[str]] = defaultdict(set)
    for room, imports in graph.items():
        for other in imports:
            importers[other].add(room)
    return importers


def _reachable(graph: Graph, room: str) -> set[str]:
    """The rooms that a room imports, directly or through others; including itself if it is on a cycle."""
    found: set[str] = set()
    pending = list(graph[room])
    while pending:
        other = pending.pop()
        if other not in found:
            found.add(other)
            pending += graph[other]
    return found


def main() -> None:
    """Print the measures of both packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--edges", action="store_true", help="list every edge")
    options = parser.parse_args()
    if not (options.checkout / "distillkit").is_dir():
        sys.exit(f"{options.checkout} is not a checkout of distillkit: it has no folder distillkit/")
    sys.path[:0] = [str(options.checkout / root) for root in PACKAGES.values()]
    print(f"{'package':<20}{'rooms':>8}{'edges':>8}{'upward':>8}{'cycles':>8}")
    for package in PACKAGES:
        graph = rooms(package)
        upward_edges, found = upward(graph), cycles(graph)
        print(f"{package:<20}{len(graph):>8}{sum(map(len, graph.values())):>8}{len(upward_edges):>8}{len(found):>8}")
        for cycle in found:
            print(f"  a cycle of {len(cycle)}: {', '.join(cycle)}")
        for room, imports in graph.items() if options.edges else ():
            for other in sorted(imports):
                print(f"  {room} -> {other}{'  upward' if (room, other) in upward_edges else ''}")


if __name__ == "__main__":
    main()
