"""Exact copies, and plain results: what `sparsify` and `strip_masks` hand back is Keras's own."""

import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency.graph.copying import copy_model
from keras_saliency.layers.masked.base import MaskedKernels

RNG = np.random.default_rng(0)
register = keras.saving.register_keras_serializable("test_copies")


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def outputs(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def adapted():
    norm = layers.Normalization()
    norm.adapt(RNG.normal(5, 3, size=(50, 8)).astype("float32"))
    return keras.Sequential([keras.Input((8,)), norm, layers.Dense(6), layers.Dense(2)])


def shared():
    """A layer that stands in a submodel and around it, and one that is called twice."""
    dense, twice = layers.Dense(8, name="shared"), layers.Dense(8, name="twice")
    inner = keras.Input((8,))
    submodel = keras.Model(inner, dense(twice(inner)), name="submodel")
    x = keras.Input((8,))
    return keras.Model(x, layers.Dense(2)(twice(dense(submodel(x)))))


def frozen():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6), layers.BatchNormalization(), layers.Dense(2)]
    )
    model.layers[0].trainable = False
    return model


def with_lora():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(2)])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(normal(2, 6))
    return model


def masked():
    return keras_saliency.sparsify(frozen(), 0.5, method="magnitude", scope="layer", masked=True)


@register
class Block(layers.Layer):
    """Holds its layers in a list."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.parts = [layers.Dense(2 * units, activation="relu"), layers.Dense(units)]

    def build(self, shape):
        self.parts[0].build(shape)
        self.parts[1].build((*shape[:-1], 2 * self.units))

    def call(self, x):
        return x + self.parts[1](self.parts[0](x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Backbone(keras.Model):
    """A functional subclass with a config of its own."""

    def __init__(self, width=8, **kwargs):
        x = keras.Input((width,))
        super().__init__(inputs=x, outputs=layers.Dense(2)(Block(width)(x)), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


KINDS = [adapted, shared, frozen, with_lora, masked, Backbone]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_copy_computes_the_same_and_shares_nothing(make):
    model, x = make(), normal(5, 8)
    before = outputs(model, x)
    copy = copy_model(model)
    assert type(copy) is type(model)
    np.testing.assert_array_equal(outputs(copy, x), before)
    assert [v.trainable for v in copy.variables] == [v.trainable for v in model.variables]
    assert [v.shape for v in copy.variables] == [v.shape for v in model.variables]
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    for variable in copy.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    np.testing.assert_array_equal(outputs(model, x), before)


def test_copies_draw_no_random_weights(monkeypatch):
    model = frozen()

    def draw(*args, **kwargs):
        raise RuntimeError("a number was drawn that is overwritten at once")

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", draw)
    copy = copy_model(model)
    # The copy's own config still names the initializer.
    assert isinstance(copy.layers[0].kernel_initializer, keras.initializers.GlorotUniform)


def test_a_model_that_cannot_be_copied_is_named_and_changed_in_place():
    class Fixed(keras.Model):
        def __init__(self, table):
            super().__init__()
            self.table = table
            self.dense = layers.Dense(4)

        def call(self, x):
            return self.dense(x * self.table)

    model, x = Fixed(np.arange(8.0)), normal(5, 8)
    model(x)
    with pytest.raises(ValueError, match=r"'table'.*inplace=True"):
        keras_saliency.sparsify(model, 0.5, method="magnitude")
    kernel = ops.convert_to_numpy(model.dense.kernel).copy()
    assert keras_saliency.sparsify(model, 0.5, method="magnitude", inplace=True) is model
    sparse = ops.convert_to_numpy(model.dense.kernel)
    assert (sparse == 0).sum() == 16
    np.testing.assert_array_equal(sparse[sparse != 0], kernel[sparse != 0])


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_sparse_model_is_plain_keras(make, tmp_path):
    model, x = make(), normal(5, 8)
    before = outputs(model, x)
    sparse, report = keras_saliency.sparsify(
        model, 0.5, method="magnitude", scope="layer", return_report=True
    )
    assert not any(isinstance(layer, MaskedKernels) for layer in sparse._flatten_layers())
    assert not any(getattr(x, "lora_enabled", False) for x in sparse._flatten_layers())
    assert (report["zeros"] == (report["size"] * 0.5).round()).all()
    assert (report["target"] == 0.5).all()
    for layer in sparse._flatten_layers():
        if isinstance(layer, layers.Dense):
            kernel = ops.convert_to_numpy(layer.kernel)
            assert (kernel == 0).sum() == round(0.5 * kernel.size)
    np.testing.assert_array_equal(outputs(model, x), before)
    if make is shared:  # Keras 3.15 cannot load such a file of its own
        return
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.saving.load_model(tmp_path / "sparse.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(sparse, x), atol=1e-6)
    assert np.abs(outputs(pickle.loads(pickle.dumps(sparse)), x) - outputs(sparse, x)).max() < 1e-6


@pytest.mark.parametrize("make", KINDS[:4], ids=lambda make: make.__name__)
def test_no_sparsity_is_an_exact_copy(make):
    model, x = make(), normal(5, 8)
    copy = keras_saliency.sparsify(model, 0.0, method="magnitude")
    np.testing.assert_allclose(outputs(copy, x), outputs(model, x), atol=1e-6)


def test_in_place_and_a_copy_have_the_same_zeros_and_in_place_keeps_the_optimizer():
    model, x = with_lora(), normal(16, 8)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, x[:, :2], verbose=0)
    optimizer, steps = model.optimizer, int(model.optimizer.iterations)
    sparse = keras_saliency.sparsify(model, 0.6, data=x)
    same = keras_saliency.sparsify(model, 0.6, data=x, inplace=True)
    assert same is model and model.optimizer is optimizer
    assert int(model.optimizer.iterations) == steps
    for a, b in zip(sparse.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="masked=True"):
        keras_saliency.sparsify(model, 0.5, method="magnitude", inplace=True, masked=True)


def test_compile_settings_of_ones_own_travel():
    class Fourth(keras.losses.Loss):
        def call(self, a, b):
            return ops.mean((a - b) ** 4, -1)

    def cubed(a, b):
        return ops.mean(ops.abs(a - b) ** 3)

    x, y = normal(32, 8), normal(32, 2)
    model = frozen()
    model.compile("adam", Fourth(), metrics=[cubed], loss_weights=[3.0])
    expected = model.evaluate(x, y, verbose=0)
    for copy in (
        keras_saliency.sparsify(model, 0.0, method="magnitude"),
        keras_saliency.strip_masks(masked_like(model)),
        copy_model(model),
    ):
        np.testing.assert_allclose(copy.evaluate(x, y, verbose=0), expected, rtol=1e-5)
    frame = keras_saliency.sensitivity(model, (x, y), sparsities=(0.5,), method="magnitude")
    np.testing.assert_allclose(frame["loss"][0], expected[0], rtol=1e-5)


def masked_like(model):
    return keras_saliency.sparsify(model, 0.0, method="magnitude", masked=True)


def test_tied_weights_agree_between_masked_and_stripped():
    @register
    class Tied(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.encoder = layers.Dense(6, activation="relu")

        def build(self, shape):
            self.encoder.build(shape)
            self.built = True

        def call(self, x):
            return ops.matmul(self.encoder(x), ops.transpose(self.encoder.kernel))

        def get_config(self):
            return super().get_config()

    x = normal(4, 10)
    model = Tied()
    model(x)
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude", masked=True)
    stripped = keras_saliency.strip_masks(sparse)
    np.testing.assert_allclose(outputs(sparse, x), outputs(stripped, x), atol=1e-6)


def test_a_constraint_is_met_by_the_kernel_in_use():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, kernel_constraint="unit_norm"), layers.Dense(2)]
    )
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude", masked=True)
    sparse.compile("adam", "mse")
    x = normal(64, 8)
    sparse.fit(x, x[:, :2], epochs=2, verbose=0)
    kernel = keras_saliency.strip_masks(sparse).layers[0].get_weights()[0]
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-3)


def test_masks_cover_a_lora_update():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(2)])
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude", scope="layer", masked=True)
    x = normal(5, 8)
    sparse.layers[0].enable_lora(2)
    sparse.layers[0].lora_kernel_b.assign(normal(2, 6))
    stripped = keras_saliency.strip_masks(sparse)
    np.testing.assert_allclose(outputs(sparse, x), outputs(stripped, x), atol=1e-5)
    assert (stripped.layers[0].get_weights()[0] == 0).sum() == 24


def test_pruning_again_loses_no_zero():
    once = keras_saliency.sparsify(frozen(), 0.5, method="magnitude", scope="layer", masked=True)
    twice = keras_saliency.sparsify(once, 0.25, method="magnitude", scope="layer")
    kernel = twice.layers[0].get_weights()[0]
    assert (kernel == 0).sum() == 24


@register
class Around(keras.Model):
    """Holds another model, and writes it into its config."""

    def __init__(self, backbone=None, **kwargs):
        x = keras.Input((8,))
        super().__init__(inputs=x, outputs=layers.Dense(2)(backbone(x)), **kwargs)
        self.backbone = backbone

    def get_config(self):
        return {"backbone": keras.saving.serialize_keras_object(self.backbone), "name": self.name}

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


def in_a_functional_model():
    x = keras.Input((8,))
    return keras.Model(x, layers.Dense(2)(Backbone()(x)))


@pytest.mark.parametrize("make", [Backbone, lambda: Around(Backbone()), in_a_functional_model])
def test_masked_models_of_models_save_and_load(make, tmp_path):
    sparse, x = masked_like(make()), normal(5, 8)
    sparse = keras_saliency.sparsify(sparse, 0.5, method="magnitude", scope="layer", masked=True)
    sparse.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(sparse, x))
    masks = [keras_saliency.sparsity_report(m)["zeros"].tolist() for m in (sparse, loaded)]
    assert masks[0] == masks[1] and min(masks[0]) > 0
