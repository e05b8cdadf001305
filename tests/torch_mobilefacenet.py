"""Runs the PyTorch side of `benchmarks.mobilefacenet`, in an environment without TensorFlow.

It reads lines such as `train eager` or `embed compiled` from standard input. For each line, it runs one batch
and prints `done`.
"""

import argparse
import logging
import sys

import torch

from tests.torch_small_nets import MobileFaceNet

_MOBILEFACENET = (1, (1, 4, 6, 2), 128)


class Train:
    """A training step: softmax over identities, decay and momentum."""

    def __init__(self, args, compile_net):
        self._net = MobileFaceNet(*_MOBILEFACENET)
        self._head = torch.nn.Linear(_MOBILEFACENET[-1], args.identities)
        parameters = [*self._net.parameters(), *self._head.parameters()]
        self._optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)
        self._images = made_up_images(args.batch_size)
        self._identities = torch.randint(args.identities, (args.batch_size,))
        self._loss = compile_net(self._compute_loss)

    def _compute_loss(self, images, identities):
        return torch.nn.functional.cross_entropy(self._head(self._net(images)), identities)

    def __call__(self):
        loss = self._loss(self._images, self._identities)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item()


class Embed:
    """Embeds a batch."""

    def __init__(self, args, compile_net):
        net = MobileFaceNet(*_MOBILEFACENET).to(memory_format=torch.channels_last).eval()
        self._net = compile_net(net)
        self._images = made_up_images(args.batch_size).to(memory_format=torch.channels_last)

    def __call__(self):
        with torch.no_grad():
            return self._net(self._images).numpy()


def made_up_images(batch_size):
    """Returns random images in [-1, 1], float32 `(batch_size, 3, 112, 112)`."""
    return torch.rand(batch_size, 3, 112, 112) * 2 - 1


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--identities", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    # Folds norms into convs when embedding. This has no effect on training.
    torch._inductor.config.freezing = True
    kinds, hows = {"train": Train, "embed": Embed}, {"eager": lambda net: net, "compiled": torch.compile}
    made = {}
    for line in sys.stdin:
        what, how = line.split()
        if line not in made:
            made[line] = kinds[what](args, hows[how])
        made[line]()
        print("done", flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
