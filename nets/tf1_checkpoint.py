"""The names that the original's TensorFlow 1 checkpoints give to our variables."""

_LEAVES = {"kernel": "W", "bias": "b"}


def tf1_variables(backbone):
    """Maps the names of the original's variables to those of a backbone.

    References:
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py`: the variable scopes.

    Args:
        backbone: model of `nets.resnet_ir.resnet_ir`.

    Returns:
        dict from name, such as `resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/W_conv2d`, to Keras
        variable, of the same shape. The dropout counter has no counterpart and is left out.
    """
    variables = {}
    for layer in backbone.layers:
        for variable in layer.variables:
            leaf = _LEAVES.get(variable.name, variable.name)
            if leaf == "draws":
                continue
            if leaf == "W" and len(variable.shape) == 4:
                leaf = "W_conv2d"
            variables[f"{backbone.name}/{layer.name.replace('.', '/')}/{leaf}"] = variable
    return variables
