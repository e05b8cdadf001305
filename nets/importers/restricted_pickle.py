"""Reads pickles of plain data without running any code from them.

`pickle.load` calls every function that a file names, and these files come from the web. This reader
interprets the instructions itself. `pickle.Unpickler` with an allow-list would be less safe: LONG_BINPUT
makes it allocate a table as large as the file demands, and BUILD calls methods of the objects.
"""

import codecs
import dataclasses
import pickletools  # for the layout of the instructions only
import reprlib
import sys
from typing import IO, Any

# Memory that an instruction can use, such as an empty list and its place in the memo.
_INSTRUCTION_BYTES = 100
_SPARE_BYTES = 80 * 10**6
_LARGEST_RANK = 64  # most axes that a NumPy array can have
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if _is_small(x) else f"an integer of {x.bit_length()} bits"


def brief(value: object) -> str:
    """Returns a short `repr` of a value. A small file can nest tuples whose full `repr` would never end."""
    return _Brief().repr(value)


def are_sizes(numbers: Any) -> bool:
    """Returns whether a value is a tuple of integers that can be the shape of an array."""
    is_short = isinstance(numbers, tuple) and len(numbers) <= _LARGEST_RANK
    return is_short and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def _is_small(value):
    return isinstance(value, int) and abs(value) < 1 << 60


class RefusedPickle(ValueError):
    """Raised for a pickle that asks for more than its reader allows."""


@dataclasses.dataclass(frozen=True)
class Global:
    """The name of a function or class in a file, such as `"numpy dtype"`. It cannot be called."""

    name: str


@dataclasses.dataclass
class Unfinished:
    """An object whose contents follow later in the file. `value` is `None` until then."""

    kind: str
    value: Any = None


class RestrictedUnpickler:
    """Reads pickles of lists, tuples, strings, bytes and numbers. A subclass can allow a few more objects.

    It reads protocols 0 to 5. Strings of Python 2 and bytearrays become bytes. It refuses instructions that
    make other objects, such as NEWOBJ, and names outside of the allow-list. It also refuses pickles whose
    objects take more memory than three times the file plus 80 MB, because an instruction of one byte can make
    an empty list.

    Args:
        file: the pickle. A read past the end must return the remaining bytes, as in `io.BytesIO` and
            `mmap.mmap`.
        file_size: number of bytes of the whole file, which may contain more than the pickle.

    Attributes:
        expected: what the file may contain, for error messages.
        names: the allow-list of functions and classes, such as `"numpy dtype"`.
        allows_dicts: whether the file may contain dicts.
    """

    expected = "expected only lists, tuples, strings, bytes and numbers"
    names: frozenset[str] = frozenset()
    allows_dicts = False

    def __init__(self, file: IO[bytes], file_size: int) -> None:
        self._file = file
        self._bytes_left = _SPARE_BYTES + 3 * file_size
        self._stack: list[Any] = []
        self._outer_stacks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def call(self, name: str, arguments: Any) -> Any:
        """Returns the result of calling a function of the allow-list. A subclass computes it."""
        raise self.refusal(f"a call of {name}")

    def build(self, target: Any, state: Any) -> Any:
        """Returns an object after the file has set its state."""
        raise self.refusal("an object with a state of its own")

    def find_persistent(self, identity: Any) -> Any:
        """Returns an object that the file stores outside of the pickle."""
        raise self.refusal("the pickle instruction BINPERSID, which refers to other files")

    def refusal(self, received: str) -> RefusedPickle:
        """Returns an error that says what the file may contain and what it contains instead."""
        return RefusedPickle(f"{self.expected}, received {received}")

    def load(self) -> Any:
        """Reads the file and returns the object that was pickled.

        Raises:
            RefusedPickle: the file asks for more than is allowed.
            ValueError: the file is damaged or not a pickle.
        """
        try:
            for name, argument in self._instructions():
                self._count_memory(_INSTRUCTION_BYTES + sys.getsizeof(argument))
                self._step(name, argument)
            if len(self._stack) != 1:
                raise ValueError(f"expected one object, received {len(self._stack)}")
            self._check_finished(self._stack[0])
        except RefusedPickle:
            raise
        except (ValueError, LookupError, OverflowError, RecursionError) as error:
            # Cut, because Python's messages may quote any amount of text from the file.
            raise ValueError(f"not a pickle, or a damaged one: {str(error)[:200]}") from None
        return self._stack[0]

    def _count_memory(self, num_bytes):
        self._bytes_left -= num_bytes
        if self._bytes_left < 0:
            raise self.refusal("a file whose objects take much more memory than the file")

    def _instructions(self):
        while (code := self._file.read(1)) != b".":
            if code not in _OPCODES:
                raise ValueError(f"expected a pickle instruction, received {code!r}")
            opcode = _OPCODES[code]
            if opcode.name == "STRING":  # `pickletools` would decode it as ASCII
                text = pickletools.read_stringnl(self._file, decode=False)
                yield "STRING", codecs.escape_decode(text)[0]
            else:
                yield opcode.name, opcode.arg and opcode.arg.reader(self._file)

    def _step(self, name, argument):
        push = self._stack.append
        match name:
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                push(argument)
            case "STRING" | "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                push(argument)
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                push(bytes(argument))
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                push(_CONSTANTS[name])
            case "BINSTRING" | "SHORT_BINSTRING":
                push(argument.encode("latin-1"))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                # Larger numbers could be chosen to collide in the dict: Python's hash is modulo 2^61 - 1.
                if argument >= 1 << 32:
                    raise ValueError(f"expected a place in the memo, received {brief(argument)}")
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                value = self._memo[argument]
                finished = isinstance(value, Unfinished) and value.value is not None
                push(value.value if finished else value)
            case "MARK":
                self._outer_stacks.append(self._stack)
                self._stack = []
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT" if self.allows_dicts:
                push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._pop(int(name[-1]))))
            case "LIST" | "TUPLE":
                items = self._pop_to_mark()  # replaces `self._stack`, so `push` is out of date
                self._stack.append(items if name == "LIST" else tuple(items))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
                self._last(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
                if not all(isinstance(key, str) or _is_small(key) for key in items[::2]):
                    raise self.refusal("a key that is neither a string nor a number below 2^60")
                self._last(dict).update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                push(self._find_global(argument))
            case "STACK_GLOBAL":
                module, attribute = self._pop(2)
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise self.refusal("a global whose name is not a string")
                push(self._find_global(f"{module} {attribute}"))
            case "BINPERSID":
                push(self.find_persistent(*self._pop(1)))
            case "REDUCE":
                function, arguments = self._pop(2)
                if not isinstance(function, Global):
                    raise self.refusal("a call of something other than a function")
                push(self.call(function.name, arguments))
            case "BUILD":
                target, state = self._pop(2)
                push(self.build(target, state))
                if isinstance(target, Unfinished):
                    target.value = self._stack[-1]  # the memo contains `target`
            case "PROTO":
                if argument > 5:
                    raise ValueError(f"expected a pickle protocol of 0 to 5, received {argument}")
            case "FRAME":
                pass  # a hint to read ahead
            case _:
                if name == "INST":
                    self._find_global(argument)  # its error names the function
                raise self.refusal(f"the pickle instruction {name}, which makes other objects")

    def _pop(self, count):
        if count > len(self._stack):
            raise ValueError("an instruction finds too few values")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self):
        items, self._stack = self._stack, self._outer_stacks.pop()
        return items

    def _last(self, kind):
        if not isinstance(self._stack[-1], kind):
            raise self.refusal(f"an item of {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def _find_global(self, name):
        if name not in self.names:
            raise RefusedPickle(
                "this file would run code when opened: it asks for "
                f"{name[:80].replace(' ', '.')}; {self.expected}"
            )
        return Global(name)

    def _check_finished(self, value):
        # Not recursive, because a file can nest deeper than Python recurses, and a list can contain itself.
        remaining, seen = [value], set()
        while remaining:
            item = remaining.pop()
            if isinstance(item, Global | Unfinished):
                raise self.refusal("a function, a type or an array without its contents")
            if isinstance(item, list | tuple | dict) and id(item) not in seen:
                seen.add(id(item))
                remaining.extend(item.values() if isinstance(item, dict) else item)
