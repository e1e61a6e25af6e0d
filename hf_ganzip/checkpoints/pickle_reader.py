# SPDX-License-Identifier: Apache-2.0
"""A pickle reader that knows data only.

Pickle is a program for a small stack machine. This one has no instruction that imports or calls: names stay
names, and a "call" of one of the few names in :mod:`.rebuild` builds a number array or a container. Every
other name is refused when it is read. Memory: a file of n bytes makes at most ``MAX_OPCODES`` small objects
and byte strings of n bytes in all; long ones are views of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or converted."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that asks for code, or for more memory than it has data."""


class DamagedCheckpointError(CheckpointError):
    """A truncated or contradictory checkpoint."""


MAX_OPCODES = 2_000_000
_MAX_INT_BYTES = 64
_SMALL = 1024  # bytes
_NEAR = 64  # memo entries between an array and its state


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentions: ``module.name``; nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Instance:
    """What an object of a foreign class holds: constructor arguments, state and items; no code of the class runs."""

    cls: Name
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """Item or attribute of that name."""
        if key in self.items:
            return self.items[key]
        return self.state.get(key, default) if isinstance(self.state, dict) else default


_MARK = object()
_PLAIN = (str, bytes, int, float, bool, type(None))


class PickleReader:
    """Read one pickle from ``data``, beginning at ``offset``.

    Args:
        data: The bytes of the file.
        offset: Where the pickle begins; after :meth:`load`, where it ended.
        allowed: name -> whether the pickle may mention it.
        call: (name, args) -> value of a call.
        build: (object, state) -> object with that state.
        persistent: Persistent id -> value; None: the pickle must have none.
    """

    def __init__(
        self,
        data: memoryview | bytes,
        offset: int = 0,
        *,
        allowed: Callable[[Name], bool],
        call: Callable[[Any, tuple[Any, ...]], Any],
        build: Callable[[Any, Any], Any],
        persistent: Callable[[Any], Any] | None = None,
    ):
        self.data, self.offset = memoryview(data), offset
        self._allowed, self._call, self._build, self._persistent = allowed, call, build, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object.

        Raises:
            UnsafeCheckpointError: It mentions a name that is not allowed, or uses an instruction that is refused.
            DamagedCheckpointError: It ends early or is contradictory.
        """
        try:
            for _ in range(MAX_OPCODES):
                position = self.offset
                opcode = self._take(1)[0]
                if opcode == 0x2E:  # STOP
                    return self._stack.pop()
                handler = _HANDLERS.get(opcode)
                if handler is None:
                    raise UnsafeCheckpointError(
                        f"pickle instruction {bytes([opcode])!r} at byte {position} is refused."
                    )
                handler(self)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            if isinstance(error, (UnsafeCheckpointError, DamagedCheckpointError)):
                raise
            raise DamagedCheckpointError(f"the pickle is damaged near byte {self.offset}: {error!r}.") from error
        raise UnsafeCheckpointError(f"the pickle has more than {MAX_OPCODES:,} instructions.")

    # -- input --------------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        end = self.offset + count
        if count < 0 or end > len(self.data):
            raise DamagedCheckpointError(f"the pickle is truncated: {count:,} bytes expected at byte {self.offset:,}.")
        view = self.data[self.offset : end]
        self.offset = end
        return view

    def _bytes(self, count: int) -> bytes | memoryview:
        """Small ones copied, large ones (numbers of tensors) as they lie in the file."""
        view = self._take(count)
        return bytes(view) if count < _SMALL else view

    def _number(self, layout: str) -> int:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        limit = bytes(self.data[self.offset : self.offset + 4096]).find(b"\n")
        if limit < 0:
            raise DamagedCheckpointError(f"the pickle has no end of line after byte {self.offset:,}.")
        return bytes(self._take(limit + 1)[:-1]).decode("utf-8")

    # -- stack --------------------------------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _marked(self) -> list[Any]:
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                values = stack[index + 1 :]
                del stack[index:]
                return values
        raise DamagedCheckpointError("the pickle has a list without a beginning.")

    def _name(self, module: str, name: str) -> Name:
        found = Name(module, name)
        if not self._allowed(found):
            raise UnsafeCheckpointError(f"the pickle asks for {found}, which is no tensor, array or known container.")
        return found

    def _pairs(self, values: list[Any]) -> None:
        target = self._stack[-1]
        target = target.items if isinstance(target, Instance) else target
        if not isinstance(target, dict) or len(values) % 2:
            raise DamagedCheckpointError("the pickle sets items of something that has none.")
        for key, value in zip(values[::2], values[1::2]):
            target[_checked_key(key)] = value

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise DamagedCheckpointError("the pickle appends to something that is no list.")
        target.extend(values)

    def _reduce(self, args: Any, cls: Any) -> None:
        if not isinstance(args, tuple) or not isinstance(cls, Name):
            raise UnsafeCheckpointError(f"the pickle calls {type(cls).__name__}, which is no name.")
        self._push(self._call(cls, args))

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise DamagedCheckpointError(f"the pickle refers to entry {index} of its memo, which is not there.")
        self._push(self._memo[index])

    def _put(self, index: int) -> None:
        if index < 0:
            raise DamagedCheckpointError("the pickle has a negative memo entry.")
        self._memo[index] = self._stack[-1]

    def _persistent_id(self, identifier: Any) -> None:
        if self._persistent is None:
            raise UnsafeCheckpointError("the pickle has a persistent id; only torch files have them.")
        self._push(self._persistent(identifier))


def _checked_key(key: Any) -> Any:
    """Dict keys and set members: plain values or flat tuples of them (hashing nested ones recurses without a limit)."""
    members = key if type(key) is tuple else (key,)
    if not all(isinstance(member, _PLAIN) for member in members):
        raise DamagedCheckpointError(f"the pickle has a key of type {type(key).__name__}; allowed are plain values.")
    return key


def _integer(data: memoryview) -> int:
    if len(data) > _MAX_INT_BYTES:
        raise UnsafeCheckpointError(f"the pickle has an integer of {len(data)} bytes.")
    return int.from_bytes(data, "little", signed=True)


def _text(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


def _integer_line(line: str) -> Any:
    if line in ("00", "01"):
        return line == "01"
    if len(line) > 3 * _MAX_INT_BYTES:
        raise UnsafeCheckpointError(f"the pickle has an integer of {len(line)} digits.")
    return int(line.removesuffix("L"))


def _pop_tuple(r: PickleReader, count: int) -> None:
    if count > len(r._stack):
        raise DamagedCheckpointError("the pickle takes more values than it has.")
    values = tuple(r._stack[len(r._stack) - count :])
    del r._stack[len(r._stack) - count :]
    r._push(values)


def _dict(r: PickleReader) -> None:
    values = r._marked()
    r._push({})
    r._pairs(values)


def _set_item(r: PickleReader) -> None:
    value, key = r._stack.pop(), r._stack.pop()
    r._pairs([key, value])


def _set_add(r: PickleReader) -> None:
    values = r._marked()
    if not isinstance(r._stack[-1], set):
        raise DamagedCheckpointError("the pickle adds to something that is no set.")
    r._stack[-1].update(_checked_key(value) for value in values)


def _apply_build(r: PickleReader) -> None:
    state = r._stack.pop()
    r._stack[-1] = _replace(r, r._stack[-1], r._build(r._stack[-1], state))


def _replace(r: PickleReader, before: Any, after: Any) -> Any:
    """Arrays become arrays only when their state is known: let the memo follow."""
    if after is not before:
        for index, value in list(islice(reversed(r._memo.items()), _NEAR)):
            if value is before:
                r._memo[index] = after
    return after


def _new_object(r: PickleReader, with_options: bool) -> None:
    options = r._stack.pop() if with_options else {}
    args = r._stack.pop()
    if options:
        raise UnsafeCheckpointError("the pickle constructs an object with keyword arguments.")
    r._reduce(args, r._stack.pop())


def _reduce(r: PickleReader) -> None:
    args = r._stack.pop()
    r._reduce(args, r._stack.pop())


def _stack_global(r: PickleReader) -> None:
    name, module = r._stack.pop(), r._stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise UnsafeCheckpointError("the pickle builds a name from something that is no text.")
    r._push(r._name(module, name))


_HANDLERS: dict[int, Callable[[PickleReader], Any]] = {
    0x80: lambda r: r._take(1),  # PROTO
    0x95: lambda r: r._take(8),  # FRAME
    ord("("): lambda r: r._push(_MARK),
    ord("0"): lambda r: r._stack.pop(),
    ord("1"): lambda r: r._marked(),
    ord("2"): lambda r: r._push(r._stack[-1]),
    # plain values
    ord("N"): lambda r: r._push(None),
    0x88: lambda r: r._push(True),
    0x89: lambda r: r._push(False),
    ord("I"): lambda r: r._push(_integer_line(r._line())),
    ord("L"): lambda r: r._push(_integer_line(r._line())),
    ord("J"): lambda r: r._push(r._number("<i")),
    ord("K"): lambda r: r._push(r._number("<B")),
    ord("M"): lambda r: r._push(r._number("<H")),
    0x8A: lambda r: r._push(_integer(r._take(r._number("<B")))),
    0x8B: lambda r: r._push(_integer(r._take(r._number("<i")))),
    ord("F"): lambda r: r._push(float(r._line())),
    ord("G"): lambda r: r._push(r._number(">d")),
    ord("T"): lambda r: r._push(str(r._take(r._number("<i")), "latin-1")),
    ord("U"): lambda r: r._push(str(r._take(r._number("<B")), "latin-1")),
    ord("B"): lambda r: r._push(r._bytes(r._number("<I"))),
    ord("C"): lambda r: r._push(bytes(r._take(r._number("<B")))),
    0x8E: lambda r: r._push(r._bytes(r._number("<Q"))),
    0x96: lambda r: r._push(r._bytes(r._number("<Q"))),
    ord("X"): lambda r: r._push(_text(r._take(r._number("<I")))),
    0x8C: lambda r: r._push(_text(r._take(r._number("<B")))),
    0x8D: lambda r: r._push(_text(r._take(r._number("<Q")))),
    # containers
    ord("]"): lambda r: r._push([]),
    ord(")"): lambda r: r._push(()),
    ord("}"): lambda r: r._push({}),
    0x8F: lambda r: r._push(set()),
    ord("l"): lambda r: r._push(r._marked()),
    ord("t"): lambda r: r._push(tuple(r._marked())),
    0x85: lambda r: _pop_tuple(r, 1),
    0x86: lambda r: _pop_tuple(r, 2),
    0x87: lambda r: _pop_tuple(r, 3),
    ord("d"): _dict,
    ord("a"): lambda r: r._extend([r._stack.pop()]),
    ord("e"): lambda r: r._extend(r._marked()),
    ord("s"): _set_item,
    ord("u"): lambda r: r._pairs(r._marked()),
    0x90: _set_add,
    0x91: lambda r: r._push(frozenset(_checked_key(value) for value in r._marked())),
    # names and objects
    ord("c"): lambda r: r._push(r._name(r._line(), r._line())),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: lambda r: _new_object(r, False),
    0x92: lambda r: _new_object(r, True),
    ord("b"): _apply_build,
    ord("P"): lambda r: r._persistent_id(r._line()),
    ord("Q"): lambda r: r._persistent_id(r._stack.pop()),
    # memo
    ord("p"): lambda r: r._put(_integer_line(r._line())),
    ord("q"): lambda r: r._put(r._number("<B")),
    ord("r"): lambda r: r._put(r._number("<I")),
    0x94: lambda r: r._put(len(r._memo)),
    ord("g"): lambda r: r._get(_integer_line(r._line())),
    ord("h"): lambda r: r._get(r._number("<B")),
    ord("j"): lambda r: r._get(r._number("<I")),
}
