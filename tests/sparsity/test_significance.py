"""Significance of edges against what the layers themselves do, and against hand-made nets.

With `|W|` for W, no bias and no activation a layer is linear, and equation 4.8 says: the
significance of an input channel is what the layer makes of a 1 in that channel. `probed` asks
the layer, so it shares no code with the rules.
"""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency import edge_significance, inffs
from keras_saliency.sparsity import SignificanceWalk, maskable_kernels, register_significance_rule

rng = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x).astype(np.float64)


def randomize(model, seed=0):
    generator = np.random.default_rng(seed)
    for v in model.weights:
        if keras.backend.is_float_dtype(v.dtype):
            values = generator.normal(size=v.shape)
            v.assign(abs(values) if "variance" in v.name else values)
    return model


def proportional(found, expected, rtol=1e-5):
    """Equal up to one positive factor."""
    assert found.shape == expected.shape
    assert expected.max() > 0
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), rtol=rtol, atol=1e-9)


def neuron_scores(model, name="first"):
    """What an edge score is beyond its weight: the significance of the neuron it leads to."""
    scores = edge_significance(model, scores="identity")[name]
    return (scores / np.abs(numpy(model.get_layer(name).kernel))).reshape(-1, scores.shape[-1])[0]


def probed(make, shape, channels):
    """Significance of each input channel, asked of layers with |W| for weights and no bias."""
    x = keras.Input(shape)
    outputs = make(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    model = keras.Model(x, outputs)
    for v in model.weights:
        if v.name == "bias" or v.name == "beta":
            v.assign(np.zeros(v.shape))
        elif keras.backend.is_float_dtype(v.dtype):
            v.assign(np.abs(numpy(v)))
    found = []
    for channel in range(channels):
        probe = np.zeros((1, *shape), "float32")
        probe[..., channel] = 1
        results = model(probe)
        results = results if isinstance(results, list) else [results]
        found.append(sum(numpy(y).sum() for y in results))
    return np.array(found)


# fmt: off
LINEAR = {
    "dense": ((5,), [layers.Dense(3)]),
    "dense on a sequence": ((4, 5), [layers.Dense(3)]),
    "einsum dense": ((4, 5), [layers.EinsumDense("abc,cde->abde", (None, 2, 3))]),
    "einsum dense, contracted twice": (
        (2, 5),
        [
            layers.EinsumDense("xab,bcd->xadc", (2, 7, 3)),
            layers.EinsumDense("xadc,dce->xae", (2, 2)),
        ],
    ),
    "einsum dense with ellipsis": ((4, 2, 5), [layers.EinsumDense("...x,yx->...y", 3)]),
    "conv 1d": ((3, 5), [layers.Conv1D(2, 3)]),
    "conv 2d": ((3, 2, 5), [layers.Conv2D(7, (3, 2))]),
    "conv 3d": ((2, 3, 2, 5), [layers.Conv3D(3, (2, 3, 2))]),
    "conv of conv": ((3, 3, 5), [layers.Conv2D(7, 2), layers.Conv2D(2, 2)]),
    "conv in groups": ((3, 3, 6), [layers.Conv2D(9, 3, groups=3)]),
    "conv, dilated": ((5, 5, 2), [layers.Conv2D(3, 3, dilation_rate=2)]),
    "conv transposed": ((1, 1, 5), [layers.Conv2DTranspose(3, 2)]),
    "conv 1d transposed": ((1, 5), [layers.Conv1DTranspose(3, 2)]),
    "conv 3d transposed": ((1, 1, 1, 5), [layers.Conv3DTranspose(3, 2)]),
    "depthwise": ((3, 3, 5), [layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Dense(3)]),
    "depthwise 1d": ((3, 5), [layers.DepthwiseConv1D(3), layers.Dense(3)]),
    "separable": ((3, 3, 5), [layers.SeparableConv2D(7, 3, depth_multiplier=2)]),
    "separable 1d": ((3, 5), [layers.SeparableConv1D(7, 3)]),
    "flatten": ((2, 3, 5), [layers.Flatten(), layers.Dense(7)]),
    "average pooling": ((4, 4, 5), [layers.AveragePooling2D(2), layers.Dense(3)]),
    "global pooling": ((4, 4, 5), [layers.GlobalAveragePooling2D(), layers.Dense(3)]),
    "global pooling, kept": (
        (4, 4, 5),
        [layers.GlobalAveragePooling2D(keepdims=True), layers.Dense(3)],
    ),
    "upsampling": ((2, 5), [layers.UpSampling1D(3), layers.Dense(3)]),
    "padding": ((2, 2, 5), [layers.ZeroPadding2D(1), layers.Dense(3)]),
    "permute": ((2, 5), [layers.Permute((2, 1)), layers.Flatten(), layers.Dense(3)]),
    "permute and dense": (
        (2, 5), [layers.Permute((2, 1)), layers.EinsumDense("abc,cd->adb", (3, 5))]),
    "reshape": ((2, 6), [layers.Reshape((4, 3)), layers.Flatten(), layers.Dense(5)]),
    "repeat": ((5,), [layers.RepeatVector(3), layers.Flatten(), layers.Dense(2)]),
    "time distributed": (
        (3, 5), [layers.TimeDistributed(layers.Dense(2)), layers.Flatten(), layers.Dense(3)]),
    "spectral normalization": ((5,), [layers.SpectralNormalization(layers.Dense(3))]),
    "rescaling": ((5,), [layers.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0]), layers.Dense(3)]),
    "dropout, noise": (
        (5,), [layers.Dropout(0.5), layers.GaussianNoise(1.0), layers.Dense(3)]),
    "lambda": (
        (2, 5),
        [layers.Lambda(lambda x: ops.transpose(x, (0, 2, 1))), layers.Flatten(), layers.Dense(3)]),
}
# fmt: on


@pytest.mark.parametrize("case", LINEAR)
def test_a_rule_says_what_its_layer_does(case):
    shape, stack = LINEAR[case]
    first = layers.Dense(shape[-1], name="first")
    model = keras.Sequential([keras.Input((*shape[:-1], 2)), first, *stack])
    randomize(model)
    found = neuron_scores(model)

    def make(x):
        for layer in stack:
            x = layer(x)
        return x

    proportional(found, probed(make, shape, shape[-1]))


OPERATIONS = {
    "add a constant": ((5,), lambda x, w: x + 1.0),
    "subtract, halve": ((5,), lambda x, w: (x - 3.0) / 2.0),
    "matmul by a constant": ((3, 5), lambda x, w: ops.matmul(x, w((5, 4)))),
    "matmul from the left": ((3, 5), lambda x, w: ops.matmul(w((2, 3)), x)),
    "dot": ((3, 5), lambda x, w: ops.dot(x, w((5, 2)))),
    "einsum": ((3, 5), lambda x, w: ops.einsum("btc,cd->bdt", x, w((5, 4)))),
    "tensordot": ((3, 5), lambda x, w: ops.tensordot(x, w((5, 4)), 1)),
    "reshape": ((4, 6), lambda x, w: ops.reshape(x, (-1, 2, 2, 6))),
    "reshape into the batch": ((4, 6), lambda x, w: ops.reshape(x, (-1, 6))),
    "transpose": ((3, 5), lambda x, w: ops.transpose(x, (0, 2, 1))),
    "swapaxes, moveaxis": (
        (3, 5),
        lambda x, w: ops.moveaxis(ops.swapaxes(ops.expand_dims(x, 1), 1, 3), 1, 3),
    ),
    "squeeze": ((1, 5), lambda x, w: ops.squeeze(x, 1)),
    "slice channels": ((3, 5), lambda x, w: x[..., 1:4]),
    "one position": ((3, 5), lambda x, w: x[:, 1]),
    "every other channel": ((3, 5), lambda x, w: x[:, :, 1::2]),
    "new axis": ((5,), lambda x, w: x[:, None, :]),
    "split": ((5,), lambda x, w: ops.split(x, [2], axis=-1)[1]),
    "split and join": (
        (6,),
        lambda x, w: ops.concatenate(list(reversed(ops.split(x, 3, axis=-1))), axis=-1),
    ),
    "stack": ((5,), lambda x, w: ops.stack([x, 2.0 * x], axis=1)),
    "unstack": ((3, 5), lambda x, w: ops.unstack(x, axis=1)[2]),
    "mean": ((3, 5), lambda x, w: ops.mean(x, axis=1)),
    "mean, kept": ((3, 5), lambda x, w: ops.mean(x, axis=1, keepdims=True)),
    "sum": ((3, 5), lambda x, w: ops.sum(x, axis=1)),
    "repeat": ((5,), lambda x, w: ops.repeat(x, 2, axis=1)),
    "tile": ((5,), lambda x, w: ops.tile(x, (1, 3))),
    "pad": ((5,), lambda x, w: ops.pad(x, [[0, 0], [2, 1]])),
    "flip": ((5,), lambda x, w: ops.flip(x, axis=1)),
    "roll": ((5,), lambda x, w: ops.roll(x, 2, axis=1)),
    "broadcast": ((1, 5), lambda x, w: ops.broadcast_to(x, (1, 4, 5))),
    "convolution": ((3, 3, 4), lambda x, w: ops.conv(x, w((3, 3, 4, 2)))),
    "average pool": ((4, 4, 5), lambda x, w: ops.average_pool(x, 2, 2)),
}


@pytest.mark.parametrize("case", OPERATIONS)
def test_operations_in_a_functional_model(case):
    shape, operation = OPERATIONS[case]
    generator = np.random.default_rng(7)
    constants = {}

    def constant(shape):
        if shape not in constants:
            constants[shape] = generator.uniform(0.1, 1.0, size=shape).astype("float32")
        return ops.convert_to_tensor(constants[shape])

    x = keras.Input((*shape[:-1], 2), batch_size=1)
    first = layers.Dense(shape[-1], name="first")
    y = operation(first(x), constant)
    rank = len(y.shape)
    last = layers.EinsumDense(
        f"{'abcdefg'[:rank]},{'abcdefg'[1:rank]}->a", (), kernel_initializer="ones"
    )
    model = keras.Model(x, last(y))
    randomize(model)
    kernel = np.random.default_rng(1).uniform(0.1, 1, size=last.kernel.shape)
    last.kernel.assign(kernel)
    found = neuron_scores(model)
    shift = numpy(last(operation(ops.zeros((1, *shape)), constant))).sum()
    expected = []
    for channel in range(shape[-1]):
        probe = np.zeros((1, *shape), "float32")
        probe[..., channel] = 1
        expected.append(
            numpy(last(operation(ops.convert_to_tensor(probe), constant))).sum() - shift
        )
    expected = np.array(expected) if case != "subtract, halve" else np.abs(expected)
    proportional(found, expected, rtol=1e-4)


# Nets small enough to compute by hand.


def hand_made():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, activation="tanh", name="a"),
            layers.Dense(2, activation="softmax", name="b"),
        ]
    )
    model.set_weights(
        [
            np.array([[1.0, -2.0, 0.5], [-3.0, 1.0, 0.0]]),
            np.array([5.0, -7.0, 1.0]),
            np.array([[1.0, 1.0], [-2.0, 0.0], [4.0, -4.0]]),
            np.array([3.0, 1.0]),
        ]
    )
    return model


def test_two_dense_layers_by_hand():
    scores = edge_significance(hand_made(), scores=[1.0, 3.0])
    # N_b = (1, 3), N_a = |W_b| N_b = (4, 2, 16)
    proportional(scores["b"], np.array([[1, 3], [2, 0], [4, 12.0]]))
    proportional(scores["a"], np.array([[4, 4, 8], [12, 2, 0.0]]))
    assert list(scores) == ["a", "b"]
    assert all(x.dtype == np.float64 for x in scores.values())
    # The documented factor: neurons have a mean significance of 1.
    np.testing.assert_allclose(scores["b"], np.array([[1, 3], [2, 0], [4, 12.0]]) / 2)


def test_inffs_of_the_outputs_is_where_it_starts():
    model = hand_made()
    data = np.random.default_rng(1).normal(size=(29, 2)).astype("float32")
    scores = edge_significance(model, data)
    N = inffs(numpy(model(data)))
    W = numpy(model.get_layer("b").kernel)
    proportional(scores["b"], np.abs(W) * N)
    proportional(scores["a"], np.abs(numpy(model.get_layer("a").kernel)) * (np.abs(W) @ N))
    other = edge_significance(model, data, alpha=1.0)
    proportional(other["b"], np.abs(W) * inffs(numpy(model(data)), 1.0))


def test_pca_scores_by_hand():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False, name="a")])
    model.set_weights([np.eye(2)])
    t = np.array([-1.0, 1.0, -1.0, 1.0])
    u = np.array([-1.0, -1.0, 1.0, 1.0])
    data = np.stack([3 * t + u, t - 3 * u], axis=1) / np.sqrt(10)  # components (3, 1), (1, -3)
    data = np.stack([6 * t + u, 2 * t - 3 * u], axis=1) / np.sqrt(10)  # variances 4 and 1
    explained = np.array([4.0, 1.0]) / 5
    loadings = np.array([[3.0, 1.0], [1.0, 3.0]]) / np.sqrt(10)
    scores = edge_significance(model, data, scores="pca")["a"]
    proportional(np.diag(scores), explained @ loadings)


def test_residual_branches_meet_by_addition():
    x = keras.Input((2,))
    h = layers.Dense(3, use_bias=False, name="stem")(x)
    branch = layers.Dense(3, use_bias=False, name="branch")(h)
    y = layers.Dense(2, use_bias=False, name="head")(layers.Add()([h, branch]))
    model = randomize(keras.Model(x, y))
    scores = edge_significance(model, scores="identity")
    stem, branch, head = (np.abs(numpy(w)) for w in model.weights)
    N = head.sum(axis=1)
    proportional(scores["branch"], branch * N)
    proportional(scores["stem"], stem * (N + branch @ N))


def test_operator_form_of_a_residual_is_the_same():
    def build(add):
        x = keras.Input((2,))
        h = layers.Dense(3, name="stem")(x)
        return keras.Model(x, layers.Dense(2)(add(h, layers.Dense(3)(h))))

    one = randomize(build(lambda a, b: layers.Add()([a, b])))
    two = randomize(build(lambda a, b: a + b))
    proportional(*(edge_significance(m, scores="identity")["stem"] for m in (one, two)))


def test_a_layer_used_twice_adds_both_uses():
    x = keras.Input((3,))
    shared = layers.Dense(3, use_bias=False, name="shared")
    y = layers.Dense(2, use_bias=False, name="head")(shared(shared(x)))
    model = randomize(keras.Model(x, y))
    W, V = (np.abs(numpy(w)) for w in model.weights)
    N = V.sum(axis=1)
    scores = edge_significance(model, scores="identity")
    proportional(scores["shared"], W * (N + W @ N))


def test_several_outputs_add():
    x = keras.Input((3,))
    h = layers.Dense(4, use_bias=False, name="h")(x)
    model = keras.Model(x, [layers.Dense(2, name="one")(h), layers.Dense(5, name="two")(h), h])
    randomize(model)
    H, one, two = (np.abs(numpy(model.get_layer(n).kernel)) for n in ("h", "one", "two"))
    N = [np.array([1.0, 2.0]), np.arange(5.0), np.ones(4)]
    scores = edge_significance(model, scores=N)
    proportional(scores["h"], H * (one @ N[0] + two @ N[1] + N[2]))
    proportional(scores["two"][:, 1:], (two * N[1])[:, 1:])


def test_concatenation_splits_and_multiplication_hands_both():
    x = keras.Input((3,))
    a, b = layers.Dense(2, name="a")(x), layers.Dense(4, name="b")(x)
    gate = layers.Dense(4, activation="sigmoid", name="gate")(a)
    y = layers.Concatenate()([a, layers.Multiply()([b, gate])])
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(y)))
    A, B, G, H = (np.abs(numpy(model.get_layer(n).kernel)) for n in ("a", "b", "gate", "head"))
    N = H.sum(axis=1)
    scores = edge_significance(model, scores="identity")
    proportional(scores["b"], B * N[2:])
    proportional(scores["gate"], G * N[2:])
    proportional(scores["a"], A * (N[:2] + G @ N[2:]))


def test_embedding():
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(11, 3, name="words"),
         layers.GlobalAveragePooling1D(), layers.Dense(2, name="head")]
    )  # fmt: skip
    randomize(model)
    table, head = (np.abs(numpy(model.get_layer("words").embeddings)),
                   np.abs(numpy(model.get_layer("head").kernel)))  # fmt: skip
    proportional(edge_significance(model, scores="identity")["words"], table * head.sum(axis=1))


@pytest.mark.parametrize(
    ("cls", "gates"), [(layers.SimpleRNN, 1), (layers.LSTM, 4), (layers.GRU, 3)]
)
@pytest.mark.parametrize("sequences", [True, False])
def test_recurrent_units_score_by_what_they_hand_on(cls, gates, sequences):
    stack = [keras.Input((7, 2)), layers.Dense(3, name="first"),
             cls(5, return_sequences=sequences, name="rnn")]  # fmt: skip
    if sequences:
        stack.append(layers.GlobalAveragePooling1D())
    model = randomize(keras.Sequential([*stack, layers.Dense(2, name="head")]))
    cell = model.get_layer("rnn").cell
    head = np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1)
    N = np.tile(head, gates)
    scores = edge_significance(model, scores="identity")
    proportional(scores["rnn"], np.abs(numpy(cell.kernel)) * N)
    proportional(scores["rnn/recurrent_kernel"], np.abs(numpy(cell.recurrent_kernel)) * N)
    proportional(
        scores["first"],
        np.abs(numpy(model.get_layer("first").kernel)) * (np.abs(numpy(cell.kernel)) @ N),
    )


def test_bidirectional_and_stacked_cells():
    x = keras.Input((7, 2))
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
    h = layers.RNN([layers.GRUCell(5), layers.SimpleRNNCell(4)], name="stack")(h)
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(h)))
    scores = edge_significance(model, scores="identity")
    head = np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1)
    gru, simple = model.get_layer("stack").cell.cells
    K = {k: np.abs(numpy(v)) for k, v in (("gru", gru.kernel), ("simple", simple.kernel))}
    keys = [key for key in scores if key.startswith("stack")]
    assert len(keys) == 4
    by_shape = {scores[key].shape: scores[key] for key in keys}
    proportional(by_shape[5, 4], K["simple"] * head)
    N = np.tile(K["simple"] @ head, 3)
    proportional(by_shape[6, 15], K["gru"] * N)
    into = K["gru"] @ N
    both = model.get_layer("both")
    forward, backward = (np.abs(numpy(d.cell.kernel)) for d in
                         (both.forward_layer, both.backward_layer))  # fmt: skip
    proportional(scores[f"both/{both.forward_layer.name}"], forward * np.tile(into[:3], 4))
    proportional(scores[f"both/{both.backward_layer.name}"], backward * np.tile(into[3:], 4))


@pytest.mark.parametrize("merge_mode", ["sum", "ave", "mul", None])
def test_bidirectional_merge_modes(merge_mode):
    x = keras.Input((7, 2))
    h = layers.Bidirectional(layers.GRU(3), merge_mode=merge_mode, name="both")(x)
    h = h if merge_mode else layers.Add()(h)
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(h)))
    scores = edge_significance(model, scores="identity")
    head = np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1)
    layer = model.get_layer("both").backward_layer
    proportional(scores[f"both/{layer.name}"], np.abs(numpy(layer.cell.kernel)) * np.tile(head, 3))


def test_recurrent_states_carry_significance():
    x = keras.Input((7, 2))
    _, h, c = layers.LSTM(3, return_state=True, name="encoder")(x)
    y = layers.LSTM(3, name="decoder")(x, initial_state=[h, c])
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(y)))
    scores = edge_significance(model, scores="identity")
    head = np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1)
    U = np.abs(numpy(model.get_layer("decoder").cell.recurrent_kernel))
    K = np.abs(numpy(model.get_layer("encoder").cell.kernel))
    proportional(scores["encoder"], K * np.tile(U @ np.tile(head, 4), 4))


def test_conv_lstm():
    model = keras.Sequential(
        [keras.Input((3, 5, 5, 2)), layers.ConvLSTM2D(4, 3, name="rnn"),
         layers.GlobalAveragePooling2D(), layers.Dense(2, name="head")]
    )  # fmt: skip
    randomize(model)
    cell = model.get_layer("rnn").cell
    N = np.tile(np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1), 4)
    scores = edge_significance(model, scores="identity")
    proportional(scores["rnn"], np.abs(numpy(cell.kernel)) * N)
    proportional(scores["rnn/recurrent_kernel"], np.abs(numpy(cell.recurrent_kernel)) * N)


def test_multi_head_attention_per_head():
    x = keras.Input((7, 6))
    y = layers.MultiHeadAttention(2, 3, value_dim=4, name="mha")(x, x)
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(y)))
    mha, head = model.get_layer("mha"), model.get_layer("head")
    scores = edge_significance(model, scores="identity")
    output = np.abs(numpy(mha.output_dense.kernel))  # (heads, value_dim, features)
    N = np.abs(numpy(head.kernel)).sum(axis=1)
    proportional(scores["mha/attention_output"], output * N)
    of_value = output @ N  # (heads, value_dim)
    proportional(scores["mha/value"], np.abs(numpy(mha.value_dense.kernel)) * of_value)
    of_head = of_value.sum(axis=1)[:, None]
    for name, dense in (("query", mha.query_dense), ("key", mha.key_dense)):
        proportional(scores[f"mha/{name}"], np.abs(numpy(dense.kernel)) * of_head)


def test_grouped_queries_share_a_value():
    x = keras.Input((7, 6))
    y = layers.GroupQueryAttention(3, 4, 2, name="gqa")(x, x)
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(y)))
    gqa = model.get_layer("gqa")
    N = np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1)
    of_value = np.abs(numpy(gqa._output_dense.kernel)) @ N  # (4 query heads, 3)
    shared = of_value.reshape(2, 2, 3).sum(axis=1)
    scores = edge_significance(model, scores="identity")
    proportional(scores["gqa/value"], np.abs(numpy(gqa._value_dense.kernel)) * shared)
    proportional(
        scores["gqa/query"],
        np.abs(numpy(gqa._query_dense.kernel)) * of_value.sum(axis=1)[:, None],
    )


@pytest.mark.parametrize("cls", [layers.Attention, layers.AdditiveAttention])
def test_dot_product_attention_layers(cls):
    x = keras.Input((7, 6))
    query, value = layers.Dense(4, name="query")(x), layers.Dense(4, name="value")(x)
    key = layers.Dense(4, name="key")(x)
    y = cls(use_scale=True, name="attention")([query, value, key])
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(y)))
    N = np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1)
    scores = edge_significance(model, scores="identity")
    proportional(scores["value"], np.abs(numpy(model.get_layer("value").kernel)) * N)
    scale = numpy(model.get_layer("attention").scale)
    of_query = np.abs(scale) if scale.ndim else np.ones(4)
    proportional(scores["query"], np.abs(numpy(model.get_layer("query").kernel)) * of_query)
    proportional(scores["key"], np.abs(numpy(model.get_layer("key").kernel)) * of_query)


@pytest.mark.parametrize("cls", [layers.BatchNormalization, layers.LayerNormalization])
def test_normalisation_passes_or_scales(cls):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(4, name="first"),
            cls(name="norm"),
            layers.Dense(3, name="head"),
        ]
    )
    randomize(model)
    norm = model.get_layer("norm")
    head = np.abs(numpy(model.get_layer("head").kernel)).sum(axis=1)
    first = np.abs(numpy(model.get_layer("first").kernel))
    proportional(edge_significance(model, scores="identity")["first"], first * head)
    scale = np.abs(numpy(norm.gamma))
    if cls is layers.BatchNormalization:
        norm.moving_variance.assign([1.0, 4.0, 0.25, 9.0])
        scale = scale / np.sqrt(numpy(norm.moving_variance) + norm.epsilon)
    found = edge_significance(model, scores="identity", normalization="scale")
    proportional(found["first"], first * head * scale)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_data_formats_agree(data_format):
    def build(data_format):
        shape = (5, 7, 2) if data_format == "channels_last" else (2, 5, 7)
        kwargs = {"data_format": data_format}
        model = keras.Sequential(
            [
                keras.Input(shape),
                layers.Conv2D(3, 2, name="one", **kwargs),
                layers.BatchNormalization(axis=-1 if data_format == "channels_last" else 1),
                layers.AveragePooling2D(2, **kwargs),
                layers.Conv2D(5, 2, name="two", **kwargs),
                layers.Flatten(**kwargs),
                layers.Dense(3, name="head"),
            ]
        )
        return randomize(model)

    expected = edge_significance(build("channels_last"), scores="identity")
    found = edge_significance(build(data_format), scores="identity")
    for name in ("one", "two", "head"):
        np.testing.assert_allclose(found[name], expected[name])


# Graphs.


def test_nested_models_and_a_model_used_twice():
    inner = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, use_bias=False, name="dense")], name="inner"
    )
    x = keras.Input((3,))
    outer = keras.Model(x, layers.Dense(2, use_bias=False, name="head")(inner(inner(x))))
    randomize(outer)
    W = np.abs(numpy(inner.get_layer("dense").kernel))
    N = np.abs(numpy(outer.get_layer("head").kernel)).sum(axis=1)
    scores = edge_significance(outer, scores="identity")
    proportional(scores["inner/dense"], W * (N + W @ N))
    assert set(scores) == {"inner/dense", "head"}


def test_time_distributed_model():
    frame = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(3, 4, name="conv"), layers.Flatten()], name="frame"
    )
    model = keras.Sequential(
        [keras.Input((5, 4, 4, 2)), layers.TimeDistributed(frame), layers.LSTM(2, name="rnn")]
    )
    randomize(model)
    scores = edge_significance(model, scores="identity")
    key = next(key for key in scores if key.endswith("conv"))
    N = np.abs(numpy(model.get_layer("rnn").cell.kernel)).sum(axis=1)
    proportional(scores[key], np.abs(numpy(frame.get_layer("conv").kernel)) * N)


class Block(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.one = layers.Dense(units, use_bias=False, name="one")
        self.two = layers.Dense(units, use_bias=False, name="two")
        self.drop = layers.Dropout(0.5)

    def build(self, input_shape):
        self.one.build(input_shape)
        self.two.build((*input_shape[:-1], self.one.units))

    def call(self, x, training=None):
        h = self.one(x)
        return h + self.drop(ops.relu(self.two(h)), training=training)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [Block(3, name="block_a"), Block(3, name="block_b")]
        self.head = layers.Dense(2, use_bias=False, name="head")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, -1])


def test_subclassed_models_are_traced():
    model = Subclassed()
    data = np.random.default_rng(0).normal(size=(8, 5, 2)).astype("float32")
    model(data)
    randomize(model)
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    scores = edge_significance(model, scores="identity")
    head = np.abs(numpy(model.head.kernel)).sum(axis=1)
    second = model.blocks[1]
    proportional(scores["block_b/two"], np.abs(numpy(second.two.kernel)) * head)
    N = head + np.abs(numpy(second.two.kernel)) @ head
    proportional(scores["block_b/one"], np.abs(numpy(second.one.kernel)) * N)
    assert list(scores) == ["block_a/one", "block_a/two", "block_b/one", "block_b/two", "head"]
    # Tracing leaves nothing behind in the layers.
    assert nodes == [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    np.testing.assert_array_equal(edge_significance(model, data)["head"].shape, (3, 2))


def test_the_same_blocks_in_a_functional_model():
    x = keras.Input((5, 2))
    y = layers.Dense(2, name="head")(layers.GlobalAveragePooling1D()(Block(3, name="block")(x)))
    model = randomize(keras.Model(x, y))
    before = model.get_layer("block").output
    scores = edge_significance(model, scores="identity")
    assert model.get_layer("block").output is before
    assert scores["block/one"].shape == (2, 3)


def test_untraceable_models_are_named():
    class Stubborn(keras.Model):
        def __init__(self):
            super().__init__(name="stubborn")
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x) if float(ops.sum(x)) > 0 else x

    model = Stubborn()
    model(np.ones((3, 2), "float32"))
    with pytest.raises(ValueError, match=r"stubborn.*could not be traced.*register_signif"):
        edge_significance(model, np.ones((3, 2), "float32"))
    assert len(maskable_kernels(model)) == 1  # what needs no graph still works


# Orders.


def chain(depth=4):
    stack = [layers.Dense(5, use_bias=False, name=f"d{i}") for i in range(depth)]
    return randomize(keras.Sequential([keras.Input((3,)), *stack]))


def halve(edges):
    scores = edges.array()
    return scores >= np.median(scores)


def test_forward_order_scores_the_network_as_it_is():
    model = chain()
    expected = edge_significance(model, scores="identity")
    keys = []
    walk = SignificanceWalk(model, scores="identity", order="forward")
    for kernel, edges in walk:
        keys.append(kernel.key)
        np.testing.assert_array_equal(edges.array(), expected[kernel.key])
        walk.decide(halve(edges))
    assert keys == ["d0", "d1", "d2", "d3"]


@pytest.mark.parametrize("order", ["backward", "random"])
def test_other_orders_know_the_masks_decided_before(order):
    model = chain()
    W = {f"d{i}": np.abs(numpy(model.get_layer(f"d{i}").kernel)) for i in range(4)}
    walk = SignificanceWalk(model, scores="identity", order=order, seed=3)
    keys = []
    for kernel, edges in walk:
        keys.append(kernel.key)
        N = np.ones(5)
        for later in range(3, int(kernel.key[1]), -1):
            N = W[f"d{later}"] @ N
        proportional(edges.array(), W[kernel.key] * N)
        mask = halve(edges)
        walk.decide(mask)
        W[kernel.key] = W[kernel.key] * mask
    if order == "backward":
        assert keys == ["d3", "d2", "d1", "d0"]
    else:
        again = SignificanceWalk(model, scores="identity", order=order, seed=3)
        assert keys == [kernel.key for kernel, _ in again]
        assert sorted(keys) == ["d0", "d1", "d2", "d3"]


def test_backward_order_inside_layers_with_several_kernels():
    x = keras.Input((7, 6))
    y = layers.MultiHeadAttention(2, 3, name="mha")(x, x)
    model = randomize(keras.Model(x, y))
    output = np.abs(numpy(model.get_layer("mha").output_dense.kernel))
    value = np.abs(numpy(model.get_layer("mha").value_dense.kernel))
    walk = SignificanceWalk(model, scores="identity", order="backward")
    masks = {}
    for kernel, edges in walk:
        if kernel.key == "mha/value":
            masked = output * masks["mha/attention_output"]
            proportional(edges.array(), value * masked.sum(axis=-1))
        masks[kernel.key] = halve(edges)
        walk.decide(masks[kernel.key])
    assert next(iter(masks)) == "mha/attention_output"
    assert len(masks) == 4


def test_backward_order_with_a_shared_layer():
    x = keras.Input((3,))
    shared = layers.Dense(3, use_bias=False, name="shared")
    h = layers.Dense(3, use_bias=False, name="stem")(x)
    model = randomize(keras.Model(x, shared(shared(h))))
    S, T = np.abs(numpy(shared.kernel)), np.abs(numpy(model.get_layer("stem").kernel))
    walk = SignificanceWalk(model, scores="identity", order="backward")
    for kernel, edges in walk:
        if kernel.key == "shared":
            proportional(edges.array(), S * (1 + S.sum(axis=1)))
            mask = halve(edges)
            walk.decide(mask)
        else:
            proportional(edges.array(), T * ((S * mask) @ S.sum(axis=1)))


def test_masks_of_layers_count():
    class Masked(layers.Dense):
        def kernel_masks(self):
            return [(self._kernel, self.mask)]

    model = randomize(
        keras.Sequential(
            [keras.Input((2,)), Masked(4, name="a"), Masked(3, use_bias=False, name="b")]
        )
    )
    masks = {"a": np.eye(2, 4), "b": np.eye(4, 3)}
    for name, mask in masks.items():
        model.get_layer(name).mask = mask
    W = {name: np.abs(numpy(model.get_layer(name).kernel)) for name in "ab"}
    scores = edge_significance(model, scores="identity")
    proportional(scores["b"], W["b"] * masks["b"])
    N = (W["b"] * masks["b"]).sum(axis=1)
    proportional(scores["a"], W["a"] * masks["a"] * N)
    stored = {k.key: e.array() for k, e in SignificanceWalk(model, scores="identity", stored=True)}
    proportional(stored["a"], W["a"] * N)


def test_blocks_are_the_array_in_c_order():
    model = randomize(
        keras.Sequential(
            [keras.Input((5, 7, 2)), layers.Conv2D(3, 2), layers.Conv2DTranspose(5, 3),
             layers.DepthwiseConv2D(2), layers.EinsumDense("abcd,dfe->abcfe", (None, None, 2, 3))]
        )
    )  # fmt: skip
    for _, edges in SignificanceWalk(model, scores="identity"):
        pieces = list(edges.blocks(13))
        assert len(pieces) > 1
        assert [start for start, _, _ in pieces[1:]] == [stop for _, stop, _ in pieces[:-1]]
        flat = np.concatenate([block for _, _, block in pieces])
        np.testing.assert_array_equal(flat.reshape(edges.shape), edges.array())


# Numbers.


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_deep_stack_neither_overflows_nor_vanishes(scale):
    depth = 60
    stack = [layers.Dense(8, use_bias=False) for _ in range(depth)]
    model = randomize(keras.Sequential([keras.Input((8,)), *stack]))
    scores = edge_significance(model, scores="identity")
    for layer in stack:
        layer.kernel.assign(layer.kernel * scale)  # the true factor is scale ** 60 = 1e+-240
    scaled = edge_significance(model, scores="identity")
    for name, array in scaled.items():
        assert np.isfinite(array).all()
        assert array.max() > 0
        proportional(array, scores[name])


def test_scores_are_invariant_to_one_factor_per_layer():
    model = chain()
    before = edge_significance(model, scores="identity")
    model.get_layer("d2").kernel.assign(model.get_layer("d2").kernel * -7.0)
    after = edge_significance(model, scores="identity")
    np.testing.assert_allclose(after["d0"], before["d0"], rtol=1e-6)
    np.testing.assert_allclose(after["d2"], 7 * before["d2"], rtol=1e-6)


def test_parallel_branches_keep_their_proportion():
    """A branch a million times weaker must stay so, however deep it is."""
    x = keras.Input((4,))
    stem = layers.Dense(4, use_bias=False, name="stem")
    h = stem(x)
    weak = h
    for i in range(3):
        weak = layers.Dense(4, use_bias=False, name=f"weak{i}")(weak)
    model = randomize(keras.Model(x, layers.Add()([layers.Identity()(h), weak])))
    for i in range(3):
        model.get_layer(f"weak{i}").kernel.assign(0.01 * np.eye(4) * np.arange(1, 5))
    scores = edge_significance(model, scores="identity")
    expected = 1 + (0.01 * np.arange(1, 5)) ** 3
    proportional(scores["stem"], np.abs(numpy(stem.kernel)) * expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16"])
def test_low_precision_models(dtype):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, dtype=dtype), layers.Dense(3, dtype=dtype)]
    )
    for array in edge_significance(model, rng.normal(size=(9, 6))).values():
        assert array.dtype == np.float64
        assert np.isfinite(array).all()


def test_low_rank_updates_count():
    model = randomize(keras.Sequential([keras.Input((6,)), layers.Dense(5, name="a")]))
    model.get_layer("a").enable_lora(2)
    randomize(model)
    scores = edge_significance(model, scores="identity")["a"]
    np.testing.assert_allclose(scores, np.abs(numpy(model.get_layer("a").kernel)), rtol=1e-6)


# Data.


def datasets(x, y):
    yield "array", x
    yield "pair", (x, y)
    yield "generator", (batch for batch in [x[:5], x[5:]])
    yield "generator of pairs", iter([(x[:5], y[:5]), (x[5:], y[5:])])
    yield "backend tensor", ops.convert_to_tensor(x)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return (x[:5], y[:5]) if index == 0 else (x[5:], y[5:])

    yield "PyDataset", Batches()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        yield "tf.data", tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    if keras.backend.backend() == "torch":
        import torch

        data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        yield "DataLoader", torch.utils.data.DataLoader(data, batch_size=5)


def test_data_in_every_form():
    model = hand_made()
    x = np.random.default_rng(1).normal(size=(11, 2)).astype("float32")
    expected = edge_significance(model, x)["a"]
    for name, data in datasets(x, np.arange(11)):
        np.testing.assert_allclose(
            edge_significance(model, data, max_samples=11)["a"], expected, rtol=1e-5, err_msg=name
        )


def test_several_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    h = layers.Concatenate()([layers.Dense(4, name="first")(a), b])
    model = randomize(keras.Model({"a": a, "b": b}, layers.Dense(3, name="head")(h)))
    data = {"a": rng.normal(size=(9, 3)), "b": rng.normal(size=(9, 2))}
    assert edge_significance(model, data)["first"].shape == (3, 4)


def test_outputs_with_positions_are_scored_by_channel():
    model = randomize(keras.Sequential([keras.Input((4, 3)), layers.Dense(5, name="a")]))
    data = rng.normal(size=(9, 4, 3)).astype("float32")
    N = inffs(numpy(model(data)).reshape(-1, 5))
    scores = edge_significance(model, data)["a"]
    proportional(scores, np.abs(numpy(model.get_layer("a").kernel)) * N)


def test_no_data_is_said(caplog):
    import logging

    with caplog.at_level(logging.WARNING, logger="keras_saliency"):
        scores = edge_significance(hand_made())
    assert "No data" in caplog.text
    expected = edge_significance(hand_made(), scores="identity")
    np.testing.assert_array_equal(scores["a"], expected["a"])


# Choosing layers.


def selection_model():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="one"), layers.Dense(4, name="two")], name="inner"
    )
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="stem"), inner, layers.BatchNormalization(),
         layers.Dense(2, name="head")]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("stem", ["stem"]),
        ("inner", ["inner/one", "inner/two"]),
        ("inner/two", ["inner/two"]),
        ("two", ["inner/two"]),
        ("*e*d", ["head"]),
        ("inner/*", ["inner/one", "inner/two"]),
        (re.compile("^(stem|head)$"), ["stem", "head"]),
        (lambda layer: getattr(layer, "units", 0) == 2, ["head"]),
        (["stem", "head"], ["stem", "head"]),
    ],
)
def test_layers_are_chosen(selector, expected):
    model = selection_model()
    assert list(edge_significance(model, scores="identity", layers=selector)) == expected
    others = [k for k in ("stem", "inner/one", "inner/two", "head") if k not in expected]
    assert list(edge_significance(model, scores="identity", exclude=selector)) == others


def test_layers_are_chosen_by_object():
    model = selection_model()
    head = model.get_layer("head")
    assert [k.key for k in maskable_kernels(model, head)] == ["head"]
    inner = model.get_layer("inner")
    assert [k.key for k in maskable_kernels(model, exclude=[inner, "stem"])] == ["head"]


def test_what_is_skipped_has_a_reason():
    found = maskable_kernels(selection_model(), layers=["stem", "inner"], exclude="one")
    reasons = {skipped.path: skipped.reason for skipped in found.skipped}
    assert reasons.pop("inner/one") == "excluded"
    assert reasons.pop("head") == "not selected"
    ((_, reason),) = reasons.items()
    assert reason == "normalization is never masked"


def test_kernels_know_their_axes():
    model = keras.Sequential(
        [keras.Input((9, 9, 2)), layers.Conv2D(3, 2, name="conv"),
         layers.Conv2DTranspose(5, 2, name="up"), layers.SeparableConv2D(4, 2, name="sep"),
         layers.Flatten(), layers.Dense(7, name="dense")]
    )  # fmt: skip
    axes = {k.key: (k.input_axes, k.output_axes) for k in maskable_kernels(model)}
    assert axes == {
        "conv": ((2,), (3,)),
        "up": ((3,), (2,)),
        "sep/depthwise_kernel": ((), (2, 3)),
        "sep/pointwise_kernel": ((2,), (3,)),
        "dense": ((0,), (1,)),
    }


# The library's own layers.


def test_recurrent_convolution_step_by_step():
    layer = keras_saliency.RecurrentConv2D(5, 3, steps=2, pieces=2, name="rcl")
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), layer, layers.GlobalAveragePooling2D(), layers.Dense(3, name="b")]
    )
    randomize(model)
    K, R = np.abs(numpy(layer.kernel)), np.abs(numpy(layer.recurrent_kernel)).sum(axis=(0, 1))
    last = np.abs(numpy(model.get_layer("b").kernel)).sum(axis=1)[[0, 0, 1, 1, 2]]
    middle = (R @ last)[[0, 0, 1, 1, 2]]
    first = (R @ middle)[[0, 0, 1, 1, 2]]
    scores = edge_significance(model, scores="identity")
    proportional(scores["rcl"], K * (first + middle + last))
    proportional(
        scores["rcl/recurrent_kernel"], np.abs(numpy(layer.recurrent_kernel)) * (middle + last)
    )


def test_san_attention_by_hand():
    x = keras.Input((5, 5, 3))
    h = layers.Conv2D(4, 3, padding="same", name="a")(x)
    g = layers.Conv2D(6, 3, padding="same", name="b")(h)
    y = keras_saliency.SANAttention(name="san")([g, h])
    y = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y))
    model = randomize(keras.Model(x, y))
    scores = edge_significance(model, scores="identity")
    a, b, head = (np.abs(numpy(model.get_layer(n).kernel)) for n in ("a", "b", "head"))
    smoothing = np.abs(numpy(model.get_layer("san").smoothing_layer.kernel))
    N = head.sum(axis=1)
    gate = (smoothing.sum(axis=(0, 1)) * N).sum(axis=1)
    proportional(scores["san/smoothing"], smoothing * N)
    proportional(scores["b"], b * (N + gate))
    before = (b.sum(axis=(0, 1)) * (N + gate)).sum(axis=1) + gate.sum() / 4
    proportional(scores["a"], a * before)


@pytest.mark.parametrize("name", ["SANAttention", "CBAM", "BAM", "SqueezeExcite"])
def test_attention_over_images(name):
    x = keras.Input((5, 5, 2))
    h = layers.Conv2D(4, 3, padding="same", name="a")(x)
    h = layers.Conv2D(4, 3, padding="same", name="b")(h)
    y = getattr(keras_saliency, name)(name="attention")(h)
    y = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y))
    model = randomize(keras.Model(x, y))
    scores = edge_significance(model, scores="identity")
    assert any(key.startswith("attention/") for key in scores)
    assert all(np.isfinite(array).all() and array.max() > 0 for array in scores.values())


def test_a_cell_made_of_layers():
    x = keras.Input((7, 3))
    y = keras_saliency.RecurrentAttention(name="attention")(layers.Dense(6, name="a")(x))
    model = randomize(keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(y))))
    scores = edge_significance(model, scores="identity")
    recurrent = [key for key in scores if key.startswith("attention/")]
    assert len(recurrent) == 3  # the state is heard of only one step later
    assert all(scores[key].max() > 0 for key in scores)


# Unknown layers.


class Scale(layers.Layer):
    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], 4), name="w")

    def call(self, x):
        return ops.matmul(x, self.w)


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


class Opaque(layers.Layer):
    def call(self, x):
        return ops.convert_to_tensor(x) if float(ops.sum(x)) > 0 else x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Narrowing(Opaque):
    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], 1), x.dtype)


def test_unknown_layer_with_weights_is_an_error_that_helps():
    model = keras.Sequential([keras.Input((3,)), Scale(name="odd"), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"'odd'.*Scale.*register_significance_rule\(Scale"):
        edge_significance(model, scores="identity")
    reasons = [s.reason for s in maskable_kernels(model).skipped]
    assert len(reasons) == 1
    assert "register_significance_rule" in reasons[0]


def test_a_registered_rule_is_inherited():
    class Registered(Scale):
        pass

    class Child(Registered):
        pass

    @register_significance_rule(Registered, kernels="w")
    def rule(call):
        call.edges("w", call.scores())
        return call.magnitude("w") @ call.scores()

    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, name="a"), Child(name="odd"), layers.Dense(2, name="b")]
    )
    randomize(model)
    scores = edge_significance(model, scores="identity")
    w, b = numpy(model.get_layer("odd").w), numpy(model.get_layer("b").kernel)
    N = np.abs(b).sum(axis=1)
    proportional(scores["odd"], np.abs(w) * N)
    a = numpy(model.get_layer("a").kernel)
    proportional(scores["a"], np.abs(a) * (np.abs(w) @ N))


def test_unknown_layers_without_weights():
    def model(layer):
        return randomize(
            keras.Sequential(
                [keras.Input((3,)), layers.Dense(4, name="a"), layer, layers.Dense(2, name="b")]
            )
        )

    expected = edge_significance(model(layers.Identity()), scores="identity")["a"]
    for layer in (Doubled(), Opaque()):
        found = edge_significance(model(layer), scores="identity")["a"]
        np.testing.assert_allclose(found, expected)
    with pytest.raises(ValueError, match=r"'narrow'.*Narrowing"):
        edge_significance(model(Narrowing(name="narrow")), scores="identity")


def test_a_rule_that_returns_nonsense_is_named():
    class Nonsense(Scale):
        pass

    def build():
        return keras.Sequential([keras.Input((3,)), layers.Dense(3), Nonsense(name="odd")])

    for result, message in (
        (np.ones(7), "shape"),
        (-np.ones(3), "negative"),
        ([np.ones(3), np.ones(3)], "2 scores"),
    ):
        register_significance_rule(Nonsense)(lambda call, result=result: result)
        with pytest.raises(ValueError, match=rf"odd.*{message}|{message}.*odd"):
            edge_significance(build(), scores="identity")


# Bad input.


def test_bad_arguments():
    model = hand_made()
    data = rng.normal(size=(9, 2))
    for kwargs, error, message in (
        ({"scores": "best"}, ValueError, "scores"),
        ({"scores": [1.0]}, ValueError, "2 finite values"),
        ({"scores": [1.0, np.nan]}, ValueError, "finite"),
        ({"scores": [1.0, -1.0]}, ValueError, ">= 0"),
        ({"data": data, "alpha": 2}, ValueError, "alpha"),
        ({"normalization": "all"}, ValueError, "normalization"),
        ({"layers": "no_such_layer"}, ValueError, "no_such_layer"),
        ({"exclude": layers.Dense(2, name="stranger")}, ValueError, "stranger"),
        ({"layers": 3}, TypeError, "layers"),
        ({"data": data[:0]}, ValueError, "no sample"),
        ({"data": 3}, TypeError, "data"),
        ({"data": data[:1]}, ValueError, "does not vary over the 1 sample"),
        ({"data": np.ones((9, 2))}, ValueError, "does not vary"),
        ({"data": np.full((9, 2), np.nan)}, ValueError, "not finite"),
    ):
        with pytest.raises(error, match=message):
            edge_significance(model, **kwargs)
    with pytest.raises(ValueError, match="order"):
        SignificanceWalk(model, order="sideways")
    with pytest.raises(TypeError, match="model"):
        edge_significance("model")


def test_a_model_that_is_not_built():
    with pytest.raises(ValueError, match="not built"):
        edge_significance(keras.Sequential([layers.Dense(3)]))


def test_weights_that_are_not_finite():
    model = hand_made()
    kernel = numpy(model.get_layer("b").kernel)
    kernel[0, 0] = np.nan
    model.get_layer("b").kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"'b'.*NaN"):
        edge_significance(model, scores="identity")


def test_a_mask_of_the_wrong_shape():
    walk = SignificanceWalk(hand_made(), scores="identity")
    for kernel, _ in walk:
        with pytest.raises(ValueError, match=f"'{kernel.key}' must have the shape"):
            walk.decide(np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="while the walk"):
        walk.decide(np.ones((2, 3)))


def test_nothing_in_the_model_changes():
    model = hand_made()
    before = [numpy(w) for w in model.weights]
    edge_significance(model, rng.normal(size=(9, 2)))
    for w, b in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(w), b)


def test_keras_applications():
    """One with gates, separable convolutions and operators; a benchmark runs all of them."""
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=5)
    scores = edge_significance(model, scores="identity")
    weights = {kernel.key: kernel for kernel in maskable_kernels(model)}
    assert set(scores) == set(weights)
    for key, array in scores.items():
        assert array.shape == weights[key].shape
        assert np.isfinite(array).all()
        assert array.max() > 0


def test_every_layer_of_keras_has_a_rule_or_is_made_of_layers_that_have():
    from keras_saliency.sparsity.registry import find_significance_rule

    base = {"Layer", "Wrapper", "AbstractRNNCell"}
    # Opened up instead of walked through by a rule of their own.
    opened = {"TimeDistributed", "SpectralNormalization", "Lambda", "Pipeline", "RandAugment",
              "AugMix", "FeatureSpace"}  # fmt: skip
    # Foreign code, of which Keras knows the weights but not what they do.
    foreign = {"TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
    missing = []
    for name in dir(layers):
        cls = getattr(layers, name)
        if isinstance(cls, type) and issubclass(cls, layers.Layer):
            instance = cls.__new__(cls)
            if find_significance_rule(instance) is None and name not in base | opened | foreign:
                missing.append(name)
    assert missing == []


if hasattr(layers, "TernaryDense"):  # from Keras 3.16 on

    @pytest.mark.parametrize("threshold", [None, 0.0, 0.3])
    def test_ternary_layers_hand_on_what_they_multiply_by_and_are_not_masked(threshold):
        model = keras.Sequential(
            [
                keras.Input((5,)),
                layers.Dense(7, name="first"),
                layers.TernaryDense(11, threshold=threshold, use_bias=False, name="ternary"),
                layers.Dense(3, name="last"),
            ]
        )
        randomize(model)
        # Up to the one factor of all its outputs, asked of the layer itself.
        ternary = numpy(model.get_layer("ternary")(np.eye(7, dtype="float32")))
        assert (ternary == 0).any() == (threshold != 0.0)
        last = np.abs(numpy(model.get_layer("last").kernel)).sum(axis=1)
        proportional(neuron_scores(model), np.abs(ternary) @ last)
        found = maskable_kernels(model)
        assert [kernel.key for kernel in found] == ["first", "last"]
        assert "learns its zeros" in found.skipped[0].reason
        before = numpy(model.get_layer("first").kernel)
        sparse = keras_saliency.sparsify(model, 0.5, rng.normal(size=(32, 5)))
        assert (numpy(sparse.get_layer("first").kernel) == 0).sum() >= 1
        np.testing.assert_array_equal(
            numpy(sparse.get_layer("ternary").kernel), numpy(model.get_layer("ternary").kernel)
        )
        np.testing.assert_array_equal(numpy(model.get_layer("first").kernel), before)
        total = keras_saliency.sparsity.count_operations(model)
        assert total == 2 * (5 * 7 + 7 * 11 + 11 * 3)


def test_the_names_are_public():
    assert keras_saliency.edge_significance is edge_significance
    assert keras_saliency.inffs is inffs


# ---- this library's own layers -------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: keras_saliency.XM2AHeads(2, 4), id="xm2a"),
        pytest.param(lambda: keras_saliency.XM2AHeads(2, 4, talk="self"), id="xm2a-self"),
        pytest.param(lambda: keras_saliency.XM2AHeads(2, 4, talk="input"), id="xm2a-input"),
        pytest.param(
            lambda: keras_saliency.XM2AHeads(2, 4, share_projections=True), id="xm2a-shared"
        ),
        pytest.param(lambda: keras_saliency.MSMSA(2, 4), id="msmsa"),
    ],
)
def test_convolution_heads_are_sparsified_down_to_each_kernel(layer):
    model = keras.Sequential([keras.Input((9, 3)), layer(), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2))
    heads = model.layers[0]
    # A dimension of head 2 whose value goes nowhere: neither value nor query may count.
    kernel = keras.ops.convert_to_numpy(heads.output_kernel).copy()
    kernel[heads.key_dim] = 0.0
    heads.output_kernel.assign(kernel)
    scores = edge_significance(model, scores="identity")
    kernels = {name for name in scores if "_kernel" in name}
    expected = 1 + heads.num_heads * len(heads.roles) + (getattr(heads, "talk", "") == "input")
    assert len(kernels) == expected
    value = scores[f"{heads.name}/value_kernel_2"]
    assert value.shape == tuple(heads.head_kernels("value")[1].shape)
    if "query" in heads.roles:
        for role in ("value", "query"):
            dimension = scores[f"{heads.name}/{role}_kernel_2"][..., 0]
            np.testing.assert_array_equal(dimension, 0.0)
    assert (value[..., 1] > 0).all()

    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude", scope="layer", masked=True)
    report = keras_saliency.sparsity_report(sparse)
    assert (report["zeros"] == (report["size"] * 0.5).round()).all()
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype("float32")
    stripped = keras_saliency.strip_masks(sparse)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(sparse(x)), keras.ops.convert_to_numpy(stripped(x)), atol=1e-6
    )
