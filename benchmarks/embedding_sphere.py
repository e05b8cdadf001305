"""Draws the three-dimensional embeddings of two models as points on spheres.

    python -m benchmarks.embedding_sphere --config config.ini --out sphere.svg WITHOUT WITH

The first model was trained without the centre term, the second with it. For each model the program prints the
mean cosine between an embedding and its own centre, and the largest cosine between two centres.
docs/concepts.md shows the picture and the commands that trained the models.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.intra_identity import embed_source, own_centre_cosines
from common.files import write_file
from dataset.config import read_config
from dataset.convert.sources import convert_sources
from dataset.sampling.combine import CombinedSources
from nets.start_tensorflow import start_tensorflow

_RADIUS = 150  # pixels
_WIDTH, _HEIGHT = 720, 380
_TITLES = ("without the centre term", "with the centre term")
# These colours are readable on a white and on a black page.
_COLOURS = ("#3d7ff5", "#e0445c", "#3f9c2a", "#b964ab", "#c2711c", "#8f6cf0", "#18999c", "#8b8b3a")
_INK = "#7c8088"


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedding_sphere", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "models", nargs=2, type=Path, metavar="MODEL", help="model with 3-dimensional embeddings"
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config.ini"),
        metavar="PATH",
        help="config file (default: %(default)s)",
    )
    parser.add_argument(
        "--source",
        nargs="+",
        default=["vgg", "ms1m"],
        metavar="NAME",
        help="sections of the config file (default: vgg ms1m)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="SVG file to write")
    args = parser.parse_args(argv)
    start_tensorflow()
    from eval.embedding.face_model import load_face_model

    sources = CombinedSources(convert_sources(read_config(args.config), args.source))
    spheres = []
    for path in args.models:
        embeddings, identities = embed_source(load_face_model(path, (112, 112)), sources, batch_size=64)
        cosines, _ = own_centre_cosines(embeddings, identities)
        directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        centres = identity_centres(directions, identities)
        nearest = (centres @ centres.T - 2 * np.eye(len(centres))).max()
        print(f"{path}: own centre {cosines.mean():.3f}, nearest two centres {nearest:.3f}")
        spheres.append((directions, identities))
    write_file(args.out, draw(spheres).encode())


def identity_centres(directions, identities):
    """Returns the mean direction of each identity: float `(num_identities, 3)`, of unit length."""
    centres = np.stack([directions[identities == identity].mean(0) for identity in np.unique(identities)])
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def draw(spheres):
    """Draws a sphere for each `(directions, identities)`.

    Args:
        spheres: list of two pairs: unit embeddings, float `(n, 3)`, and identities, int `(n,)`.

    Returns:
        str, an SVG picture.
    """
    shapes = []
    for number, (directions, identities) in enumerate(spheres):
        x = _WIDTH * (2 * number + 1) / 4
        shapes.append(
            f'<g transform="translate({x:.0f} {_RADIUS + 10})" fill="none" stroke="{_INK}" stroke-width="1">'
            f'<circle r="{_RADIUS}"/><ellipse rx="{_RADIUS}" ry="{_RADIUS * 0.3:.0f}" stroke-opacity="0.4"/>'
            f'<ellipse rx="{_RADIUS * 0.3:.0f}" ry="{_RADIUS}" stroke-opacity="0.4"/></g>'
        )
        # Points behind the sphere come first, so that those in front cover them.
        seen = directions @ _choose_view(identity_centres(directions, identities))
        for point in np.argsort(seen[:, 2]):
            left, up, depth = seen[point]
            colour = _COLOURS[int(identities[point]) % len(_COLOURS)]
            shapes.append(
                f'<circle cx="{x + _RADIUS * left:.1f}" cy="{_RADIUS * (1 - up) + 10:.1f}" r="3" '
                f'fill="{colour}" fill-opacity="{0.85 if depth > 0 else 0.2}"/>'
            )
        shapes.append(
            f'<text x="{x:.0f}" y="{2 * _RADIUS + 45}" fill="{_INK}" font-size="18" text-anchor="middle" '
            f'font-family="sans-serif">{_TITLES[number]}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def _choose_view(centres):
    """Tries 2,000 random rotations, and returns the one that turns most centres to the front."""
    rng = np.random.default_rng(0)
    rotations = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2000)]
    return max(rotations, key=lambda rotation: np.minimum((centres @ rotation)[:, 2], 0.3).sum())


if __name__ == "__main__":
    main()
