"""Whole recipes by a name. docs/recipes.md gives the source of every number; imports nothing heavy."""

from training.flags import FAITHFUL

# Of `train_centre`. They say how a net is trained, not which one: that is the model's to start from.
PRESETS = {
    "arcface": {
        "loss": "arcface",
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "polynomial",
        "lr": 0.1,
        "lr_power": 1.0,
        "warmup_steps": 0,
        "epoch": 20,
        "clip_norm": 5.0,
        "mirror": True,
    },
    # What changes the training; the rows about scoring are left to --faithful.
    "upstream": {
        "loss": "angular_centre",
        "reshuffle": False,
        **{name: FAITHFUL[name] for name in FAITHFUL if name not in ("threshold", "lfw_as_stored")},
    },
    "video": {
        "loss": "angular_centre",
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "lr": 0.1,
        "warmup_steps": 1000,
        "epoch": 20,
        "clip_norm": 5.0,
        "mirror": True,
        "ema": 0.999,
        "augment_crop": 0.2,
        "augment_colour": 0.2,
        "augment_low_resolution": 0.2,
        "augment_jpeg": 0.2,
    },
}


def describe_preset(name):
    """The flags of a preset as one would give them."""
    given = []
    for flag, value in PRESETS[name].items():
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            given.append(f"--{flag}={value:g}" if isinstance(value, float) else f"--{flag}={value}")
    return " ".join(given)
