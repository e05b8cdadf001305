"""Small valid files of every format that the project reads, and their readers, for `benchmarks.attack`.

Some of the files come from the tests.
"""

import dataclasses
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.mutations import change_onnx, change_zip, giant_picture, giant_shape, malform, many_tensors

Files = dict[str, bytes]  # content of each file, by its path in the folder of a case

_ROOT = Path(__file__).parents[1]
_GOLDEN = _ROOT / "tests" / "golden"


@dataclasses.dataclass(frozen=True)
class Parser:
    """A reader of the project, with valid files for it.

    Attributes:
        good: writes valid files into a folder.
        read: reads all files of the folder.
        share: share of the malformed files to read, in `(0, 1]`; less than 1 for slow readers.
        mutations: further ways to break the files, in addition to those for their suffix.
        target: regular expression of the names of files to break.
        imports_tensorflow: whether the reader imports TensorFlow.
    """

    good: Callable[[Path], object]
    read: Callable[[Path], object]
    share: float = 1.0
    mutations: tuple[Callable, ...] = ()
    target: str = ""
    imports_tensorflow: bool = False

    def broken(self, name: str, good: Files, seed: int, number: int) -> tuple[str, Files]:
        """Breaks one of the valid files. The same arguments always give the same result.

        Args:
            name: name of the parser.
            good: the valid files.
            seed: of all random choices.
            number: number of the case, from 0.

        Returns:
            `(description, files)`: which file was broken and how, and all files of the case.
        """
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        file = str(rng.choice([file for file in sorted(good) if re.search(self.target, file)]))
        names, data = malform(good[file], file, rng, self.mutations)
        return f"{file}: {names}", {**good, file: data}


def _picture(seed, side=24, suffix=".png"):
    import cv2

    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def _golden_rec(folder):
    for path in (_GOLDEN / "rec" / "rec_small").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def _read_source(source):
    from dataset.images import check_image

    for index in range(source.num_images):
        try:
            image, _ = source.read(index)
            check_image(image)
        except ValueError as error:  # The converter lists such a record as bad.
            if len(str(error)) > 2000:
                raise
            source.describe(index)
    return source.num_identities, source.labels, source.num_bytes


def _read_rec(folder):
    from dataset.sources.insightface_rec import InsightFaceRec

    _read_source(InsightFaceRec(folder))


def _good_list(folder):
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(_picture(number, suffix=".jpg"))
    (folder / "train.txt").write_text("".join(f"{number}.jpg {number // 2}\n" for number in range(6)))


def _read_list(folder):
    from dataset.sources.image_list import ImageList

    _read_source(ImageList(folder / "train.txt"))


def _good_tfrecord(folder):
    from dataset.records.tfrecord import encode_record

    records = [encode_record(_picture(number, suffix=".jpg"), number // 2)[0] for number in range(6)]
    (folder / "tran.tfrecords").write_bytes(b"".join(part for parts in records for part in parts))


def _read_tfrecord(folder):
    from dataset.sources.tfrecords import TFRecordSource

    _read_source(TFRecordSource(folder / "tran.tfrecords"))


def _good_shards(folder):
    from dataset.records.manifest import INDEX_NAME, RECORD_DTYPE, Manifest, Shard
    from dataset.records.tfrecord import encode_record

    rows, shards = [], []
    for name in ("train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"):
        size = 0
        with (folder / name).open("wb") as file:
            for number in range(4):
                parts, length = encode_record(_picture(number, suffix=".jpg"), number // 2)
                rows.append((size, length, number // 2))
                size += file.write(b"".join(parts))
        shards.append(Shard(name, 4, size, "0" * 64))
    np.save(folder / INDEX_NAME, np.array(rows, RECORD_DTYPE))
    values = {"source": "made up", "colour": "none", "verify": "full", "fingerprint": "made up"}
    counts = {"num_identities": 2, "num_images": 8, "seed": 0, "num_bad": 0, "num_label_mismatches": 0}
    Manifest(
        folder, **values, **counts, image_size=(24, 24), index_sha256="0" * 64, shards=tuple(shards)
    ).write()


def _open_shards(folder):
    from dataset.records.manifest import read_manifest
    from dataset.sampling.combine import CombinedSources

    return CombinedSources([read_manifest(folder)])


def _read_shards(folder):
    from dataset.records.tfrecord import decode_example

    sources = _open_shards(folder)
    for record in range(min(sources.num_images, 100)):
        (example,), _ = sources.read(np.array([record]))
        place = str(sources.place_of(record))
        try:
            decode_example(example)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def _read_batches(folder):
    from dataset.sampling.batch_loader import BatchLoader

    sources = _open_shards(folder)
    loader = BatchLoader(sources, np.arange(4))
    for start in range(0, min(sources.num_images, 100) - 3, 4):
        loader.load(np.arange(start, start + 4))


def _good_bin(folder):
    import pickle

    pictures = [_picture(number) for number in range(40)]
    (folder / "pairs.bin").write_bytes(pickle.dumps((pictures, [True, False] * 10)))


def _good_np(folder):
    import pickle

    pairs = np.random.default_rng(0).integers(0, 256, (2, 10, 2, 8, 8, 3), np.uint8)
    for protocol in (2, 4):
        content = pickle.dumps(tuple([list(pair) for pair in kind] for kind in pairs), protocol)
        (folder / f"pairs{protocol}.np").write_bytes(content)


def _read_pairs(folder):
    from dataset.pairs.image_pairs import read_pairs

    for path in sorted([*folder.glob("*.bin"), *folder.glob("*.np")]):
        pairs = read_pairs(path)
        for start in range(0, 2 * len(pairs), 64):
            pairs.batch(start, start + 64)


def _good_pair_list(folder):
    for number in range(4):
        (folder / f"{number}.png").write_bytes(_picture(number))
    (folder / "pairs.txt").write_text("1,0.png,1.png\n0,0.png,2.png\n1,2.png,3.png\n")


def _read_pair_list(folder):
    from dataset.pairs.image_pairs import read_image_pairs

    pairs = read_image_pairs(folder / "pairs.txt", folder)
    pairs.batch(0, 2 * len(pairs))


def _good_videos(folder):
    for video in ("Ann/0", "Ann/1", "Bo/0", "Bo/1"):
        (folder / video).mkdir(parents=True)
        for number in range(3):
            (folder / video / f"{number}.png").write_bytes(_picture(number))
    lines = (
        "split, pair, first, second, same\n1, 1, Ann/0, Ann/1, 1\n1, 2, Ann/0, Bo/0, 0\n2, 1, Bo/0, Bo/1, 1\n"
    )
    (folder / "splits.txt").write_text(lines)
    (folder / "wrong.txt").write_text("Ann/1\nBo/0\n")
    _read_videos(folder)


def _read_videos(folder):
    from dataset.pairs.video_frames import find_frames
    from dataset.pairs.video_pairs import read_video_pairs, read_wrong_videos

    pairs = read_video_pairs(folder / "splits.txt")
    read_wrong_videos(folder / "wrong.txt")
    frames = find_frames(folder, pairs.videos, memo=folder / "memo")
    frames.decode(0, len(frames))


def _good_config(folder):
    (folder / "config.ini").write_bytes((_ROOT / "config.ini.example").read_bytes())


def _read_config(folder):
    from dataset.config import read_config

    read_config(folder / "config.ini")


def _good_image(folder):
    for suffix in (".png", ".jpg"):
        (folder / f"image{suffix}").write_bytes(_picture(0, suffix=suffix))


def _each_image(folder, read):
    for path in folder.iterdir():
        try:
            read(path.read_bytes())
        except ValueError as error:  # The callers name the file.
            raise ValueError(f"{path}: {error}") from None


def _read_image(folder):
    from dataset.images import check_image, decode_picture

    _each_image(
        folder, lambda image: (check_image(image), decode_picture(image), decode_picture(image, upright=True))
    )


def _read_training_image(folder):
    from dataset.images import decode_image

    _each_image(folder, lambda image: decode_image(image, np.empty((24, 24, 3), np.uint8), "BGR"))


def _open_store(folder):
    from eval.embedding.feature_store import FeatureStore

    return FeatureStore(folder, {"model": "0" * 64, "frames": {"size": [112, 112]}}, 6)


def _good_store(folder):
    with _open_store(folder) as store:
        store.append(np.ones((6, 4), np.float32))


def _read_store(folder):
    with _open_store(folder) as store:
        if not store.is_complete:
            store.append(np.ones((6 - store.num_done, 4), np.float32))
        store.features.sum()


def _good_run(folder):
    from tests.eval.fake_run import make_run

    make_run(folder, num_people=20, pairs_per_fold=10, num_hardest=1)


def _read_run(folder):
    from eval.scoring.evaluation_run import read_run

    read_run(folder)


def _good_checkpoints(folder):
    from nets.importers.training_checkpoint import MANIFEST_NAME, VERSION, sha256

    net = {"architecture": "ir32", "image_size": [16, 16], "embedding_size": 8, "keep_prob": 0.4, "seed": 0}
    for step in (4, 8):
        place = folder / f"step_{step:08d}"
        place.mkdir()
        (place / "state.index").write_bytes(b"made up")
        manifest = {"version": VERSION, "step": step, "net": net, "num_identities": 9, "loss": "arcface"}
        more = {"best": {"lfw": 0.5}, "best_steps": {"lfw": 4}, "scores": {"lfw": 0.5}, "owed": []}
        digests = {"sha256": {"state.index": sha256(place / "state.index")}}
        (place / MANIFEST_NAME).write_text(json.dumps({**manifest, **more, **digests}))


def _read_checkpoints(folder):
    from nets.importers.training_checkpoint import newest_checkpoint

    newest_checkpoint(folder)


def _good_torch(folder):
    (folder / "net.pth").write_bytes((_GOLDEN / "torch" / "tensors.pth").read_bytes())


def _read_torch(folder):
    from nets.importers.torch_file import TorchFile, TorchTensor

    with TorchFile(folder / "net.pth") as file:
        waiting = [file.contents]
        while waiting:
            value = waiting.pop()
            if isinstance(value, TorchTensor):
                file.read(value)
            elif isinstance(value, dict | list | tuple):
                waiting += list(value.values()) if isinstance(value, dict) else list(value)


def _good_onnx(folder):
    from tests.nets.onnx_net import OnnxNet
    from tests.torch_state import random_state

    state = random_state(18, feature_size=(1, 1), embedding_size=4, widths=(2, 2, 2, 2))
    OnnxNet(state).save(folder / "net.onnx")


def _read_onnx(folder):
    from nets.importers.model_files import model_sha256
    from nets.importers.onnx_graph import open_graph
    from nets.importers.onnx_iresnet import read_onnx_iresnet

    model_sha256(folder / "net.onnx")
    read_onnx_iresnet(open_graph(folder / "net.onnx"))


def _good_net(name):
    def write(folder):
        from tests.eval.file_nets import write_net

        write_net(folder / name, ours=True)

    return write


def _read_net(name):
    def read(folder):
        from eval.embedding.engines import FILE_ENGINES, Engine, load_engine

        path = folder / name
        model, _ = load_engine(Engine(FILE_ENGINES[path.suffix].package), path, None, None, num_images=0)
        model.embed(np.zeros((1, *model.face_size, 3), np.uint8))

    return read


def _read_backbone(name):
    def read(folder):
        from nets.backbone import load_backbone

        load_backbone(folder / name)

    return read


def _good_keras(folder):
    from nets.backbone import Backbone

    Backbone("ir32", (16, 16), embedding_size=8).save(folder / "net.keras")


def _good_training_checkpoint(folder):
    import tensorflow as tf

    from nets.backbone import Backbone
    from nets.importers.training_checkpoint import MANIFEST_NAME, STATE_NAME, VERSION, sha256

    backbone = Backbone("ir32", (16, 16), embedding_size=8)
    tf.train.Checkpoint(backbone=backbone).write(str(folder / STATE_NAME))
    digests = {path.name: sha256(path) for path in folder.iterdir()}
    manifest = {"version": VERSION, "step": 4, "net": backbone.net, "num_identities": 9, "sha256": digests}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def _good_tf1(folder):
    from tests.nets.tf1_writer import write_tf1_checkpoint

    write_tf1_checkpoint(_GOLDEN / "nets" / "ir32_112x96.json", folder / "net.ckpt")
    (folder / "net.ckpt.meta").unlink()


PARSERS = {
    "rec": Parser(_golden_rec, _read_rec),
    "image_list": Parser(_good_list, _read_list, target="txt"),
    "tfrecord": Parser(_good_tfrecord, _read_tfrecord),
    "shards": Parser(_good_shards, _read_shards, mutations=(giant_shape,)),
    "pairs_bin": Parser(_good_bin, _read_pairs),
    "pairs_np": Parser(_good_np, _read_pairs),
    "pair_list": Parser(_good_pair_list, _read_pair_list, mutations=(giant_picture,)),
    "videos": Parser(_good_videos, _read_videos, 0.5, (giant_picture,)),
    "config": Parser(_good_config, _read_config),
    "image": Parser(_good_image, _read_image, mutations=(giant_picture,)),
    "features": Parser(_good_store, _read_store, 0.5),
    "run": Parser(_good_run, _read_run, 0.3, (change_zip, giant_shape), target=r"\.(json|npz)$"),
    "checkpoints": Parser(_good_checkpoints, _read_checkpoints, target="json"),
    "torch": Parser(_good_torch, _read_torch, mutations=(*(change_zip,) * 6, *(many_tensors,) * 2)),
    "onnx": Parser(_good_onnx, _read_onnx, 0.3, (change_onnx,) * 8),
    "onnx_runtime": Parser(_good_net("net.onnx"), _read_net("net.onnx"), 0.3, target="onnx"),
    "openvino": Parser(_good_net("net.xml"), _read_net("net.xml"), 0.3, target=r"\.(xml|bin)$"),
    "batches": Parser(_good_shards, _read_batches, 0.3, target="tfrecord", imports_tensorflow=True),
    "training_image": Parser(
        _good_image, _read_training_image, mutations=(giant_picture,), imports_tensorflow=True
    ),
    "keras": Parser(
        _good_keras, _read_backbone("net.keras"), 0.02, (change_zip,) * 8, imports_tensorflow=True
    ),
    "training_checkpoint": Parser(
        _good_training_checkpoint, _read_backbone("."), 0.02, imports_tensorflow=True
    ),
    "tensorflow_1": Parser(_good_tf1, _read_backbone("net.ckpt"), 0.02, imports_tensorflow=True),
}
