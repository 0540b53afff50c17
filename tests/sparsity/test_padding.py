"""Padding takes no part in the refit: what lies there changes no weight."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency.sparsity.reconstruction.padding import draw, mask_for

SAMPLES, LENGTH, TOKENS = 32, 7, 13
# Keras's attention hands masks to layers that do not look at them.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")


def tokens(junk):
    """Sequences of 2 to 7 tokens; what lies behind them differs by `junk`."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, TOKENS, (SAMPLES, LENGTH)).astype("int32")
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (SAMPLES, 1))
    return {"token_ids": np.where(mask, ids, junk), "padding_mask": mask.astype("int32")}


def attentive():
    """Attention and feed-forward layer, with the mask as KerasHub's models take it."""
    ids = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    mask = keras.Input((LENGTH,), dtype="int32", name="padding_mask")
    x = layers.Embedding(TOKENS, 6, name="table")(ids)
    x = x + layers.MultiHeadAttention(2, 3)(x, x, attention_mask=mask[:, None, :])
    x = layers.Dense(5, name="last")(layers.Dense(11, activation="relu")(x))
    return keras.Model({"token_ids": ids, "padding_mask": mask}, x)


def carried():
    """The same with the mask that Keras carries along, 0 being padding."""
    ids = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    x = layers.Embedding(TOKENS, 6, mask_zero=True, name="table")(ids)
    x = layers.Dense(11, activation="relu")(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    return keras.Model(ids, layers.Dense(5, name="last")(x))


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = attentive()

    def build_from_config(self, config):
        self.built = True

    def call(self, inputs):
        return self.inner(inputs)


def refitted(model, data, **options):
    sparse = keras_saliency.sparsify(
        model, 0.5, data=data, exclude="table", gate=False, verbose=False, **options
    )
    return [np.array(ops.convert_to_numpy(w)) for w in sparse.weights]


@pytest.mark.parametrize("subclassed", (False, True))
def test_what_a_padding_mask_covers_is_not_fitted(subclassed):
    keras.utils.set_random_seed(0)
    model = Subclassed() if subclassed else attentive()
    model(tokens(0))
    for one, two in zip(refitted(model, tokens(0)), refitted(model, tokens(7)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_what_keras_masks_is_not_fitted():
    keras.utils.set_random_seed(0)
    model = carried()
    data = tokens(0)["token_ids"]
    before = refitted(model, data)[1:]
    table = model.get_layer("table")
    values = np.array(ops.convert_to_numpy(table.embeddings))
    values[0] = 3.0  # what a padded position holds
    table.embeddings.assign(values)
    for one, two in zip(before, refitted(model, data)[1:], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_without_a_mask_every_position_counts():
    keras.utils.set_random_seed(0)
    model = attentive()
    given = [tokens(junk) | {"padding_mask": np.ones((SAMPLES, LENGTH))} for junk in (0, 7)]
    pairs = zip(*(refitted(model, x) for x in given), strict=True)
    assert max(np.abs(one - two).max() for one, two in pairs) > 1e-3


def test_positions_are_drawn_where_tokens_are():
    mask = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    chosen, real = draw(np.random.default_rng(0), 4, 5, 200, mask)
    assert chosen is None and real is mask  # few positions: all are taken
    chosen, real = draw(np.random.default_rng(0), 4, 5, 4, mask)
    assert chosen.shape == real.shape == (4, 4) and real.all(1).tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert np.take_along_axis(mask, chosen, 1)[real].all()
    many = [draw(np.random.default_rng(i), 4, 5, 4, mask)[0] for i in range(60)]
    found = np.stack(many, 1).reshape(4, -1)
    assert set(found[0]) == {0, 1} and set(found[1]) == {2, 4} and set(found[3]) == set(range(5))


def test_a_mask_that_may_be_another_tensors_is_left_alone():
    x, mask = np.zeros((2, 3, 4)), np.array([[1, 1, 0], [1, 0, 0]], bool)
    assert mask_for(x, 3, [mask, mask.copy()]) is mask
    assert mask_for(x, 3, [mask, ~mask]) is None  # an encoder's and a decoder's
    assert mask_for(x, 12, [mask]) is None and mask_for(x[:, :2], 2, [mask]) is None
