"""What saliency maps cost on ResNet-50, beside the tools of each backend, in one run.

    KERAS_BACKEND=torch python benchmarks/attribution_cost.py [--small] [--images 16] [--steps 24]

On PyTorch the peers are pytorch-grad-cam and captum (`pip install grad-cam captum`), given the same
Keras model, which is a torch module there; on TensorFlow a GradientTape written by hand; on JAX
both are `jax.grad` of the model's stateless call, compiled. Grad-CAM of one batch,
integrated gradients of one image; weights are random, which costs what trained ones cost. The
largest difference from the peer's map, of its maximum, stands beside the time: a faster wrong
answer would be none. About four minutes on two cores.
"""

import keras
import numpy as np
import pandas as pd
import runner

from keras_saliency import saliency_map

LAYER = "conv5_block3_out"
CLASS = 1


def network(small, images):
    size = 64 if small else 224
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    return model, np.random.default_rng(0).uniform(-1, 1, (images, size, size, 3)).astype("float32")


def scaled(maps):
    """Each map from 0 to 1."""
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return (maps - low) / np.maximum(span, 1e-12)


def _without_torchvision():
    """pytorch-grad-cam's picture helpers, not used here, import it; it may not fit this torch."""
    import sys
    from unittest import mock

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("", ".transforms", ".transforms.functional"):
            sys.modules[f"torchvision{name}"] = mock.MagicMock()


def torch_channels(model):
    """Return what pytorch-grad-cam takes: the model channels first, and the way back."""
    import torch

    _without_torchvision()

    class Channels(torch.nn.Module):
        """The peer reads channels first."""

        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x.permute(0, 2, 3, 1), training=False)

    return Channels(), lambda tensor: tensor.permute(0, 3, 1, 2)


def torch_peers(model, x, steps):
    import captum.attr
    import torch

    module, turn = torch_channels(model)
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = GradCAM(module, [model.get_layer(LAYER)], reshape_transform=turn)
    peer = captum.attr.IntegratedGradients(lambda x: model(x, training=False))
    first = torch.tensor(x).permute(0, 3, 1, 2)

    def integrated():
        values = peer.attribute(
            torch.tensor(x[:1]), target=CLASS, n_steps=steps, method="riemann_middle",
            internal_batch_size=8,
        )  # fmt: skip
        return values.detach().numpy()

    targets = [ClassifierOutputTarget(CLASS)] * len(x)
    return (
        ("pytorch-grad-cam", lambda: cam(input_tensor=first, targets=targets)),
        ("captum", integrated),
    )


def tensorflow_peers(model, x, steps, rows=8):
    import tensorflow as tf

    inner = keras.Model(model.input, [model.get_layer(LAYER).output, model.output])

    def cam():
        with tf.GradientTape() as tape:
            f, y = inner(x, training=False)
            tape.watch(f)
            score = y[:, CLASS]
        weights = tf.reduce_mean(tape.gradient(score, f), axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * f, axis=-1))
        return tf.image.resize(maps[..., None], x.shape[1:3])[..., 0].numpy()

    def integrated():
        total = 0.0
        for start in range(0, steps, rows):
            places = (np.arange(start, min(start + rows, steps)) + 0.5) / steps
            path = tf.constant(places.reshape(-1, 1, 1, 1).astype("float32") * x[:1])
            with tf.GradientTape() as tape:
                tape.watch(path)
                score = model(path, training=False)[:, CLASS]
            total = total + tf.reduce_sum(tape.gradient(score, path), axis=0)
        return (x[:1] * (total / steps)).numpy()

    return ("GradientTape by hand", cam), ("GradientTape by hand", integrated)


def jax_peers(model, x, steps, rows=8):
    import jax

    inner = keras.Model(model.input, model.get_layer(LAYER).output)
    head = keras.Sequential([keras.Input(inner.output.shape[1:]), *model.layers[-2:]])

    @jax.jit
    def one(x):
        f = inner(x, training=False)
        gradient = jax.grad(lambda f: head(f, training=False)[:, CLASS].sum())(f)
        maps = jax.nn.relu((gradient.mean(axis=(1, 2), keepdims=True) * f).sum(axis=-1))
        return jax.image.resize(maps, x.shape[:3], "bilinear")

    def total(path, weights, state):
        return model.stateless_call(weights, state, path, training=False)[0][:, CLASS].sum()

    gradient = jax.jit(jax.grad(total))

    def integrated():
        # Read anew: `predict` gives the arrays that it was called with away.
        weights = [v.value for v in model.trainable_variables]
        state = [v.value for v in model.non_trainable_variables]
        found = 0.0
        for start in range(0, steps, rows):
            places = (np.arange(start, min(start + rows, steps)) + 0.5) / steps
            path = places.reshape(-1, 1, 1, 1).astype("float32") * x[:1]
            found += gradient(path, weights, state).sum(axis=0)
        return np.asarray(x[:1] * (found / steps))

    return ("jax.grad by hand", lambda: np.asarray(one(x))), (
        "jax.grad by hand",
        integrated,
    )


def main():
    options = runner.arguments(__doc__, images=16, steps=24)
    model, x = network(options.small, options.images)
    steps = options.steps
    peers = {"torch": torch_peers, "tensorflow": tensorflow_peers, "jax": jax_peers}
    cam, integrated = peers[keras.backend.backend()](model, x, steps)
    ours = {
        "Grad-CAM": lambda: saliency_map(model, x, target=CLASS, batch_size=len(x)),
        "integrated gradients": lambda: saliency_map(
            model,
            x[:1],
            "integrated_gradients",
            target=CLASS,
            steps=steps,
            batch_size=8,
            reduce=None,
        ),
    }
    rows = []
    for (what, run), (name, peer) in zip(ours.items(), (cam, integrated), strict=True):
        a, b = np.asarray(run()), np.asarray(peer())
        a, b = (scaled(a), scaled(b)) if what == "Grad-CAM" else (a, b)
        difference = np.abs(a - b).max() / (np.abs(b).max() or 1.0)
        seconds = runner.measure({"ours": run, name: peer}, repeats=3, warmup=1)
        medians = seconds["seconds"]
        rows.append(
            {
                "map": what,
                "inputs": len(x) if what == "Grad-CAM" else f"1, {steps} steps",
                "peer": name,
                "seconds": medians["ours"],
                "of the peer's": medians["ours"] / medians[name],
                "difference": float(difference),
            }
        )
        runner.write("attribution_cost", pd.DataFrame(rows), small=options.small)


if __name__ == "__main__":
    main()
