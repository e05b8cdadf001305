"""A trained net as a SavedModel, for TensorFlow Serving or any other program.

python -m export.saved_model --model_path=output/ckpt --out=model
"""

import argparse
import json
import os
from pathlib import Path

from common.files import atomic_folder


def export_saved_model(backbone, path, face_size=(112, 112)):
    """Writes a SavedModel with two signatures, in float32 whatever the net was trained in.

    - `serving_default`: uint8 `images` `(n, *face_size, 3)`, RGB -> float32 `embedding` `(n, dim)` of
      unit length, and `norm` `(n,)`, its length before. Cropping, channel order and
      normalisation are inside.
    - `raw`: float32 `images` `(n, *image_size, 3)`, cropped, BGR, normalised -> `embedding` `(n, dim)` as
      the net puts it out.

    Both call the net in the form of `nets.inference.inference_net`, which takes less time. The variables of
    the net itself are there, too, and `net.json` tells `nets.load_backbone` which net it is, to train
    it further.

    Args:
        backbone: `nets.backbone.Backbone`.
        path: Path of the folder to write; it appears whole or not at all.
        face_size: `(height, width)` of the faces. Defaults to `(112, 112)`.

    Raises:
        FileExistsError: there is something already.
        OSError: it could not be written, for instance for lack of space.
        ValueError: the faces are smaller than the net's input.
    """
    import tensorflow as tf

    from dataset.preprocess import preprocess
    from nets.importers.saved_model import NET_NAME, VARIABLES
    from nets.inference import in_float32, inference_net

    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path}: expected no such file or folder yet")
    net = in_float32(backbone)
    fast = inference_net(net)
    image_size = net.input_shape[1:3]

    @tf.function(input_signature=[tf.TensorSpec((None, *face_size, 3), tf.uint8, name="images")])
    def serve(images):
        embedding = fast(preprocess(images, image_size), training=False)
        norm = tf.norm(embedding, axis=1)
        return {"embedding": tf.math.l2_normalize(embedding, axis=1), "norm": norm}

    @tf.function(input_signature=[tf.TensorSpec((None, *image_size, 3), tf.float32, name="images")])
    def raw(images):
        return {"embedding": fast(images, training=False)}

    module = tf.Module()
    setattr(module, VARIABLES, [variable.value for variable in net.variables])
    module.fast = [variable.value for variable in fast.variables]
    with atomic_folder(path) as folder:
        try:
            tf.saved_model.save(module, str(folder), signatures={"serving_default": serve, "raw": raw})
        except tf.errors.OpError as error:
            raise OSError(f"{path}: cannot write the model: {error.message}") from None
        (folder / NET_NAME).write_text(json.dumps(net.net) + "\n")


def main(argv=None):
    """The program; `SystemExit` with a message if there is nothing to export."""
    parser = argparse.ArgumentParser(prog="python -m export.saved_model", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model_path", type=Path, required=True, help="training checkpoint, or any other form of a net"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; a name that ends in .keras: a Keras file"
    )
    parser.add_argument(
        "--face_size", type=int, nargs=2, default=(112, 112), metavar=("H", "W"), help="(%(default)s)"
    )
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from nets.backbone import load_backbone
    from nets.importers.keras_file import save_keras_file

    try:
        backbone = load_backbone(args.model_path)
        if args.out.suffix == ".keras":
            save_keras_file(backbone, args.out)
        else:
            export_saved_model(backbone, args.out, args.face_size)
    except (ValueError, OSError) as error:
        raise SystemExit(f"export.saved_model: {error}") from None
    print(args.out)


if __name__ == "__main__":
    main()
