"""What TensorFlow has for GPUs, by its registry of kernels, which a machine without a GPU has, too."""

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
        # Kernels for `DEFAULT` start on every device, but leave all values on the host.
        if kernel.device_type in ("GPU", "DEFAULT") and not kernel.label:
            by_operation[kernel.op].append(kernel)
    return by_operation


_REGISTERED = _registered()


def missing_kernels(function):
    """Counts the operations of a `ConcreteFunction` without a kernel for GPUs, by type and dtypes."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    inner = {inner.signature.name for inner in graph.library.function}
    return {_described(node) for node in nodes if node.op not in inner and _kernel(node) is None}


def large_copies_to_device(function, num_values):
    """Values that the host computes with more than `num_values` numbers, and copies to a GPU."""
    graph = function.graph
    return {
        Copy(tensor.op.type, operation.type, tensor.dtype.name)
        for operation in graph.get_operations()
        if operation.type != "Placeholder"
        for tensor, needs_host in zip(operation.inputs, _on_host(operation, "input"), strict=True)
        if not needs_host
        and tensor.op.type not in ("Const", "Placeholder")
        and tensor.dtype not in _HANDLES
        and _is_on_host(tensor)
        and (tensor.shape.num_elements() or num_values + 1) > num_values
    }


def copies_to_host(function):
    """Values that a `ConcreteFunction` copies from a GPU to its host: the host waits until they are there."""
    graph = function.graph
    return {
        Copy(tensor.op.type, operation.type, tensor.dtype.name)
        for operation in graph.get_operations()
        if operation.type != "Placeholder"
        for tensor, needs_host in zip(operation.inputs, _on_host(operation, "input"), strict=True)
        if needs_host and not _is_on_host(tensor)
    }


def _is_on_host(tensor):
    operation = tensor.op
    if operation.type == "Const" or tensor.dtype in _HANDLES:
        return True
    if operation.type == "Placeholder":  # an argument of the function
        return tensor.dtype == tf.int32
    return _on_host(operation, "output")[tensor.value_index]


def _on_host(operation, side):
    """Whether the kernel expects each of its inputs, or leaves each of its outputs, in the host's memory."""
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
