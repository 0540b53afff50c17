"""The soft extrema of SAN, in several formulations, against one 3x3 convolution.

What is timed is `SANAttention` without its smoothing (alignment, difference, extrema, sigmoid,
product) on a batch of 32 maps of 32x32x64, against `Conv2D(64, 3)` on the same maps: forward and
backward, with the output and all gradients as results, so that no compiler drops a part. The row
"SANAttention" is the layer itself; the others replace its count.

    KERAS_BACKEND=jax python benchmarks/san_extrema.py
"""

import itertools

import keras
import numpy as np
import pandas as pd
import runner
from keras import ops

import keras_saliency

OFFSETS = [o for o in itertools.product((-1, 0, 1), repeat=2) if o != (0, 0)]
HALF = [o for o in OFFSETS if o > (0, 0)]
LOWEST = -3.4e38


def views(x):
    padded = ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=LOWEST)
    for i, j in OFFSETS:
        yield padded[:, 1 + i : i - 1 or None, 1 + j : j - 1 or None]


def neighbors(x):
    ones = ops.ones_like(x[:1, :, :, :1])
    padded = ops.pad(ones, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return 1 + sum(padded[:, 1 + i : i - 1 or None, 1 + j : j - 1 or None] for i, j in OFFSETS)


def quotient(greater, x):
    total = neighbors(x)
    return (total - ops.cast(greater, x.dtype)) / total


def shifted(x, dtype):
    """Compare the padded maps with themselves, shifted; add up the answers."""
    greater = sum(ops.cast(v > x, dtype) for v in views(x))
    return quotient(greater, x)


def shifted_shares(x):
    """The same, adding up shares instead of counts."""
    share = 1 / neighbors(x)
    return 1 - sum(ops.where(v > x, share, 0.0) for v in views(x))


def pairs(x):
    """Load each pair of neighbors once; pad the answers, not the maps."""
    greater, (_, height, width, _) = 0, x.shape
    for i, j in HALF:
        low, high = slice(max(0, -j), width - max(0, j)), slice(max(0, j), width + min(0, j))
        a, b = x[:, : height - i, low], x[:, i:, high]
        before, after = (max(0, -j), max(0, j)), (max(0, j), max(0, -j))
        greater += ops.pad(ops.cast(b > a, "uint8"), [(0, 0), (0, i), before, (0, 0)])
        greater += ops.pad(ops.cast(a > b, "uint8"), [(0, 0), (i, 0), after, (0, 0)])
    return quotient(greater, x)


def flat(x):
    """Shift the flattened maps, whose slices need no copy; borders meet in shared padding."""
    batch, height, width, channels = x.shape
    padded = ops.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=LOWEST)
    row, size = (width + 1) * channels, batch * (height + 1) * (width + 1) * channels
    edge = row + channels
    line = ops.pad(ops.reshape(padded, (-1,)), [(edge, edge)], constant_values=LOWEST)
    centre, greater = line[edge : edge + size], 0
    for i, j in OFFSETS:
        start = edge + i * row + j * channels
        greater += ops.cast(line[start : start + size] > centre, "uint8")
    greater = ops.reshape(greater, padded.shape)[:, :height, :width]
    return quotient(greater, x)


def lines(x):
    """The same, with the channels as an axis: of each place in a map, one line."""
    batch, height, width, channels = x.shape
    padded = ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=LOWEST)
    row, total = width + 2, batch * (height + 2) * (width + 2)
    edge = row + 1
    size = total - 2 * edge
    line = ops.reshape(padded, (total, channels))
    centre, greater = line[edge : edge + size], 0
    for i, j in OFFSETS:
        start = edge + i * row + j
        greater += ops.cast(line[start : start + size] > centre, "uint8")
    greater = ops.pad(greater, [(0, 2 * edge), (0, 0)])
    return quotient(ops.reshape(greater, padded.shape)[:, :height, :width], x)


def in_place(x):
    """Pairs, added into slices of the count (PyTorch only)."""
    import torch

    _, height, width, _ = x.shape
    greater = torch.zeros_like(x, dtype=torch.uint8)
    for i, j in HALF:
        low, high = slice(max(0, -j), width - max(0, j)), slice(max(0, j), width + min(0, j))
        a, b = x[:, : height - i, low], x[:, i:, high]
        greater[:, : height - i, low] += b > a
        greater[:, i:, high] += a > b
    return quotient(greater, x)


def patches(x):
    """The neighborhood as a new axis: nine times the memory (what the layer never does)."""
    greater = ops.sum(ops.cast(ops.stack(list(views(x)), -1) > x[..., None], x.dtype), -1)
    return quotient(greater, x)


def attention(share):
    def function(y, previous):
        difference = ops.abs(y - ops.mean(previous, axis=-1, keepdims=True))
        if share is not None:
            fixed = ops.stop_gradient(difference)
            return y * ops.sigmoid(difference * ops.stop_gradient(share(fixed)))
        return y * ops.sigmoid(difference)

    return function


def step(function, inputs, weights, cotangent, xla):
    """Return a callable: outputs and gradients of `function`, for one mode of the backend."""
    if runner.backend() == "jax":
        import jax

        def forward_backward(inputs, weights, cotangent):
            output, pull = jax.vjp(function, inputs, weights)
            return output, pull(cotangent)

        compiled = jax.jit(forward_backward)
        return lambda: compiled(inputs, weights, cotangent)
    if runner.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=xla)
        def forward_backward(inputs, weights, cotangent):
            with tf.GradientTape() as tape:
                tape.watch([inputs, weights])
                output = function(inputs, weights)
            return output, tape.gradient(output, [inputs, weights], cotangent)

        return lambda: forward_backward(inputs, weights, cotangent)
    import torch

    leaves = [x.detach().requires_grad_() for x in [*inputs, *weights]]

    def forward_backward():
        output = function(leaves[: len(inputs)], leaves[len(inputs) :])
        return output, torch.autograd.grad(output, leaves, cotangent)

    return forward_backward


def main():
    options = runner.arguments(__doc__.splitlines()[0], repeats=15)
    batch, extent, channels = (2, 8, 16) if options.small else (32, 32, 64)
    rng = np.random.default_rng(0)
    y, previous, cotangent = (
        ops.convert_to_tensor(rng.normal(size=(batch, extent, extent, channels)), "float32")
        for _ in range(3)
    )
    conv = keras.layers.Conv2D(channels, 3, padding="same")
    conv.build(y.shape)
    layer = keras_saliency.SANAttention(smoothing=None)
    layer.build([y.shape, previous.shape])
    counts = {
        "no extrema": None,
        "shifted, counts in uint8": lambda x: shifted(x, "uint8"),
        "shifted, counts in float32": lambda x: shifted(x, "float32"),
        "shifted, shares": shifted_shares,
        "pairs once": pairs,
        "flat": flat,
        "lines": lines,
        "patches": patches,
    }
    if runner.backend() == "torch":
        counts["in place"] = in_place
    expected = ops.convert_to_numpy(keras_saliency.scale_space.soft_extrema(y))
    for name, share in counts.items():
        if share is not None:
            np.testing.assert_allclose(ops.convert_to_numpy(share(y)), expected, 1e-5, err_msg=name)

    modes = {"tensorflow": {"graph": False, "XLA": True}, "jax": {"XLA": True}}
    rows = []
    for mode, xla in modes.get(runner.backend(), {"eager": False}).items():
        base = f"Conv2D({channels}, 3)"
        tasks = {
            base: step(
                lambda x, w: ops.conv(x[0], w[0], 1, "same") + w[1],
                [y],
                [ops.convert_to_tensor(conv.kernel), ops.convert_to_tensor(conv.bias)],
                cotangent,
                xla,
            ),
            "SANAttention": step(lambda x, w: layer(list(x)), [y, previous], [], cotangent, xla),
        }
        for name, share in counts.items():
            function = attention(share)
            tasks[name] = step(lambda x, w, f=function: f(*x), [y, previous], [], cotangent, xla)
        timings = runner.measure(tasks, repeats=1 if options.small else options.repeats)
        for name, ratio in runner.ratios(timings, base).items():
            rows.append(
                {
                    "mode": mode,
                    "what": name,
                    "ms": 1e3 * timings["seconds"][name],
                    "of the convolution": ratio,
                }
            )
        others = timings.attrs["others"]
    runner.write(
        "san_extrema",
        pd.DataFrame(rows),
        notes=f"Forward and backward on {batch}x{extent}x{extent}x{channels}, float32; medians of "
        f"{options.repeats} interleaved runs, {others:.0%} of the CPU taken by other processes.",
        small=options.small,
    )


if __name__ == "__main__":
    main()
