"""The table of all backbones. Imports no TensorFlow, so that `--help` can list them quickly."""

import difflib
from typing import NamedTuple

# Base filters and number of units of the four stages, by depth. From margin-centre-face,
# nets/L_Resnet_E_IR_fix_issue9.py::get_resnet. nets/L_Resnet_E_IR.py calls the units of depth 100 "101".
STAGES = {
    32: ((16, 3), (32, 3), (64, 6), (128, 3)),
    50: ((64, 3), (128, 4), (256, 14), (512, 3)),
    100: ((64, 3), (128, 13), (256, 30), (512, 3)),
    101: ((64, 3), (128, 13), (256, 30), (512, 3)),
    152: ((64, 3), (128, 8), (256, 36), (512, 3)),
}
UNIT_TYPES = ("ir", "se_ir")
KEEP_PROB = 0.4  # the share that dropout keeps before the dense layer in the original


class Variant(NamedTuple):
    """The builder of a backbone and its arguments.

    Attributes:
        builder: name of a module in `nets` and of its function that builds the model.
        arguments: arguments of the function that the backbone's name sets.
        keep_prob: default share that dropout keeps.
        embedding_size: default size of the embedding.
    """

    builder: str
    arguments: dict
    keep_prob: float = KEEP_PROB
    embedding_size: int = 512


def _variants():
    variants = {}
    for unit_type in UNIT_TYPES:
        for depth in (32, 50, 100, 152):
            variants[f"{unit_type}{depth}"] = Variant("resnet_ir", {"depth": depth, "unit_type": unit_type})
        for prefix, norm in (("wide", "batch"), ("gn", "group"), ("renorm", "renorm")):
            for depth in (50, 101, 152):
                arguments = {"depth": depth, "unit_type": unit_type, "expansion": 4, "norm": norm}
                variants[f"{prefix}_{unit_type}{depth}"] = Variant("resnet_ir", arguments)
    for depth in (18, 34, 50, 100, 200):
        # arcface_torch has no dropout.
        variants[f"iresnet{depth}"] = Variant("iresnet", {"depth": depth}, keep_prob=1.0)
    # The channels between the blocks of the paper's net, times 1, 2 and 4; the last two are arcface_torch's.
    for name, width, blocks, embedding_size in (
        ("mobilefacenet", 1, (1, 4, 6, 2), 128),
        ("mbf", 2, (1, 4, 6, 2), 512),
        ("mbf_large", 4, (2, 8, 12, 4), 512),
    ):
        arguments = {"width": width, "blocks": blocks}
        variants[name] = Variant("mobilefacenet", arguments, 1.0, embedding_size)
    for name, width, depth in (("vit_t", 256, 12), ("vit_s", 512, 12), ("vit_b", 512, 24)):  # arcface_torch's
        variants[name] = Variant("vit", {"width": width, "depth": depth}, keep_prob=1.0)
    for width in (0.5, 1, 1.3):
        for stride in (1, 2):  # named as in the paper
            arguments = {"width": width, "stem_stride": stride}
            variants[f"ghostfacenet_{width}_{stride}"] = Variant("ghostfacenet", arguments, keep_prob=1.0)
    for name in ("vgg16", "vgg19", "resnet50", "resnet101", "resnet152"):
        variants[name] = Variant("imagenet_net", {"name": name})
    return variants


VARIANTS = _variants()


def find_variant(name: str) -> Variant:
    """Looks up a name in `VARIANTS`. Raises a `ValueError` that lists the known names if it is unknown."""
    if name not in VARIANTS:
        near = difflib.get_close_matches(str(name), VARIANTS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"expected one of {', '.join(VARIANTS)}, received '{name}'{hint}")
    return VARIANTS[name]
