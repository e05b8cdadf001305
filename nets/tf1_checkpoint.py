"""Converts a TensorFlow 1 checkpoint of the original to a Keras file.

python -m nets.tf1_checkpoint iter_258000_lfw_0.99133_ytf_0.95900.ckpt model.keras
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m nets.tf1_checkpoint")

import argparse
from pathlib import Path

from .start_tensorflow import start_tensorflow


def main(argv: list[str] | None = None) -> None:
    """Runs the program."""
    description = "Converts a TensorFlow 1 checkpoint of the original to a Keras file."
    parser = argparse.ArgumentParser(prog="python -m nets.tf1_checkpoint", description=description)
    parser.add_argument("checkpoint", type=Path, help="prefix of the checkpoint, such as iter_258000.ckpt")
    parser.add_argument("out", type=Path, help="file to write, such as model.keras")
    args = parser.parse_args(argv)
    start_tensorflow()
    from .importers.keras_file import save_keras_file
    from .importers.tf1_weights import load_tf1_checkpoint

    try:
        imported = load_tf1_checkpoint(args.checkpoint)
        save_keras_file(imported.backbone, args.out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"nets.tf1_checkpoint: {error}") from None
    print(imported.report())
    print(args.out)


if __name__ == "__main__":
    main()
