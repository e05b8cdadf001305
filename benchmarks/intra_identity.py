"""Measures how close the embeddings of one identity lie together, for several models.

    python -m benchmarks.intra_identity --config config.ini --source vgg MODEL MODEL ...

Prints a row of a table per model: accuracy on the config's LFW set; cosines of the same and of different
people there, whom the model has not seen; and of every image of the source to its identity's centre,
the mean of the identity's normalised embeddings.
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
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.intra_identity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("models", nargs="+", type=Path, help="in any form")
    parser.add_argument("--config", type=Path, default=Path("config.ini"))
    parser.add_argument("--source", default="vgg", help="section of the config")
    parser.add_argument("--batch_size", type=int, default=64)
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
        cosines, of_identities = own_centre_cosines(*embed_source(model, sources, args.batch_size))
        cells = [
            str(path),
            f"{result.accuracy:.4f}",
            *(_mean_and_std(1 - distances[kind]) for kind in (pairs.is_same, ~pairs.is_same)),
            _mean_and_std(cosines),
            f"{of_identities.std():.3f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def own_centre_cosines(embeddings, identities):
    """Cosines to the own identity's mean direction.

    Args:
        embeddings: float, shape `(n, dim)`.
        identities: int, shape `(n,)`.

    Returns:
        `(cosines, of_identities)`: float arrays `(n,)` and, their means, `(num_identities,)`.
    """
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    _, identities, counts = np.unique(identities, return_inverse=True, return_counts=True)
    centres = np.zeros((len(counts), directions.shape[1]))
    np.add.at(centres, identities, directions)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    cosines = np.einsum("nd,nd->n", directions, centres[identities])
    return cosines, np.bincount(identities, cosines) / counts


def embed_source(model, sources, batch_size):
    """Returns the embeddings of all images of the sources, and their identities."""
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
