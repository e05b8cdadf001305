import inspect

import pytest

from losses.build import build_loss
from losses.variants import LOSSES, num_sampled

pytestmark = pytest.mark.tensorflow

GIVEN = {
    "margin": 0.25,
    "scale": 12.0,
    "centre_weight": 0.6,
    "margin_a": 0.9,
    "margin_b": 0.1,
    "num_sub_centres": 2,
}


def test_names_are_in_the_documented_order():
    assert list(LOSSES) == [
        *("angular_centre", "arcface", "cosface", "combined", "softmax", "normalised_softmax"),
        *("margin", "sub_centre", "adaface", "magface"),
    ]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_the_arguments_in_the_table(name):
    entry = LOSSES[name]
    default = build_loss(name, 7, seed=4, **dict.fromkeys(GIVEN))
    assert type(default).__name__ == entry.layer
    assert (default.num_identities, default.seed) == (7, 4)
    parameters = inspect.signature(type(default)).parameters
    assert {*entry.arguments, *entry.fixed} <= parameters.keys()
    # The table lists every flag that the loss can take.
    assert set(entry.arguments) == GIVEN.keys() & parameters.keys()
    given = {argument: GIVEN[argument] for argument in entry.arguments}
    changed = build_loss(name, 7, **given)
    for argument, value in given.items():
        assert getattr(changed, argument) == value != getattr(default, argument)
    for argument, value in entry.fixed.items():
        assert getattr(changed, argument) == value


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("arcface", {"centre_weight": 0.3}, "--loss arcface: .*centre_weight.* margin, scale"),
        ("softmax", {"margin": 0.3}, "--loss softmax: .*margin"),
        ("arc", {}, "--loss: .*angular_centre, .*, magface.* arc"),
        ("arcface", {"margin": 4}, "margin: .* 4"),
    ],
)
def test_errors_name_the_flag_and_the_value(name, given, message):
    with pytest.raises(ValueError, match=message):
        build_loss(name, 10, **given)


@pytest.mark.parametrize(
    ("num_centres", "rate", "expected"), [(50, 0.08, 4), (50, 0.281, 15), (50, 1.0, 50), (30, 0.1, 3)]
)
def test_the_number_of_sampled_centres_is_rounded_up(num_centres, rate, expected):
    assert num_sampled(num_centres, rate) == expected  # rounded up; 0.1 * 30 > 3
