"""Scan of the pickles in a PyTorch file before torch reads them: which names they use, and what calling those costs.

torch's weights-only mode calls nothing but a list of harmless names. But some of them take memory or time for free: a
`bytearray` of any length, text decoded by a slow codec, a tensor without storage, or one list copied many times. The
scan follows a pickle as torch's unpickler does, without making its objects, and accepts only calls that a saved state
makes.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final

import torch

REBUILDS = frozenset(
    f"torch._utils.{name}"
    for name in (
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
        "_rebuild_qtensor",
        "_rebuild_sparse_tensor",
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
    )
)
SUBCLASS, ENCODE = "torch._tensor._rebuild_from_type_v2", "_codecs.encode"
WITHOUT_STORAGE = "torch._utils._rebuild_meta_tensor_no_storage"
COPIES = frozenset({"builtins.set", "collections.Counter", "collections.OrderedDict", "torch.Size"})
"""They copy their argument."""
OTHERS = frozenset(
    {
        "argparse.Namespace",  # in DeiT's training checkpoints
        "builtins.complex",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
    }
)
TYPES = re.compile(r"torch\.(cuda\.|sparse\.|cuda\.sparse\.)?\w+(Storage|Tensor)|torch\.(storage\.\w+Storage|Tensor)")
DTYPES = frozenset(str(each) for each in vars(torch).values() if isinstance(each, torch.dtype | torch.qscheme))
KNOWN = REBUILDS | COPIES | OTHERS | DTYPES | {SUBCLASS, ENCODE}
NO_NAME = "an object of the file"
PICKLES_BEFORE_ZIP = 5
"""A file of torch's format before zip starts with a magic number, the version, the system, the objects and the keys."""
SPARE = 2**20
"""Items that the calls of a small file may copy; a larger one may copy as many as it has bytes."""

MOST_OPERATIONS = 2**22
"""A tensor takes about 25. Each operation may make an object, so that a small compressed file could fill the memory."""


class UnexpectedCallError(ValueError):
    """A pickle uses a name, or calls it in a way, that no saved state does. `name` is the name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class TooManyOperationsError(ValueError):
    """A pickle has more operations than any saved state."""


@dataclass
class _Item:
    """An object on the stack: the name or text that it is, the number of its items, and the items of a tuple."""

    name: str = ""
    text: str | None = None
    size: int = 1
    items: tuple[_Item, ...] | None = None


_MARK: Final = _Item(name="mark")


def scan(file: IO[bytes], pickles: int = 1, *, most: int = MOST_OPERATIONS) -> int:
    """Scan the first `pickles` of a file, which may have at most `most` operations; returns how many more it may have.

    Raises: TooManyOperationsError; UnexpectedCallError for the first call that no saved state makes; ValueError,
    IndexError, KeyError or UnicodeError for a pickle that torch cannot read either.
    """
    for _ in range(pickles):
        most = _Scan().follow(file, most)
    return most


class _Scan:
    def __init__(self) -> None:
        self.stack: list[_Item] = []
        self.memo: dict[int, _Item] = {}
        self.copied = 0
        self.added = _added_names()

    def follow(self, file: IO[bytes], most: int) -> int:
        """Follow a pickle of at most `most` operations; returns how many it does not have."""
        for opcode, argument, position in pickletools.genops(file):
            most -= 1
            if most < 0:
                raise TooManyOperationsError
            step = _STEPS.get(opcode.name)
            if step is None:
                raise ValueError(f"pickle has the operation {opcode.name}, which torch does not write")
            step(self, argument)
            if self.copied > SPARE + (position or 0):
                raise UnexpectedCallError("a copy of the same objects again and again")
        return most

    def push(self, argument: object) -> None:
        self.stack.append(_Item(text=argument if isinstance(argument, str) else None, size=_length(argument)))

    def mark(self, _: object) -> None:
        self.stack.append(_MARK)

    def nothing(self, _: object) -> None:
        """Protocol and end."""

    def global_(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        name = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if name not in KNOWN and name not in self.added and not TYPES.fullmatch(name):
            raise UnexpectedCallError(name)
        self.stack.append(_Item(name=name))

    def put(self, argument: object) -> None:
        self.memo[int(str(argument))] = self.stack[-1]

    def get(self, argument: object) -> None:
        self.stack.append(self.memo[int(str(argument))])

    def storage(self, _: object) -> None:
        self.stack[-1] = _Item()

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack.pop() for _ in range(count))[::-1]
        self.stack.append(_Item(size=1 + count, items=items))

    def marked(self) -> list[_Item]:
        """The objects after the last mark, taken off the stack."""
        place = next(place for place in range(len(self.stack) - 1, -1, -1) if self.stack[place] is _MARK)
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def marked_tuple(self, _: object) -> None:
        items = tuple(self.marked())
        self.stack.append(_Item(size=1 + len(items), items=items))

    def append(self, _: object) -> None:
        self.stack.pop()
        self.stack[-1].size += 1

    def set_item(self, _: object) -> None:
        del self.stack[-2:]
        self.stack[-1].size += 1

    def add_marked(self, _: object) -> None:
        """Several items are added to a list or a dict."""
        added = self.marked()
        self.stack[-1].size += len(added)

    def build(self, _: object) -> None:
        state = self.stack.pop()
        self.copied += state.size

    def call(self, _: object) -> None:
        given = self.stack.pop()
        called = self.stack.pop()
        if given.items is None:
            raise UnexpectedCallError(called.name or NO_NAME)
        self.copied += 1 if called.name in self.added else _cost(called.name, given.items)
        self.stack.append(_Item(size=1 + sum(each.size for each in given.items)))

    def make_new(self, _: object) -> None:
        given = self.stack.pop()
        called = self.stack.pop()
        if given.size > 1 and called.name not in {"torch.nn.parameter.Parameter", *self.added}:
            raise UnexpectedCallError(called.name or NO_NAME)
        self.stack.append(_Item())


def _added_names() -> frozenset[str]:
    """Names that a plugin has added to torch's list."""
    added = (each if isinstance(each, tuple) else (each, "") for each in torch.serialization.get_safe_globals())
    return frozenset(name or f"{each.__module__}.{each.__qualname__}" for each, name in added)


def _length(argument: object) -> int:
    return len(argument) if isinstance(argument, str | bytes) else 1


def _cost(name: str, given: tuple[_Item, ...]) -> int:
    """The number of items that a call copies.

    Raises: UnexpectedCallError for a call that no saved state makes.
    """
    if name == ENCODE and len(given) == 2 and given[1].text in ("latin1", "latin-1"):
        return given[0].size  # this is how bytes are saved; other codecs may take time without end
    if name == SUBCLASS and given and given[0].name in REBUILDS:
        return 1  # it calls its first argument
    if name in COPIES:
        return 1 + sum(each.size for each in given)
    if name in REBUILDS | OTHERS:
        return 1
    # A tensor class called with a number makes a tensor of that many numbers.
    raise UnexpectedCallError(name or NO_NAME)


_STEPS: Final[dict[str, Callable[[_Scan, object], None]]] = {
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "NONE", "NEWTRUE"),
        _Scan.push,
    ),
    **dict.fromkeys(("NEWFALSE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), _Scan.push),
    **dict.fromkeys(("PROTO", "STOP"), _Scan.nothing),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Scan.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Scan.get),
    **dict.fromkeys(("APPENDS", "SETITEMS"), _Scan.add_marked),
    "EMPTY_TUPLE": lambda scan, _: scan.tuple_of(0),
    "TUPLE1": lambda scan, _: scan.tuple_of(1),
    "TUPLE2": lambda scan, _: scan.tuple_of(2),
    "TUPLE3": lambda scan, _: scan.tuple_of(3),
    "TUPLE": _Scan.marked_tuple,
    "MARK": _Scan.mark,
    "GLOBAL": _Scan.global_,
    "BINPERSID": _Scan.storage,
    "APPEND": _Scan.append,
    "SETITEM": _Scan.set_item,
    "BUILD": _Scan.build,
    "REDUCE": _Scan.call,
    "NEWOBJ": _Scan.make_new,
}
