"""The harness must pass a sound layer and fail an unsound one."""

import harness
import keras
import numpy as np
import pytest
from harness import Case, LayerTests


@keras.saving.register_keras_serializable(package="keras_saliency")
class Gain(keras.layers.Layer):
    """Multiply by a learned factor per channel, and by a constant."""

    def __init__(self, factor=1.0, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        self.supports_masking = True

    def build(self, shape):
        self.axis = 1 if self.data_format == "channels_first" else -1
        self.gain = self.add_weight(shape=(shape[self.axis],), name="gain")

    def call(self, x):
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return x * keras.ops.reshape(self.gain, shape) * self.factor

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="keras_saliency")
class ForgetfulGain(Gain):
    """As `Gain`, but loses `factor` when saved, and lets padding leak."""

    def call(self, x, mask=None):
        return super().call(x) + keras.ops.mean(x, axis=1, keepdims=True)

    def get_config(self):
        config = super().get_config()
        config["factor"] = 1.0
        return config


def reference(inputs, weights, factor=1.0):
    return inputs[0] * weights["gain"] * factor


CASES = [
    Case("image", {"factor": 3.0}, [(2, 5, 7, 3)], reference, data_format=True),
    Case("sequence", {}, [(3, 5, 2)], reference, mask=True),
]


class TestGain(LayerTests):
    layer = Gain
    config = {"factor": 2.0, "data_format": "channels_first"}
    cases = CASES


class Unsound(LayerTests):
    layer = ForgetfulGain
    config = {"factor": 2.0, "data_format": "channels_first"}
    cases = CASES


@pytest.mark.parametrize(
    "name",
    ["output_matches_the_reference", "save_and_load", "clone", "padding_changes_nothing"],
)
def test_an_unsound_layer_fails(name, tmp_path):
    test = getattr(Unsound(), f"test_{name}")
    case = CASES[1] if "padding" in name else CASES[0]
    arguments = (case, tmp_path) if name == "save_and_load" else (case,)
    with pytest.raises(AssertionError):
        test(*arguments)


def test_a_lost_argument_fails():
    with pytest.raises(AssertionError, match="factor"):
        Unsound().test_every_argument_survives_its_config()


def test_an_unlisted_argument_fails():
    class Incomplete(Unsound):
        config = {"factor": 2.0}

    with pytest.raises(AssertionError, match="data_format"):
        Incomplete().test_every_argument_survives_its_config()


def test_relative_weights_are_named_inside_the_layer():
    layer = Gain(name="anything")
    layer.build((None, 4))
    assert list(harness.relative_weights(layer)) == ["gain"]
    assert harness.relative_weights(layer)["gain"].dtype == np.float64
