"""SAN's depthwise smoothing: the backend's convolution against a sum of shifted products.

Forward and backward on the maps of a ResNet-18's four stages for images of 32x32, with all
gradients as results.

    KERAS_BACKEND=jax python benchmarks/san_depthwise.py
"""

import keras
import numpy as np
import pandas as pd
import runner
from keras import ops
from san_extrema import step


def native(x, w):
    return ops.depthwise_conv(x[0], w[0], 1, "same")


def shifted(x, w):
    """Multiply nine shifted views by their weights, and add."""
    (x,), (w,) = x, w
    height, width = x.shape[1:3]
    padded = ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return sum(
        padded[:, i : i + height, j : j + width] * w[i, j, :, 0] for i in range(3) for j in range(3)
    )


def main():
    options = runner.arguments(__doc__.splitlines()[0], repeats=15)
    batch = 2 if options.small else 16
    rng = np.random.default_rng(0)
    modes = {"tensorflow": {"graph": False, "XLA": True}, "jax": {"XLA": True}}
    rows = []
    for mode, xla in modes.get(runner.backend(), {"eager": False}).items():
        for extent, channels in [(32, 64), (16, 128), (8, 256), (4, 512)]:
            shape = (batch, extent, extent, channels)
            x, cotangent, kernel = (
                ops.convert_to_tensor(rng.normal(size=size), "float32")
                for size in (shape, shape, (3, 3, channels, 1))
            )
            np.testing.assert_allclose(
                *(keras.ops.convert_to_numpy(f([x], [kernel])) for f in (native, shifted)),
                rtol=1e-3,
                atol=1e-4,
            )
            functions = {"convolution": native, "shifted products": shifted}
            tasks = {
                name: step(function, [x], [kernel], cotangent, xla)
                for name, function in functions.items()
            }
            timings = runner.measure(tasks, repeats=1 if options.small else options.repeats)
            for name, ratio in runner.ratios(timings, "convolution").items():
                rows.append(
                    {
                        "mode": mode,
                        "maps": f"{extent}x{extent}x{channels}",
                        "what": name,
                        "ms": 1e3 * timings["seconds"][name],
                        "ratio": ratio,
                    }
                )
    runner.write(
        "san_depthwise",
        pd.DataFrame(rows),
        notes=f"Forward and backward, batches of {batch}, float32; medians of {options.repeats} "
        "interleaved runs. The layer takes the sum on JAX alone: TensorFlow does not tell a layer "
        "whether XLA will compile it.",
        small=options.small,
    )


if __name__ == "__main__":
    main()
