import json
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import pytest

from common.typed_json import from_json, read_json

PATH = Path("folder/file.json")
T = TypeVar("T")


class Both(NamedTuple, Generic[T]):
    left: T
    right: T


@dataclass(frozen=True)
class Part:
    name: str
    size: int | None = None

    def __post_init__(self):
        if not self.name:
            raise ValueError("name: expected letters")


@dataclass(frozen=True)
class Whole:
    rate: float
    is_new: bool
    parts: tuple[Part, ...]
    place: tuple[int, int]
    sides: Both[float]
    notes: dict[str, float | None]


GOOD = {
    "rate": 1,
    "is_new": True,
    "parts": [{"name": "a"}, {"name": "b", "size": 2, "unknown": 1}],
    "place": [3, 4],
    "sides": [0.5, 1],
    "notes": {"x": None, "y": 0.25},
}


def test_fields_of_all_kinds_are_read():
    expected = Whole(1, True, (Part("a"), Part("b", 2)), (3, 4), Both(0.5, 1), {"x": None, "y": 0.25})
    assert from_json(Whole, GOOD, PATH) == expected


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"rate": "1"}, "rate: expected float, received '1'"),
        ({"rate": None}, "rate: expected float, received 'None'"),
        ({"rate": True}, "rate: expected float"),
        ({"is_new": 1}, "is_new: expected bool"),
        ({"parts": {}}, "parts: expected array"),
        ({"parts": [[]]}, "parts[0]: expected object"),
        ({"parts": [{"name": "a"}, {}]}, "parts[1]: expected key 'name', received none"),
        ({"parts": [{"name": ""}]}, "parts[0]: name: expected letters"),
        ({"parts": [{"name": "a", "size": 1.0}]}, "parts[0].size: expected int"),
        ({"place": [1]}, "place: expected 2 items, received 1"),
        ({"place": [1, False]}, "place[1]: expected int"),
        ({"sides": [1, 2, 3]}, "sides: expected 2 items, received 3"),
        ({"sides": [1, "2"]}, "sides[1]: expected float"),
        ({"notes": {"x": []}}, "notes.x: expected float"),
    ],
)
def test_errors_name_file_and_place(change, place):
    with pytest.raises(ValueError) as raised:
        from_json(Whole, GOOD | change, PATH)
    assert str(raised.value).startswith(f"{PATH}, {place}")


def test_errors_about_the_whole_value_name_only_the_file():
    for value, message in (([], "expected object"), ({"rate": 1}, "expected key 'is_new', received rate")):
        with pytest.raises(ValueError) as raised:
            from_json(Whole, value, PATH)
        assert str(raised.value).startswith(f"{PATH}: {message}")


def test_long_values_are_cut():
    with pytest.raises(ValueError) as raised:
        from_json(Part, {"name": json.loads("[" + "1," * 5000 + "1]")}, PATH)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("text", ["", "{", "NaN", "[-Infinity]", "[" * 100_000, '"\ud800', " " * 10_000_001])
def test_files_that_are_not_json_are_refused(tmp_path, text):
    path = tmp_path / "values.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match=r"values\.json: ") as error:
        read_json(path)
    assert len(str(error.value)) < 500
