"""Reading `data=`: everything that `fit` takes, refusals at once, messages that stay short."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_saliency.graph.data import read_inputs, read_pairs

x = np.arange(33, dtype="float32").reshape(11, 3)
y = np.arange(11)
w = np.linspace(0, 1, 11)


def one_input():
    return keras.Sequential([keras.Input((3,)), layers.Dense(2)])


def two_inputs(named=False):
    a, b = keras.Input((3,), name="a"), keras.Input((5,), name="b")
    outputs = layers.Dense(2)(layers.Concatenate()([a, b]))
    return keras.Model({"a": a, "b": b} if named else [a, b], outputs)


b = np.arange(55, dtype="float32").reshape(11, 5)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (x, (x, None, None)),
        ((x,), (x, None, None)),
        ((x, y), (x, y, None)),
        ((x, y, w), (x, y, w)),
        ([x], (x, None, None)),
        (x.tolist(), (x, None, None)),
        ((x.tolist(), y.tolist()), (x, y, None)),
        (None, (None, None, None)),
    ],
)
def test_a_tuple_is_read_as_fit_reads_it(data, expected):
    for got, wanted in zip(read_pairs(one_input(), data), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_several_inputs_come_in_the_structure_that_the_model_takes():
    for data in ([x, b], {"b": b, "a": x}, {"a": x, "b": b, "label": y}, ([x, b], y)):
        got = read_inputs(two_inputs(), data)
        np.testing.assert_array_equal(got[0], x)
        np.testing.assert_array_equal(got[1], b)
        got = read_inputs(two_inputs(named=True), data)
        assert sorted(got) == ["a", "b"]
        np.testing.assert_array_equal(got["b"], b)
    got = read_inputs(two_inputs(), [x.tolist(), b.tolist()])
    assert [part.shape for part in got] == [(11, 3), (11, 5)]


def test_targets_of_an_input_s_shape_are_fine_where_the_inputs_are_clear():
    _, target, _ = read_pairs(two_inputs(), ([x, b], b))
    np.testing.assert_array_equal(target, b)


def test_a_tuple_of_inputs_is_refused():
    with pytest.raises(ValueError, match="list or a dict"):
        read_inputs(two_inputs(), (x, b))
    with pytest.raises(ValueError, match="list or a dict"):
        read_inputs(two_inputs(), (x.tolist(), b.tolist()))
    with pytest.raises(ValueError, match="tuple of 4"):
        read_inputs(one_input(), (x, x, x, x))

    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs[0]

    model = Subclassed()
    model.build([(None, 3), (None, 5)])
    with pytest.raises(ValueError, match="list or a dict"):
        read_inputs(model, (x, b))


def test_a_missing_input_is_named():
    with pytest.raises(ValueError, match=r"\['a', 'b'\].*\['a'\]"):
        read_inputs(two_inputs(), {"a": x})
    with pytest.raises(ValueError, match="takes 2 input"):
        read_inputs(two_inputs(), x)


class Batches(keras.utils.PyDataset):
    def __init__(self, count):
        super().__init__()
        self.count = count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        begin = 4 * index % 12
        return x[begin : begin + 4], y[begin : begin + 4]


def endless():
    for i in itertools.count():
        yield x[4 * i % 8 :][:4], y[4 * i % 8 :][:4]


def streams(finite):
    yield Batches(3 if finite else None)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        yield data if finite else data.repeat()
        if not finite:
            yield data.repeat().filter(lambda *_: True)
    if keras.backend.backend() == "torch":
        import torch

        class Iterable(torch.utils.data.IterableDataset):
            def __iter__(self):
                return itertools.cycle(zip(torch.tensor(x), torch.tensor(y), strict=True))

        pairs = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        yield torch.utils.data.DataLoader(pairs if finite else Iterable(), batch_size=4)
    if not finite:
        yield endless()
        yield iter([(x, y)])


def test_data_sets_are_read_whole():
    for data in streams(finite=True):
        inputs, targets, weights = read_pairs(one_input(), data)
        np.testing.assert_array_equal(inputs, x)
        np.testing.assert_array_equal(targets, y)
        assert weights is None


def test_a_stream_without_end_is_refused_or_read_up_to_max_samples():
    for data in streams(finite=False):
        with pytest.raises(ValueError, match="max_samples"):
            read_inputs(one_input(), data)
        inputs, targets, _ = read_pairs(one_input(), data, max_samples=7)
        np.testing.assert_array_equal(inputs, x[:7])
        np.testing.assert_array_equal(targets, y[:7])


def test_no_more_is_drawn_from_a_stream_than_is_needed():
    drawn = []

    def batches():
        for i in itertools.count():
            drawn.append(i)
            yield x[:4]

    assert len(read_inputs(one_input(), batches(), max_samples=8)) == 8
    assert drawn == [0, 1]


def test_arrays_are_cut_to_max_samples():
    inputs, targets, weights = read_pairs(one_input(), (x, y, w), max_samples=4)
    assert len(inputs) == len(targets) == len(weights) == 4
    with pytest.raises(ValueError, match="max_samples"):
        read_inputs(one_input(), x, max_samples=0)


def test_tensors_become_arrays():
    got = read_inputs(one_input(), ops.convert_to_tensor(x))
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, x)


def test_nan_stays_nan():
    assert np.isnan(read_inputs(one_input(), np.full((2, 3), np.nan))).all()


@pytest.mark.parametrize("data", ["abc", b"abc", 7, object(), (None, y), {"a": "abc"}])
def test_what_is_no_data_is_a_type_error(data):
    with pytest.raises(TypeError, match="`data`"):
        read_inputs(one_input(), data)


@pytest.mark.parametrize(
    "data",
    [(), [], {}, x[:0], (x[:0], y[:0]), (x, y[:5]), [[1.0, 2.0], [3.0]], [None], np.float32(3)],
)
def test_empty_uneven_and_ragged_data_are_value_errors(data):
    with pytest.raises(ValueError, match="`data`"):
        read_inputs(one_input(), data)


def test_errors_never_print_the_data():
    ragged = [[float(i)] * (i % 2 + 1) for i in range(10_000)]
    for data in (ragged, (ragged, y), [ragged, ragged], [*ragged, "abc"]):
        with pytest.raises((TypeError, ValueError)) as error:
            read_inputs(one_input(), data)
        assert len(str(error.value)) < 400
