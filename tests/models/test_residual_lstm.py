"""The residual LSTM against NumPy, and beam search against all sequences there are."""

import itertools

import compat
import keras
import numpy as np
import pytest

from keras_saliency.models import ResidualLSTM, beam_search

rng = np.random.default_rng(0)
SOURCE = np.array([[3, 1, 4, 0], [2, 2, 0, 0], [1, 4, 3, 2]])
TARGET = np.array([[1, 3, 2], [1, 4, 0], [1, 1, 1]])


def randomized(**kwargs):
    model = ResidualLSTM(5, **kwargs)
    generator = np.random.default_rng(1)
    for v in model.trainable_variables:
        v.assign(generator.normal(scale=0.5, size=v.shape))
    return model


def lstm(xs, w, name, state):
    """Equations of section 7.2.2; a state of zeros where none is given."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    kernel, recurrent, bias = (
        w[f"{name}/lstm_cell/{n}"] for n in ("kernel", "recurrent_kernel", "bias")
    )
    h, c = state
    result = []
    for x in xs:
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        result.append(h)
    return result, (h, c)


def expected(model, source, target, depth, residual_every, units):
    w = {v.path: np.asarray(compat.to_numpy(v.value), "float64") for v in model.variables}

    def stack(words, side, table, states):
        x = below = [w[f"{table}/embeddings"][word] for word in words]
        last = []
        for i in range(1, depth + 1):
            x, state = lstm(x, w, f"{side}_lstm{i}", states[i - 1])
            last.append(state)
            if residual_every and i % residual_every == 0:
                x = [
                    h + np.pad(b, (0, max(units - len(b), 0)))[:units]
                    for h, b in zip(x, below, strict=True)
                ]
                below = x
        return x, last

    zeros = [(np.zeros(units), np.zeros(units))] * depth
    _, states = stack(source, "encoder", "source_words", zeros)
    y, _ = stack(target, "decoder", "target_words", states)
    logits = np.array(y) @ w["predictions/kernel"] + w["predictions/bias"]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("depth", "residual_every", "embedding_dim"), [(3, 2, 2), (2, 1, 5), (2, None, None)]
)
def test_probabilities_are_those_of_the_equations(depth, residual_every, embedding_dim):
    kwargs = {"depth": depth, "residual_every": residual_every, "units": 3}
    model = randomized(embedding_dim=embedding_dim, **kwargs)
    found = compat.to_numpy(model([SOURCE, TARGET]))
    for i, (source, target) in enumerate(zip(SOURCE, TARGET, strict=True)):
        source, target = source[source > 0], target[target > 0]
        alone = expected(model, source, target, **kwargs)
        np.testing.assert_allclose(found[i, : len(target)], alone, atol=1e-5)


def test_it_is_saved_and_adds_no_weights_by_residuals(tmp_path):
    model = randomized(depth=2, units=3)
    assert (
        model.count_params()
        == ResidualLSTM(5, depth=2, residual_every=None, units=3).count_params()
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        compat.to_numpy(loaded([SOURCE, TARGET])),
        compat.to_numpy(model([SOURCE, TARGET])),
        atol=1e-6,
    )


def test_a_wide_beam_finds_the_best_of_all_sequences():
    model = randomized(depth=2, units=3)
    words, scores = beam_search(model, SOURCE[:2], beam_size=40, max_length=3, start=1, end=2)
    sequences = [
        s
        for n in (1, 2, 3)
        for s in itertools.product((1, 2, 3, 4), repeat=n)
        if 2 not in s[:-1] and (n == 3 or s[-1] == 2)
    ]
    targets = np.array([[1, *s[:-1], 0, 0, 0][:3] for s in sequences])
    for b in range(2):
        p = model.predict_on_batch([np.repeat(SOURCE[b : b + 1], len(targets), 0), targets])
        found = {
            s: np.log([p[i, t, word] for t, word in enumerate(s)]).sum()
            for i, s in enumerate(sequences)
        }
        best = sorted(found, key=found.get, reverse=True)
        assert len(best) == len(sequences) == np.isfinite(scores[b]).sum() == 40
        for i in range(5):
            assert tuple(words[b, i][words[b, i] > 0]) == best[i]
            np.testing.assert_allclose(scores[b, i], found[best[i]], atol=1e-4)
        assert (np.diff(scores[b]) <= 0).all()


def test_a_beam_of_one_is_greedy():
    model = randomized(depth=1, residual_every=1, units=4)
    words, _ = beam_search(model, SOURCE, beam_size=1, max_length=4, start=1, end=2)
    words = words[:, 0]
    target = np.concatenate([np.ones((3, 1), int), words[:, :-1]], 1)
    p = model.predict_on_batch([SOURCE, target])
    for b in range(3):
        length = 1 + np.argmax(words[b] == 2) if 2 in words[b] else 4
        np.testing.assert_array_equal(words[b, :length], 1 + p[b, :length, 1:].argmax(-1))
        assert (words[b, length:] == 0).all()


def test_bad_arguments_are_named():
    model = ResidualLSTM(5, depth=1, units=2)
    for name, value in (("start", 9), ("end", 5), ("beam_size", 0), ("max_length", "3")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            beam_search(model, SOURCE, **{name: value})
    with pytest.raises(ValueError, match="source"):
        beam_search(model, SOURCE - 2)
    with pytest.raises(TypeError, match="model"):
        beam_search(None, SOURCE)
    with pytest.raises(ValueError, match="residual_every"):
        ResidualLSTM(5, residual_every=0)
