"""Builds dataclasses from JSON and checks every value against the type hint of its field."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_LARGEST_FILE = 10**7  # bytes


def read_json(path: Path) -> Any:
    """Reads a JSON file. NaN and infinities are refused.

    Raises:
        ValueError: the file is not JSON, or is larger than 10 MB. Parsing that much takes 200 MB of memory.
    """
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path}: expected JSON of at most {_LARGEST_FILE} bytes, received a larger file")
    return parse_json(path.read_bytes(), path)


def parse_json(content: str | bytes, path: Path) -> Any:
    """Parses the content of a JSON file. NaN and infinities are refused.

    Args:
        content: JSON, as text or in UTF-8.
        path: file to name in errors.

    Raises:
        ValueError: the content is not JSON.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8
        raise ValueError(f"{path}: not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


def from_json(kind: type[T], value: object, path: Path) -> T:
    """Builds a dataclass from parsed JSON.

    Fields can be dataclasses, `str`, `int`, `float`, `bool`, `X | None`, `dict[str, X]`, tuples, and generic
    named tuples. Tuples are arrays in JSON. If a key is missing, the field takes its default. Unknown keys
    are ignored.

    Args:
        kind: dataclass to build.
        value: what `json.loads` returned.
        path: file that the value comes from. Errors name it and the place in it.

    Raises:
        ValueError: a key without a default is missing, a value has the wrong type or length, or
            `__post_init__` refuses it.
    """
    return _convert(kind, value, path, "")


def _convert(kind: Any, value: Any, path: Path, place: str) -> Any:
    origin: Any = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(arguments[0], value, path, place)
    at = f"{path}, {place}" if place else f"{path}"
    is_dataclass, is_tuple = dataclasses.is_dataclass(origin), issubclass(origin, tuple)
    _check_type(value, dict if is_dataclass else list if is_tuple else origin, at)
    if is_dataclass:
        fields = {item.name: item.default for item in dataclasses.fields(origin)}
        for name, default in fields.items():
            if name not in value and default is dataclasses.MISSING:
                raise ValueError(f"{at}: expected key {name!r}, received {', '.join(value)[:200] or 'none'}")
        hints, prefix = typing.get_type_hints(origin), f"{place}." if place else ""
        given = [name for name in fields if name in value]
        items = {name: _convert(hints[name], value[name], path, f"{prefix}{name}") for name in given}
        try:
            return origin(**items)
        except ValueError as error:
            raise ValueError(f"{at}: {error}") from None
    if origin is dict:
        return {key: _convert(arguments[1], item, path, f"{place}.{key}") for key, item in value.items()}
    if is_tuple:
        if origin is not tuple:
            arguments *= len(origin._fields)
        elif arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(value) != len(arguments):
            raise ValueError(f"{at}: expected {len(arguments)} items, received {len(value)}")
        pairs = enumerate(zip(arguments, value, strict=True))
        items = [_convert(one, item, path, f"{place}[{number}]") for number, (one, item) in pairs]
        return tuple(items) if origin is tuple else origin(*items)
    return value


def _check_type(value: object, expected: type, at: str) -> None:
    accepted = (int, float) if expected is float else expected
    # In Python a bool is also an int.
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        name = {dict: "object", list: "array"}.get(expected, expected.__name__)
        raise ValueError(f"{at}: expected {name}, received {str(value)[:80]!r}")
