"""Writes valid and malformed files in the format of `torch.save`, without PyTorch."""

import pickle
import zipfile

import numpy as np


def plain(value):
    """Returns pickle instructions that push a number, a string, or a tuple, list or dict of these."""
    return pickle.dumps(value, 2)[2:-1]


def a_global(module, name):
    """Returns an instruction that pushes `module.name`."""
    return f"c{module}\n{name}\n".encode()


def call(function, *arguments):
    """Returns instructions that call a function and push its result; all arguments are instructions, too."""
    return function + b"(" + b"".join(arguments) + b"tR"


def storage(dtype, key, size):
    """Returns instructions that push a storage, such as `("FloatStorage", "0", 12)`."""
    place = b"".join(plain(value) for value in (key, "cpu", size))
    return b"(" + plain("storage") + a_global("torch", dtype) + place + b"tQ"


def tensor(dtype="FloatStorage", key="0", size=6, offset=0, shape=(2, 3), strides=(3, 1)):
    """Returns instructions that push a tensor."""
    hooks = call(a_global("collections", "OrderedDict"))
    return call(
        a_global("torch._utils", "_rebuild_tensor_v2"),
        storage(dtype, key, size),
        *map(plain, (offset, shape, strides, False)),
        hooks,
    )


def a_dict(items):
    """Returns instructions that push a dict; `items` maps its keys to instructions for the values."""
    return b"}(" + b"".join(plain(name) + value for name, value in items.items()) + b"u"


def write_torch_zip(path, program, storages, byte_order=b"little", compression=zipfile.ZIP_STORED):
    """Writes a file from the instructions of its pickle and a dict from the key of a storage to its bytes."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + program + b".")
        if byte_order is not None:
            file.writestr("archive/byteorder", byte_order)
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)


def write_state_dict(path, state, prefix="", inside=None):
    """Writes a dict of float32 arrays as a state_dict, with `inside` as the entry of that name in a dict."""
    items, storages = {}, {}
    for index, (name, array) in enumerate(state.items()):
        array = np.asarray(array, order="C")
        strides = tuple(stride // array.itemsize for stride in array.strides)
        items[prefix + name] = tensor("FloatStorage", str(index), array.size, 0, array.shape, strides)
        storages[str(index)] = array.tobytes()
    program = a_dict(items)
    if inside is not None:
        program = a_dict({inside: program, "epoch": plain(20), "optimizer": a_dict({"lr": plain(0.1)})})
    write_torch_zip(path, program, storages)
