"""Which losses with centres there are. Imports nothing, so that command lines can name them at once."""

# By the command line's name: module and class; which of its constructor's arguments flags may give; and
# those that the name itself gives.
LOSSES = {
    "angular_centre": {
        "module": ".angular_centre",
        "class": "AngularCentreLoss",
        "arguments": ("margin", "scale", "centre_weight"),
        "fixed": {},
    },
    "arcface": {
        "module": ".arcface",
        "class": "ArcFaceLoss",
        "arguments": ("margin", "scale"),
        "fixed": {},
    },
    "cosface": {
        "module": ".cosface",
        "class": "CosFaceLoss",
        "arguments": ("margin", "scale"),
        "fixed": {},
    },
    "combined": {
        "module": ".combined_margin",
        "class": "CombinedMarginLoss",
        "arguments": ("margin", "scale", "margin_a", "margin_b"),
        "fixed": {},
    },
    "softmax": {
        "module": ".softmax",
        "class": "SoftmaxLoss",
        "arguments": (),
        "fixed": {"normalise_centres": False},
    },
    "normalised_softmax": {
        "module": ".softmax",
        "class": "SoftmaxLoss",
        "arguments": (),
        "fixed": {"normalise_centres": True},
    },
    "margin": {
        "module": ".margin",
        "class": "MarginLoss",
        "arguments": (),
        "fixed": {},
    },
    "sub_centre": {
        "module": ".sub_centre",
        "class": "SubCentreLoss",
        "arguments": ("margin", "scale", "num_sub_centres"),
        "fixed": {},
    },
    "adaface": {
        "module": ".adaface",
        "class": "AdaFaceLoss",
        "arguments": ("margin", "scale"),
        "fixed": {},
    },
    "magface": {
        "module": ".magface",
        "class": "MagFaceLoss",
        "arguments": ("margin", "scale"),
        "fixed": {},
    },
}

# All that flags may give to one or the other.
ARGUMENTS = tuple(dict.fromkeys(name for loss in LOSSES.values() for name in loss["arguments"]))

# Of `losses.triplet.TripletLoss`.
MININGS = ("batch_hard", "batch_all")
