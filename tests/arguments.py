"""What `test_arguments.py` calls, and with what: a call that works for every public function."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable

import compat
import keras
import numpy as np
import pandas as pd
from hypothesis import strategies as st

import keras_saliency as ks
from keras_saliency import (
    attribution,
    callbacks,
    complexity,
    layers,
    models,
    regularizers,
    scale_space,
    visualization,
)

L = keras.layers


@dataclasses.dataclass(frozen=True)
class Target:
    """A public function, arguments with which it works, and which of them are data.

    Attributes:
        function: The function.
        arguments: Callable that makes a dict of arguments; those that are not in it have defaults.
        data: Names of the arguments that are arrays, and may come in any form.
        value: What is compared of its result: a nest of arrays or plain values.
        keep: Names of arguments that stay as they are.
    """

    function: Callable
    arguments: Callable
    data: tuple = ()
    value: Callable = lambda result: result
    keep: tuple = ()

    @functools.cached_property
    def names(self):
        given = self.arguments()
        parameters = inspect.signature(self.function).parameters.values()
        named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        return [name for name in dict.fromkeys([*given, *named]) if name not in self.keep]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@functools.cache
def digits():
    from sklearn.datasets import load_digits

    return np.kron(load_digits().images[:12].astype("uint8") * 15, np.ones((1, 3, 3), "uint8"))


def points():
    return {"x": noise(12, 3), "y": np.arange(12) % 3}


@functools.cache
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6, 6, 1)), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3)]
    )


@functools.cache
def attended():
    return models.add_attention(network(), "se", placement="full", ratio=2)


@functools.cache
def talking():
    return models.XM2A((9, 2), 3, depth=1, num_heads=2, key_dim=3)


@functools.cache
def statistics():
    return ks.DatasetStatistics.from_counts([[3, 5], [2]], (8, 8, 1), 4)


def weights_of(result):
    model = result[0] if isinstance(result, tuple) else result
    return [tuple(v.shape) for v in model.weights]


def nothing(result):
    return None


def events():
    series = np.cumsum(noise(2, 40, 2), axis=1)
    return {"series": series}


def layer_target(cls, shape, **kwargs):
    """Making a layer and calling it: every argument of its constructor."""

    def call(**arguments):
        layer = cls(**arguments)
        keras.utils.set_random_seed(0)
        return compat.to_numpy(
            layer([noise(*s) for s in shape] if isinstance(shape, list) else noise(*shape))
        )

    call.__signature__ = inspect.Signature(
        [
            p.replace(kind=p.KEYWORD_ONLY)
            for p in inspect.signature(cls).parameters.values()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
    )
    return Target(call, lambda: dict(kwargs), value=nothing)


SMALL_IMAGES = {"input_shape": (32, 32, 1), "num_classes": 3}

TARGETS = {
    "gaussian_kernel": Target(scale_space.gaussian_kernel, lambda: {"sigma": 0.7}),
    "scale_sigmas": Target(scale_space.scale_sigmas, dict),
    "soft_extrema": Target(
        scale_space.soft_extrema,
        lambda: {"x": noise(2, 5, 3)},
        data=("x",),
        value=compat.to_numpy,
    ),
    "image_keypoints": Target(
        scale_space.image_keypoints, lambda: {"image": digits()[0] / 255}, data=("image",)
    ),
    "temporal_events": Target(scale_space.temporal_events, events, data=("series",)),
    "temporal_scale_space": Target(
        scale_space.temporal_scale_space, events, data=("series",), value=dataclasses.astuple
    ),
    "temporal_extrema": Target(
        scale_space.temporal_extrema,
        lambda: {"differences": noise(1, 4, 20, 2)},
        data=("differences",),
    ),
    "RACKNet.allocate": Target(
        ks.RACKNet.allocate, lambda: {"statistics": [[3, 5], [2, 2, 4]], "budget": 40}
    ),
    "RACKNet.analyze": Target(
        ks.RACKNet.analyze,
        lambda: {"dataset": digits(), "verbose": 0, "n_jobs": 1, "engine": "opencv"},
        data=("dataset",),
        value=lambda result: result.octaves,
        keep=("engine", "n_jobs", "verbose"),
    ),
    "RACKNet.from_statistics": Target(
        ks.RACKNet.from_statistics,
        lambda: {"statistics": statistics(), "budget": 12},
        value=weights_of,
    ),
    "DatasetStatistics.from_counts": Target(
        ks.DatasetStatistics.from_counts,
        lambda: {"clusters": [[3, 5], [2]], "input_shape": (8, 8, 1)},
    ),
    "LeNet5": Target(models.LeNet5, lambda: {"input_shape": (12, 12, 1)}, value=weights_of),
    "VGG16": Target(
        models.VGG16,
        lambda: {**SMALL_IMAGES, "width_multiplier": 0.05},
        value=weights_of,
        keep=("width_multiplier",),
    ),
    "ResNet18": Target(
        models.ResNet18,
        lambda: {**SMALL_IMAGES, "width_multiplier": 0.05},
        value=weights_of,
        keep=("width_multiplier",),
    ),
    "LSTM4": Target(
        models.LSTM4, lambda: {"input_shape": (9, 2), "num_classes": 3}, value=weights_of
    ),
    "SDMA": Target(
        models.SDMA, lambda: {"input_shape": (9, 2), "num_classes": 3, "depth": 1}, value=weights_of
    ),
    "XM2A": Target(
        models.XM2A,
        lambda: {"input_shape": (9, 2), "num_classes": 3, "depth": 1, "num_heads": 2, "key_dim": 3},
        value=weights_of,
    ),
    "DeepNet": Target(
        models.DeepNet,
        lambda: {"input_shape": (9, 2), "num_classes": 3, "filters": (2, 3)},
        value=weights_of,
    ),
    "WideNet": Target(
        models.WideNet,
        lambda: {"input_shape": (9, 2), "num_classes": 3, "filters": 2, "depth": 1},
        value=weights_of,
    ),
    "add_attention": Target(
        models.add_attention,
        lambda: {"model": network(), "attention": "se", "placement": "full"},
        value=weights_of,
    ),
    "get_attention": Target(layers.get_attention, lambda: {"name": "se"}, value=nothing),
    "inffs": Target(ks.inffs, lambda: {"X": noise(7, 4)}, data=("X",)),
    "separation_index": Target(ks.separation_index, points, data=("x", "y")),
    "smoothness_index": Target(ks.smoothness_index, points, data=("x", "y")),
    "select_features": Target(complexity.select_features, points, data=("x", "y")),
    "saliency_map": Target(
        ks.saliency_map,
        lambda: {"model": network(), "inputs": noise(3, 6, 6, 1), "method": "gradient"},
        data=("inputs",),
        keep=("model",),
    ),
    "occlusion": Target(
        ks.saliency_map,
        lambda: {"model": network(), "inputs": noise(3, 6, 6, 1), "method": "occlusion"},
        data=("inputs",),
        keep=("model", "method"),
    ),
    "input_gradients": Target(
        attribution.input_gradients,
        lambda: {"model": network(), "inputs": noise(3, 6, 6, 1)},
        data=("inputs",),
        keep=("model",),
    ),
    "pointing_game": Target(
        attribution.pointing_game,
        lambda: {"maps": np.abs(noise(2, 5, 5)), "boxes": [[(0, 0, 2, 2)], [(1, 1, 4, 5)]]},
        data=("maps",),
    ),
    "sparsify": Target(
        ks.sparsify,
        lambda: {"model": network(), "sparsity": 0.5, "data": noise(6, 6, 6, 1), "seed": 1},
        value=weights_of,
        keep=("model", "verbose"),
    ),
    "edge_significance": Target(
        ks.edge_significance,
        lambda: {"model": network(), "data": noise(6, 6, 6, 1)},
        data=("data",),
        value=lambda result: list(result.values()),
        keep=("model",),
    ),
    "shrink_to": Target(
        ks.shrink_to,
        lambda: {"model": network(), "channels": 0.5, "round_to": 1, "verbose": False},
        value=weights_of,
        keep=("model", "verbose"),
    ),
    "Sparsifier": Target(
        ks.Sparsifier,
        lambda: {"model": network(), "sparsity": 0.5, "method": "magnitude"},
        value=nothing,
        keep=("model",),
    ),
    "iSparseCallback": Target(
        ks.iSparseCallback, lambda: {"sparsity": 0.5, "method": "magnitude"}, value=nothing
    ),
    "RePrCallback": Target(ks.RePrCallback, dict, value=nothing),
    "ReDoCallback": Target(ks.ReDoCallback, lambda: {"data": noise(4, 3)}, value=nothing),
    "KernelSharingCallback": Target(callbacks.KernelSharingCallback, dict, value=nothing),
    "plot_attention": Target(
        visualization.plot_attention,
        lambda: {"model": attended(), "image": noise(6, 6, 1)},
        data=("image",),
        value=nothing,
    ),
    "plot_heads": Target(
        visualization.plot_heads,
        lambda: {"model": talking(), "series": noise(9, 2)},
        data=("series",),
        value=nothing,
    ),
    "plot_saliency": Target(visualization.plot_saliency, events, data=("series",), value=nothing),
    "plot_scale_space": Target(
        visualization.plot_scale_space, events, data=("series",), value=nothing
    ),
    "plot_design": Target(
        visualization.plot_design, lambda: {"statistics": statistics(), "budget": 12}, value=nothing
    ),
    "SqueezeExcite": layer_target(layers.SqueezeExcite, (2, 5, 4)),
    "ConcurrentSpatialChannelSE": layer_target(layers.ConcurrentSpatialChannelSE, (2, 5, 4)),
    "CBAM": layer_target(layers.CBAM, (2, 5, 4)),
    "BAM": layer_target(layers.BAM, (2, 5, 4)),
    "RecurrentAttention": layer_target(layers.RecurrentAttention, (2, 5, 4)),
    "SelfAttention": layer_target(layers.SelfAttention, (2, 5, 4)),
    "DSTP": layer_target(layers.DSTP, (2, 5, 4)),
    "FusAtNet": layer_target(layers.FusAtNet, (2, 5, 4)),
    "ParameterFreeAttention": layer_target(layers.ParameterFreeAttention, (2, 5, 4)),
    "MSMSA": layer_target(layers.MSMSA, (2, 5, 4), num_heads=2, key_dim=3),
    "TransformerBlock": layer_target(layers.TransformerBlock, (2, 5, 4), num_heads=2, key_dim=3),
    "XM2AHeads": layer_target(layers.XM2AHeads, (2, 5, 4), num_heads=2, key_dim=3),
    "SANAttention": layer_target(layers.SANAttention, [(2, 5, 4), (2, 5, 3)]),
    "SDMACrossAttention": layer_target(layers.SDMACrossAttention, (2, 9, 2), units=2),
    "SaliencySeries": layer_target(layers.SaliencySeries, (2, 9, 2)),
    "Highway": layer_target(layers.Highway, (2, 4)),
    "MaxDropout": layer_target(layers.MaxDropout, (2, 5, 4)),
    "AttentionalActivation": layer_target(layers.AttentionalActivation, (2, 5, 4)),
    "FractionalActivation": layer_target(layers.FractionalActivation, (2, 5, 4)),
    "FlexibleActivation": layer_target(layers.FlexibleActivation, (2, 5, 4)),
    "QuadraticConv2D": layer_target(layers.QuadraticConv2D, (2, 5, 4, 2), filters=2),
    "WeightAlign": layer_target(layers.WeightAlign, (2, 4), layer=L.Dense(3)),
    "NormLoss": Target(regularizers.NormLoss, dict, value=nothing),
    "FilteredBatchNormalization": layer_target(layers.FilteredBatchNormalization, (2, 5, 4)),
    "SpectralTransform2D": layer_target(layers.SpectralTransform2D, (2, 5, 4, 2)),
    "ShiftAttention2D": layer_target(layers.ShiftAttention2D, (2, 5, 4, 2), filters=2),
    "ShiftConv2D": layer_target(
        layers.ShiftConv2D, (2, 5, 4, 2), filters=2, shifts=[(0, 1), (1, 0)]
    ),
    "GraphMix": layer_target(layers.GraphMix, (2, 5, 4)),
    "ResidualAttention": layer_target(layers.ResidualAttention, (2, 5, 4, 2), depth=1),
    "CompetitiveSqueezeExcite": layer_target(
        layers.CompetitiveSqueezeExcite, [(2, 5, 4), (2, 5, 4)]
    ),
    "ResidualAttentionNetwork": Target(
        models.ResidualAttentionNetwork,
        lambda: {**SMALL_IMAGES, "width_multiplier": 0.02},
        value=weights_of,
        keep=("width_multiplier",),
    ),
    "CondensedMemory": layer_target(
        layers.CondensedMemory, [(2, 4), (2, 3, 5), (2, 3, 2)], units=2
    ),
    "MSROI": layer_target(layers.MSROI, (2, 5, 4, 2), num_classes=2),
    "PixelDeflection": layer_target(layers.PixelDeflection, (2, 5, 4, 2)),
    "models.MSROI": Target(
        models.MSROI,
        lambda: {**SMALL_IMAGES, "stages": 1, "filters": 2},
        value=weights_of,
        keep=("filters", "stages"),
    ),
    "ResidualLSTM": Target(
        models.ResidualLSTM, lambda: {"vocabulary": 5, "units": 2, "depth": 1}, value=weights_of
    ),
    "EfficientChannelAttention": layer_target(layers.EfficientChannelAttention, (2, 5, 4)),
    "SimAM": layer_target(layers.SimAM, (2, 5, 4)),
    "CoordinateAttention": layer_target(layers.CoordinateAttention, (2, 5, 4)),
    "Maxout": layer_target(layers.Maxout, (2, 5, 4)),
    "RecurrentConv2D": layer_target(
        layers.RecurrentConv2D, (2, 5, 5, 2), filters=2, kernel_size=3, steps=1
    ),
}


# ---- odd values ------------------------------------------------------------------------------

ODD_VALUES = (
    None,
    True,
    0,
    -1,
    1,
    2,
    2.5,
    1e300,
    -0.0,
    float("nan"),
    float("inf"),
    1j,
    "abc",
    "",
    b"x",
    (),
    [],
    {},
    {"a": 1},
    (1, 2),
    [0.5],
    (None, None),
    object(),
    np.int64(3),
    np.float32(0.5),
    np.array(3),
    np.array([]),
    np.array([1.0, np.nan]),
    np.array(["a", "b"]),
    pd.Series([1, 2]),
    pd.DataFrame({"a": [1.0, 2.0]}),
    range(3),
)

DTYPES = (
    "<f4",
    ">f4",
    "<f8",
    ">f8",
    "f2",
    "i1",
    "u1",
    "<i4",
    ">i4",
    "i8",
    "?",
    "c8",
    "O",
    "U3",
    "M8[D]",
)


@st.composite
def odd_arrays(draw):
    """Arrays of odd shapes, types, layouts and contents, also in pandas."""
    shape = tuple(draw(st.lists(st.sampled_from((0, 1, 2, 3, 8)), max_size=5)))
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    values = rng.integers(-3, 4, shape)
    array = np.asarray(values, "i8").astype(dtype)
    if array.dtype.kind == "f" and array.size and draw(st.booleans()):
        array.reshape(-1)[rng.integers(array.size)] = draw(
            st.sampled_from((np.nan, np.inf, -np.inf, 60000.0))
        )
    form = draw(st.sampled_from(FORMS))
    try:
        return form(array)
    except (TypeError, ValueError):  # no such form of this type
        return array


def _strided(array):
    return np.repeat(array, 2, axis=0)[::2] if array.ndim else array


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def _in_pandas(array):
    return (
        pd.DataFrame(array) if array.ndim == 2 else pd.Series(array) if array.ndim == 1 else array
    )


def _as_object(array):
    return array.astype(object)


def _big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def _tensor(array):
    try:
        return keras.ops.convert_to_tensor(array)
    except Exception:
        return array


FORMS = (
    np.asarray,
    np.asfortranarray,
    _strided,
    _read_only,
    _in_pandas,
    _as_object,
    _big_endian,
    _tensor,
    np.ndarray.tolist,
)


# ---- what may happen -------------------------------------------------------------------------


def outcome(target, arguments):
    """The result of a call; or None where an error names one of the arguments."""
    try:
        return (target.function(**arguments),)
    except (ValueError, TypeError) as error:
        text = str(error)
        names = [*arguments, *target.names, "labels", "images"]
        # Keras's own words for what it checks itself: "initializer identifier", "config".
        names += ["config", *(key for v in arguments.values() if isinstance(v, dict) for key in v)]
        names += [name.rsplit("_", 1)[-1] for name in names if "_" in name]
        named = any(re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) for name in names)
        assert named, f"{type(error).__name__} names no argument: {text[:300]!r}"
        return None


def assert_same(actual, expected):
    """Compare nests of arrays, frames, dataclasses and plain values."""
    if isinstance(expected, np.ndarray) or np.isscalar(expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(actual, expected, atol=1e-4, rtol=1e-3)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
    else:
        assert actual == expected
