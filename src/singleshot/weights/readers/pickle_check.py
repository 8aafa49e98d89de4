"""A walk through a pickle before torch.load reads it: what it would call, name, nest and copy.

weights_only keeps code out. It leaves a few things that a hostile file can do: text doubled by encoding it again and
again, tuples nested until hashing them overflows the stack (torch 2.14 dies of it), storages longer than what is
stored. `pickletools` knows what an opcode takes from the stack and puts there; only sizes and depths are followed.
"""

from __future__ import annotations

import io
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from singleshot.errors import CheckpointError, printable

MAX_PICKLE = 64 * 2**20  # bytes, without the tensors' values
MAX_COPIED = 2**24  # items that all calls together copy
MAX_DEPTH = 100  # of tuples in tuples

# What rebuilds tensors, the containers of state dicts, types of values and of storages.
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|_codecs\.encode"
    r"|torch\.(Size|device|_tensor\._rebuild_from_type_v2|nn\.parameter\.Parameter)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|qtensor|parameter|parameter_with_state)"
    r"|torch\.((storage\.)?(Typed|Untyped|[BFDHLISCQ]\w*)Storage|[a-z]+\d+\w*|bool|per_\w+|Tensor)"
)
# What training code leaves with the weights is read as objects that do nothing.
_STAND_INS = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "datetime.datetime",
    "datetime.timedelta",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
)


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


@dataclass(eq=False, slots=True)
class _Item:
    """One object on the pickle's stack.

    value: of a text or a number, or a class's full name; parts, depth: of a tuple; size: items that a copy of it takes.
    """

    value: Any = None
    parts: tuple[_Item, ...] = ()
    depth: int = 0
    size: int = 1


_GETS = ("GET", "BINGET", "LONG_BINGET")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GROWS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


class _Walk:
    """The stack and the memo of one pickle."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[_Item | None] = []  # None: a mark
        self.memo: dict[int, _Item | None] = {}
        self.storages: list[Storage] = []
        self.copied = self.protocol = 0

    def step(self, op: pickletools.OpcodeInfo, arg: Any) -> None:
        """One opcode."""
        if op.name == "MARK":
            self.stack.append(None)
        elif op.name == "PROTO":
            self.protocol = arg
        elif op.name in _GETS:
            self.stack.append(self.memo[arg])
        elif op.name in _PUTS:
            self.memo[len(self.memo) if arg is None else arg] = self.stack[-1]
        else:
            items = self.pop(op.stack_before)
            if op.name in _GROWS:
                items[0].size += len(items) - 1
                self.stack.append(items[0])
            elif op.stack_after:
                self.stack.append(self.made(op.name, arg, items))

    def pop(self, what: list[pickletools.StackObject]) -> list[_Item]:
        """What an opcode takes, the oldest first."""
        items: list[_Item] = []
        single = len(what)
        if pickletools.markobject in what:
            single -= 2  # the mark, and what lies above it
            while (item := self.stack.pop()) is not None:
                items.append(item)
        for _ in range(single):
            if (item := self.stack.pop()) is None:
                raise IndexError("a mark in place of an object")
            items.append(item)
        return items[::-1]

    def made(self, op: str, arg: Any, items: list[_Item]) -> _Item:
        """The object that an opcode makes of the items that it took."""
        if op in ("GLOBAL", "STACK_GLOBAL"):
            return _Item(self.full_name(arg or f"{items[0].value} {items[1].value}"))
        if op in ("REDUCE", "NEWOBJ"):
            function, args = items
            self.copied += args.size
            self.bound(self.copied)
            # Encoded text is up to ten times as long as the text.
            return _Item(depth=args.depth, size=args.size * (16 if function.value == "_codecs.encode" else 1))
        if op == "BINPERSID":
            self.storages.append(_storage(items[0]))
            return _Item()
        if op.startswith("TUPLE"):
            depth, size = 1 + max((item.depth for item in items), default=0), 1 + sum(item.size for item in items)
            if depth > MAX_DEPTH:
                raise CheckpointError(f"{self.where}: tuples nested more than {MAX_DEPTH} deep; nothing was run")
            self.bound(size)
            return _Item(parts=tuple(items), depth=depth, size=size)
        return _Item(arg, size=len(arg) if isinstance(arg, (str, bytes)) else 1)

    def bound(self, size: int) -> None:
        """Refuse what has, or copies, more items than any checkpoint."""
        if size > MAX_COPIED:
            raise CheckpointError(f"{self.where}: would take far more memory than the file; nothing was run")

    def full_name(self, text: str) -> str:
        """ "module name" of a class or function that may be named, as "module.name"."""
        module, _, name = text.partition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in _STAND_INS and not _ALLOWED.fullmatch(full):
            raise CheckpointError(
                f"{self.where}: needs code to be read ({printable(full, 80)}); nothing was run; give a file with the"
                " state dict alone: torch.save(model.state_dict(), ...)"
            )
        return full


def _storage(item: _Item) -> Storage:
    """What ("storage", class, key, device, number of values) refers to."""
    _, kind, key, _, values = (part.value for part in item.parts[:5])
    if not isinstance(values, int) or values < 0 or not str(kind).endswith("Storage"):
        raise ValueError("a storage of no size")
    name = key.decode("ascii") if isinstance(key, bytes) else str(key)
    return Storage(str(kind).rpartition(".")[2], name, values)


def check_pickle(stream: io.BytesIO, where: str) -> list[Storage]:
    """The storages that one pickle refers to; leaves the stream behind it.

    Args:
        stream: at most `MAX_PICKLE` bytes from the pickle's beginning.
        where: what messages call the file.

    Raises:
        CheckpointError: names what is not a tensor's, grows or nests without end, is no pickle of protocol 2.
    """
    walk = _Walk(where)
    try:
        for op, arg, _ in pickletools.genops(stream):
            walk.step(op, arg)
    except (ValueError, LookupError, TypeError, UnicodeError, OverflowError) as error:
        if stream.getbuffer().nbytes >= MAX_PICKLE:
            size = MAX_PICKLE // 2**20
            raise CheckpointError(f"{where}: a pickle of more than {size} MB beside the tensors") from error
        raise CheckpointError(f"{where}: damaged or cut short ({printable(error, 80)})") from error
    if walk.protocol != 2:
        raise CheckpointError(
            f"{where}: a pickle that torch.load does not read safely (protocol {walk.protocol}, want 2);"
            " save it again with torch.save"
        )
    return walk.storages
