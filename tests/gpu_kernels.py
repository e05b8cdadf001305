"""Reads which operations have a GPU kernel from TensorFlow's registry, which needs no GPU."""

from __future__ import annotations

import collections
from typing import NamedTuple

import tensorflow as tf

# There is no public way to the registry.
from tensorflow.python.framework import kernels, op_def_registry

_HANDLES = (tf.resource, tf.variant, tf.string)


class Copy(NamedTuple):
    """A value that one operation makes on the device and another one needs on the host."""

    source: str
    target: str
    dtype: str


def _registered():
    by_operation = collections.defaultdict(list)
    for kernel in kernels.get_all_registered_kernels().kernel:
        # Those for `DEFAULT` serve every device that has none of its own.
        if kernel.device_type in ("GPU", "DEFAULT") and not kernel.label:
            by_operation[kernel.op].append(kernel)
    return by_operation


_REGISTERED = _registered()


def missing_kernels(function):
    """Operations of a `ConcreteFunction` without a kernel for GPUs, with their dtypes."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    inner = {inner.signature.name for inner in graph.library.function}
    return {_described(node) for node in nodes if node.op not in inner and _kernel(node) is None}


def copies_to_host(function):
    """Values that a `ConcreteFunction` copies from a GPU to its host, which then waits for the GPU."""
    return {
        _copy(tensor, operation)
        for tensor, operation, needs_host in _used_values(function)
        if needs_host and not _is_on_host(tensor)
    }


def large_copies_to_device(function, num_values):
    """Values of more than `num_values` numbers that the host computes and a GPU uses."""
    return {
        _copy(tensor, operation)
        for tensor, operation, needs_host in _used_values(function)
        if not needs_host and tensor.op.type != "Placeholder" and _is_on_host(tensor)
        if (tensor.shape.num_elements() or num_values + 1) > num_values
    }


def _copy(tensor, operation):
    return Copy(tensor.op.type, operation.type, tensor.dtype.name)


def _used_values(function):
    """Yields `(tensor, operation, needs_host)` for each input of each operation, but for constants."""
    constants = set()
    for operation in function.graph.get_operations():  # inputs come before what uses them
        if operation.type in ("Shape", "ShapeN", "Size"):
            is_constant = all(tensor.shape.is_fully_defined() for tensor in operation.inputs)
        elif operation.op_def.is_stateful or not operation.inputs:
            is_constant = operation.type == "Const"
        else:  # TensorFlow computes it once, before the first step
            is_constant = all(tensor.op in constants for tensor in operation.inputs)
        if is_constant:
            constants.add(operation)
        elif operation.inputs:
            for tensor, needs_host in zip(operation.inputs, _on_host(operation, "input"), strict=True):
                if tensor.op not in constants and tensor.dtype not in _HANDLES:
                    yield tensor, operation, needs_host


def _is_on_host(tensor):
    operation = tensor.op
    if operation.type == "Placeholder":  # an argument of the function
        return tensor.dtype == tf.int32
    return _on_host(operation, "output")[tensor.value_index]


def _on_host(operation, side):
    """Tells for each input or output of a kernel whether it is in the memory of the host."""
    node = operation.node_def
    kernel = _kernel(node)
    on_host = []
    for argument in getattr(op_def_registry.get(node.op), f"{side}_arg"):
        count = node.attr[argument.number_attr].i if argument.number_attr else 1
        if argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        on_host += [kernel is None or argument.name in kernel.host_memory_arg] * count
    return on_host


def _kernel(node):
    fitting = [
        kernel
        for kernel in _REGISTERED[node.op]
        if all(
            _types(node.attr[limit.name]) <= set(limit.allowed_values.list.type)
            for limit in kernel.constraint
        )
    ]
    return min(fitting, key=lambda kernel: kernel.device_type != "GPU", default=None)


def _types(attribute):
    return {attribute.type} if attribute.type else set(attribute.list.type)


def _described(node):
    types = {name: _types(value) for name, value in sorted(node.attr.items()) if _types(value)}
    names = ", ".join(
        f"{name}={tf.dtypes.as_dtype(kind).name}" for name, kinds in types.items() for kind in sorted(kinds)
    )
    return f"{node.op}({names})"
