"""Optimises graphs as TensorFlow does on a machine with a GPU, without a GPU."""

import collections

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, device_properties_pb2

# TensorFlow has no public API to optimise a graph for devices that the machine does not have.
from tensorflow.python.grappler import cluster, tf_optimizer

# Operations without work on a device: they name or reshape a value, or run on the host at no cost.
FREE = {
    *("Const", "Identity", "IdentityN", "NoOp", "Placeholder", "ReadVariableOp"),
    *("ExpandDims", "Reshape", "Shape", "ShapeN", "Squeeze"),
}
_PROPERTIES = {
    "CPU": {"frequency": 2000, "num_cores": 16},
    "GPU": {
        "frequency": 1700,
        "num_cores": 132,
        "memory_size": 80 << 30,
        "bandwidth": 3 << 30,
        "environment": {"architecture": "9.0", "cuda": "12050", "cudnn": "90300"},
    },
}


def graph_on_gpu(function):
    """Optimises the graph of a `ConcreteFunction` for one CPU and one GPU. Returns a `GraphDef`."""
    devices = [
        device_properties_pb2.NamedDevice(
            name=f"/job:localhost/replica:0/task:0/device:{kind}:0",
            properties=device_properties_pb2.DeviceProperties(type=kind, **properties),
        )
        for kind, properties in _PROPERTIES.items()
    ]
    graph = function.graph
    meta = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    kept = [tensor.op.name for tensor in function.outputs] + [op.name for op in graph.control_outputs]
    meta.collection_def["train_op"].node_list.value.extend(kept)
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1  # optimises small graphs, too
    return tf_optimizer.OptimizeGraph(config, meta, cluster=cluster.Cluster(devices=devices))


def count_operations(graph):
    """Counts the operations of a `GraphDef` that do work, by type. A compiled function counts as one."""
    return collections.Counter(node.op for node in graph.node if node.op not in FREE)
