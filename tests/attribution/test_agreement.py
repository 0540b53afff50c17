"""Maps beside captum's and pytorch-grad-cam's of the same Keras model, which is a torch module."""

import sys
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers

from keras_saliency import saliency_map

if keras.backend.backend() != "torch":
    pytest.skip("the peers are PyTorch's", allow_module_level=True)
attr = pytest.importorskip("captum.attr")
import torch

CLASS = 2


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="features"),
            layers.Flatten(),
            layers.Dense(12, activation="tanh"),
            layers.Dense(4),
        ]
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")


def call(model):
    return lambda x: model(x, training=False)


def agree(ours, theirs, tolerance=1e-4):
    theirs = np.asarray(theirs.detach() if hasattr(theirs, "detach") else theirs)
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)


def test_gradients(model, images):
    ours = saliency_map(model, images, "gradient", target=CLASS, reduce=None)
    peer = attr.Saliency(call(model))
    x = torch.tensor(images, requires_grad=True)
    agree(ours, peer.attribute(x, target=CLASS, abs=False))
    product = saliency_map(model, images, "gradient_x_input", target=CLASS, reduce=None)
    agree(product, attr.InputXGradient(call(model)).attribute(x, target=CLASS))


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_integrated_gradients(model, images, baseline):
    ours = saliency_map(
        model,
        images,
        "integrated_gradients",
        target=CLASS,
        steps=64,
        baseline=baseline,
        reduce=None,
    )
    peer = attr.IntegratedGradients(call(model))
    theirs = peer.attribute(
        torch.tensor(images),
        baselines=baseline,
        target=CLASS,
        n_steps=64,
        method="riemann_middle",
    )
    agree(ours, theirs)


def test_expected_gradients_of_what_does_not_depend_on_the_draw(images):
    """The places on the path are drawn, so only a model that is linear can be compared."""
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(4)])
    background = images[:1] * 0.3 + 0.1
    ours = saliency_map(
        model,
        images,
        "expected_gradients",
        target=CLASS,
        background=background,
        samples=4,
        reduce=None,
    )
    peer = attr.GradientShap(call(model))
    theirs = peer.attribute(
        torch.tensor(images), baselines=torch.tensor(background), target=CLASS, stdevs=0.0
    )
    agree(ours, theirs)


@pytest.mark.parametrize("stride", [4, 2])
def test_occlusion(model, images, stride):
    ours = saliency_map(
        model, images, "occlusion", target=CLASS, window=4, stride=stride, normalize=None
    )
    peer = attr.Occlusion(call(model))
    theirs = peer.attribute(
        torch.tensor(images),
        sliding_window_shapes=(4, 4, 3),
        strides=(stride, stride, 3),
        target=CLASS,
    )
    agree(ours, theirs.detach().numpy()[..., 0])


@pytest.fixture(scope="module")
def cams():
    """pytorch-grad-cam; its picture helpers, not used here, import torchvision."""
    added = []
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        added = [f"torchvision{part}" for part in ("", ".transforms", ".transforms.functional")]
        for name in added:
            sys.modules[name] = mock.MagicMock()
    try:
        yield pytest.importorskip("pytorch_grad_cam")
    finally:
        for name in added:
            sys.modules.pop(name, None)


class Channels(torch.nn.Module):
    """pytorch-grad-cam reads channels first."""

    def __init__(self, model):
        super().__init__()
        self.net = model

    def forward(self, x):
        return self.net(x.permute(0, 2, 3, 1), training=False)


def peers_map(model, images, peer):
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def turn(x):
        return x.permute(0, 3, 1, 2)

    cam = peer(Channels(model), [model.get_layer("features")], reshape_transform=turn)
    targets = [ClassifierOutputTarget(CLASS)] * len(images)
    return cam(input_tensor=torch.tensor(images).permute(0, 3, 1, 2), targets=targets)


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("grad_cam", "GradCAM"),
        ("grad_cam_plus_plus", "GradCAMPlusPlus"),
        ("hires_cam", "HiResCAM"),
        ("layer_cam", "LayerCAM"),
    ],
)
def test_cams(model, images, cams, method, peer):
    theirs = peers_map(model, images, getattr(cams, peer))
    ours = saliency_map(
        model, images, method, target=CLASS, layer="features", normalize=None, resize=True
    )
    ours = np.maximum(ours, 0)
    low = ours.min((1, 2), keepdims=True)
    ours = (ours - low) / (ours.max((1, 2), keepdims=True) - low)
    # The peer adds 1e-6 to Grad-CAM++'s denominators, where ours takes 0/0 as 0.
    agree(ours, theirs, 1e-3 if method == "grad_cam_plus_plus" else 1e-4)


def test_eigen_cam_of_centred_features(images, cams):
    """The peer takes the mean of the positions away and keeps one sign of the direction."""

    class Centred(layers.Layer):
        def call(self, x):
            return x - keras.ops.mean(x, axis=(1, 2), keepdims=True)

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            Centred(name="features"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    theirs = peers_map(model, images, cams.EigenCAM)
    ours = saliency_map(model, images, "eigen_cam", layer="features", normalize=None)
    for a, b in zip(ours, theirs, strict=True):
        shown = b > 0
        assert 0.1 < shown.mean() < 0.9
        agree(a[shown] / a[shown].max(), b[shown])
