"""Writes iresnets with PyTorch, together with their embeddings of some images.

python -m tests.torch_iresnet FOLDER

`.ci/torch.sh` runs this program in an environment with PyTorch. `tests.torch_agreement` then compares our
nets with the files, in the main environment.
"""

import argparse
import collections
import contextlib
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.torch_state import UNITS, WIDTHS, random_state

NUM_IMAGES = 8


class Unit(nn.Module):
    """One residual unit of InsightFace's iresnet."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, x):
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


class IResNet(nn.Module):
    """InsightFace's iresnet for images of 112x112, with the same names of layers."""

    def __init__(self, depth):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        before = WIDTHS[0]
        for stage, (width, num_units) in enumerate(zip(WIDTHS, UNITS[depth], strict=True), start=1):
            units = [Unit(before, width, 2)] + [Unit(width, width, 1) for _ in range(num_units - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*units))
            before = width
        self.bn2 = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before * 7 * 7, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder)
    for depth in (18, 50):
        write_net(folder, depth)


def write_net(folder, depth):
    """Writes `iresnet{depth}.pth`, `iresnet{depth}_*.onnx`, and `iresnet{depth}.npz` with their results."""
    net = IResNet(depth)
    state = {name: torch.from_numpy(value) for name, value in random_state(depth, seed=depth).items()}
    missing = [
        name for name in net.load_state_dict(state, strict=False).missing_keys if "num_batches" not in name
    ]
    if missing:
        raise SystemExit(f"no weights for {missing}")
    torch.save(net.state_dict(), folder / f"iresnet{depth}.pth")

    faces = np.random.default_rng(depth).integers(0, 256, (NUM_IMAGES, 112, 112, 3), np.uint8)
    images = torch.from_numpy(faces.transpose(0, 3, 1, 2)).float().div(255).sub(0.5).div(0.5)
    net.eval()
    export(net, images[:1], folder / f"iresnet{depth}_folded.onnx", dynamo=False)
    if depth == 18:
        export(net, images[:1], folder / "iresnet18_newer.onnx", dynamo=True)
        kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
        export(net, images[:1], folder / "iresnet18_kept.onnx", dynamo=False, **kept)
    with torch.no_grad():
        embedding = net(images)
        embedding_train = net.train()(images)  # also updates the moving statistics
    moved = {name: value for name, value in net.state_dict().items() if "running" in name}
    arrays = {"embedding": embedding, "embedding_train": embedding_train, **moved}
    np.savez(folder / f"iresnet{depth}.npz", faces=faces, **{name: v.numpy() for name, v in arrays.items()})


def write_tensors(folder):
    """Writes `tensors.pth`, with tensors stored in every possible way, and their values to `tensors.npz`."""
    torch.manual_seed(0)
    shared = torch.randn(12)
    tensors = {
        "float": torch.randn(2, 3, 2),
        "double": torch.randn(2, dtype=torch.float64),
        "half": torch.randn(5).half(),
        "bfloat": torch.randn(3, 2).bfloat16(),
        "parameter": nn.Parameter(torch.randn(2)),
        "transposed": torch.randn(3, 4).t(),
        "every_second": torch.arange(10)[1::2],
        "shared_start": shared[:6].view(2, 3),
        "shared_end": shared[4:],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False, True]),
    }
    contents = collections.OrderedDict(tensors)
    contents._metadata = {"": {"version": 2}}  # like a state_dict
    torch.save(contents, folder / "tensors.pth")
    halves = (torch.float16, torch.bfloat16)
    plain = {name: t.detach().float() if t.dtype in halves else t.detach() for name, t in tensors.items()}
    np.savez(folder / "tensors.npz", **{name: t.numpy() for name, t in plain.items()})


def export(net, images, path, **options):
    """Calls `torch.onnx.export` without its warnings and messages."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (images,), path, **options)


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # "torchvision is not installed"
    main()
