"""Measure the import graph of the core and of export: rooms, arrows, upward arrows, circles.

A room is what lies directly in a package: a folder, or a module beside the folders. An arrow says that some module of
one room imports some module of another, be it for types alone or inside a function. An upward arrow is one that has to
be turned round before the rooms can be put in an order in which every arrow goes down. A circle is a set of rooms each
of which can be reached from each other. `make lint` keeps the order that scripts/floors.toml names.

    python scripts/import_graph.py                # this checkout
    python scripts/import_graph.py ../before      # another one, for comparison
    python scripts/import_graph.py --arrows       # every arrow, upward ones marked
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
    """The rooms of an importable package, and which of the others each imports. The package itself is no room."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    arrows: dict[str, set[str]] = {child.split(".")[1]: set() for child in graph.find_children(package)}
    for module in graph.modules - {package}:
        room = module.split(".")[1]
        imported = graph.find_modules_directly_imported_by(module) - {package}
        arrows[room] |= {name.split(".")[1] for name in imported} - {room}
    return {room: frozenset(its) for room, its in sorted(arrows.items())}


def circles(graph: Graph) -> list[list[str]]:
    """The sets of two or more rooms that reach each other."""
    reach = {room: _reachable(graph, room) for room in graph}
    found = {frozenset(other for other in reach[room] if room in reach[other]) for room in graph if room in reach[room]}
    return sorted(sorted(circle) for circle in found)


def upward(graph: Graph) -> list[tuple[str, str]]:
    """Arrows without which there is no circle; few, by the heuristic of Eades, Lin and Smyth (1993).

    Rooms that import nothing of what is left go to the bottom, rooms that nothing left imports to the top; where there
    are neither, the room with the most arrows out of it beyond those into it goes up next.
    """
    left = {room: set(its) for room, its in graph.items()}
    top: list[str] = []
    bottom: list[str] = []
    while left:
        into = _into(left)
        sinks = [room for room, its in left.items() if not its & left.keys()]
        sources = [room for room in left if not into[room]]
        if sinks:
            bottom.insert(0, sinks[0])
        else:
            top.append(sources[0] if sources else max(left, key=lambda room: len(left[room]) - len(into[room])))
        gone = bottom[0] if sinks else top[-1]
        del left[gone]
        for its in left.values():
            its.discard(gone)
    place = {room: number for number, room in enumerate(top + bottom)}
    return [(room, other) for room, its in graph.items() for other in sorted(its) if place[other] < place[room]]


def _into(left: Mapping[str, Iterable[str]]) -> Mapping[str, set[str]]:
    into: dict[str, set[str]] = defaultdict(set)
    for room, its in left.items():
        for other in its:
            into[other].add(room)
    return into


def _reachable(graph: Graph, room: str) -> set[str]:
    """The rooms that a room imports, directly or through others; itself too where it lies on a circle."""
    found: set[str] = set()
    ahead = list(graph[room])
    while ahead:
        other = ahead.pop()
        if other not in found:
            found.add(other)
            ahead += graph[other]
    return found


def main() -> None:
    """Print the measures of both packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--arrows", action="store_true", help="list every arrow")
    options = parser.parse_args()
    if not (options.checkout / "distillkit").is_dir():
        sys.exit(f"{options.checkout} is not a checkout of distillkit: it has no folder distillkit/")
    sys.path[:0] = [str(options.checkout / root) for root in PACKAGES.values()]
    print(f"{'package':<20}{'rooms':>8}{'arrows':>8}{'upward':>8}{'circles':>9}")
    for package in PACKAGES:
        graph = rooms(package)
        turned, found = upward(graph), circles(graph)
        print(f"{package:<20}{len(graph):>8}{sum(map(len, graph.values())):>8}{len(turned):>8}{len(found):>9}")
        for circle in found:
            print(f"  a circle of {len(circle)}: {', '.join(circle)}")
        for room, its in graph.items() if options.arrows else ():
            for other in sorted(its):
                print(f"  {room} -> {other}{'  upward' if (room, other) in turned else ''}")


if __name__ == "__main__":
    main()
