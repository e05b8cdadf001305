"""Measures how close together the embeddings of one identity are, for several models.

    python -m benchmarks.intra_identity --config config.ini --source vgg MODEL MODEL ...

Prints a table with a row for each model: its accuracy on the LFW set of the config; the cosines of genuine
and impostor pairs of that set, whose people the model has not seen; and the cosine between each image of the
source and the centre of its identity, which is the mean of the identity's normalised embeddings.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from common.progress import Progress
from dataset.config import read_config
from dataset.convert.sources import convert_sources
from dataset.pairs.image_pairs import read_pairs
from dataset.records.tfrecord import decode_example
from dataset.sampling.combine import CombinedSources
from eval.scoring.distances import pair_distances
from eval.scoring.verification import evaluate_pairs
from nets.start_tensorflow import start_tensorflow

_HEADINGS = ("model", "LFW accuracy", "LFW same: cosine", "LFW different: cosine", "own centre: cosine") + (
    "spread between identities",
)


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.intra_identity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="models in any format")
    parser.add_argument(
        "--config", type=Path, default=Path("config.ini"), help="config file (default: %(default)s)"
    )
    parser.add_argument("--source", default="vgg", help="section of the config file (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch (default: %(default)s)")
    args = parser.parse_args(argv)
    start_tensorflow()
    from eval.embedding.extractor import embed_pairs
    from eval.embedding.face_model import load_face_model

    config = read_config(args.config)
    sources = CombinedSources(convert_sources(config, [args.source]))
    pairs = read_pairs(config.lfw.npdata, config.lfw.npdata_order)
    print("| " + " | ".join(_HEADINGS) + " |\n|" + "---|" * len(_HEADINGS))
    for path in args.models:
        model = load_face_model(path, pairs.image_size)
        distances = pair_distances(*embed_pairs(model, pairs, args.batch_size), "cosine")
        result = evaluate_pairs(distances, pairs.is_same)
        cosines, identity_means = own_centre_cosines(*embed_source(model, sources, args.batch_size))
        cells = [
            str(path),
            f"{result.accuracy:.4f}",
            *(_mean_and_std(1 - distances[kind]) for kind in (pairs.is_same, ~pairs.is_same)),
            _mean_and_std(cosines),
            f"{identity_means.std():.3f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def own_centre_cosines(embeddings, identities):
    """Computes the cosine between each embedding and the mean direction of its identity.

    Args:
        embeddings: float, shape `(n, dim)`.
        identities: int, shape `(n,)`.

    Returns:
        `(cosines, identity_means)`: the cosines, float `(n,)`, and their mean for each identity, float
        `(num_identities,)`.
    """
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    _, identities, counts = np.unique(identities, return_inverse=True, return_counts=True)
    centres = np.zeros((len(counts), directions.shape[1]))
    np.add.at(centres, identities, directions)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    cosines = np.einsum("nd,nd->n", directions, centres[identities])
    return cosines, np.bincount(identities, cosines) / counts


def embed_source(model, sources, batch_size):
    """Embeds all images of the sources.

    Returns:
        `(embeddings, identities)`: float32 `(n, dim)` and int `(n,)`.
    """
    embeddings, identities = [], []
    starts = range(0, sources.num_images, batch_size)
    for start in Progress(starts, desc="embedding", unit="batches"):
        records = np.arange(start, min(start + batch_size, sources.num_images))
        faces = [
            cv2.imdecode(np.frombuffer(decode_example(example)[0], np.uint8), cv2.IMREAD_COLOR_RGB)
            for example in sources.read(records)[0]
        ]
        embeddings.append(model.embed(np.stack(faces)))
        identities += [sources.place_of(record).identity for record in records]
    return np.concatenate(embeddings), np.array(identities)


def _mean_and_std(values):
    return f"{values.mean():.3f} +- {values.std():.3f}"


if __name__ == "__main__":
    main()
