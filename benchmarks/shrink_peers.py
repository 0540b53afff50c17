"""`shrink_to` beside Torch-Pruning: the same networks, weights and shares of channels.

    KERAS_BACKEND=torch python benchmarks/shrink_peers.py [--networks VGG16,ResNet50] [--size 224]
        [--shares 0.75,0.5,0.25] [--small]

Needs PyTorch and `pip install torch-pruning`. Torch-Pruning looks for `torch.nn` layers, which
Keras's layers are not on PyTorch either, so both networks are written again in plain PyTorch; they
take Keras's weights over by layer name and must compute what Keras's compute. Both tools remove
the groups of smallest magnitude: `shrink_to(method="magnitude")` and `MagnitudePruner` with its
group importance, the classifier's outputs excepted. Parameters and operations left are shares of
the dense network, counted the same way for both: weights without statistics, and multiplications
by kernels. Seconds are those of the whole call on a network in memory, tracing included.
"""

import importlib.metadata
import time

import keras
import numpy as np
import pandas as pd
import runner
import torch

import keras_saliency
from keras_saliency.sparsity import count_operations

BLOCKS = {"conv2": (64, 3), "conv3": (128, 4), "conv4": (256, 6), "conv5": (512, 3)}


class VGG16(torch.nn.Module):
    def __init__(self, classes, size):
        super().__init__()
        parts, width = {}, 3
        self.plan = []
        for block, (filters, count) in enumerate(
            ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1
        ):
            for conv in range(1, count + 1):
                name = f"block{block}_conv{conv}"
                parts[name] = torch.nn.Conv2d(width, filters, 3, padding=1)
                self.plan.append(name)
                width = filters
            self.plan.append("pool")
        flat = width * (size // 32) ** 2
        for name, inputs, units in (
            ("fc1", flat, 4096),
            ("fc2", 4096, 4096),
            ("predictions", 4096, classes),
        ):
            parts[name] = torch.nn.Linear(inputs, units)
        self.parts = torch.nn.ModuleDict(parts)
        self.last = parts["predictions"]

    def forward(self, x):
        for name in self.plan:
            if name == "pool":
                x = torch.nn.functional.max_pool2d(x, 2)
            else:
                x = torch.relu(self.parts[name](x))
        x = torch.flatten(x, 1)
        for name in ("fc1", "fc2"):
            x = torch.relu(self.parts[name](x))
        return self.parts["predictions"](x)


class ResNet50(torch.nn.Module):
    def __init__(self, classes, size):
        super().__init__()
        parts = {}

        def conv(name, inputs, filters, kernel, stride=1, padding=0):
            parts[f"{name}_conv"] = torch.nn.Conv2d(inputs, filters, kernel, stride, padding)
            parts[f"{name}_bn"] = torch.nn.BatchNorm2d(filters, eps=1.001e-5)

        conv("conv1", 3, 64, 7, 2, 3)
        width = 64
        for stage, (filters, count) in BLOCKS.items():
            for block in range(1, count + 1):
                stride = 2 if block == 1 and stage != "conv2" else 1
                name = f"{stage}_block{block}"
                if block == 1:
                    conv(f"{name}_0", width, 4 * filters, 1, stride)
                conv(f"{name}_1", width, filters, 1, stride)
                conv(f"{name}_2", filters, filters, 3, 1, 1)
                conv(f"{name}_3", filters, 4 * filters, 1)
                width = 4 * filters
        parts["predictions"] = torch.nn.Linear(width, classes)
        self.parts = torch.nn.ModuleDict(parts)
        self.last = parts["predictions"]

    def forward(self, x):
        def conv(name, x):
            return self.parts[f"{name}_bn"](self.parts[f"{name}_conv"](x))

        x = torch.nn.functional.max_pool2d(torch.relu(conv("conv1", x)), 3, 2, 1)
        for stage, (_, count) in BLOCKS.items():
            for block in range(1, count + 1):
                name = f"{stage}_block{block}"
                y = torch.relu(conv(f"{name}_1", x))
                y = torch.relu(conv(f"{name}_2", y))
                y = conv(f"{name}_3", y)
                x = torch.relu(y + (conv(f"{name}_0", x) if block == 1 else x))
        return self.last(x.mean((2, 3)))


NETWORKS = {"VGG16": VGG16, "ResNet50": ResNet50}


def plain_torch(name, model, size):
    """The network in plain PyTorch with the weights of Keras's."""
    network = NETWORKS[name](model.output_shape[-1], size).eval()
    with torch.no_grad():
        for key, part in network.parts.items():
            weights = [torch.tensor(w) for w in model.get_layer(key).get_weights()]
            if isinstance(part, torch.nn.BatchNorm2d):
                targets = [part.weight, part.bias, part.running_mean, part.running_var]
            else:
                weights[0] = (
                    weights[0].permute(3, 2, 0, 1) if weights[0].ndim == 4 else weights[0].T
                )
                if key == "fc1":  # Keras flattens channels last, PyTorch channels first
                    side = size // 32
                    rows = weights[0].reshape(len(weights[0]), side, side, -1)
                    weights[0] = rows.permute(0, 3, 1, 2).reshape(len(rows), -1)
                targets = [part.weight, part.bias]
            for target, value in zip(targets, weights, strict=True):
                target.copy_(value)
    return network


def agree(model, network, x):
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    with torch.no_grad():
        found = network(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    scale = np.abs(expected).max()
    if np.abs(expected - found).max() > 1e-3 * scale:
        raise AssertionError("the two networks do not compute the same")


def torch_parameters(network):
    return sum(p.numel() for p in network.parameters())


def torch_operations(network, size):
    """Twice the multiplications by kernels for one image, as `count_operations` counts them."""
    total, hooks = [0], []

    def count(part, _, output):
        positions = output[0].numel() // part.weight.shape[0]
        total[0] += 2 * positions * part.weight.numel()

    for part in network.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)):
            hooks.append(part.register_forward_hook(count))
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total[0]


def torch_pruned(network, share, scope, size):
    import torch_pruning

    start = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        network,
        torch.zeros(1, 3, size, size),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=1 - share,
        global_pruning=scope == "global",
        ignored_layers=[network.last],
        round_to=8,
    )
    pruner.step()
    return time.perf_counter() - start


def rows(name, size, shares):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    x = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype("float32")
    agree(model, plain_torch(name, model, size), x)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    operations = count_operations(model)
    network = plain_torch(name, model, size)
    same = (torch_parameters(network), torch_operations(network, size))
    if same != (trainable, operations):
        raise AssertionError(f"{name}: {same} in PyTorch, {(trainable, operations)} in Keras")
    for share in shares:
        for scope in ("layer", "global"):
            start = time.perf_counter()
            small = keras_saliency.shrink_to(
                model, channels=share, method="magnitude", scope=scope, verbose=False
            )
            seconds = time.perf_counter() - start
            left = sum(int(np.prod(w.shape)) for w in small.trainable_weights)
            yield (name, share, scope, "shrink_to", left, count_operations(small), seconds)
            del small
            network = plain_torch(name, model, size)
            seconds = torch_pruned(network, share, scope, size)
            counts = torch_parameters(network), torch_operations(network, size)
            yield (name, share, scope, "Torch-Pruning", *counts, seconds)
            del network
    yield (name, 1.0, "", "dense", trainable, operations, np.nan)


def main():
    options = runner.arguments(
        __doc__.splitlines()[0], networks="VGG16,ResNet50", shares="0.75,0.5,0.25", size=224
    )
    shares = [float(share) for share in options.shares.split(",")]
    networks, size = options.networks.split(","), options.size
    if options.small:
        networks, size, shares = ["ResNet50"], 64, [0.5]
    columns = ["network", "channels", "ranked by", "tool", "parameters", "operations", "seconds"]
    table = []
    for name in networks:
        frame = pd.DataFrame(rows(name, size, shares), columns=columns)
        dense = frame.iloc[-1]
        for column in ("parameters", "operations"):
            frame[column] = frame[column] / dense[column]
        table.append(frame.iloc[:-1])
        keras.utils.clear_session()
    version = importlib.metadata.version("torch-pruning")
    notes = (
        f"Torch-Pruning {version}, images of {size}×{size}, random weights. Parameters and "
        "operations are shares of the dense network."
    )
    runner.write("shrink_peers", pd.concat(table), notes, small=options.small)


if __name__ == "__main__":
    main()
