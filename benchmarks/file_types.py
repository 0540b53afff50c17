"""Magika's classifier of files as a plain Keras model, and files of this machine to run it on.

    pip install --no-deps magika==1.0.3
    KERAS_BACKEND=jax python benchmarks/file_types.py

Nothing here needs ONNX: the file of weights is read as it is.
"""

import hashlib
import json
import os
import sysconfig
from collections import defaultdict

import keras
import numpy as np
import pretrained
from keras import layers

VERSION = "1.0.3"
SIDE = 1024  # bytes from either end of a file
PADDING = 256
BLOCK = 4096
# A certificate's extension does not tell text from binary, a template's not from what it makes.
UNSETTLED = {"crt", "pem", "jinja"}
NAMES = {  # of the arrays in the file, by the layers' names
    "bytes": ("jax2tf_get_logits_/Const:0", "Dense_0/Reshape:0"),
    "norm0": ("LayerNorm_0/Reshape_2:0", "LayerNorm_0/Reshape_3:0"),
    "conv": ("Conv_0/transpose_3:0", "const_fold_opt__209"),
    "norm1": ("LayerNorm_1/Reshape_2:0", "LayerNorm_1/Reshape_3:0"),
    "classes": ("jax2tf_get_logits_/Const_24:0", "Dense_1/Reshape:0"),
}


def _folder():
    return pretrained.installed("magika", VERSION)


def _fields(data):
    """Yield `(number, value)` of a message of Protocol Buffers, values as integers or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield tag >> 3, data[at : at + size]
        at += size


def read_initializers(path):
    """Return a dict of the float32 arrays that an ONNX file holds as raw bytes."""
    arrays = {}
    with open(path, "rb") as file:
        graph = next(value for number, value in _fields(file.read()) if number == 7)
    for number, tensor in _fields(graph):
        if number != 5:
            continue
        shape, parts = [], {}
        for field, value in _fields(tensor):
            if field != 1:
                parts[field] = value
            elif isinstance(value, int):
                shape.append(value)
            else:  # packed; a whole message of varints reads as a list of tags
                raise ValueError(f"'{path}' has packed shapes, which are not read here.")
        if parts.get(2) == 1 and 9 in parts:
            arrays[parts[8].decode()] = np.frombuffer(parts[9], "<f4").reshape(shape)
    return arrays


def magika(weights=True):
    """Return Magika's classifier: 2048 bytes or paddings in, 214 kinds of files out."""

    def gelu(x):
        return keras.activations.gelu(x, approximate=True)

    inputs = keras.Input((2 * SIDE,), dtype="int32")
    x = layers.Embedding(PADDING + 1, 64, name="bytes")(inputs)
    x = layers.Activation(gelu)(x)
    x = layers.Reshape((512, 256))(x)
    # Over positions; `axis=1` fails in Keras 3.15 on PyTorch.
    x = layers.LayerNormalization(epsilon=1e-6, name="norm0")(layers.Permute((2, 1))(x))
    x = layers.Permute((2, 1))(x)
    x = layers.Conv1D(512, 5, name="conv")(x)
    x = layers.GlobalMaxPooling1D()(layers.Activation(gelu)(x))
    x = layers.LayerNormalization(epsilon=1e-6, name="norm1")(x)
    outputs = layers.Dense(214, activation="softmax", name="classes")(x)
    model = keras.Model(inputs, outputs, name="magika")
    if weights:
        arrays = read_initializers(_folder() / "models" / "standard_v3_3" / "model.onnx")
        for name, ends in NAMES.items():
            first, second = (
                next(value for key, value in arrays.items() if key.endswith(end)) for end in ends
            )
            values = [first, second]
            if name == "bytes":  # a table whose rows all get the same bias
                values = [first + second.reshape(1, -1)]
            elif name == "conv":
                values = [first[..., 0].transpose(2, 1, 0), second]
            layer = model.get_layer(name)
            shapes = [weight.shape for weight in layer.weights]
            layer.set_weights([v.reshape(s) for v, s in zip(values, shapes, strict=True)])
    return model


def as_input(content):
    """Return the bytes of a file's ends as the network takes them, or None for too few."""
    head, tail = content[:BLOCK].lstrip()[:SIDE], content[-BLOCK:].rstrip()[-SIDE:]
    if len(head) < 8:
        return None
    x = np.full(2 * SIDE, PADDING, "int32")
    x[: len(head)] = list(head)
    x[2 * SIDE - len(tail) :] = list(tail)
    return x


def labels_of_extensions():
    """Return a dict from the extensions that mean one kind of file to its number."""
    folder = _folder()
    config = json.loads((folder / "models" / "standard_v3_3" / "config.min.json").read_text())
    known = json.loads((folder / "config" / "content_types_kb.min.json").read_text())
    claimed = defaultdict(set)
    for name, about in known.items():
        for extension in about["extensions"]:
            claimed[extension.lower()].add(name)
    numbers = {name: number for number, name in enumerate(config["target_labels_space"])}
    unique = {e: names.pop() for e, names in claimed.items() if len(names) == 1}
    return {
        e: numbers[name] for e, name in unique.items() if name in numbers and name not in UNSETTLED
    }


def files(most=60, roots=None, seed=0):
    """Return `(x, y)`: files of this machine, labelled by their extensions, in random order.

    Args:
        most: Files of one kind, so that no kind is all of them.
        roots: Folders. Default: `/usr`, and Python's packages.
        seed: Which files are drawn where there are more.
    """
    wanted = labels_of_extensions()
    found = defaultdict(list)
    for root in roots or ("/usr", sysconfig.get_paths()["purelib"]):
        for folder, _, names in os.walk(root):
            for name in names:
                extension = name.rpartition(".")[2].lower()
                if "." in name[1:] and extension in wanted:
                    found[wanted[extension]].append(os.path.join(folder, name))
    random = np.random.default_rng(seed)
    x, y, seen = [], [], set()
    for label in sorted(found):
        paths = sorted(set(found[label]))
        count = 0
        for index in random.permutation(len(paths))[: 4 * most]:
            if count == most:
                break
            if os.path.islink(paths[index]) or not os.access(paths[index], os.R_OK):
                continue
            with open(paths[index], "rb") as file:
                ends = file.read(BLOCK)
                file.seek(max(os.path.getsize(paths[index]) - BLOCK, 0))
                ends = as_input(ends if len(ends) < BLOCK else ends + file.read(BLOCK))
            digest = None if ends is None else hashlib.sha256(ends.tobytes()).digest()
            if digest is None or digest in seen:  # copies would be on both sides of a split
                continue
            seen.add(digest)
            x.append(ends)
            y.append(label)
            count += 1
    order = random.permutation(len(x))
    return np.stack(x)[order], np.array(y, "int32")[order]


if __name__ == "__main__":
    model = magika()
    x, y = files()
    found = model.predict(x, batch_size=256, verbose=0).argmax(-1)
    accuracy = (found == y).mean()
    print(f"{model.count_params():,} parameters, {len(y)} files of {len(set(y))} kinds, ", end="")
    print(f"accuracy {accuracy:.3f}")
    if accuracy < 0.9:
        raise SystemExit("The network does not see what it should: wrong inputs or weights.")
