"""Masked layers: Keras's layers, but for the masked edges."""

import warnings

import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests
from keras import layers

from keras_saliency.layers import masked
from keras_saliency.layers.masked.base import MaskedKernels, mask_variables, masked_in_place
from keras_saliency.layers.masked.generic import mask_layer, plain_config
from keras_saliency.layers.masked.layers import TWINS

DENSE = {
    "activation": "relu",
    "use_bias": False,
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l1",
    "bias_regularizer": "l2",
    "activity_regularizer": "l2",
    "kernel_constraint": "non_neg",
    "bias_constraint": "max_norm",
    "lora_rank": 2,
    "lora_alpha": 3,
}
CONV = {
    **DENSE,
    "filters": 4,
    "kernel_size": 5,
    "strides": 3,
    "padding": "same",
    "data_format": "channels_first",
    "dilation_rate": 2,
    "groups": 2,
}


def set_random_masks(layer, seed=0, share=0.5):
    """Mask half of each kernel of the layer and of what is in it; returns the layer."""
    rng = np.random.default_rng(seed)
    for item in layer._flatten_layers():
        if isinstance(item, MaskedKernels):
            for name, mask in item.masks.items():
                item.set_mask(rng.random(mask.shape) >= share, name)
    return layer


def dense_reference(inputs, weights, units, activation=None):
    y = inputs[0] @ (weights["kernel"] * weights["mask"]) + weights["bias"]
    return np.tanh(y) if activation == "tanh" else y


def conv_reference(inputs, weights, filters, kernel_size, strides=1):
    x, kernel = inputs[0], weights["kernel"] * weights["mask"]
    k, s = kernel_size, strides
    rows, columns = (x.shape[1] - k) // s + 1, (x.shape[2] - k) // s + 1
    y = np.zeros((len(x), rows, columns, filters))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * s : i * s + k, j * s : j * s + k]
            y[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
    return y + weights["bias"]


class TestMaskedDense(LayerTests):
    layer = masked.MaskedDense
    config = {
        **DENSE,
        "units": 3,
        "quantization_config": keras.quantizers.Int8QuantizationConfig(),
    }
    cases = [
        Case(
            "matrix",
            kwargs={"units": 5},
            inputs=[(3, 7)],
            reference=dense_reference,
            prepare=set_random_masks,
        ),
        Case(
            "sequence",
            kwargs={"units": 5, "activation": "tanh"},
            inputs=[(2, 3, 7)],
            reference=dense_reference,
            prepare=set_random_masks,
        ),
    ]


class TestMaskedConv2D(LayerTests):
    layer = masked.MaskedConv2D
    cases = [
        Case(
            "strided",
            kwargs={"filters": 5, "kernel_size": 3, "strides": 2},
            inputs=[(2, 7, 5, 3)],
            reference=conv_reference,
            prepare=set_random_masks,
            data_format=keras.backend.backend() != "tensorflow",
        ),
    ]

    def test_every_argument_survives_its_config(self):
        # Keras refuses strides together with dilation.
        for config in ({**CONV, "strides": 1}, {**CONV, "dilation_rate": 1}):
            layer = self.layer(**config)
            stock = layers.Conv2D(**config, name=layer.name)
            assert layer.get_config() == stock.get_config()
            assert self.layer.from_config(layer.get_config()).get_config() == layer.get_config()


# ---- every twin ----------------------------------------------------------------------------

TWIN_CASES = {
    layers.Dense: (lambda cls: cls(5), (2, 7)),
    layers.EinsumDense: (lambda cls: cls("abc,cd->abd", (None, 5)), (2, 3, 7)),
    layers.Conv1D: (lambda cls: cls(5, 3, padding="causal"), (2, 7, 3)),
    layers.Conv2D: (lambda cls: cls(6, 3, groups=3), (2, 7, 5, 3)),
    layers.Conv3D: (lambda cls: cls(3, 2), (1, 3, 5, 4, 2)),
    layers.Conv1DTranspose: (lambda cls: cls(5, 3), (2, 7, 3)),
    layers.Conv2DTranspose: (lambda cls: cls(5, 3, strides=2), (2, 5, 7, 3)),
    layers.Conv3DTranspose: (lambda cls: cls(3, 2), (1, 3, 2, 4, 2)),
    layers.DepthwiseConv1D: (lambda cls: cls(3, depth_multiplier=2), (2, 7, 3)),
    layers.DepthwiseConv2D: (lambda cls: cls(3), (2, 7, 5, 3)),
    layers.SeparableConv1D: (lambda cls: cls(5, 3), (2, 7, 3)),
    layers.SeparableConv2D: (lambda cls: cls(5, 3), (2, 7, 5, 3)),
    layers.Embedding: (lambda cls: cls(11, 5), None),
}
CELLS = {
    layers.SimpleRNNCell: layers.SimpleRNN,
    layers.LSTMCell: layers.LSTM,
    layers.GRUCell: layers.GRU,
}


def pair(plain_class):
    """A plain layer, its masked twin with the same weights, and an input."""
    make, shape = TWIN_CASES[plain_class]
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape).astype("float32") if shape else rng.integers(0, 11, (2, 7))
    plain, twin = make(plain_class), make(TWINS[plain_class])
    expected = plain(x)
    twin.build(x.shape)
    twin.set_weights(plain.get_weights())
    return plain, twin, x, compat.to_numpy(expected)


def test_there_is_a_test_for_every_twin():
    assert set(TWINS) == {*TWIN_CASES, *CELLS}


@pytest.mark.parametrize("plain_class", TWIN_CASES, ids=lambda c: c.__name__)
class TestTwins:
    def test_mask_of_ones_equals_the_stock_layer_bit_for_bit(self, plain_class):
        _, twin, x, expected = pair(plain_class)
        np.testing.assert_array_equal(compat.to_numpy(twin(x)), expected)

    def test_masked_edges_count_as_zeros(self, plain_class):
        plain, twin, x, _ = pair(plain_class)
        set_random_masks(twin)
        masks = [compat.to_numpy(m) for m in twin.masks.values()]
        values = plain.get_weights()
        for i, mask in enumerate(masks):
            assert values[i].shape == mask.shape
            values[i] = values[i] * mask
        plain.set_weights(values)
        np.testing.assert_array_equal(compat.to_numpy(twin(x)), compat.to_numpy(plain(x)))
        # The stored weights are still there.
        assert any(
            (compat.to_numpy(v) != w).any()
            for (v, _), w in zip(twin.kernel_masks(), values, strict=False)
        )

    def test_loads_the_variables_of_the_plain_layer(self, plain_class):
        plain, twin, x, expected = pair(plain_class)
        for variable in twin.trainable_variables:
            variable.assign(compat.to_numpy(variable) * 0)
        store = {}
        plain.save_own_variables(store)
        twin.load_own_variables({k: compat.to_numpy(v) for k, v in store.items()})
        np.testing.assert_array_equal(compat.to_numpy(twin(x)), expected)

    def test_saves_stored_weights_and_masks(self, plain_class):
        _, twin, _, _ = pair(plain_class)
        set_random_masks(twin)
        store = {}
        twin.save_own_variables(store)
        _, other, _, _ = pair(plain_class)
        other.load_own_variables({k: compat.to_numpy(v) for k, v in store.items()})
        for mine, its in zip(other.weights, twin.weights, strict=True):
            np.testing.assert_array_equal(compat.to_numpy(mine), compat.to_numpy(its))

    def test_config_is_that_of_the_plain_layer(self, plain_class):
        plain, twin, _, _ = pair(plain_class)
        config = twin.get_config()
        assert {**config, "name": ""} == {**plain.get_config(), "name": ""}
        restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(twin))
        assert type(restored) is type(twin)
        assert type(twin).__name__ == f"Masked{plain_class.__name__}"


@pytest.mark.parametrize("cell_class", CELLS, ids=lambda c: c.__name__)
def test_masked_cells_count_masked_edges_as_zeros(cell_class):
    x = np.random.default_rng(2).normal(size=(2, 7, 3)).astype("float32")
    rnn = layers.RNN(TWINS[cell_class](5))
    plain = CELLS[cell_class](5)
    plain(x)
    rnn.build(x.shape)
    rnn.cell.set_weights(plain.get_weights())
    assert np.abs(compat.to_numpy(rnn(x)) - compat.to_numpy(plain(x))).max() < 1e-6
    set_random_masks(rnn)
    masks = [compat.to_numpy(m) for m in rnn.cell.masks.values()]
    values = plain.get_weights()
    plain.set_weights([values[0] * masks[0], values[1] * masks[1], *values[2:]])
    assert np.abs(compat.to_numpy(rnn(x)) - compat.to_numpy(plain(x))).max() < 1e-6


# ---- gradients, precision, quantization -------------------------------------------------------


def test_other_methods_that_read_the_kernels_see_the_masks_too():
    from keras_saliency.layers import XM2AHeads

    layer = XM2AHeads(num_heads=2, key_dim=3)
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype("float32")
    layer.build(x.shape)
    names = [f"{role}_kernel_{h}" for role in ("query", "key", "value") for h in (1, 2)]
    set_random_masks(mask_layer(layer, names))
    plain = XM2AHeads(num_heads=2, key_dim=3)
    plain.build(x.shape)
    for name in names:
        kernel = compat.to_numpy(getattr(layer, name)) * compat.to_numpy(layer.masks[name])
        getattr(plain, name).assign(kernel)
    for found, wanted in zip(layer.describe(x), plain.describe(x), strict=True):
        np.testing.assert_allclose(compat.to_numpy(found), compat.to_numpy(wanted), atol=1e-6)


def test_masked_edges_get_no_gradient():
    layer = masked.MaskedDense(5)
    layer.build((None, 7))
    set_random_masks(layer)
    x = np.random.default_rng(3).normal(size=(3, 7)).astype("float32")
    _, (kernel, _) = compat.gradients(layer, [x], lambda y: keras.ops.sum(y * y))
    mask = compat.to_numpy(layer.mask)
    assert (kernel[~mask] == 0).all() and (kernel[mask] != 0).all()


def test_infinite_weights_under_the_mask_count_as_zero_in_float16():
    layer = masked.MaskedDense(3, dtype="mixed_float16")
    layer.build((None, 5))
    kernel = np.full((5, 3), 1e6, "float32")  # overflows in float16
    kernel[0] = 0.5
    layer.kernel.assign(kernel)
    layer.set_mask(kernel < 1)
    y = compat.to_numpy(layer(np.ones((2, 5), "float16")))
    np.testing.assert_array_equal(y, np.full((2, 3), 0.5, "float16"))
    layer.set_weights([kernel * np.inf, np.zeros(3, "float32")])
    layer.set_mask(np.zeros((5, 3)))
    _, (gradient, _) = compat.gradients(layer, [np.ones((2, 5))], keras.ops.sum)
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_masking_in_place_hides_infinities(dtype):
    variable = keras.Variable([[1.5, np.inf], [-np.inf, -2.5]], dtype=dtype)
    mask = keras.Variable(np.eye(2, dtype=bool), dtype="bool", trainable=False)
    variable.assign(masked_in_place(variable, mask))
    found = compat.to_numpy(keras.ops.cast(variable, "float32"))
    np.testing.assert_array_equal(found, [[1.5, 0.0], [0.0, -2.5]])


def test_regularizers_see_the_masked_kernel():
    layer = masked.MaskedDense(3, kernel_regularizer=keras.regularizers.L1(0.1))
    layer.build((None, 5))
    layer.kernel.assign(np.ones((5, 3)))
    layer.set_mask(np.arange(15).reshape(5, 3) < 4)
    assert compat.to_numpy(layer.losses[0]) == pytest.approx(0.4)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_layers_keep_their_zeros(mode, tmp_path):
    model = keras.Sequential([keras.Input((16,)), masked.MaskedDense(6)])
    set_random_masks(model)
    mask = compat.to_numpy(model.layers[0].mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras tells that an input layer has nothing to quantize
        model.quantize(mode)
    probe = np.eye(16, dtype="float32")
    response = compat.to_numpy(model(probe)) - compat.to_numpy(model(probe * 0))
    assert (response[~mask] == 0).all() and (response[mask] != 0).mean() > 0.5
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(compat.to_numpy(loaded(probe)), compat.to_numpy(model(probe)))


def test_quantization_that_would_fill_the_zeros_is_refused():
    model = keras.Sequential([keras.Input((8,)), masked.MaskedDense(3)])
    before = model.get_weights()
    with pytest.raises(ValueError, match="strip_masks"):
        model.layers[0].quantize("float8")
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_lora_updates_are_masked():
    layer = masked.MaskedDense(4, lora_rank=2)
    layer.build((None, 5))
    set_random_masks(layer)
    layer.lora_kernel_b.assign(np.ones((2, 4)))
    mask = compat.to_numpy(layer.mask)
    y = compat.to_numpy(layer(np.eye(5, dtype="float32")))
    assert (y[~mask] == 0).all() and (y[mask] != 0).all()
    store = {}
    layer.save_own_variables(store)
    assert len(store) == 3  # the merged kernel, the bias, the mask
    with pytest.raises(ValueError, match="LoRA"):
        layer.quantize("int8")


# ---- layers made of layers ----------------------------------------------------------------


@keras.saving.register_keras_serializable(package="test_masked")
class OwnWeight(layers.Layer):
    """A custom layer with a kernel of its own and a layer inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def build(self, input_shape):
        self.w = self.add_weight(name="w", shape=(input_shape[-1], 3))
        self.dense.build((*input_shape[:-1], 3))

    def call(self, x):
        return self.dense(x @ self.w)


@keras.saving.register_keras_serializable(package="test_masked")
class Lazy(keras.Model):
    """A subclassed model that makes its weights when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(3), OwnWeight()]
        self.head = layers.LSTM(2)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


COMPOSITES = {
    "lstm": (lambda: layers.LSTM(5), {"0": ["kernel", "recurrent_kernel"]}),
    "attention": (lambda: layers.GroupQueryAttention(3, 2, 1), None),
    "own": (OwnWeight, {"": ["w"], "0": ["kernel"]}),
    "lazy": (
        Lazy,
        {"0": ["kernel"], "1": ["w"], "1/0": ["kernel"], "2/0": ["kernel", "recurrent_kernel"]},
    ),
}


@pytest.mark.parametrize("name", ["lstm", "attention", "own", "lazy"])
def test_layers_made_of_layers_save_load_and_clone_with_their_masks(name, tmp_path):
    make, kernels = COMPOSITES[name]
    x = np.random.default_rng(4).normal(size=(2, 7, 3)).astype("float32")
    layer = make()
    inputs = keras.Input((7, 3))
    outputs = layer(inputs, inputs) if name == "attention" else layer(inputs)
    model = keras.Model(inputs, outputs)
    if name == "attention":
        dense = [i for i, sub in enumerate(layer._layers) if isinstance(sub, layers.EinsumDense)]
        kernels = {str(i): ["kernel"] for i in dense}
    expected = compat.to_numpy(model(x))
    kind = type(layer)
    assert mask_layer(layer, kernels) is layer and isinstance(layer, kind)
    np.testing.assert_allclose(compat.to_numpy(model(x)), expected, atol=1e-6)
    set_random_masks(model)
    result = compat.to_numpy(model(x))
    assert np.abs(result - expected).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.layers[-1], kind)
    np.testing.assert_array_equal(compat.to_numpy(loaded(x)), result)
    assert len(mask_variables(loaded)) == sum(map(len, kernels.values()))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(compat.to_numpy(clone(x)), result)
    # The config of the plain layer is in there, whole.
    plain = keras.saving.deserialize_keras_object(
        plain_config(keras.saving.serialize_keras_object(layer))
    )
    assert type(plain) is kind


def test_bidirectional_and_time_distributed_keep_masks_in_their_files(tmp_path):
    inputs = keras.Input((7, 3))
    x = layers.Bidirectional(layers.GRU(2, return_sequences=True))(inputs)
    model = keras.Model(inputs, layers.TimeDistributed(layers.Dense(3))(x))
    _, both, each = model.layers
    for rnn in (both.forward_layer, both.backward_layer):
        mask_layer(rnn, {"0": ["kernel", "recurrent_kernel"]})
    mask_layer(each.layer, ["kernel"])
    set_random_masks(model)
    data = np.random.default_rng(4).normal(size=(2, 7, 3)).astype("float32")
    expected = compat.to_numpy(model(data))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(mask_variables(loaded)) == 5
    np.testing.assert_array_equal(compat.to_numpy(loaded(data)), expected)


# ---- bad input -----------------------------------------------------------------------------


def test_masks_of_another_shape_or_value_are_refused():
    layer = masked.MaskedDense(3)
    with pytest.raises(ValueError, match="built"):
        layer.set_mask(np.ones((5, 3)))
    layer.build((None, 5))
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(3, 5\)"):
        layer.set_mask(np.ones((3, 5)))
    with pytest.raises(ValueError, match="zeros and ones"):
        layer.set_mask(np.full((5, 3), 0.5))
    with pytest.raises(ValueError, match="'bias'"):
        layer.set_mask(np.ones((5, 3)), "bias")
    assert compat.to_numpy(layer.mask).all()


def test_only_built_layers_and_variables_can_be_masked():
    with pytest.raises(ValueError, match="built"):
        mask_layer(layers.Dense(3), ["kernel"])
    layer = layers.Dense(3)
    layer.build((None, 5))
    with pytest.raises(ValueError, match="'units'"):
        mask_layer(layer, ["units"])
    with pytest.raises(ValueError, match="'4'"):
        mask_layer(layer, {"4": ["kernel"]})
    assert type(layer) is layers.Dense


def test_weights_of_another_length_are_refused():
    layer = masked.MaskedDense(3)
    layer.build((None, 5))
    with pytest.raises(ValueError, match="length 1"):
        layer.set_weights([np.ones((5, 3))])
