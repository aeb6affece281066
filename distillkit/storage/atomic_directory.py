"""Atomic directories: a directory is either complete or absent, even after a crash, and has one writer at a time.

A directory is built in a work folder with a unique name and published with renames. The work folder lies next to the
directory; if its parent cannot be used, as for a mount point, it lies inside the directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distillkit.storage.atomic import flush, stem_of, temporary_name
from distillkit.storage.deletion import delete
from distillkit.storage.links import is_link, require_own
from distillkit.storage.lock import held
from distillkit.storage.places import is_probe, made_folder, probe

LOST_AND_FOUND = "lost+found"
"""Folder of the file system at the root of a volume."""


@dataclass(frozen=True)
class Place:
    """A locked directory `final`. Work folders lie in `base`: its parent, or `final` itself."""

    final: Path
    base: Path

    @property
    def is_inside(self) -> bool:
        """Whether work folders lie inside the directory."""
        return self.base == self.final

    def leftovers(self, ending: str) -> list[Path]:
        """Work folders of this directory with the ending tmp, old or new."""
        name = re.compile(rf"\.{re.escape(stem_of(self.final.name))}\.[0-9a-f]{{8}}\.{ending}")
        found = self.base.iterdir() if self.base.is_dir() else ()
        # Not a link with such a name: moving its entries would move files from elsewhere.
        return [path for path in found if name.fullmatch(path.name) and not is_link(path)]


@contextmanager
def atomic_directory(final: Path, *, last: str = "") -> Iterator[Path]:
    """A work folder that replaces `final` at the end of the block; an error deletes it.

    `last` is the file that marks a directory as complete.
    Raises: LockedError if another process is writing `final`.
    """
    with reserved(final) as place, replacing(place, last=last) as work:
        yield work


@contextmanager
def reserved(final: Path) -> Iterator[Place]:
    """Lock `final`, which need not exist, and delete what killed processes left there. Creates missing parents.

    Raises: LockedError if another process has locked it; LinkError if it is a link; OSError if no folder can be
    made there.
    """
    require_own(final)
    with made_folder(final.parent):
        base = _usable_base(final)
        with held(base / f".{stem_of(final.name)}.lock"):
            recover_directory(final)
            yield Place(final, base)


@contextmanager
def replacing(place: Place, *, last: str = "") -> Iterator[Path]:
    """A work folder that replaces `place.final` at the end of the block; an error deletes it."""
    work = place.base / temporary_name(place.final.name)
    work.mkdir()
    try:
        yield work
        for path in work.iterdir():
            if not is_link(path):  # it may lead to nothing, or to a pipe, which would block
                flush(path)
        flush(work)
        _publish(work, place, last)
    except BaseException:
        delete(work)
        raise


def is_not_content(final: Path, name: str) -> bool:
    """Whether an entry of `final` is a lock, a work folder or a probe, also of another process, or `lost+found`."""
    stem = re.escape(stem_of(final.name))
    return (
        name == LOST_AND_FOUND
        or is_probe(name)
        or re.fullmatch(rf"\.{stem}\.(lock|[0-9a-f]{{8}}\.(tmp|old|new))", name) is not None
    )


def _usable_base(final: Path) -> Path:
    """The parent of `final` if a directory can be made there and moved to `final`, else `final` itself.

    Raises: OSError if neither can be written to.
    """
    if not final.exists():
        probe(final.parent, name=final.name)
        return final.parent
    if (final / LOST_AND_FOUND).exists():
        return final
    try:
        probe(final.parent, moved_to=final, name=final.name)
    except OSError:
        probe(final, name=final.name)
        return final
    return final.parent


def recover_directory(final: Path) -> None:
    """Finish or undo the replacement of a directory by a killed process, and delete its work folders.

    Only for a caller that has locked the directory, or a directory above it.
    """
    outside, inside = Place(final, final.parent), Place(final, final)
    # Without the random part, as earlier versions named it.
    for old in (*outside.leftovers("old"), final.with_name(f".{stem_of(final.name)}.old")):
        if old.is_dir() and not is_link(old) and not final.exists():
            old.rename(final)
    _recover_inside(inside)
    for path in (leftover for each in (outside, inside) for end in ("tmp", "old") for leftover in each.leftovers(end)):
        delete(path)


def _publish(work: Path, place: Place, last: str) -> None:
    if place.is_inside:
        _publish_inside(work, place.final, last)
        return
    final, old = place.final, work.with_suffix(".old")
    if final.exists():
        try:
            # A rename cannot replace a directory that is not empty, so the old one is moved away first.
            final.rename(old)
        except OSError:
            # It belongs to someone else, in a folder in which only owners may rename.
            inside = final / work.name
            work.rename(inside)
            _publish_inside(inside, final, last)
            return
    try:
        work.rename(final)
    except OSError:
        if old.is_dir() and not final.exists():
            old.rename(final)
        raise
    flush(final.parent)  # makes the renames durable
    delete(old)


def _publish_inside(work: Path, final: Path, last: str) -> None:
    """Replace the entries of `final` by those of `work`, which lies in it.

    The rename of `work` to `.new` decides: a process killed before it leaves the old entries, one killed after it the
    new ones, once `_recover_inside` has run.
    """
    old, new = work.with_suffix(".old"), work.with_suffix(".new")
    old.mkdir()
    try:
        _move_entries(final, old, first=last)
        work.rename(new)
    except BaseException:
        _move_entries(old, final, last=last)
        delete(old)
        delete(work)
        raise
    _finish_inside(new, final, last)


def _finish_inside(new: Path, final: Path, last: str = "") -> None:
    _move_entries(new, final, last=last)
    delete(new)
    flush(final)
    delete(new.with_suffix(".old"))


def _recover_inside(place: Place) -> None:
    for new in place.leftovers("new"):
        if new.is_dir():
            _finish_inside(new, place.final)
        delete(new)  # something else under this name
    for work in place.leftovers("tmp"):
        old = work.with_suffix(".old")
        if old.is_dir() and not is_link(old):  # killed before the decision: the old entries return
            _move_entries(old, place.final)


def _move_entries(source: Path, target: Path, *, first: str = "", last: str = "") -> None:
    """Move all entries but those of this module; `first` and `last` are names whose turn matters."""
    names = [path.name for path in source.iterdir()]
    for name in sorted(names, key=lambda name: (name != first, name == last)):
        if not is_not_content(target, name) and not is_not_content(source, name):
            (source / name).rename(target / name)
