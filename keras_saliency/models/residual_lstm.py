"""Stacked residual LSTMs that turn one sequence of words into another, and beam search."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from keras_saliency import validation
from keras_saliency.layers.recurrent.residual_add import ResidualAdd
from keras_saliency.typing import ArrayLike


def _stack(x, name, depth, residual_every, units, dropout, initial_states=None):
    """LSTMs one above another; returns the last one's sequence, and the states of all."""
    states, below = [], x
    for i in range(1, depth + 1):
        given = None if initial_states is None else initial_states[i - 1]
        x, h, c = layers.LSTM(
            units, return_sequences=True, return_state=True, name=f"{name}_lstm{i}"
        )(x, initial_state=given)
        states.append([h, c])
        x = layers.Dropout(dropout, name=f"{name}_dropout{i}")(x)
        if residual_every is not None and i % residual_every == 0:
            x = ResidualAdd(name=f"{name}_add{i}")([x, below])
            below = x
    return x, states


@validation.checked(
    vocabulary=validation.whole(2),
    target_vocabulary=validation.whole(2, optional=True),
    depth=validation.whole(),
    residual_every=validation.whole(optional=True),
    units=validation.whole(),
    embedding_dim=validation.whole(optional=True),
    dropout=validation.share,
    name=validation.text,
)
def ResidualLSTM(
    vocabulary: int,
    target_vocabulary: int | None = None,
    depth: int = 4,
    residual_every: int | None = 2,
    units: int = 512,
    embedding_dim: int | None = None,
    dropout: float = 0.5,
    name: str = "residual_lstm",
) -> keras.Model:
    """Encoder and decoder of stacked LSTMs with residual connections.

    The encoder reads a sequence of word numbers, and its last states are the decoder's first
    ones, layer by layer. The decoder reads the words so far and says how probable each word is as
    the next. After every `residual_every` layers, what they read is added to what they made,
    filled up with zeros or cut to fit.

    Source: Prakash (2019), section 7.2. One-hot words times the first matrix are what
    `keras.layers.Embedding` computes. The comparisons of section 7.4 with attention and with
    bidirectional encoders are left out, they are other people's models.

    Args:
        vocabulary: Integer, the number of word numbers of the source; 0 is padding and is masked.
        target_vocabulary: The same of the target; None for one vocabulary with weights of its own.
        depth: LSTMs in the encoder, and in the decoder.
        residual_every: After how many layers a residual is added; None for a plain stack.
        units: Width of every LSTM.
        embedding_dim: Width of the word vectors; None for `units`.
        dropout: Share dropped after every LSTM.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from `[source, target]`, both (batch, steps) of integers, to
        probabilities (batch, steps, target vocabulary). Compile it with
        `"sparse_categorical_crossentropy"` and give it the target twice: as an input with a
        start mark in front, and as labels with an end mark behind. The exponential of the loss is
        the perplexity.

    Example:

    ```python
    import numpy as np
    from keras_saliency.models import ResidualLSTM, beam_search

    model = ResidualLSTM(vocabulary=50, units=8)
    source = np.array([[5, 7, 9, 0]])
    words, scores = beam_search(model, source, beam_size=3, max_length=6, start=1, end=2)
    print(words.shape)  # (1, 3, 6)
    ```
    """
    target_vocabulary = vocabulary if target_vocabulary is None else target_vocabulary
    width = units if embedding_dim is None else embedding_dim
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    x = layers.Embedding(vocabulary, width, mask_zero=True, name="source_words")(source)
    _, states = _stack(x, "encoder", depth, residual_every, units, dropout)
    y = layers.Embedding(target_vocabulary, width, mask_zero=True, name="target_words")(target)
    y, _ = _stack(y, "decoder", depth, residual_every, units, dropout, states)
    y = layers.Dense(target_vocabulary, "softmax", dtype="float32", name="predictions")(y)
    return keras.Model([source, target], y, name=name)


@validation.checked(
    beam_size=validation.whole(),
    max_length=validation.whole(),
    start=validation.whole(),
    end=validation.whole(),
)
def beam_search(
    model: keras.Model,
    source: ArrayLike,
    beam_size: int = 5,
    max_length: int = 20,
    start: int = 1,
    end: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the most probable target sequences of a model, word by word with several in hand.

    Source: Prakash (2019), section 7.2.1; I. Sutskever, O. Vinyals, Q. V. Le, NIPS 2014. The score
    of a sequence is the sum of its words' logarithmic probabilities, the end mark's included.

    Args:
        model: A model from `[source, target]` to the probabilities of the next word, such as
            `ResidualLSTM`'s; the probabilities at a place must depend on the places before alone.
        source: Array (batch, steps) of word numbers.
        beam_size: How many sequences are kept.
        max_length: How many words are looked for.
        start: Number of the word that the target begins with.
        end: Number of the word after which a sequence is complete.

    Returns:
        Words (batch, beam_size, max_length), best sequences first and 0 after the end mark, and
        their scores (batch, beam_size). Where there are fewer sequences, scores are `-inf`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If an argument is not of the kind above, or is no word of the model's.

    Example:

    >>> import numpy as np, keras
    >>> words = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    >>> table = keras.layers.Embedding(3, 3, weights=np.eye(3)[[0, 2, 2]])
    >>> beam_search(keras.Model(words, table(words[1])), [[1]], 1, 2)[0].tolist()
    [[[2, 0]]]
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    size = model.output_shape[-1]
    for key, word in (("start", start), ("end", end)):
        if word >= size:
            raise ValueError(
                f"`{key}` must be a word of the model's {size}. Received: {key}={word}"
            )
    source = validation.array("source", source, ranks=(2,))
    if source.dtype.kind not in "iu" or source.min() < 0:
        raise validation.wrong("source", "an array of word numbers, integers >= 0", source)
    source = source.astype("int32")
    batch = len(source)
    words = np.zeros((batch, beam_size, max_length), "int32")
    scores = np.full((batch, beam_size), -np.inf)
    scores[:, 0] = 0.0  # all sequences are the same at first
    open_ = np.ones((batch, beam_size), bool)
    repeated = np.repeat(source, beam_size, axis=0)
    target = np.zeros((batch, beam_size, max_length), "int32")
    target[:, :, 0] = start
    for step in range(max_length):
        # The whole target each time, of one shape: the model is compiled once.
        found = model.predict_on_batch([repeated, target.reshape(-1, max_length)])
        found = np.asarray(found)[:, step].reshape(batch, beam_size, -1).astype("float64")
        with np.errstate(divide="ignore"):
            gain = np.log(found)
        # Padding is no word; a complete sequence goes on as it is, once.
        gain[..., 0] = -np.inf
        gain[~open_] = -np.inf
        gain[~open_, 0] = 0.0
        total = (scores[..., None] + gain).reshape(batch, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beam_size]
        scores = np.take_along_axis(total, best, 1)
        parent, word = best // size, best % size
        words = np.take_along_axis(words, parent[..., None], 1)
        target = np.take_along_axis(target, parent[..., None], 1)
        open_ = np.take_along_axis(open_, parent, 1)
        words[:, :, step] = np.where(open_, word, 0)
        open_ &= word != end
        if step + 1 < max_length:
            target[:, :, step + 1] = np.where(open_, word, end)
        if not open_.any():
            break
    return words, scores
