"""Transformers: KerasHub's backbones from small configs, and small layers of the same make."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency.sparsity import (
    count_operations,
    edge_significance,
    register_significance_rule,
)
from keras_saliency.sparsity.shrinking.uniform import _Plan
from keras_saliency.sparsity.significance.scores import contract

SAMPLES, LENGTH, TOKENS = 32, 7, 31

# KerasHub's own layers pass masks to layers that do not look at them.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")


def tokens(seed=0, segments=False):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, TOKENS, (SAMPLES, LENGTH)).astype("int32")
    mask = np.ones((SAMPLES, LENGTH), "int32")
    ids[::2, -2:] = mask[::2, -2:] = 0
    found = {"token_ids": ids, "padding_mask": mask}
    return found | {"segment_ids": np.zeros_like(ids)} if segments else found


def images():
    return np.random.default_rng(0).normal(size=(SAMPLES, 16, 16, 3)).astype("float32")


def bert(models):
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 12, "intermediate_dim": 20}
    return models.BertBackbone(vocabulary_size=TOKENS, max_sequence_length=8, **sizes), tokens(
        segments=True
    )


def gpt2(models):
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 12, "intermediate_dim": 20}
    return models.GPT2Backbone(vocabulary_size=TOKENS, max_sequence_length=8, **sizes), tokens()


def llama(models):
    sizes = {"num_layers": 1, "hidden_dim": 16, "intermediate_dim": 20}
    heads = {"num_query_heads": 4, "num_key_value_heads": 2}
    return models.LlamaBackbone(vocabulary_size=TOKENS, **sizes, **heads), tokens()


def t5(models):
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 12, "intermediate_dim": 20}
    given = tokens()
    data = {f"{side}_{name}": x for side in ("encoder", "decoder") for name, x in given.items()}
    return models.T5Backbone(vocabulary_size=TOKENS, **sizes), data


def vit(models):
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 20}
    return models.ViTBackbone(image_shape=(16, 16, 3), patch_size=(8, 8), **sizes), images()


def resnet(models):
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    ), images()


@pytest.fixture
def models():
    return pytest.importorskip("keras_hub").models


def outputs(model, x):
    found = keras.tree.flatten(model.predict(x, verbose=0))
    return np.concatenate([np.asarray(y, "float64").ravel() for y in found])


@pytest.mark.parametrize("kind", [bert, gpt2, llama, t5, vit, resnet])
def test_keras_hub_backbone_is_scored_refitted_and_saved(models, kind, tmp_path):
    keras.utils.set_random_seed(0)
    model, x = kind(models)
    before = outputs(model, x)
    scores = edge_significance(model, x)
    assert all(np.isfinite(edges).all() for edges in scores.values())
    exact = keras_saliency.sparsify(model, 0.0)
    np.testing.assert_array_equal(outputs(exact, x), before)
    plain = keras_saliency.sparsify(model, 0.5, reconstruct=False, method="isparse", data=x)
    sparse, report = keras_saliency.sparsify(
        model, 0.5, data=x, method="isparse", return_report=True, gate=False
    )
    assert type(sparse) is type(model)
    taking = report.attrs["taking_part"]
    assert taking["zeros"] == round(0.5 * taking["size"])
    assert (report["error"].dropna() <= report["error_masked"].dropna() + 1e-9).all()

    def distance(net):
        return np.linalg.norm(outputs(net, x) - before)

    if kind is not t5:  # its untrained softmaxes are one-hot, so layers that fit do not add up
        assert distance(sparse) < distance(plain)
    np.testing.assert_array_equal(outputs(model, x), before)
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.saving.load_model(tmp_path / "sparse.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(sparse, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "task"), [(gpt2, "GPT2CausalLM"), (llama, "LlamaCausalLM")])
def test_a_copy_generates_the_same_tokens(models, kind, task):
    keras.utils.set_random_seed(1)
    backbone, _ = kind(models)
    model = getattr(models, task)(backbone=backbone, preprocessor=None)
    prompt = np.zeros((2, LENGTH), "int32")
    prompt[:, :3] = [[5, 9, 2], [7, 1, 11]]
    given = {"token_ids": prompt, "padding_mask": (prompt > 0).astype("int32")}

    def generated(net):
        net.compile(sampler="greedy")
        return np.asarray(net.generate(given, stop_token_ids=None)["token_ids"])

    copy = keras_saliency.sparsify(model, 0.0)
    assert type(copy) is type(model)
    np.testing.assert_array_equal(generated(copy), generated(model))


def test_grouped_heads_leave_by_group(models):
    model, x = llama(models)
    sparse = keras_saliency.sparsify(model, 0.5, data=x, granularity="head")
    (layer,) = [x for x in sparse._flatten_layers() if type(x).__name__ == "LlamaAttention"]
    query, key = (ops.convert_to_numpy(d.kernel) for d in (layer._query_dense, layer._key_dense))
    gone = ~key.any(axis=(0, 2))
    assert gone.sum() == 1
    np.testing.assert_array_equal(~query.any(axis=(0, 2)), np.repeat(gone, 2))


def test_t5_attention_scores_as_multi_head_attention(models):
    model, _ = t5(models)
    layer = model.get_layer("transformer_encoder_layer_0").self_attention
    inputs = keras.Input((LENGTH, 12))
    attention = layers.MultiHeadAttention(2, 6, use_bias=False, name="mha")
    plain = keras.Model(inputs, attention(inputs, inputs))
    roles = ("query", "key", "value", "output")
    for role in roles:
        dense = getattr(attention, f"_{role}_dense")
        kernel = ops.convert_to_numpy(getattr(layer, f"{role}_projector").kernel)
        dense.kernel.assign(kernel.reshape(dense.kernel.shape))

    class Alone(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = layer

        def call(self, x):
            return self.attention(x)[0]

    alone = Alone()
    data = np.random.default_rng(0).normal(size=(SAMPLES, LENGTH, 12)).astype("float32")
    alone(data)
    found = edge_significance(alone, data, "identity")
    expected = edge_significance(plain, data, "identity")
    names = ("query", "key", "value", "attention_output")
    for role, name in zip(roles, names, strict=True):
        a, b = found[f"{layer.name}/{role}_projector"], expected[f"mha/{name}"]
        np.testing.assert_allclose(a.ravel() / a.max(), b.ravel() / b.max(), rtol=1e-5)


def test_two_of_four_leaves_tables_dense(models):
    model, x = bert(models)
    _, report = keras_saliency.sparsify(model, 0.5, granularity=(2, 4), data=x, return_report=True)
    report = report.set_index("layer")
    assert "table" in report["reason"]["token_embedding"]
    assert report["sparsity"]["transformer_layer_0/feedforward_output_dense"] == 0.5


# Layers of the same make in plain Keras.


class CachedAttention(layers.MultiHeadAttention):
    """As KerasHub's: an argument of which the parent's `compute_output_spec` knows nothing."""

    def call(self, query, value, cache=None, training=None):
        return super().call(query, value, training=training)


class Pair(layers.Layer):
    """It returns `None` beside a tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, cache=None):
        return self.dense(x), cache


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = CachedAttention(2, 3, name="attention")
        self.pair = Pair(name="pair")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.pair.build(shape)

    def call(self, x):
        x = x + self.attention(x, x, cache=None)
        positions = ops.arange(ops.shape(x)[1], dtype="float32")  # fails where it is not known
        return self.pair(x)[0] * ops.reshape(positions + 1, (1, -1, 1))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 5)


@pytest.mark.parametrize("data", [True, False])
def test_layers_that_keras_cannot_tell_the_shape_of_are_looked_into(data):
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, layers.Dense(2, name="head")(Block(name="block")(inputs)))
    x = np.random.default_rng(0).normal(size=(SAMPLES, LENGTH, 4)).astype("float32")
    scores = edge_significance(model, x if data else None, "identity")
    names = ("query", "key", "value", "attention_output")
    keys = [f"block/attention/{name}" for name in names] + ["block/pair/dense", "head"]
    assert sorted(scores) == sorted(keys)
    assert all(edges.min() >= 0 and edges.max() > 0 for edges in scores.values())
    assert type(model.get_layer("block").pair) is Pair  # as it was
    assert "symbolic_call" not in model.get_layer("block").pair.__dict__


class Positions(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(LENGTH, 4, name="table")

    def build(self, shape):
        self.table.build((LENGTH,))

    def call(self, x):
        return x + self.table(np.arange(LENGTH))


def test_a_table_of_positions_is_masked_by_magnitude():
    inputs = keras.Input((LENGTH, 4))
    hidden = Positions(name="positions")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(hidden))
    sparse = keras_saliency.sparsify(model, 0.5, method="isparse", scope="layer")
    before, after = (
        ops.convert_to_numpy(m.get_layer("positions").table.embeddings) for m in (model, sparse)
    )
    assert (after == 0).sum() == LENGTH * 2
    assert abs(before[after == 0]).max() <= abs(after[after != 0]).min()


def test_rules_are_found_by_the_package_of_classes_that_are_not_registered():
    class Shift(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=shape[-1:])

        def call(self, x):
            return x + self.w

    package = Shift.__module__.split(".")[0]
    register_significance_rule(f"{package}>Shift", kernels=())(lambda call: call.output_scores[0])
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), Shift(), layers.Dense(2)]
    )
    assert edge_significance(model, scores="identity")["a"].shape == (4, 3)


@pytest.mark.parametrize("kind", [bert, gpt2, llama, vit])
def test_uniform_keeps_the_class_and_the_function_of_what_stays(models, kind, tmp_path):
    keras.utils.set_random_seed(2)
    model, x = kind(models)
    width = {"vit": "mlp_dim"}.get(kind.__name__, "intermediate_dim")
    units = 20
    kernels = [v for v in model.trainable_weights if v.shape[0] == units and len(v.shape) == 2]
    for kernel in kernels:  # nothing reads the first units, so nothing is lost with them
        values = ops.convert_to_numpy(kernel).copy()
        values[:9] = 0
        kernel.assign(values)
    each = sum(int(np.prod(v.shape)) // units for v in model.weights if units in v.shape)
    share = 1 - 8 * each / model.count_params()
    options = {"round_to": 4, "uniform": True, "verbose": False}
    small = keras_saliency.shrink_to(model, parameters=share, data=x, reconstruct=False, **options)
    assert type(small) is type(model)
    assert small.get_config()[width] == 12
    assert small.count_params() == model.count_params() - 8 * each
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), rtol=1e-4, atol=1e-4)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(small, x), rtol=1e-5, atol=1e-5)


def gemma(models):
    sizes = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 40, "head_dim": 6}
    heads = {"num_query_heads": 4, "num_key_value_heads": 1}
    return models.GemmaBackbone(vocabulary_size=TOKENS, **sizes, **heads), tokens()


def qwen3(models):
    sizes = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 20, "head_dim": 6}
    heads = {"num_query_heads": 8, "num_key_value_heads": 4}
    return models.Qwen3Backbone(vocabulary_size=TOKENS, **sizes, **heads), tokens()


def t5_of_heads(models):
    sizes = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 20, "key_value_dim": 6}
    data = {f"{s}_{name}": x for s in ("encoder", "decoder") for name, x in tokens().items()}
    return models.T5Backbone(vocabulary_size=TOKENS, num_heads=4, **sizes), data


@pytest.mark.parametrize("kind", [gemma, qwen3, t5_of_heads])
def test_uniform_takes_heads_where_the_class_takes_their_size(models, kind, tmp_path):
    keras.utils.set_random_seed(2)
    model, x = kind(models)
    plan = _Plan(model, "parameters", x)
    width, heads = plan.extents
    assert (width.units, heads.units) == (20, 4)
    for extent, count in ((width, 12), (heads, 3)):  # nothing comes from the last ones
        for index, axis in extent.axes.items():
            values = np.moveaxis(np.array(ops.convert_to_numpy(model.weights[index])), axis, 0)
            values[values.shape[0] // extent.units * count :] = 0
            model.weights[index].assign(np.moveaxis(values, 0, axis))
    share = plan.make([12, 3]).count_params() / model.count_params()
    options = {"uniform": True, "round_to": 1, "verbose": False, "data": x}
    small = keras_saliency.shrink_to(model, parameters=share, reconstruct=False, **options)
    assert type(small) is type(model) and small.count_params() <= share * model.count_params()
    before, after = model.get_config(), small.get_config()
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert (
        changed
        == {
            "gemma": {"intermediate_dim": (40, 24), "num_query_heads": (4, 3)},
            "qwen3": {
                "intermediate_dim": (20, 12),
                "num_query_heads": (8, 6),
                "num_key_value_heads": (4, 3),
            },
            "t5_of_heads": {"intermediate_dim": (20, 12), "num_heads": (4, 3)},
        }[kind.__name__]
    )
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), rtol=1e-4, atol=1e-4)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(small, x), rtol=1e-5, atol=1e-5)


class Chain(layers.Layer):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def build(self, shape):
        for part in self.parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Mixer(keras.Model):
    """Heads without attention, added up, or averaged, which depends on how many there are."""

    def __init__(self, intermediate_dim, num_heads, head_dim, averaged, **kwargs):
        super().__init__(**kwargs)
        self.sizes = {"intermediate_dim": intermediate_dim, "num_heads": num_heads}
        self.sizes |= {"head_dim": head_dim, "averaged": averaged}
        self.block = Chain(
            [
                layers.EinsumDense("btd,dnh->btnh", (None, num_heads, head_dim)),
                layers.EinsumDense("btnh,nhd->btd", (None, 6)),
                layers.Rescaling(1 / num_heads if averaged else 1),
                layers.Dense(intermediate_dim, activation="relu"),
                layers.Dense(6),
            ]
        )
        self.block.build((None, LENGTH, 6))
        self.built = True

    def call(self, x):
        return self.block(x)

    def get_config(self):
        return super().get_config() | self.sizes


@pytest.mark.parametrize("averaged", (False, True))
def test_heads_stay_where_their_number_changes_what_a_model_computes(averaged):
    keras.utils.set_random_seed(0)
    model = Mixer(24, 4, 5, averaged)
    x = np.random.default_rng(0).normal(size=(8, LENGTH, 6)).astype("float32")
    plan = _Plan(model, "parameters", x)
    assert len(plan.extents) == 2
    assert len(plan.sizes_for(0.7, 1)) == (1 if averaged else 2)


def test_uniform_meets_operations_and_is_refitted(models):
    keras.utils.set_random_seed(3)
    model, x = bert(models)
    found = {}
    for reconstruct in (True, False):
        small = keras_saliency.shrink_to(
            model,
            flops=0.8,
            data=x,
            uniform=True,
            round_to=1,
            reconstruct=reconstruct,
            gate=False,
            verbose=False,
        )
        found[reconstruct] = np.linalg.norm(outputs(small, x) - outputs(model, x))
    shapes = [(1, LENGTH)] * 3
    spent = count_operations(small, shapes) / count_operations(model, shapes)
    assert 0.8 - 0.03 < spent <= 0.8
    assert found[True] < found[False]


def test_uniform_refuses_a_model_whose_config_names_no_width():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    with pytest.raises(ValueError, match="intermediate_dim"):
        keras_saliency.shrink_to(model, parameters=0.5, uniform=True)
    with pytest.raises(ValueError, match="Leave out `channels`"):
        keras_saliency.shrink_to(model, channels=0.5, uniform=True)


def attending(kind, bias=True):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((LENGTH, 11))
    if kind == "grouped":
        attention = layers.GroupQueryAttention(3, 6, 3, use_bias=bias, name="attention")
    else:
        attention = layers.MultiHeadAttention(5, 3, use_bias=bias, name="attention")
    hidden = layers.Add()([inputs, attention(inputs, inputs)])
    hidden = layers.LayerNormalization()(hidden)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(hidden)))
    for v in model.weights:
        v.assign(v + 0.1 * np.random.default_rng(1).normal(size=v.shape))
    x = np.random.default_rng(0).normal(size=(SAMPLES, LENGTH, 11)).astype("float32")
    return model, x


def heads_of(model):
    config = model.get_layer("attention").get_config()
    names = ("num_heads", "num_query_heads", "num_key_value_heads")
    return [config[name] for name in names if name in config]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "left"), [("plain", [3]), ("grouped", [4, 2])])
def test_masked_heads_leave_and_nothing_changes(kind, left, bias, tmp_path):
    model, x = attending(kind, bias)
    share = 0.4 if kind == "plain" else 1 / 3
    masked = keras_saliency.sparsify(model, share, data=x, granularity="head", layers="attention")
    small = keras_saliency.shrink(masked, verbose=False)
    assert heads_of(small) == left
    np.testing.assert_allclose(outputs(small, x), outputs(masked, x), rtol=1e-5, atol=1e-5)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(small, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "left"), [("plain", [3]), ("grouped", [4, 2])])
def test_heads_leave_to_a_budget_and_the_output_is_refitted(kind, left):
    model, x = attending(kind)
    found = {}
    for reconstruct in (True, False):
        small = keras_saliency.shrink_to(
            model, channels=0.65, data=x, reconstruct=reconstruct, gate=False, verbose=False
        )
        assert heads_of(small) == left
        found[reconstruct] = np.linalg.norm(outputs(small, x) - outputs(model, x))
    assert found[True] < found[False]
    small = keras_saliency.shrink_to(model, flops=0.7, data=x, verbose=False)
    spent = count_operations(small) / count_operations(model)
    assert 0.4 < spent <= 0.7


@pytest.mark.parametrize("masked", [False, True])
def test_a_kernel_whose_inputs_lie_between_its_outputs_is_summed(masked):
    rng = np.random.default_rng(0)
    kernel, factor = rng.normal(size=(2, 5, 3)), rng.random((2, 1, 3))
    mask = rng.random(kernel.shape) < 0.5 if masked else None
    wanted = abs(kernel * (1 if mask is None else mask)) * factor
    np.testing.assert_allclose(contract(kernel, mask, factor, keep=(1,)), wanted.sum((0, 2)))


def test_gemma_backbone_is_pruned(models):
    sizes = {"num_layers": 1, "hidden_dim": 12, "intermediate_dim": 20, "head_dim": 4}
    heads = {"num_query_heads": 4, "num_key_value_heads": 2}
    model, x = models.GemmaBackbone(vocabulary_size=TOKENS, **sizes, **heads), tokens()
    sparse = keras_saliency.sparsify(model, 0.5, data=x, method="isparse", gate=False)
    assert type(sparse) is type(model)
    assert np.isfinite(outputs(sparse, x)).all()
