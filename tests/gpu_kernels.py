"""Reads from TensorFlow's registry which operations have a GPU kernel. This needs no GPU."""

from __future__ import annotations

import collections
from typing import NamedTuple

import tensorflow as tf

# TensorFlow has no public API for the registry.
from tensorflow.python.framework import kernels, op_def_registry

_HANDLES = (tf.resource, tf.variant, tf.string)


class Copy(NamedTuple):
    """A value that is copied between device and host.

    Attributes:
        source: type of the operation that computes the value.
        target: type of the operation that uses it.
        dtype: name of its dtype.
    """

    source: str
    target: str
    dtype: str


def _registered():
    by_operation = collections.defaultdict(list)
    for kernel in kernels.get_all_registered_kernels().kernel:
        # `DEFAULT` kernels serve every device without a kernel of its own.
        if kernel.device_type in ("GPU", "DEFAULT") and not kernel.label:
            by_operation[kernel.op].append(kernel)
    return by_operation


_REGISTERED = _registered()


def missing_kernels(function):
    """Returns the operations of a `ConcreteFunction` without a GPU kernel, with their dtypes: set of str."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    inner = {inner.signature.name for inner in graph.library.function}
    return {_described(node) for node in nodes if node.op not in inner and _kernel(node) is None}


def copies_to_host(function):
    """Returns the values that a `ConcreteFunction` copies from GPU to host, which makes the host wait."""
    return {
        _copy(tensor, operation)
        for tensor, operation, needs_host in _used_values(function)
        if needs_host and not _is_on_host(tensor)
    }


def large_copies_to_device(function, num_values):
    """Returns the values of more than `num_values` numbers that the host computes and a GPU uses."""
    return {
        _copy(tensor, operation)
        for tensor, operation, needs_host in _used_values(function)
        if not needs_host and tensor.op.type != "Placeholder" and _is_on_host(tensor)
        if (tensor.shape.num_elements() or num_values + 1) > num_values
    }


def _copy(tensor, operation):
    return Copy(tensor.op.type, operation.type, tensor.dtype.name)


def _used_values(function):
    """Yields `(tensor, operation, needs_host)` for each input of each operation, except constants."""
    constants = set()
    for operation in function.graph.get_operations():  # in the order of their computation
        if operation.type in ("Shape", "ShapeN", "Size"):
            is_constant = all(tensor.shape.is_fully_defined() for tensor in operation.inputs)
        elif operation.op_def.is_stateful or not operation.inputs:
            is_constant = operation.type == "Const"
        else:  # TensorFlow computes an operation on constants only once, before the first step.
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
    """Returns for each input or output of an operation whether it is in host memory: list of bool."""
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
