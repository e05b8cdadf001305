"""Which library computes embeddings; told without importing any."""

import dataclasses
import importlib.metadata

ENGINES = ("auto", "tensorflow", "openvino")
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Engine:
    """A library, and the precision that it computes in.

    The last bits of an embedding depend on both: features that are kept say which they are of.

    Attributes:
        name: `"tensorflow"` or `"openvino"`.
        precision: `"float32"` or, of OpenVINO only, `"bfloat16"`.
    """

    name: str
    precision: str = "float32"

    @property
    def version(self):
        """str, of the installed package; `None` where there is none."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def __str__(self):
        return f"{self.name} {self.version}, {self.precision}"


def engines_for(asked, precision="float32"):
    """The engines that may be used: of several `eval.load_engine.load_engine` takes the fastest.

    Args:
        asked: of `ENGINES`. `"auto"`: OpenVINO where it is installed, and TensorFlow.
        precision: of `PRECISIONS`. Defaults to `"float32"`.

    Returns:
        tuple of `Engine`, at least one.

    Raises:
        ValueError: OpenVINO is asked for and not installed, or a precision that the engine has not.
    """
    openvino = Engine("openvino", precision)
    if asked == "tensorflow" and precision != "float32":
        raise ValueError(f"--precision: expected float32 with --engine tensorflow, received {precision}")
    if asked == "tensorflow":
        return (Engine("tensorflow"),)
    if openvino.version is None and (asked == "openvino" or precision != "float32"):
        asks = "--engine openvino" if asked == "openvino" else f"--precision {precision}"
        raise ValueError(f"{asks}: expected the package openvino, received none: pip install openvino")
    if asked == "openvino" or precision != "float32":
        return (openvino,)
    return (Engine("tensorflow"),) if openvino.version is None else (openvino, Engine("tensorflow"))


def describe_engine(engine, rates):
    """The line that a program prints of `eval.load_engine.load_engine`'s choice."""
    timed = ", ".join(f"{one.name} {rate:.1f}" for one, rate in rates.items())
    return f"Engine : {engine}" + (f" (images/s: {timed})" if timed else "")


def add_engine_flags(parser):
    """Adds `--engine` and `--precision` to a parser or a group of it."""
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto",
        help="what computes embeddings; auto: the faster one, where OpenVINO is installed and agrees",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the computation; bfloat16 by OpenVINO"
    )
