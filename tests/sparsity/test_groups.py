"""Which channels go together: the groups themselves, before anything is built."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_saliency.sparsity.shrinking.groups import ChannelGroups


class Groups:
    """The groups of a model, asked by layer."""

    def __init__(self, outputs, inputs):
        self.groups = ChannelGroups(keras.Model(inputs, outputs))

    def __getitem__(self, name):
        """One number per output channel of the layer `name`: equal numbers go together."""
        calls = [c for c in self.groups.calls.values() if c.layer.name == name]
        assert len(calls) == 1 and len(calls[0].created) == 1
        return self.groups.labels[calls[0].created[0]]

    def entering(self, name, kernel="kernel"):
        """One number per input channel of a kernel of the layer `name`."""
        calls = [c for c in self.groups.calls.values() if c.layer.name == name]
        (edges,) = [e for e in calls[0].kernels if e.weight == kernel]
        return self.groups.labels[edges.inputs.ids]

    def stays(self, name, statistics=True):
        return self.groups.pinned(statistics)[self[name]]


def same(*vectors):
    return all(np.array_equal(vectors[0], v) for v in vectors)


def disjoint(*vectors):
    joined = np.concatenate([np.unique(v) for v in vectors])
    return len(np.unique(joined)) == len(joined)


def conv(filters, name, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", name=name, **kwargs)


@pytest.fixture
def image():
    return keras.Input((5, 7, 3))


def test_a_plain_stack_has_one_group_per_channel(image):
    x = conv(4, "first")(image)
    x = layers.ReLU()(layers.BatchNormalization()(layers.MaxPooling2D()(x)))
    found = Groups(conv(6, "head")(conv(5, "second")(x)), image)
    assert disjoint(found["first"], found["second"], found["head"])
    assert len(np.unique(found["first"])) == 4
    assert same(found["first"], found.entering("second"))
    assert not found.stays("first").any() and not found.stays("second").any()


def test_outputs_and_inputs_are_never_touched(image):
    x = conv(4, "shown")(image)
    found = Groups([x, layers.GlobalAveragePooling2D()(conv(5, "head")(x))], image)
    assert found.stays("shown").all() and found.stays("head").all()
    assert found.groups.pinned()[found.entering("shown")].all()
    reasons = found.groups.reasons()
    assert reasons[found["head"][0]] == ["an output of the model"]
    assert reasons[found.entering("shown")[0]] == ["an input of the model"]


@pytest.mark.parametrize(
    "join",
    [
        layers.Add(),
        layers.Subtract(),
        layers.Average(),
        layers.Maximum(),
        layers.Minimum(),
        layers.Multiply(),
        lambda xs: xs[0] + xs[1],
        lambda xs: keras.ops.maximum(*xs),
    ],
    ids=["add", "subtract", "average", "maximum", "minimum", "multiply", "plus", "op"],
)
def test_tensors_combined_number_by_number_go_together(image, join):
    a, b = conv(4, "a")(image), conv(4, "b")(image)
    found = Groups(conv(2, "head")(join([a, b])), image)
    assert same(found["a"], found["b"], found.entering("head"))
    assert len(np.unique(found["a"])) == 4


def test_residual_chain_is_one_group_and_inner_channels_are_free(image):
    x = conv(4, "stem")(image)
    for i in range(3):
        y = conv(4, f"outer{i}")(conv(6, f"inner{i}")(x))
        x = layers.Add()([x, y])
    found = Groups(conv(2, "head")(x), image)
    assert same(found["stem"], *[found[f"outer{i}"] for i in range(3)])
    assert disjoint(found["stem"], *[found[f"inner{i}"] for i in range(3)])


def test_addition_to_the_input_ties_to_what_must_stay(image):
    x = layers.Add()([image, conv(3, "branch")(image)])
    found = Groups(conv(2, "head")(x), image)
    assert found.stays("branch").all()


def test_concatenation_keeps_its_parts_apart(image):
    a, b = conv(4, "a")(image), conv(5, "b")(image)
    found = Groups(conv(2, "head")(layers.Concatenate()([b, a, b])), image)
    assert disjoint(found["a"], found["b"])
    expected = np.concatenate([found["b"], found["a"], found["b"]])
    assert same(found.entering("head"), expected)


def test_concatenation_along_space_ties_channels(image):
    a, b = conv(4, "a")(image), conv(4, "b")(image)
    found = Groups(conv(2, "head")(layers.Concatenate(axis=1)([a, b])), image)
    # Each position of the kernel sees either, so equal channels leave together.
    assert same(found["a"], found["b"], found.entering("head"))


def test_dense_blocks_share_what_they_concatenate(image):
    x = conv(4, "stem")(image)
    for i in range(2):
        x = layers.Concatenate()([x, conv(3, f"grow{i}")(x)])
    found = Groups(conv(2, "head")(x), image)
    assert same(found.entering("grow1"), np.concatenate([found["stem"], found["grow0"]]))
    assert disjoint(found["stem"], found["grow0"], found["grow1"])


def test_depthwise_convolution_repeats_its_input(image):
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(conv(4, "first")(image))
    found = Groups(conv(2, "head")(x), image)
    assert same(found.entering("head"), np.repeat(found["first"], 2))


def test_separable_convolution_has_free_outputs(image):
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="separable")(conv(4, "a")(image))
    found = Groups(conv(2, "head")(x), image)
    assert same(found.entering("separable", "pointwise_kernel"), np.repeat(found["a"], 2))
    assert disjoint(found["a"], found["separable"])


def test_grouped_convolution_goes_block_by_block(image):
    x = conv(6, "grouped", groups=2)(conv(4, "first")(image))
    found = Groups(conv(2, "head")(x), image)
    first, grouped = found["first"], found["grouped"]
    assert same(first, first[[0, 0, 2, 2]]) and same(grouped, first[[0, 0, 0, 2, 2, 2]])
    assert first[0] != first[2]


def test_group_normalisation_goes_block_by_block(image):
    x = layers.GroupNormalization(2)(conv(6, "first")(image))
    first = Groups(conv(2, "head")(x), image)["first"]
    assert same(first, first[[0, 0, 0, 3, 3, 3]]) and first[0] != first[3]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_flatten_feeds_every_position_of_a_channel(data_format):
    inputs = keras.Input((5, 7, 3))
    x = layers.Conv2D(4, 1, name="first")(inputs)
    order = (1, 2, 3) if data_format == "channels_last" else (3, 1, 2)
    x = layers.Flatten(data_format=data_format)(layers.Permute(order)(x))
    found = Groups(layers.Dense(2, name="head")(x), inputs)
    entering = found.entering("head")
    assert len(entering) == 4 * 5 * 7
    # `Flatten` moves the channels to the end whatever the format.
    assert same(entering, np.tile(found["first"], 5 * 7))


def test_reshape_splits_channels_into_heads():
    inputs = keras.Input((5, 6))
    x = layers.Dense(12, name="first")(inputs)
    x = layers.Reshape((5, 3, 4))(x)
    found = Groups(layers.Dense(2, name="head")(x), inputs)
    # The dense layer behind sees the last axis only: entries with one place in it go together.
    assert same(found["first"], np.tile(found["first"][:4], 3))
    assert same(found.entering("head"), found["first"][:4])


def test_squeeze_and_excite_ties_the_gate_to_the_map(image):
    x = conv(6, "map")(image)
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(2, 1, activation="relu", name="squeeze")(s)
    s = layers.Conv2D(6, 1, activation="sigmoid", name="excite")(s)
    found = Groups(conv(2, "head")(layers.Multiply()([x, s])), image)
    assert same(found["map"], found["excite"], found.entering("squeeze"))
    assert disjoint(found["map"], found["squeeze"])


def test_a_gate_of_one_channel_stays(image):
    x = conv(6, "map")(image)
    gate = conv(1, "gate", activation="sigmoid")(x)
    found = Groups(conv(2, "head")(layers.Multiply()([x, gate])), image)
    assert found.stays("gate").all() and not found.stays("map").any()


@pytest.mark.parametrize("cell, gates", [("SimpleRNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_units_go_with_all_their_gates(cell, gates):
    inputs = keras.Input((7, 3))
    x = getattr(layers, cell)(5, name="recurrent", return_sequences=True)(inputs)
    found = Groups(layers.Dense(2, name="head")(x), inputs)
    units = found["recurrent"]
    assert len(np.unique(units)) == 5
    (call,) = [c for c in found.groups.calls.values() if c.layer.name == "recurrent"]
    kernel, recurrent = call.kernels
    assert same(found.groups.labels[kernel.outputs], np.tile(units, gates))
    assert same(found.groups.labels[recurrent.outputs], np.tile(units, gates))
    assert same(found.groups.labels[recurrent.inputs.ids], units)
    assert same(found.entering("head"), units)


def test_states_passed_on_tie_two_recurrent_layers():
    inputs = keras.Input((7, 3))
    y, h, c = layers.LSTM(5, return_sequences=True, return_state=True, name="encoder")(inputs)
    y = layers.LSTM(5, name="decoder")(y, initial_state=[h, c])
    found = Groups(layers.Dense(2, name="head")(y), inputs)
    assert same(found["encoder"], found["decoder"])


@pytest.mark.parametrize("mode, tied", [("concat", False), ("sum", True)])
def test_bidirectional_layers_are_tied_where_they_are_merged(mode, tied):
    inputs = keras.Input((7, 3))
    x = layers.Bidirectional(layers.LSTM(4), merge_mode=mode, name="both")(inputs)
    found = Groups(layers.Dense(2, name="head")(x), inputs)
    (call,) = [c for c in found.groups.calls.values() if c.layer.name == "both"]
    forward, backward = (found.groups.labels[ids] for ids in call.created)
    assert same(forward, backward) is tied and disjoint(forward, backward) is not tied
    expected = forward if tied else np.concatenate([forward, backward])
    assert same(found.entering("head"), expected)


def test_attention_heads_go_as_wholes():
    inputs = keras.Input((5, 6))
    x = layers.Dense(6, name="first")(inputs)
    x = layers.MultiHeadAttention(3, 4, value_dim=2, name="attention")(x, x)
    found = Groups(layers.Dense(2, name="head")(x), inputs)
    (call,) = [c for c in found.groups.calls.values() if c.layer.name == "attention"]
    heads, outputs = (found.groups.labels[ids] for ids in call.created)
    assert len(heads) == 3 and len(outputs) == 6 and disjoint(heads, outputs)
    kernels = {edges.weight: edges for edges in call.kernels}
    for name, size in (("query", 4), ("key", 4), ("value", 2)):
        edges = kernels[f"_{name}_dense.kernel"]
        assert same(found.groups.labels[edges.outputs], np.repeat(heads, size))
        assert same(found.groups.labels[edges.inputs.ids], found["first"])
    entering = kernels["_output_dense.kernel"].inputs.ids
    assert same(found.groups.labels[entering], np.repeat(heads, 2))
    assert same(found.entering("head"), outputs)


def test_returned_attention_scores_keep_the_heads():
    inputs = keras.Input((5, 6))
    attention = layers.MultiHeadAttention(3, 4, name="attention")
    _, scores = attention(inputs, inputs, return_attention_scores=True)
    groups = ChannelGroups(keras.Model(inputs, scores))
    (call,) = [c for c in groups.calls.values() if c.layer.name == "attention"]
    assert groups.pinned()[groups.labels[call.created[0]]].all()


def test_layer_norm_ties_nothing_but_needs_all_for_its_statistics(image):
    x = layers.LayerNormalization(name="norm")(conv(4, "first")(image))
    found = Groups(conv(2, "head")(x), image)
    assert len(np.unique(found["first"])) == 4
    assert same(found.entering("head"), found["first"])
    assert found.stays("first").all()  # `shrink`, which is exact
    assert not found.stays("first", statistics=False).any()  # `shrink_to`, which is not


def test_batch_norm_slices_its_statistics_with_the_channels(image):
    x = layers.BatchNormalization(name="norm")(conv(4, "first")(image))
    found = Groups(conv(2, "head")(x), image)
    (call,) = [c for c in found.groups.calls.values() if c.layer.name == "norm"]
    assert set(call.slices) == {"gamma", "beta", "moving_mean", "moving_variance"}
    for axes in call.slices.values():
        assert same(found.groups.labels[axes[0]], found["first"])


def test_softmax_over_channels_keeps_them(image):
    x = conv(4, "mixed", activation="softmax")(image)
    found = Groups(conv(2, "head")(conv(5, "free")(x)), image)
    assert found.stays("mixed").all() and not found.stays("free").any()


def test_layers_without_a_rule_keep_what_is_around_them(image):
    x = conv(4, "before")(image)
    x = layers.Normalization(mean=[0.0] * 4, variance=[1.0] * 4, name="unknown")(x)
    found = Groups(conv(2, "head")(conv(5, "after")(x)), image)
    assert found.stays("before").all() and not found.stays("after").any()
    assert "unknown" in found.groups.kept


def test_excluded_layers_keep_their_neighbours(image):
    x = conv(6, "after")(conv(5, "chosen")(conv(4, "before")(image)))
    x = conv(2, "head")(x)
    groups = ChannelGroups(keras.Model(image, x), exclude="chosen")
    assert groups.kept == {"chosen": "excluded"}
    named = {c.layer.name: c for c in groups.calls.values()}
    pinned = groups.pinned()
    assert pinned[groups.labels[named["before"].created[0]]].all()
    assert not pinned[groups.labels[named["after"].created[0]]].any()


def test_nested_models_are_followed_inside(image):
    inner_inputs = keras.Input((5, 7, 4))
    inner = keras.Model(inner_inputs, conv(4, "inside")(inner_inputs), name="inner")
    x = conv(4, "first")(image)
    x = layers.Add()([x, inner(x)])
    found = Groups(conv(2, "head")(x), image)
    assert same(found["first"], found["inside"], found.entering("inside"))


@pytest.mark.parametrize(
    "build, count",
    [
        (lambda x: layers.Conv2DTranspose(4, 3, name="layer")(x), 4),
        (lambda x: layers.TimeDistributed(layers.Dense(4), name="layer")(x), 4),
        (lambda x: layers.EinsumDense("bijc,cd->bijd", (5, 7, 4), name="layer")(x), 4),
    ],
    ids=["transposed", "time distributed", "einsum"],
)
def test_other_kernels_have_free_outputs(image, build, count):
    x = build(conv(6, "first")(image))
    found = Groups(conv(2, "head")(x), image)
    assert len(np.unique(found["layer"])) == count
    assert disjoint(found["first"], found["layer"])
    assert same(found.entering("head"), found["layer"])
