"""Lists all losses with arguments that differ from their defaults, and makes inputs for them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from losses.adaface import AdaFaceLoss
from losses.angular_centre import AngularCentreLoss
from losses.arcface import ArcFaceLoss
from losses.centre_layer import CentreLayer
from losses.combined_margin import CombinedMarginLoss
from losses.cosface import CosFaceLoss
from losses.hardnet import HardNetLoss
from losses.magface import MagFaceLoss
from losses.margin import MarginLoss
from losses.softmax import SoftmaxLoss
from losses.sub_centre import SubCentreLoss
from losses.triplet import TripletLoss
from tests.losses import references


class Case(NamedTuple):
    """A loss, its formula in NumPy, and arguments that all differ from the defaults."""

    layer: type
    reference: Callable | None
    arguments: dict

    def make(self, num_identities, seed=0, **arguments):
        arguments = {**self.arguments, **arguments}
        if issubclass(self.layer, CentreLayer):
            return self.layer(num_identities, seed=seed, **arguments)
        return self.layer(**arguments)

    def built(self, num_identities=5, dim=6, **arguments):
        layer = self.make(num_identities, seed=3, **arguments)
        layer.build((None, dim))
        return layer


CENTRE_CASES = {
    "angular_centre": Case(
        AngularCentreLoss, references.angular_centre, {"margin": 0.3, "scale": 9.0, "centre_weight": 0.7}
    ),
    "arcface": Case(ArcFaceLoss, references.arcface, {"margin": 0.3, "scale": 9.0}),
    "cosface": Case(CosFaceLoss, references.cosface, {"margin": 0.3, "scale": 9.0}),
    "combined": Case(
        CombinedMarginLoss,
        references.combined,
        {"margin_a": 0.9, "margin": 0.4, "margin_b": 0.15, "scale": 9.0},
    ),
    "softmax": Case(SoftmaxLoss, references.softmax, {}),
    "normalised_softmax": Case(SoftmaxLoss, references.softmax, {"normalise_centres": True}),
    "margin": Case(MarginLoss, references.margin, {}),
    "sub_centre": Case(
        SubCentreLoss, references.sub_centre, {"num_sub_centres": 2, "margin": 0.3, "scale": 9.0}
    ),
    "adaface": Case(
        AdaFaceLoss,
        references.adaface,
        {"margin": 0.5, "scale": 9.0, "concentration": 0.6, "momentum": 0.2},
    ),
    "magface": Case(
        MagFaceLoss,
        references.magface,
        {
            "margin": 0.3,
            "upper_margin": 0.9,
            "scale": 9.0,
            "lower_norm": 1.0,
            "upper_norm": 4.0,
            "norm_weight": 2.0,
        },
    ),
}
DISTANCE_CASES = {
    "batch_hard": Case(TripletLoss, None, {"margin": 1.0, "weight": 2.0, "squared": True}),
    "batch_all": Case(TripletLoss, None, {"mining": "batch_all", "margin": 0.7, "normalise": False}),
    "hardnet": Case(HardNetLoss, None, {"margin": 0.4, "normalise": False}),
}
CASES = CENTRE_CASES | DISTANCE_CASES


def parametrize(cases):
    """Returns a decorator that calls a test with each case, as the argument `case`."""
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


def random_batch(batch=12, dim=6, num_identities=5, seed=0):
    """Returns embeddings with lengths of 0.4 to 6: below, inside and above the range of the MagFace case."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(batch, dim))
    embeddings *= np.linspace(0.4, 6, batch)[:, None] / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings.astype(np.float32), rng.integers(0, num_identities, batch)
