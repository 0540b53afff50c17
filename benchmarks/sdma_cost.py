"""What mutual attention costs: a training step of `SDMACrossAttention` against one Keras LSTM.

Both have the same units and return sequences; the attention has two LSTMs, so 2 is what its
branches alone would cost. Batches of 32 series of 100 steps of 62 variates, and of 16 of 400.

    KERAS_BACKEND=jax python benchmarks/sdma_cost.py [--small]
"""

import keras
import numpy as np
import pandas as pd
import runner

from keras_saliency import SDMACrossAttention


def network(layer, shape, given):
    """Return a model of one layer, on a series or on the series and its saliency."""
    series = keras.Input(shape)
    inputs = [series, keras.Input(shape)] if given else series
    return keras.Model(inputs, layer(inputs))


def main():
    options = runner.arguments(__doc__.splitlines()[0], units=64, repeats=11)
    sizes = [(2, 20, 3)] if options.small else [(32, 100, 62), (16, 400, 62)]
    units, repeats = (4, 1) if options.small else (options.units, options.repeats)
    modes = {"tensorflow": {"graph": False, "XLA": True}, "jax": {"XLA": True}}
    rows, others = [], 0.0
    for mode, jit in modes.get(runner.backend(), {"eager": False}).items():
        for batch, steps, variates in sizes:
            shape = (steps, variates)
            x = np.random.default_rng(0).normal(size=(batch, *shape)).cumsum(1).astype("float32")
            y = np.zeros((batch, steps, units), "float32")
            layers = {
                "LSTM": (keras.layers.LSTM(units, return_sequences=True), False),
                "SDMA, saliency given": (SDMACrossAttention(units), True),
                "SDMA, saliency inside": (SDMACrossAttention(units), False),
                "SDCA, saliency given": (SDMACrossAttention(units, mutual=False), True),
                "SDMA of GRUs, saliency given": (SDMACrossAttention(units, recurrent="gru"), True),
            }
            tasks = {
                name: runner.train_step(
                    network(layer, shape, given), [x, x] if given else x, y, jit_compile=jit
                )
                for name, (layer, given) in layers.items()
            }
            timings = runner.measure(tasks, repeats=repeats)
            others = max(others, timings.attrs["others"])
            for name, ratio in runner.ratios(timings, "LSTM").items():
                rows.append(
                    {
                        "mode": mode,
                        "series": f"{batch} x {steps} x {variates}",
                        "layer": name,
                        "ms": 1e3 * timings["seconds"][name],
                        "of the LSTM": ratio,
                    }
                )
    runner.write(
        "sdma_cost",
        pd.DataFrame(rows),
        notes=f"{units} units, float32, SGD; medians of {repeats} interleaved runs. Other "
        f"processes took up to {others:.0%} of the CPU.",
        small=options.small,
    )


if __name__ == "__main__":
    main()
