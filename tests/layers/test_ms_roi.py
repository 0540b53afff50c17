import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests, relative_weights

from keras_saliency import MSROI


def reference(inputs, w, num_classes, features=4, kernel_size=3, maps=False, **kwargs):
    """Equations 2.4 and 2.5 of Prakash (2019), position by position, class by class."""
    (x,) = inputs
    kernel = w["kernel"]
    window, space = kernel.shape[:-2], x.shape[1:-1]
    before = [(n - 1) // 2 for n in window]
    padded = np.pad(
        x, [(0, 0), *((b, n - 1 - b) for b, n in zip(before, window, strict=True)), (0, 0)]
    )
    seen = np.zeros((len(x), *space, num_classes))
    for place in np.ndindex(*space):
        view = padded[(slice(None), *(slice(p, p + n) for p, n in zip(place, window, strict=True)))]
        for c in range(num_classes):
            for d in range(features):
                k = c * features + d
                value = (view * kernel[..., k]).reshape(len(x), -1).sum(axis=1) + w["bias"][k]
                seen[(slice(None), *place, c)] += np.maximum(value, 0)
    positions = np.prod(space)
    logits = seen.reshape(len(x), positions, -1).sum(axis=1) / (positions * features)
    logits = logits + w["logit_bias"]
    return (logits, seen) if maps else logits


CASES = [
    Case("series", {"num_classes": 5, "features": 2}, [(2, 7, 3)], reference, mask=True),
    Case("images", {"num_classes": 3}, [(2, 5, 7, 3)], reference, data_format=True),
    Case(
        "volumes",
        {"num_classes": 2, "features": 3, "kernel_size": (1, 2, 3)},
        [(2, 3, 4, 5, 2)],
        reference,
        data_format=True,
    ),
]


class TestMSROI(LayerTests):
    layer = MSROI
    config = {
        "num_classes": 5,
        "features": 3,
        "kernel_size": (1, 2),
        "data_format": "channels_first",
        "kernel_initializer": "ones",
        "bias_initializer": "ones",
        "logit_bias_initializer": "zeros",
        "kernel_regularizer": "l2",
        "bias_regularizer": "l1",
        "kernel_constraint": "max_norm",
        "bias_constraint": "non_neg",
    }
    cases = CASES

    def test_maps_are_those_of_the_reference_and_channels_last(self, case):
        layer, arrays = self.make(case), case.arrays()
        logits, maps = reference(arrays, relative_weights(layer), maps=True, **case.kwargs)
        found = layer(arrays[0], return_maps=True)
        spec = layer.compute_output_spec(keras.KerasTensor(arrays[0].shape), return_maps=True)
        for a, b, c in zip(found, (logits, maps), spec, strict=True):
            np.testing.assert_allclose(compat.to_numpy(a), b, rtol=1e-4, atol=1e-4)
            assert tuple(c.shape) == b.shape
        if case.data_format:
            first = self.make(case, data_format="channels_first")
            first.set_weights(layer.get_weights())
            moved = first(np.moveaxis(arrays[0], -1, 1), return_maps=True)[1]
            np.testing.assert_allclose(compat.to_numpy(moved), maps, rtol=1e-4, atol=1e-4)


def test_a_model_can_return_the_maps_beside_the_logits():
    inputs = keras.Input((None, 6, 2))
    outputs = MSROI(3)(inputs, return_maps=True)
    assert [tuple(x.shape) for x in outputs] == [(None, 3), (None, None, 6, 3)]
    logits, maps = keras.Model(inputs, outputs).predict(np.ones((2, 5, 6, 2)), verbose=0)
    np.testing.assert_allclose(logits, maps.mean(axis=(1, 2)) / 4 - 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MSROI(0), "num_classes"),
        (lambda: MSROI(2, features=0), "features"),
        (lambda: MSROI(2, kernel_size=()), "kernel_size"),
        (lambda: MSROI(2, kernel_size=(3, 3)).build((None, 5, 3)), "one per axis of space"),
        (lambda: MSROI(2).build((None, 5)), "series, images or volumes"),
        (lambda: MSROI(2).build((None, 5, 5, None)), "known number of channels"),
        (lambda: MSROI(2)(np.ones((1, 4, 4, 2)), mask=np.ones((1, 4), bool)), "series"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
