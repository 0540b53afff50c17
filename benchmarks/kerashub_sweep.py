"""Backbones of KerasHub, built from small configs: scored, pruned, narrowed, saved, loaded.

For every backbone that is tried: its weights, whether a copy at sparsity 0 computes the same, the
change of its outputs at half the weights (masks of iSparse alone, and refitted), whether the saved
file loads and computes the same, and what `shrink_to(parameters=0.9, uniform=True)` and
`shrink_to(blocks=0.5)` make of it. A refusal stands in place of a result. The networks are
untrained: the table says what works, not what holds. `--only` takes names, separated by commas.
Needs KerasHub.
"""

import logging
import tempfile
import warnings

import keras
import keras_hub
import numpy as np
import pandas as pd
import runner

import keras_saliency

LENGTH, TOKENS, SAMPLES = 12, 97, 32
TEXT = {"vocabulary_size": TOKENS, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
HEADS = {"num_heads": 2}
TABLE = {"max_sequence_length": 16}
GROUPS = {"num_query_heads": 4, "num_key_value_heads": 2}
VIT = {
    "image_shape": (32, 32, 3),
    "patch_size": (8, 8),
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "mlp_dim": 32,
}
CONFIGS = {
    "BertBackbone": TEXT | HEADS | TABLE,
    "RobertaBackbone": TEXT | HEADS | TABLE,
    "DistilBertBackbone": TEXT | HEADS | TABLE,
    "AlbertBackbone": TEXT | HEADS | TABLE | {"embedding_dim": 8},
    "FNetBackbone": TEXT | TABLE,
    "GPT2Backbone": TEXT | HEADS | TABLE,
    "OPTBackbone": TEXT | HEADS | TABLE,
    "GPTNeoXBackbone": TEXT | HEADS | TABLE,
    "BloomBackbone": TEXT | HEADS,
    "LlamaBackbone": TEXT | GROUPS,
    "MistralBackbone": TEXT | GROUPS,
    "Phi3Backbone": TEXT | GROUPS,
    "QwenBackbone": TEXT | GROUPS,
    "Qwen3Backbone": TEXT | GROUPS | {"head_dim": 4},
    "GemmaBackbone": TEXT | GROUPS | {"head_dim": 4},
    "T5Backbone": TEXT | HEADS,
    "BartBackbone": TEXT | HEADS | TABLE,
    "ViTBackbone": VIT,
    "ResNetBackbone": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [3],
        "stackwise_num_filters": [64, 64],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
        "image_shape": (32, 32, 3),
    },
}
QUICK = ("BertBackbone", "LlamaBackbone")


def data_of(model):
    """Random inputs by the names of the model's inputs."""
    rng = np.random.default_rng(0)
    if "images" in model.name or not isinstance(model.input, dict):
        return rng.normal(size=(SAMPLES, 32, 32, 3)).astype("float32")
    found = {}
    for name in model.input:
        ids = rng.integers(1, TOKENS, (SAMPLES, LENGTH))
        plain = "mask" in name or "segment" in name
        found[name] = (np.full(ids.shape, "mask" in name) if plain else ids).astype("int32")
    return found


def outputs(model, x):
    found = keras.tree.flatten(model.predict(x, verbose=0))
    return np.concatenate([np.asarray(y, "float64").ravel() for y in found])


def attempt(function):
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def row_of(name):
    keras.utils.set_random_seed(0)
    model = attempt(lambda: getattr(keras_hub.models, name)(**CONFIGS[name]))
    if isinstance(model, str):
        return {"backbone": name, "weights": f"not built: {model}"}
    x = data_of(model)
    before = outputs(model, x)

    def change(small):
        return float(np.linalg.norm(outputs(small, x) - before) / np.linalg.norm(before))

    def exact():
        return change(keras_saliency.sparsify(model, 0.0)) == 0

    def masked():
        return change(
            keras_saliency.sparsify(model, 0.5, data=x, method="isparse", reconstruct=False)
        )

    kept = []

    def refitted():
        kept.append(keras_saliency.sparsify(model, 0.5, data=x, method="isparse", gate=False))
        return change(kept[0])

    def loads():
        if not kept:
            return ""
        with tempfile.TemporaryDirectory() as folder:
            kept[0].save(f"{folder}/model.keras")
            loaded = keras.saving.load_model(f"{folder}/model.keras")
        return bool(np.allclose(outputs(loaded, x), outputs(kept[0], x), rtol=1e-5, atol=1e-5))

    def narrowed():
        small = keras_saliency.shrink_to(
            model, parameters=0.9, data=x, uniform=True, round_to=1, gate=False, verbose=False
        )
        share = small.count_params() / model.count_params()
        return f"{type(small).__name__}, {share:.3f} of the weights, change {change(small):.3f}"

    def shortened():
        small = keras_saliency.shrink_to(model, blocks=0.5, data=x, gate=False, verbose=False)
        share = small.count_params() / model.count_params()
        with tempfile.TemporaryDirectory() as folder:
            small.save(f"{folder}/model.keras")
            loaded = keras.saving.load_model(f"{folder}/model.keras")
        same = np.allclose(outputs(loaded, x), outputs(small, x), rtol=1e-5, atol=1e-5)
        loads = "" if same else ", its file computes otherwise"
        kind = type(small).__name__
        return f"{kind}, {share:.3f} of the weights, change {change(small):.3f}{loads}"

    return {
        "backbone": name,
        "weights": model.count_params(),
        "copy is exact": attempt(exact),
        "50 % masks": attempt(masked),
        "50 % refitted": attempt(refitted),
        "file loads": attempt(loads),
        "narrowed": attempt(narrowed),
        "half of the blocks": attempt(shortened),
    }


def main():
    options = runner.arguments(__doc__, only="")
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    names = options.only.split(",") if options.only else QUICK if options.small else CONFIGS
    print(f"{len(list(names))} backbones, some seconds each")
    frame = pd.DataFrame()
    for name in names:
        frame = pd.DataFrame([row_of(name)])
        if not options.small:
            frame = runner.merged("kerashub_sweep", frame, ["backbone"])
        runner.write(
            "kerashub_sweep",
            frame,
            f"KerasHub {keras_hub.__version__}. Changes are norms of the difference of the outputs "
            "over the norm of the dense ones, on the 32 random inputs of the fit.",
            small=options.small,
        )


if __name__ == "__main__":
    main()
