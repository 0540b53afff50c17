import keras
import numpy as np
import pytest
from harness import Case, LayerTests, assert_close
from scale_space.temporal_reference import batch_saliency

from keras_saliency import SaliencySeries, SDMACrossAttention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, weights, path):
    kernel, recurrent, bias = (weights[f"{path}/{n}"] for n in WEIGHTS)
    units = recurrent.shape[0]
    h = c = np.zeros((len(x), units))
    states = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


def gru(x, weights, path):
    kernel, recurrent, bias = (weights[f"{path}/{n}"] for n in WEIGHTS)
    h = np.zeros((len(x), recurrent.shape[0]))
    states = []
    for t in range(x.shape[1]):
        a, b = x[:, t] @ kernel + bias[0], h @ recurrent + bias[1]
        (za, ra, ga), (zb, rb, gb) = np.split(a, 3, axis=1), np.split(b, 3, axis=1)
        z = sigmoid(za + zb)
        h = z * h + (1 - z) * np.tanh(ga + sigmoid(ra + rb) * gb)
        states.append(h)
    return np.stack(states, axis=1)


WEIGHTS = (
    "lstm_cell/kernel",
    "lstm_cell/recurrent_kernel",
    "lstm_cell/bias",
)


def reference(
    inputs,
    weights,
    units,
    mutual=True,
    recurrent="lstm",
    return_sequences=True,
    return_branches=False,
    **saliency,
):
    series = inputs[0]
    given = inputs[1] if len(inputs) == 2 else batch_saliency(series, **saliency)
    weights = {k.replace("gru_cell", "lstm_cell"): v for k, v in weights.items()}
    branch = {"lstm": lstm, "gru": gru}[recurrent]
    y_t = branch(series, weights, f"series_{recurrent}")
    y_a = branch(given, weights, f"saliency_{recurrent}")
    if not return_sequences:
        y_t, y_a = y_t[:, -1], y_a[:, -1]
    g_t, g_a = y_t * sigmoid(y_a), y_a * sigmoid(y_t)
    output, scores = g_t + g_a, (sigmoid(y_a), sigmoid(y_t))
    if not mutual:
        output, g_a, scores = g_t, y_a, scores[0]
    return ((output, g_t, g_a) if return_branches else output), scores


class TestSDMACrossAttention(LayerTests):
    layer = SDMACrossAttention
    half = False
    config = {
        "units": 3,
        "mutual": False,
        "recurrent": "gru",
        "return_sequences": False,
        "return_branches": True,
        "octaves": 2,
        "scales": 4,
        "sigma0": 0.7,
        "contrast_threshold": 0.01,
        "theta": 0.9,
        "amplitude": "center",
        "cut": True,
        "missing": "interpolate",
        "activation": "sigmoid",
        "recurrent_activation": "tanh",
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "recurrent_initializer": "glorot_normal",
        "bias_initializer": "ones",
        "kernel_regularizer": "l2",
        "recurrent_regularizer": "l1",
        "bias_regularizer": "l2",
        "kernel_constraint": "max_norm",
        "recurrent_constraint": "non_neg",
        "bias_constraint": "unit_norm",
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "seed": 5,
    }
    cases = [
        Case("alone", {"units": 5}, [(2, 19, 3)], reference, scores=True, mask=True),
        Case(
            "pair-gru-last",
            {"units": 5, "recurrent": "gru", "return_sequences": False},
            [(2, 11, 3), (2, 11, 2)],
            reference,
            scores=True,
            mask=True,
        ),
        Case(
            "sdca",
            {"units": 2, "mutual": False},
            [(2, 11, 3), (2, 11, 3)],
            reference,
            scores=True,
            mask=True,
        ),
    ]


def test_branches_stack():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 13, 3)).astype("float32")
    layer = SDMACrossAttention(5, return_branches=True)
    output, g_t, g_a = layer(x)
    assert_close(output, g_t + g_a, 1e-6)
    deeper = SDMACrossAttention(7, return_branches=True)
    assert [tuple(t.shape) for t in deeper([g_t, g_a])] == [(2, 13, 7)] * 3
    *three, scores = layer(x, return_attention_scores=True)
    assert_close(three, [output, g_t, g_a], 1e-6)
    assert len(scores) == 2
    assert [tuple(s) for s in layer.compute_output_shape((2, 13, 3))] == [(2, 13, 5)] * 3


def test_saliency_inside_is_that_of_the_layer():
    x = np.random.default_rng(1).normal(size=(2, 29, 3)).astype("float32")
    options = {"octaves": 2, "amplitude": "unit", "cut": True, "sigma0": 0.6}
    layer = SDMACrossAttention(5, **options)
    assert_close(layer(x), layer([x, SaliencySeries(**options)(x)]), 1e-6)


def test_dropout_acts_in_training_only():
    x = np.random.default_rng(1).normal(size=(2, 17, 3)).astype("float32")
    layer = SDMACrossAttention(5, dropout=0.5, recurrent_dropout=0.2, seed=3)
    calm = keras.ops.convert_to_numpy(layer(x))
    assert_close(layer(x, training=False), calm, 0)
    assert np.abs(keras.ops.convert_to_numpy(layer(x, training=True)) - calm).max() > 1e-3


def test_masks_of_both_inputs_count():
    rng = np.random.default_rng(2)
    x, s = (rng.normal(size=(1, 9, 2)).astype("float32") for _ in range(2))
    layer = SDMACrossAttention(3, return_sequences=False)
    long, short = (np.arange(9)[None] < n for n in (8, 6))
    masks = [keras.ops.convert_to_tensor(m) for m in (long, short)]
    assert_close(layer([x, s], mask=masks), layer([x[:, :6], s[:, :6]]), 1e-5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"units": 0}, "units"),
        ({"units": 2.5}, "units"),
        ({"units": 3, "recurrent": "rnn"}, "recurrent"),
        ({"units": 3, "dropout": 1.0}, "dropout"),
        ({"units": 3, "recurrent_dropout": -0.1}, "recurrent_dropout"),
        ({"units": 3, "amplitude": "median"}, "amplitude"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        SDMACrossAttention(**arguments)


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ([(2, 11, 3), (2, 12, 3)], "time"),
        ([(2, 11, 3), (3, 11, 3)], "batch"),
        ([(2, 11, 3), (2, 11)], r"\(batch, time, variates\)"),
        ([(2, 11)], r"\(batch, time, variates\)"),
        ([(2, 11, 3)] * 3, "pair"),
    ],
)
def test_inputs_that_do_not_fit(shapes, what):
    arrays = [np.zeros(s, "float32") for s in shapes]
    with pytest.raises(ValueError, match=what):
        SDMACrossAttention(3)(arrays if len(arrays) > 1 else arrays[0])
