"""`shrink_to(blocks=)`: whole residual blocks leave, found in graphs and in KerasHub's classes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency.sparsity.shrinking.blocks import blocks_of_graph, choose, influence

SAMPLES, LENGTH, WIDTH, TOKENS = 32, 5, 8, 23

# KerasHub's own layers pass masks to layers that do not look at them.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")


def series(seed=0):
    return np.random.default_rng(seed).normal(size=(SAMPLES, LENGTH, WIDTH)).astype("float32")


def outputs(model, x):
    found = keras.tree.flatten(model(x, training=False))
    return np.concatenate([np.asarray(ops.convert_to_numpy(y), "float64").ravel() for y in found])


def shorter(model, x, share=0.5, **options):
    options = {"reconstruct": False, "verbose": False} | options
    return keras_saliency.shrink_to(model, blocks=share, data=x, **options)


def set_zero(*dense):
    for layer in dense:
        for v in layer.weights:
            v.assign(np.zeros(v.shape))


def disturb(model, seed=1):
    rng = np.random.default_rng(seed)
    for v in model.trainable_weights:
        v.assign(v + 0.1 * rng.normal(size=v.shape))


def encoder(depth=2, operator=False):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((LENGTH, WIDTH))
    for i in range(depth):
        h = layers.LayerNormalization(name=f"norm_a{i}")(x)
        h = layers.MultiHeadAttention(2, 4, name=f"attention{i}")(h, h)
        x = x + h if operator else layers.Add(name=f"add_a{i}")([x, h])
        h = layers.LayerNormalization(name=f"norm_f{i}")(x)
        h = layers.Dense(11, activation="relu", name=f"wide{i}")(h)
        h = layers.Dropout(0.1)(layers.Dense(WIDTH, name=f"narrow{i}")(h))
        x = h + x if operator else layers.Add(name=f"add_f{i}")([h, x])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(name="norm")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    disturb(model)
    return model


@pytest.mark.parametrize("operator", [True, False])
def test_blocks_that_do_nothing_leave_and_nothing_changes(operator, tmp_path):
    model, x = encoder(operator=operator), series()
    names = [block.name for block in blocks_of_graph(model)]
    assert names == ["attention0", "narrow0", "attention1", "narrow1"]
    set_zero(model.get_layer("attention1")._output_dense, model.get_layer("narrow0"))
    before = outputs(model, x)
    small = shorter(model, x)
    left = {layer.name for layer in small.layers}
    assert {"attention0", "norm_a0", "narrow1", "wide1", "norm_f1", "head"} <= left
    assert not {"attention1", "norm_a1", "narrow0", "wide0", "norm_f0"} & left
    np.testing.assert_allclose(outputs(small, x), before, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs(model, x), before)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(small, x), rtol=1e-5, atol=1e-5)


def test_influence_is_one_minus_cosine():
    model, x = encoder(1), series()
    tensors = [model.get_layer(name).output for name in ("add_a0", "add_f0")]
    a, b = keras.Model(model.inputs[0], tensors).predict(x, verbose=0)
    found = influence(model, blocks_of_graph(model), x, batch_size=7)

    def change(p, q):
        p, q = p.reshape(-1, WIDTH), q.reshape(-1, WIDTH)
        norms = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
        return (1 - (p * q).sum(1) / norms).mean()

    np.testing.assert_allclose(found, [change(x, a), change(a, b)], rtol=1e-4)
    assert "call" not in model.get_layer("add_a0").__dict__


def test_what_stays_is_refitted():
    model, x = encoder(), series()
    before = outputs(model, x)
    found = [
        np.linalg.norm(outputs(shorter(model, x, reconstruct=fits, gate=False), x) - before)
        for fits in (True, False)
    ]
    assert found[0] < 0.8 * found[1]


def test_excluded_blocks_stay_and_steps_train_between():
    model, x = encoder(), series()
    set_zero(model.get_layer("attention1")._output_dense, model.get_layer("narrow0"))
    small = shorter(model, x, exclude=["norm_a1", "wide0"])
    left = {layer.name for layer in small.layers}
    assert {"attention1", "narrow0"} <= left and len(blocks_of_graph(small)) == 2
    seen = []
    small = shorter(model, x, 0.25, steps=3, fine_tune=lambda m: seen.append(len(m.layers)))
    assert len(seen) == 2 and seen[0] > seen[1] > len(small.layers)
    assert len(blocks_of_graph(small)) == 1


def test_compiled_stays_compiled_and_trains():
    model, x = encoder(1), series()
    model.compile("sgd", "mse")
    small = shorter(model, x)
    history = small.fit(x, np.zeros((SAMPLES, 3)), verbose=0).history
    assert np.isfinite(history["loss"]).all()


@keras.saving.register_keras_serializable("test_blocks")
class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.dense = layers.Dense(WIDTH, name="dense")

    def build(self, shape):
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x):
        return x + self.dense(self.norm(x))


@pytest.mark.parametrize("kind", ["sequential", "functional", "nested"])
def test_layers_made_of_layers_are_blocks(kind, tmp_path):
    blocks = [Block(name=f"block{i}") for i in range(3)]
    if kind == "sequential":
        model = keras.Sequential([keras.Input((LENGTH, WIDTH)), *blocks, layers.Dense(2)])
    else:
        x = inputs = keras.Input((LENGTH, WIDTH))
        for block in blocks:
            x = block(x)
        model = keras.Model(inputs, x, name="body")
        if kind == "nested":
            inputs = keras.Input((LENGTH, WIDTH))
            model = keras.Model(inputs, layers.Dense(2)(model(inputs)))
    disturb(model)
    x = series()
    set_zero(blocks[1].dense)
    before = outputs(model, x)
    small = shorter(model, x, 2 / 3)
    names = {layer.name for layer in small._flatten_layers() if isinstance(layer, Block)}
    assert names == {"block0", "block2"} and type(small) is type(model)
    np.testing.assert_allclose(outputs(small, x), before, rtol=1e-5, atol=1e-5)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(small, x), rtol=1e-5, atol=1e-5)


def test_what_is_no_block():
    inputs = keras.Input((LENGTH, WIDTH))
    a = layers.Dense(WIDTH, name="a")(inputs)
    b = layers.Dense(WIDTH, name="b")(a)
    x = layers.Add()([a, b])
    x = layers.Add()([x, layers.Dense(WIDTH, name="shortcut")(inputs)])  # starts elsewhere
    x = layers.Add()([x, layers.Activation("tanh")(x)])  # nothing to remove
    c = layers.Dense(WIDTH, name="c")(x)
    x = layers.Add()([x, c])
    model = keras.Model(inputs, [x, c])  # what a block makes is an output
    assert [block.name for block in blocks_of_graph(model)] == ["b"]


def test_a_skip_around_blocks_is_none():
    x = inputs = keras.Input((LENGTH, WIDTH))
    for i in range(2):
        x = x + layers.Dense(WIDTH, name=f"dense{i}")(x)
    model = keras.Model(inputs, inputs + x)
    assert [block.name for block in blocks_of_graph(model)] == ["dense0", "dense1"]


def test_convolutions():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same")(x)
    for i in range(2):
        h = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", name=f"conv{i}")(x))
        x = layers.ReLU()(layers.Add()([x, h]))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    data = np.random.default_rng(0).normal(size=(SAMPLES, 6, 6, 3)).astype("float32")
    small = shorter(model, data, reconstruct=True)
    assert len([x for x in small.layers if x.name in ("conv0", "conv1")]) == 1
    assert np.isfinite(outputs(small, data)).all()


def test_choose_keeps_the_best_that_fit():
    scores = np.array([0.1, 0.5, 0.2, 0.4])
    assert choose(scores, 2, lambda index, place: True) == [1, 3]
    assert choose(scores, 2, lambda index, place: index % 2 == place % 2) == [2, 3]
    assert choose(scores, 2, lambda index, place: index == 0) is None


def test_refusals():
    model, x = encoder(1), series()
    with pytest.raises(ValueError, match="`blocks` asks for `data`"):
        shorter(model, None)
    with pytest.raises(ValueError, match="removes nothing of the 2 blocks"):
        shorter(model, x, 0.9)
    with pytest.raises(ValueError, match="Leave out `method`"):
        shorter(model, x, method="magnitude")
    with pytest.raises(ValueError, match="Leave out `blocks`"):
        shorter(model, x, uniform=True)
    plain = keras.Sequential([keras.Input((LENGTH, WIDTH)), layers.Dense(3), layers.Dense(2)])
    with pytest.raises(ValueError, match="No residual blocks are found"):
        shorter(plain, x)


# KerasHub.


def tokens(*names):
    ids = np.random.default_rng(0).integers(1, TOKENS, (SAMPLES, LENGTH)).astype("int32")
    rest = {"padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    return {"token_ids": ids} | {name: rest[name] for name in names}


SIZES = {"num_layers": 3, "num_heads": 2, "hidden_dim": WIDTH}
TEXT = {"vocabulary_size": TOKENS, "max_sequence_length": LENGTH, "intermediate_dim": 11}


def bert(models):
    return models.BertBackbone(**SIZES, **TEXT), tokens("padding_mask", "segment_ids")


def gpt2(models):
    return models.GPT2Backbone(**SIZES, **TEXT), tokens("padding_mask")


def vit(models):
    model = models.ViTBackbone(image_shape=(8, 8, 3), patch_size=(4, 4), mlp_dim=11, **SIZES)
    images = np.random.default_rng(0).normal(size=(SAMPLES, 8, 8, 3)).astype("float32")
    return model, images


@pytest.fixture
def models():
    return pytest.importorskip("keras_hub").models


def is_block(layer):
    return type(layer).__name__ in ("TransformerEncoder", "TransformerDecoder", "ViTEncoderBlock")


def writers(block):
    """The kernels that write to the stream."""
    found = block._flatten_layers(include_self=False)
    names = ("attention_output", "feedforward_output_dense", "dense_2", "output_dense")
    return [x for x in found if x.name in names or x.name.endswith("_dense_2")]


@pytest.mark.parametrize("kind", [bert, gpt2, vit])
def test_keras_hub_backbone_keeps_its_class(models, kind, tmp_path):
    keras.utils.set_random_seed(0)
    model, x = kind(models)
    blocks = [layer for layer in model._flatten_layers() if is_block(layer)]
    assert len(blocks) == 3
    for block in (blocks[0], blocks[2]):
        for layer in writers(block):
            layer.kernel.assign(layer.kernel * 20)
    assert len(writers(blocks[1])) == 2
    set_zero(*writers(blocks[1]))
    before = outputs(model, x)
    small = shorter(model, x, 2 / 3)
    assert type(small) is type(model) and small.num_layers == 2
    np.testing.assert_allclose(outputs(small, x), before, rtol=1e-4, atol=1e-4)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(small, x), rtol=1e-5, atol=1e-5)


def test_keras_hub_task_keeps_its_class_and_is_refitted(models):
    keras.utils.set_random_seed(0)
    backbone, x = bert(models)
    model = models.BertTextClassifier(backbone=backbone, num_classes=2, preprocessor=None)
    disturb(model)
    before = outputs(model, x)
    small = shorter(model, x, 2 / 3, reconstruct=True, gate=False)
    assert type(small) is type(model) and small.backbone.num_layers == 2
    alone = shorter(model, x, 2 / 3)
    change, other = (np.linalg.norm(outputs(m, x) - before) for m in (small, alone))
    assert change < other


def test_encoder_and_decoder_get_shorter_together(models):
    keras.utils.set_random_seed(0)
    model = models.BartBackbone(**(SIZES | {"num_layers": 2}), **TEXT)
    disturb(model)
    given = tokens("padding_mask")
    x = {f"{side}_{name}": v for side in ("encoder", "decoder") for name, v in given.items()}
    small = shorter(model, x)  # which compares it with the model whose blocks are bypassed
    assert type(small) is type(model) and small.num_layers == 1
    name = "decoder_position_embedding"
    for a, b in zip(model.get_layer(name).weights, small.get_layer(name).weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_albert_shares_its_layers_and_is_refused(models):
    model = models.AlbertBackbone(**SIZES, **TEXT, embedding_dim=4)
    with pytest.raises(ValueError, match="none of them shared"):
        shorter(model, tokens("padding_mask", "segment_ids"))
