"""Writes a MobileFaceNet and a vision transformer with PyTorch, together with embeddings of some images.

python -m tests.torch_small_nets FOLDER

`.ci/torch.sh` runs this program in an environment with PyTorch. `tests.torch_agreement` then compares our
nets with the files, in the main environment.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.torch_iresnet import NUM_IMAGES, export
from tests.torch_state import mobilefacenet_convs, mobilefacenet_state, vit_state

MBF = (2, (1, 4, 6, 2))


class MobileFaceNet(nn.Module):
    """arcface_torch's mbf, rebuilt from the paper's table and the names of its tensors."""

    def __init__(self, width, blocks, embedding_size=512):
        super().__init__()
        self.convs = mobilefacenet_convs(width, blocks)
        self.tensors = nn.ModuleDict()
        before = 3
        for name, outputs, size, stride, groups, kind in self.convs:
            size = 7 if size is None else size
            pad = 0 if size == 7 else size // 2
            conv = nn.Conv2d(before, outputs, size, stride, pad, groups=groups, bias=False)
            parts = {"0": conv, "1": nn.BatchNorm2d(outputs)}
            if kind in ("", "start"):
                parts["2"] = nn.PReLU(outputs)
            self.tensors[f"{name}.layers".replace(".", "/")] = nn.ModuleDict(parts)
            before = outputs
        self.tensors["features/layers"] = nn.ModuleDict(
            {"2": nn.Linear(before, embedding_size, bias=False), "3": nn.BatchNorm1d(embedding_size)}
        )

    def forward(self, x):
        shortcut = x
        for name, *_, kind in self.convs:
            shortcut = x if kind == "start" else shortcut
            for part in self.tensors[f"{name}.layers".replace(".", "/")].values():
                x = part(x)
            x = x + shortcut if kind == "end" else x
        parts = self.tensors["features/layers"]
        return parts["3"](parts["2"](torch.flatten(x, 1)))


class Block(nn.Module):
    """A transformer block: attention, then two dense layers."""

    def __init__(self, width, num_heads=8):
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width, bias=False), "proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        parts = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.attn["proj"](y.transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](nn.functional.relu6(self.mlp["fc1"](self.norm2(x))))


class VisionTransformer(nn.Module):
    """arcface_torch's vit for images of 112x112, without the parts that only training uses."""

    def __init__(self, width, depth, embedding_size=512):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 9, 9)})
        self.pos_embed = nn.Parameter(torch.zeros(1, 144, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(144 * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )

    def forward(self, x):
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.feature(self.norm(x).flatten(1))


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    mbf = MobileFaceNet(*MBF)
    write(folder, "mbf", mbf, mobilefacenet_state(*MBF), lambda name: name.removeprefix("tensors."))
    write(folder, "vit", VisionTransformer(256, 12), vit_state(256, 12, 144), lambda name: name)


def write(folder, name, net, state, rename):
    """Writes `{name}.pth`, `{name}_*.onnx` for a MobileFaceNet, and `{name}.npz` with expected results."""
    own = {key: rename(key).replace("/", ".") for key in net.state_dict()}
    unknown = {value for value in own.values() if "num_batches" not in value} ^ state.keys()
    if unknown:
        raise SystemExit(f"{name}: tensors without a counterpart: {sorted(unknown)[:5]}")
    values = {key: torch.from_numpy(state[value]) for key, value in own.items() if value in state}
    net.load_state_dict(values, strict=False)
    torch.save({own[key]: tensor for key, tensor in net.state_dict().items()}, folder / f"{name}.pth")
    faces = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 112, 112, 3), np.uint8)
    images = torch.from_numpy(faces.transpose(0, 3, 1, 2)).float().div(255).sub(0.5).div(0.5)
    net.eval()
    arrays = {"faces": faces}
    with torch.no_grad():
        arrays["embedding"] = net(images).numpy()
    if name == "mbf":
        export(net, images[:1], folder / "mbf_folded.onnx", dynamo=False)
        export(net, images[:1], folder / "mbf_newer.onnx", dynamo=True)
        kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
        export(net, images[:1], folder / "mbf_kept.onnx", dynamo=False, **kept)
        with torch.no_grad():
            arrays["embedding_train"] = net.train()(images).numpy()  # also updates moving statistics
        moved = {own[key]: tensor.numpy() for key, tensor in net.state_dict().items() if "running" in key}
        arrays |= moved
    np.savez(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # "torchvision is not installed"
    main()
