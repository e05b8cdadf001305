import ast
import inspect
from pathlib import Path

import pytest

import losses.variants
from losses.build import build_loss
from losses.variants import LOSSES

GIVEN = {
    "margin": 0.25,
    "scale": 12.0,
    "centre_weight": 0.6,
    "margin_a": 0.9,
    "margin_b": 0.1,
    "num_sub_centres": 2,
}


def test_variants_import_nothing():
    tree = ast.parse(Path(losses.variants.__file__).read_bytes())
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))


def test_names():
    assert list(LOSSES) == [
        *("angular_centre", "arcface", "cosface", "combined", "softmax", "normalised_softmax"),
        *("margin", "sub_centre", "adaface", "magface"),
    ]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    entry = LOSSES[name]
    default = build_loss(name, 7, seed=4, **dict.fromkeys(GIVEN))
    assert type(default).__name__ == entry["class"]
    assert (default.num_identities, default.seed) == (7, 4)
    parameters = inspect.signature(type(default)).parameters
    assert {*entry["arguments"], *entry["fixed"]} <= parameters.keys()
    # No flag of the command line that the loss has is forgotten.
    assert set(entry["arguments"]) == GIVEN.keys() & parameters.keys()
    given = {argument: GIVEN[argument] for argument in entry["arguments"]}
    changed = build_loss(name, 7, **given)
    for argument, value in given.items():
        assert getattr(changed, argument) == value != getattr(default, argument)
    for argument, value in entry["fixed"].items():
        assert getattr(changed, argument) == value


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("arcface", {"centre_weight": 0.3}, "--loss arcface: has no centre_weight; it takes margin, scale"),
        ("softmax", {"margin": 0.3}, "--loss softmax: has no margin; it takes no arguments"),
        ("arc", {}, "--loss: expected one of angular_centre, .*, magface, received arc"),
        ("arcface", {"margin": 4}, r"margin: expected radians in \[0, pi\), received 4"),
    ],
)
def test_errors(name, given, message):
    with pytest.raises(ValueError, match=message):
        build_loss(name, 10, **given)
