"""Significance of models with masks, learned queries and open axes, and of layers left out."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency import edge_significance

RNG = np.random.default_rng(0)


def series(*shape):
    x = RNG.normal(size=shape).astype("float32")
    x[0, 4:] = 0
    return x


RECURRENT = {
    "LSTM": lambda: layers.LSTM(6),
    "GRU": lambda: layers.GRU(6),
    "SimpleRNN": lambda: layers.SimpleRNN(6),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(6)),
    "SDMA": lambda: keras_saliency.SDMACrossAttention(6, return_sequences=False),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_mask_changes_no_score_and_pruning_goes_through(name):
    x = series(24, 8, 4)

    def model(first):
        keras.utils.set_random_seed(1)
        i = keras.Input((8, 4))
        return keras.Model(i, layers.Dense(2)(RECURRENT[name]()(first(i))))

    masked, plain = model(layers.Masking(0.0)), model(layers.Activation("linear"))
    plain.set_weights(masked.get_weights())
    a = edge_significance(masked, scores="identity")
    b = edge_significance(plain, scores="identity")
    assert len(a) == len(b) > 1
    for first, second in zip(a.values(), b.values(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6)
    for options in ({}, {"method": "isparse", "reconstruct": False}):
        sparse = keras_saliency.sparsify(masked, 0.5, data=x, **options)
        assert keras_saliency.sparsity_report(sparse)["zeros"].sum() > 0
        assert np.isfinite(ops.convert_to_numpy(sparse(x))).all()


@keras.saving.register_keras_serializable("test_masked_sequences")
class Pool(layers.Layer):
    """Attention whose query is a weight."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.query = self.add_weight(shape=(1, 1, shape[-1]))
        self.attention.build((None, 1, shape[-1]), shape)

    def call(self, x):
        query = ops.broadcast_to(self.query, (ops.shape(x)[0], 1, ops.shape(x)[2]))
        return self.attention(query, x)[:, 0]


@keras.saving.register_keras_serializable("test_masked_sequences")
class Causal(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        n = ops.shape(x)[1]
        i = ops.arange(n)
        mask = ops.broadcast_to((i[:, None] >= i[None])[None], (ops.shape(x)[0], n, n))
        return x + self.attention(x, x, attention_mask=mask)


@keras.saving.register_keras_serializable("test_masked_sequences")
class Positions(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(shape[1], shape[2]))

    def call(self, x):
        return x + self.table


def network(length, layer):
    i = keras.Input((length, 8))
    h = layer(i)
    if len(h.shape) == 3:
        h = layers.GlobalAveragePooling1D()(layers.Dense(8, activation="relu")(h))
    return keras.Model(i, layers.Dense(2)(h))


def test_learned_queries_are_no_inputs():
    scores = edge_significance(network(5, Pool()), series(8, 5, 8))
    assert len(scores) == 5
    values = [score for name, score in scores.items() if name.endswith("value")]
    assert values and (values[0] > 0).all()


def test_open_axes_are_traced_at_the_extents_of_the_data():
    x = series(8, 5, 8)
    fixed, open_ended = network(5, Causal()), network(None, Causal())
    open_ended.set_weights(fixed.get_weights())
    a, b = edge_significance(fixed, x), edge_significance(open_ended, x)
    for first, second in zip(a.values(), b.values(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5)


def test_an_excluded_layer_needs_no_rule():
    model, x = network(5, Positions(name="positions")), series(40, 5, 8)
    with pytest.raises(ValueError, match=r"Positions.*register_significance_rule"):
        keras_saliency.sparsify(model, 0.5, data=x, method="isparse")
    sparse = keras_saliency.sparsify(
        model, 0.5, data=x, method="isparse", exclude="positions", reconstruct=False
    )
    table = next(layer for layer in sparse.layers if layer.name == "positions").table
    assert (ops.convert_to_numpy(table) != 0).all()
    report = keras_saliency.sparsity_report(sparse)
    assert report["zeros"].sum() == round(0.5 * report["size"].sum())
