"""Shrunk and stripped models leave Keras like any other model, with the same numbers."""

import keras
import numpy as np
import pytest

import keras_saliency

BACKEND = keras.backend.backend()


def network():
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    y = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype("float32")


@pytest.fixture(params=["shrunk", "stripped"])
def model(request, images):
    if request.param == "shrunk":
        made = keras_saliency.shrink_to(network(), channels=0.5, data=images, verbose=False)
        assert made.count_params() < network().count_params()
    else:
        made = keras_saliency.strip_masks(keras_saliency.sparsify(network(), 0.5, data=images))
    made(images)  # exporters want a model that has been called
    return made


def expected(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras exports no SavedModel from PyTorch")
def test_saved_model(model, images, tmp_path):
    tf = pytest.importorskip("tensorflow")
    model.export(str(tmp_path / "saved"), format="tf_saved_model", verbose=False)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(saved.serve(images), expected(model, images), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # TensorFlow's interpreter will move to another package
@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras exports LiteRT from TensorFlow alone")
def test_litert(model, images, tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "model.tflite")
    model.export(path, format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(path)
    details = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(details["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], images)
    interpreter.invoke()
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(result, expected(model, images), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the exporters warn of their own dependencies
@pytest.mark.skipif(BACKEND == "jax", reason="Keras exports ONNX from JAX through TensorFlow")
def test_onnx(model, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx" if BACKEND == "tensorflow" else "onnxscript")
    path = str(tmp_path / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(result, expected(model, images), atol=1e-5)
