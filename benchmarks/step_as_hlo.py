"""Writes a training step as HLO, to time it with XLA on a machine without TensorFlow.

    python -m benchmarks.step_as_hlo --out step --backbone ir50 --precision mixed_bfloat16

The step is the forward and backward pass, from images to gradients, as `train_centre --xla` compiles them. It
does not include the norm of the gradients and the optimizer. The program writes these files to the folder:

- `step.hlo.pb`: the computation before XLA optimises it, as a serialised `HloModuleProto`.
- `parameters.json`: the net, batch size and precision; the names of the first outputs, which are the terms of
  the loss and then the gradients (moving statistics follow); and for each parameter, in order, its `name`,
  `kind` (`images`, `identities`, `variable` or `constant`), `shape` and `dtype`. A float parameter has the
  `mean` and `std` of its initial values, an integer parameter has its `value`.
- `values.npz`, only with `--values` and meant for small nets: the parameters `parameter_0`, `parameter_1` and
  so on, and the outputs `output_0`, `output_1` and so on, which TensorFlow computed on this machine.

To run the computation, pass it images in [-1, 1], identities below `identities`, and variables drawn from a
normal distribution with `mean` and `std`.
"""

import argparse
import re
from pathlib import Path

from common.files import atomic_folder, write_json
from losses.variants import LOSSES
from nets.start_tensorflow import start_tensorflow

_HLO_TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_HLO_TYPES |= {"int32": "s32", "int64": "s64", "uint32": "u32", "bool": "pred"}


def main(argv=None):
    """Runs the program."""
    args = parse_arguments(argv)
    start_tensorflow()
    write_step(make_trainer(args), args)


def parse_arguments(argv=None):
    """Parses the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_as_hlo",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder to write")
    parser.add_argument("--backbone", default="ir50", help="name of a backbone, or tiny")
    parser.add_argument("--loss", default="angular_centre", choices=LOSSES, help="name of the loss")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        default=(112, 112),
        metavar=("H", "W"),
        help="height and width of the images",
    )
    parser.add_argument("--identities", type=int, default=94_000, help="number of identities")
    parser.add_argument("--batch_size", type=int, default=128, help="images in a batch")
    precisions = ("float32", "mixed_bfloat16", "mixed_float16")
    parser.add_argument(
        "--precision", choices=precisions, default="mixed_bfloat16", help="dtype policy of the net"
    )
    parser.add_argument("--values", action="store_true", help="also write all parameters and outputs")
    args = parser.parse_args(argv)
    if args.out.exists():
        parser.error(f"--out: {args.out} already exists. Give a new folder.")
    return args


def make_trainer(args):
    """Builds the `training.trainer.Trainer` for the flags, on one device."""
    import tensorflow as tf

    from benchmarks.replicas import make_net
    from losses.build import build_loss
    from nets.backbone import Backbone, decayed_variables
    from training.loss_scale import LossScale
    from training.optimizers import MomentumSGD
    from training.trainer import StepOptions, Trainer

    if args.backbone == "tiny":
        backbone = make_net("tiny")
    else:
        backbone = Backbone(args.backbone, image_size=tuple(args.image_size), dtype=args.precision)
    head = build_loss(args.loss, args.identities)
    head.build(backbone.output_shape)
    decayed = decayed_variables(backbone) + head.trainable_variables
    options = StepOptions(loss_scale=LossScale() if args.precision == "mixed_float16" else None)
    return Trainer(tf.distribute.get_strategy(), backbone, head, MomentumSGD(0.01), decayed, options)


def write_step(trainer, args):
    """Writes the step of a trainer.

    Args:
        trainer: `training.trainer.Trainer`, on one device.
        args: parsed flags of this program.

    Raises:
        RuntimeError: the parameters of the computation differ from those that the program would list.
    """
    import numpy as np
    import tensorflow as tf

    step = tf.function(trainer._replica_gradients, jit_compile=True)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (args.batch_size, *trainer.backbone.input_shape[1:])).astype(np.float32)
    identities = rng.integers(0, args.identities, args.batch_size, np.int32)
    inputs = (tf.constant(images), (tf.constant(identities),), {})
    function = step.get_concrete_function(*inputs)
    hlo = step.experimental_get_compiler_ir(*inputs)
    # The parameters are the arguments, then the variables and constants that the function captures.
    parameters = [_describe("images", "images", images), _describe("identities", "identities", identities)]
    values = [images, identities]
    variables = {id(variable.handle): variable for variable in function.variables}
    paths = {id(v.value): v.path for v in (*trainer.backbone.variables, *trainer.head.variables)}
    for captured in function.captured_inputs:
        variable = variables.get(id(captured))
        kind = "constant" if variable is None else "variable"
        name = paths.get(id(variable), kind if variable is None else variable.name)
        values.append((captured if variable is None else variable).numpy())
        parameters.append(_describe(name, kind, values[-1]) | _describe_values(values[-1]))
    _check_parameters(parameters, hlo(stage="hlo"))
    terms, gradients, _ = function.structured_outputs
    outputs = [*sorted(terms), *(f"gradient {number}" for number in range(len(gradients)))]
    settings = {
        "net": args.backbone,
        "loss": args.loss,
        "image_size": list(images.shape[1:3]),
        "identities": args.identities,
        "batch": args.batch_size,
        "precision": args.precision,
        "tensorflow": tf.__version__,
    }
    with atomic_folder(args.out) as folder:
        (folder / "step.hlo.pb").write_bytes(hlo(stage="hlo_serialized"))
        write_json(folder / "parameters.json", {**settings, "outputs": outputs, "parameters": parameters})
        if args.values:
            terms, gradients, _ = step(*inputs)
            results = [*(terms[name] for name in sorted(terms)), *gradients]
            arrays = {f"parameter_{number}": value for number, value in enumerate(values)}
            arrays |= {f"output_{number}": result.numpy() for number, result in enumerate(results)}
            np.savez(folder / "values.npz", **arrays)


def _describe(name, kind, value):
    return {"name": name, "kind": kind, "shape": list(value.shape), "dtype": value.dtype.name}


def _describe_values(value):
    """Returns what a program needs to recreate a value. Integers are counters and seeds, which are short."""
    if value.dtype.kind == "f":
        return {"mean": float(value.mean()), "std": float(value.std())}
    return {"value": value.tolist()}


def _check_parameters(parameters, text):
    """Raises `RuntimeError` if the computation has other parameters than those listed."""
    layout = re.search(r"entry_computation_layout=\{\((.*?)\)->", text)[1]
    received = re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"/\*.*?\*/", "", layout))
    expected = [(_HLO_TYPES[each["dtype"]], ",".join(map(str, each["shape"]))) for each in parameters]
    if received != expected:
        raise RuntimeError(f"parameters of the step: expected {expected}, received {received}")


if __name__ == "__main__":
    main()
