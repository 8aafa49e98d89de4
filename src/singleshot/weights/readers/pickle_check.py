"""A walk through a pickle before torch.load reads it: what it would call, name, nest and copy.

weights_only keeps code out. It leaves a few things that a hostile file can do: text doubled by encoding it again and
again, tuples nested until hashing them overflows the stack, storages longer than what is stored of them.
"""

from __future__ import annotations

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, cast

from singleshot.errors import CheckpointError, printable

MAX_PICKLE = 64 * 2**20  # bytes, without the tensors' values
MAX_COPIED = 2**24  # items that all calls together copy
MAX_DEPTH = 100  # of tuples in tuples

# What rebuilds tensors, and the containers of state dicts.
_CALLED = frozenset({
    "collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", "_codecs.encode",
    "torch.Size", "torch.device", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch._utils._rebuild_qtensor",
    "torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.Parameter",
})  # fmt: skip
# Named, not called: types of values and of storages.
_NAMED = re.compile(r"torch\.((storage\.)?(Typed|Untyped|[BFDHLISCQ]\w*)Storage|[a-z]+\d+\w*|bool|per_\w+|Tensor)")
# What training code leaves beside the weights is read as objects that do nothing.
_STAND_INS = (
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray", "argparse.Namespace",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "datetime.datetime", "datetime.timedelta", "mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr",
)  # fmt: skip


class StandIn:
    """In place of an object of another library, whose value nobody needs here."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """For torch.serialization.safe_globals."""
    return [(StandIn, name) for name in _STAND_INS]


class Storage(NamedTuple):
    """One storage that a pickle refers to. kind: "FloatStorage" and the like; values: how many it says it holds."""

    kind: str
    key: str
    values: int


@dataclass(eq=False)
class _Item:
    """What is known of one object on the pickle's stack. length: of text, list or dict; parts: of a tuple."""

    length: int = 1
    depth: int = 0
    name: str = ""
    value: Any = None
    parts: tuple[_Item, ...] | None = None


_POPS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
_TO_MARK = ("TUPLE", "APPENDS", "SETITEMS")
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_CONSTANTS = (
    "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "BININT", "BININT1", "BININT2", "BINFLOAT",
    "BINUNICODE", "SHORT_BINSTRING", "LONG1",
)  # fmt: skip
# Of newer protocols: walked through to find the names of classes, not read.
_NEWER = ("SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "LONG4")


@dataclass
class _Walk:
    where: str
    stack: list[_Item | None] = field(default_factory=list)  # None: a mark
    memo: dict[int, _Item] = field(default_factory=dict)
    storages: list[Storage] = field(default_factory=list)
    copied: int = 0
    newer: str = ""

    def step(self, op: str, arg: Any) -> None:
        if op in _CONSTANTS or op in _NEWER:
            self.stack.append(_Item(len(arg) if isinstance(arg, (str, bytes)) else 1, value=arg))
        elif op in _PUTS:
            self.memo[arg] = self.top()
        elif op in _GETS:
            self.stack.append(self.memo[arg])
        elif op == "MARK":
            self.stack.append(None)
        elif op == "EMPTY_TUPLE":
            self.put_tuple([])
        elif op in _POPS or op in _TO_MARK:
            items = self.pop_to_mark() if op in _TO_MARK else [self.pop() for _ in range(_POPS[op])][::-1]
            if op.startswith("TUPLE"):
                self.put_tuple(items)
            else:
                self.top().length += len(items)
        elif op in ("REDUCE", "NEWOBJ"):
            self.call(self.pop(), self.pop())
        elif op == "BUILD":
            self.pop()
            self.top()
        elif op == "BINPERSID":
            self.refer(self.pop())
        elif op == "GLOBAL":
            self.put_name(arg)
        elif op == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            self.put_name(f"{module.value} {name.value}")
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif op not in ("PROTO", "FRAME"):
            raise self.not_read(op)
        if op in _NEWER or op in ("STACK_GLOBAL", "MEMOIZE", "FRAME"):
            self.newer = self.newer or op

    def top(self) -> _Item:
        item = self.stack[-1]
        if item is None:
            raise IndexError("a mark in place of an object")
        return item

    def pop(self) -> _Item:
        item = self.top()
        del self.stack[-1]
        return item

    def pop_to_mark(self) -> list[_Item]:
        items = []
        while (item := self.stack.pop()) is not None:
            items.append(item)
        return items[::-1]

    def put_tuple(self, parts: list[_Item]) -> None:
        depth = 1 + max((part.depth for part in parts), default=0)
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{self.where}: tuples nested more than {MAX_DEPTH} deep; nothing was run")
        self.stack.append(_Item(len(parts), depth, parts=tuple(parts)))

    def put_name(self, text: str) -> None:
        module, _, name = text.partition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in _CALLED and full not in _STAND_INS and not _NAMED.fullmatch(full):
            raise CheckpointError(
                f"{self.where}: needs code to be read ({printable(full, 80)}); nothing was run; give a file with the"
                " state dict alone: torch.save(model.state_dict(), ...)"
            )
        self.stack.append(_Item(name=full))

    def call(self, args: _Item, function: _Item) -> None:
        if args.parts is None or (function.name not in _CALLED and function.name not in _STAND_INS):
            called = printable(function.name or "an object", 80)
            raise CheckpointError(f"{self.where}: calls {called} in a way that torch.save does not; nothing was run")
        # _rebuild_from_type_v2 passes its own arguments on.
        passed = [part for outer in args.parts for part in (outer, *(outer.parts or ()))]
        length = sum(item.length for item in passed)
        self.copied += length
        if self.copied > MAX_COPIED:
            raise CheckpointError(f"{self.where}: would take far more memory than the file; nothing was run")
        # Encoded text is up to ten times as long as the text.
        self.stack.append(_Item(16 * length, args.depth))

    def refer(self, item: _Item) -> None:
        _, kind, key, _, values = (part.name or part.value for part in (item.parts or ())[:5])
        if not isinstance(values, int) or values < 0 or not str(kind).endswith("Storage"):
            raise ValueError("a storage of no size")
        name = key.decode("ascii") if isinstance(key, bytes) else str(key)
        self.storages.append(Storage(str(kind).rpartition(".")[2], name, values))
        self.stack.append(_Item())

    def not_read(self, op: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: a pickle that torch.load does not read safely (it has {op}, want protocol 2); save it again"
            " with torch.save"
        )


class _Bounded:
    """A file that gives, and sets memory aside for, at most MAX_PICKLE bytes: a length in it may be anything."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left, self.tell = file, MAX_PICKLE, file.tell

    def read(self, size: int) -> bytes:
        return self._count(self.file.read(min(size, self.left)))

    def readline(self) -> bytes:
        return self._count(self.file.readline(self.left))

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        return data


def check_pickle(file: IO[bytes], where: str) -> list[Storage]:
    """The storages that one pickle refers to; leaves the file behind it. Raises CheckpointError."""
    walk, bounded = _Walk(where), _Bounded(file)
    try:
        for opcode, arg, _ in pickletools.genops(cast("IO[bytes]", bounded)):
            if opcode.name == "STOP":
                if walk.newer:
                    raise walk.not_read(walk.newer)
                return walk.storages
            walk.step(opcode.name, arg)
    except (ValueError, LookupError, TypeError, UnicodeError, OverflowError) as error:
        if not bounded.left:
            raise CheckpointError(
                f"{where}: a pickle of more than {MAX_PICKLE // 2**20} MB beside the tensors"
            ) from error
        raise CheckpointError(f"{where}: damaged or cut short ({printable(error, 80)})") from error
    raise CheckpointError(f"{where}: damaged or cut short (a pickle without an end)")
