"""Keras's NNX mode on JAX: what is trained sparse there, and what is refused."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import keras

SCRIPT = """
    import keras, numpy as np
    from keras import layers
    import keras_saliency as ks
    from keras_saliency import KeepSparsity, iSparseCallback, sparsify, strip_masks

    assert keras.config.is_nnx_enabled()
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    y = x[:, :3]

    def parts():
        return [layers.Dense(16, activation="relu"), layers.Dense(3)]

    def compiled(model):
        model.compile("adam", "mse")
        return model

    def fit(model, callback):
        return model.fit(x, y, epochs=4, verbose=0, callbacks=[callback]).history["sparsity"]

    def zeros(model):
        return ks.sparsity_report(model)["zeros"].tolist()

    def network():
        return compiled(keras.Sequential([keras.Input((8,)), *parts()]))

    model = network()
    sparse = compiled(sparsify(model, 0.5, data=x, scope="layer", reconstruct=True, gate=False))
    assert zeros(sparse) == [64, 24]
    assert fit(sparse, KeepSparsity()) == [0.5] * 4 and zeros(sparse) == [64, 24]

    callback = iSparseCallback(0.75, (x, y), regrow="gradient", scope="layer")
    assert fit(model, callback)[-1] == 0.75
    assert [int((~mask).sum()) for mask in callback.sparsifier.masks.values()] == [96, 36]
    assert all(v.constraint is None for v in model.trainable_variables)

    masked = compiled(
        sparsify(network(), 0.25, method="magnitude", scope="layer", masked=True)
    )
    assert fit(masked, iSparseCallback(0.75, x, scope="layer"))[-1] == 0.75
    plain = strip_masks(masked)
    assert zeros(plain) == [96, 36]
    np.testing.assert_array_equal(plain.predict(x, verbose=0), masked.predict(x, verbose=0))

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = parts()

        def call(self, x):
            return self.last(self.first(x))

        def get_config(self):
            return {}

    own = Own()
    own(x)
    assert zeros(sparsify(own, 0.5, method="magnitude", scope="layer")) == [64, 24]
    try:
        sparsify(own, 0.5, method="magnitude", masked=True)
    except ValueError as error:
        assert "NNX" in str(error) and "masked=False" in str(error)
    else:
        raise AssertionError("masked=True was taken")
"""

if keras.backend.backend() == "jax" and importlib.util.find_spec("flax"):

    def test_nnx_mode_works_or_says_why_not():
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT)],
            env={**os.environ, "KERAS_NNX_ENABLED": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
