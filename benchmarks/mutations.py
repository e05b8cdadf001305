"""Breaks files: flips bits, cuts, and inserts giant lengths, values of wrong types and hostile pickles.

A mutation is a function of the content of a file and a random generator. It returns the changed content. A
hostile pickle that gets to run creates the file `RAN` in the working directory.
"""

import functools
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np

_EDGES = (0, 1, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_VALUES = (
    [],
    {},
    None,
    True,
    False,
    -1,
    0,
    1.5,
    2**31,
    2**63,
    10**30,
    1e308,
    "",
    "x",
    "../x",
    "x" * 10**5,
    [[]],
)
_NUMBERS = (
    b"-1",
    b"0",
    b"1.5",
    b"99999999999",
    b"9223372036854775808",
    b"1" + b"0" * 400,
    b"nan",
    b"1e999",
    b"x",
)
_MANY = 3000


def flip_bits(data, rng):
    """Flips one to eight random bits."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def flip_early_bits(data, rng):
    """Flips bits in the first 200 bytes, where headers are."""
    return flip_bits(data[:200], rng) + data[200:]


def flip_late_bits(data, rng):
    """Flips bits in the last 200 bytes, where the directory of a zip file is."""
    return data[:-200] + flip_bits(data[-200:], rng)


def truncate(data, rng):
    """Cuts off the end at a random place."""
    return data[: rng.integers(len(data) + 1)]


def remove(data, rng):
    """Cuts out at most 64 bytes."""
    start, stop = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:start] + data[min(stop, start + 64) :]


def repeat(data, rng):
    """Repeats up to 64 bytes, up to 200 times."""
    start = int(rng.integers(len(data) + 1))
    return data[:start] + data[start : start + 64] * int(rng.integers(2, 200)) + data[start:]


def insert_noise(data, rng):
    """Inserts random bytes."""
    start = int(rng.integers(len(data) + 1))
    return data[:start] + rng.bytes(int(rng.integers(1, 300))) + data[start:]


def splice_length(data, rng):
    """Overwrites four or eight bytes with a number at the edge of an integer type."""
    value, size = _EDGES[rng.integers(len(_EDGES))], (4, 8)[rng.integers(2)]
    order = ("little", "big")[rng.integers(2)]
    start = int(rng.integers(max(1, len(data) if rng.random() < 0.5 else min(len(data), 300))))
    return data[:start] + (value % 256**size).to_bytes(size, order) + data[start + size :]


def replace_all(data, rng):
    """Replaces the whole content with nothing, zeros, noise or one giant line."""
    others = (
        b"",
        b"\0" * 1000,
        rng.bytes(1000),
        b"\xff" * 8,
        b"{" * 10**5,
        b"9" * 10**5,
        b"a" * 10**6 + b"\n",
    )
    return others[rng.integers(len(others))]


def change_number(data, rng):
    """Replaces a decimal number in a text file."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return data
    chosen = found[rng.integers(len(found))]
    return data[: chosen.start()] + _NUMBERS[rng.integers(len(_NUMBERS))] + data[chosen.end() :]


def change_line(data, rng):
    """Replaces a line of a text file with nothing, many copies, other characters or a strange path."""
    lines = data.split(b"\n")
    place = int(rng.integers(len(lines)))
    line = lines[place]
    others = (
        b"",
        line * min(5000, 10**6 // (len(line) + 1)),
        b"\xff\xfe" + line,
        line + b"\0",
        b"~nosuchuser/" + line,
        line[::-1],
        line.upper(),
    )
    pieces = others + (re.sub(rb"[,=]", b"", line), re.sub(rb"\S+", b"../..", line, count=1), b"[" + line)
    return b"\n".join([*lines[:place], pieces[rng.integers(len(pieces))], *lines[place + 1 :]])


def change_json(data, rng):
    """Replaces a value of a JSON file with one of another type, or removes it."""
    try:
        root = json.loads(data)
    except ValueError:
        return data
    places = []
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            places += [(value, key) for key in keys]
            waiting += [value[key] for key in keys]
    if not places:
        return b"[]"
    holder, key = places[rng.integers(len(places))]
    if rng.random() < 0.15:
        del holder[key]
    else:
        holder[key] = _VALUES[rng.integers(len(_VALUES))]
    return json.dumps(root).encode()


def hostile_call(data, rng):
    """Makes a pickle call a function when it is loaded."""
    calls = (
        b"cbuiltins\nexec\n(Vopen('RAN', 'w')\ntR",
        b"c__builtin__\neval\n(Vopen('RAN', 'w')\ntR",
        b"cposix\nsystem\n(Vtouch RAN\ntR",
        b"(Vtouch RAN\niposix\nsystem\n",
        b"cpathlib\nPath\n(VRAN\nt\x81(dVx\n0b",
        b"ctorch\nload\n(VRAN\ntR",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\nI0\nI1\ntRS'%s'\ntR" % b"cos\\nsystem\\n.",
    )
    start = 2 if data[:1] == b"\x80" else 0
    return data[:start] + calls[rng.integers(len(calls))] + b"0" + data[start:]


def giant_pickle(data, rng):
    """Makes a small pickle that asks for a lot of memory."""
    count = int(rng.integers(_MANY))
    payload = rng.bytes(10_000)
    big = 2 ** int(rng.integers(20, 63))
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    dtype = b"cnumpy\ndtype\n(Vu1\nI0\nI1\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntb"
    programs = (
        b"B" + struct.pack("<I", len(payload)) + payload + b"q\x00" + b"(" + b"h\x00" * count + b"t",
        b"Nr\xff\xff\xff\xff",
        b"\x8e" + struct.pack("<Q", big),
        b"\x96" + struct.pack("<Q", big),
        b"X\xff\xff\xff\x7f",
        b")q\x00" + b"h\x00h\x00\x86q\x00" * min(count, 60),
        b"(" * count + b"t" * count,
        array + b"(I1\n(" + b"".join(b"I%d\n" % big for _ in range(3)) + b"t" + dtype + b"I00\nC\x04abcdtb",
        array + b"(I1\n(I%d\nI0\nt" % big + dtype + b"I00\nC\x00tb",
        array + b"(I1\n(" + (b"I%d\n" % 2**40) * count + b"I0\nt" + dtype + b"I00\nC\x00tb",
        b"I" + b"9" * (100 * count) + b"\n",
    )
    program = b"\x80\x04" + programs[rng.integers(len(programs))]
    return program + (b"." if rng.random() < 0.5 else b"0" + data[2:])


def giant_shape(data, rng):
    """Replaces the header of a NumPy array with one of another shape or dtype."""
    start = data.find(b"\x93NUMPY")
    if start < 0:
        return data
    end = start + 10 + int.from_bytes(data[start + 8 : start + 10], "little")
    big = 2 ** int(rng.integers(20, 70))
    shapes = (
        f"({big},)",
        f"({big}, {big})",
        f"({', '.join(['1'] * 5000)})",
        "(-1,)",
        "(True,)",
        "('a',)",
        "(1",
        "()",
    )
    types = ("'<f8'", "'|O'", "[('a', '<f8')]", "'<U100000'", "'nonsense'", "3", "'|V0'")
    descr = types[rng.integers(len(types))] if rng.random() < 0.4 else "'<i8'"
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shapes[rng.integers(len(shapes))]}, }}"
    header = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return data[:start] + b"\x93NUMPY\x01\0" + struct.pack("<H", len(header) % 65536) + header + data[end:]


def giant_picture(_data, rng):
    """Returns a PNG file with many pixels and few bytes."""
    sides = (20_000, 32_000, 60_000, 2**31 - 1)
    height, width = (int(sides[i]) for i in rng.integers(len(sides), size=2))
    if height * width > 32_000**2 or rng.random() < 0.5:
        return _png(height, width, zlib.compress(b"\0" * 1000))
    return _blank_png(height, width)


@functools.lru_cache(8)
def _blank_png(height, width):
    packer, row = zlib.compressobj(6), b"\0" * (1 + -(-width // 8))
    return _png(height, width, b"".join(packer.compress(row) for _ in range(height)) + packer.flush())


def _png(height, width, pixels):
    header = struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    joined = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(joined)


def change_zip(data, rng):
    """Rewrites a zip file with one entry changed, missing, duplicated or full of zeros."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = [(name, file.read(name)) for name in file.namelist()]
    except Exception:  # noqa: BLE001 An earlier mutation broke the file.
        return data
    place = int(rng.integers(len(entries)))
    name, content = entries[place]
    kind, luck = zipfile.ZIP_STORED, rng.random()
    changes = [flip_bits, truncate, splice_length, replace_all, repeat]
    if name.endswith(".pkl"):
        changes += [*PICKLE] * 3
    elif name.endswith(".npy"):
        changes += [giant_shape] * 4
    elif name.endswith(".json"):
        changes += [change_json] * 6
    if luck < 0.1:
        entries.pop(place)
    elif luck < 0.2:
        entries.append((name, content))
    elif luck < 0.24:
        entries[place], kind = (name, bytes(400_000_000)), zipfile.ZIP_DEFLATED
    else:
        entries[place] = (name, changes[rng.integers(len(changes))](content, rng))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", kind, compresslevel=1) as file:
        for name, content in entries:
            file.writestr(zipfile.ZipInfo(name), content, kind)
    return packed.getvalue()


def many_tensors(_data, rng):
    """Returns a PyTorch file in which thousands of tensors share a storage, some reaching past its end."""
    from tests.torch_zip import a_dict, tensor, write_torch_zip

    size, big = int(rng.integers(1, 10_000)), 2 ** int(rng.integers(20, 66))
    shapes = (
        ((size,), (1,)),
        ((size, 0), (1, 1)),
        ((big, size), (0, 1)),
        ((big,) * 4, (1,) * 4),
        ((True,), (1,)),
    )
    count = int(rng.integers(1, 30_000))
    kinds = rng.integers(len(shapes), size=count) if rng.random() < 0.5 else np.zeros(count, int)
    chosen = [tensor(size=size, shape=shape, strides=strides) for shape, strides in shapes]
    packed = io.BytesIO()
    program = a_dict({str(i): chosen[kind] for i, kind in enumerate(kinds)})
    write_torch_zip(packed, program, {"0": bytes(4 * size)})
    return packed.getvalue()


def change_onnx(data, rng):
    """Changes a tensor or node of an ONNX file: data in other files, giant shapes, unknown types."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # noqa: BLE001 An earlier mutation broke the file.
        return data
    graph = model.graph
    tensor = graph.initializer[rng.integers(len(graph.initializer))]
    match int(rng.integers(7)):
        case 0 | 1:
            places = ("/dev/zero", "../secret", "net.onnx", "missing", "/proc/self/mem", ".", "", "x\0y")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", places[rng.integers(len(places))]
            if rng.random() < 0.5:
                entry = tensor.external_data.add()
                entry.key = ("offset", "length")[rng.integers(2)]
                entry.value = _NUMBERS[rng.integers(len(_NUMBERS))].decode()
            for _ in range(int(rng.integers(2)) * 2000):
                graph.initializer.add().CopyFrom(tensor)
        case 2:
            tensor.dims[:] = [2 ** int(rng.integers(20, 62)) for _ in range(int(rng.integers(1, 5)))]
        case 3:
            tensor.data_type = int(rng.integers(-1, 40))
        case 4:
            node = graph.node[rng.integers(len(graph.node))]
            node.op_type = str(rng.choice(["Constant", "Identity", "Loop", "", "Conv"]))
        case 5:
            node = graph.node[rng.integers(len(graph.node))]
            graph.node.add().CopyFrom(node)
        case _:
            node = graph.node[rng.integers(len(graph.node))]
            del node.input[:1], node.attribute[:1]
    return model.SerializeToString()


GENERAL = (
    *(flip_bits, flip_early_bits, flip_late_bits, truncate, remove, repeat),
    *(insert_noise, splice_length, splice_length, replace_all),
)
TEXT = (change_number, change_line)
PICKLE = (hostile_call, giant_pickle)
TEXT_SUFFIXES = (".json", ".ini", ".txt", ".idx", "property")


def malform(
    data: bytes, name: str, rng: np.random.Generator, more: Sequence[Callable] = ()
) -> tuple[str, bytes]:
    """Breaks a file with one or two random mutations.

    Args:
        data: the valid content.
        name: name of the file; its suffix selects suitable mutations.
        rng: for all random choices.
        more: further mutations to choose from.

    Returns:
        `(names of the mutations, changed content)`.
    """
    ways = [*GENERAL, *more]
    if name.endswith(TEXT_SUFFIXES):
        ways += [*TEXT, *TEXT]
    if name.endswith(".json"):
        ways += [change_json] * 6
    if name.endswith((".bin", ".np")):
        ways += [*PICKLE, *PICKLE]
    chosen = [ways[place] for place in rng.integers(len(ways), size=1 if rng.random() < 0.7 else 2)]
    for way in chosen:
        data = way(data, rng)
    return ", ".join(way.__name__ for way in chosen), data
