"""Pixels that take a neighbor's value, inside a model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.typing import DataFormat

# Halvings that find a place among so many pixels, where the extent is not known beforehand.
_MOST_HALVINGS = 31


@keras.saving.register_keras_serializable(package="keras_saliency")
class PixelDeflection(keras.layers.Layer):
    """Gives some pixels of each image the value of a pixel near by, in training and out of it.

    Positions are drawn with a probability in proportion to 1 - map, so that objects are left
    alone; each takes the value that a pixel drawn uniformly from the window around it, clipped at
    the border, has in the image as it was. As `keras_saliency.imaging.pixel_deflection`, with
    another draw at every call.

    An attacker who knows of it gets through (Athalye and Carlini, 2018). It is for accidental and
    transferred noise, and for study.

    Source: Prakash (2019), algorithm 3 and section 4.8.

    Args:
        deflections: Integer, how many pixels of each image are drawn; one may be drawn twice.
        window: Integer, how far a neighbor may be along each axis.
        seed: Integer, a `keras.random.SeedGenerator`, or None.
        data_format: `"channels_last"` or `"channels_first"`; None for Keras's setting.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor (batch, height, width, channels), or with the channels first; or a list of
            this and of maps (batch, height, width) in [0, 1]. Where a map is 1, pixels stay.

    Output shape:
        That of the images.

    Raises:
        ValueError: If an argument is not of the kind above, or images and maps do not fit.

    Example:

    >>> import numpy as np
    >>> images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    >>> changed = keras.ops.convert_to_numpy(PixelDeflection(5, window=2, seed=0)(images))
    >>> bool((changed != images).any(-1).sum() <= 10)
    True
    """

    def __init__(
        self,
        deflections: int = 100,
        window: int = 10,
        seed: int | keras.random.SeedGenerator | None = None,
        data_format: DataFormat | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.deflections = validation.integer("deflections", deflections, 0)
        self.window = validation.integer("window", window)
        self.data_format = validation.data_format(data_format)
        if not isinstance(seed, keras.random.SeedGenerator):
            validation.seed(seed)
        self.seed = seed
        self.seed_generator = (
            seed
            if isinstance(seed, keras.random.SeedGenerator)
            else keras.random.SeedGenerator(seed)
        )

    def _shapes(self, input_shape):
        """The shape of the images, and that of the maps or `None`."""
        shapes = list(input_shape)
        if not shapes or not isinstance(shapes[0], list | tuple):
            shapes = [tuple(shapes)]
        images = tuple(shapes[0])
        if len(images) != 4 or len(shapes) > 2:
            raise ValueError(
                "PixelDeflection takes images (batch, height, width, channels), or a list of these "
                f"and of maps (batch, height, width). Received: input_shape={input_shape}"
            )
        if len(shapes) == 1:
            return images, None
        maps = tuple(shapes[1])
        space = images[2:] if self.data_format == "channels_first" else images[1:3]
        known = zip(maps[1:], space, strict=False)
        if len(maps) != 3 or any(None not in (a, b) and a != b for a, b in known):
            raise ValueError(
                f"The maps must have the extent of the images, (batch, *{space}). Received: {maps}"
            )
        return images, maps

    def build(self, input_shape):
        self._shapes(input_shape)

    def call(self, inputs):
        pair = isinstance(inputs, list | tuple)
        images, maps = (
            (inputs if len(inputs) == 2 else (inputs[0], None)) if pair else (inputs, None)
        )
        first = self.data_format == "channels_first"
        x = ops.moveaxis(images, 1, -1) if first else images
        batch, height, width = ops.shape(x)[:3]
        pixels = height * width
        drawn, moves = self._drawn(maps, batch, height, width, x.shape[1:3])
        row, column = drawn // width, drawn % width
        from_row = self._near(row, height)
        from_column = self._near(column, width)
        source = ops.where(moves, from_row * width + from_column, drawn)
        # One index per pixel, of the pixel that it is taken from; the images are read once.
        start = ops.arange(batch, dtype="int32")[:, None] * pixels
        places = ops.reshape(drawn + start, (-1, 1))
        index = ops.arange(batch * pixels, dtype="int32")
        index = ops.scatter_update(index, places, ops.reshape(source + start, (-1,)))
        flat = ops.reshape(x, (batch * pixels, x.shape[-1]))
        x = ops.reshape(ops.take(flat, index, axis=0), ops.shape(x))
        return ops.moveaxis(x, -1, 1) if first else x

    def _drawn(self, maps, batch, height, width, extent):
        """Places `(batch, deflections)`, and whether what lies there may move."""
        pixels = height * width
        shape = (batch, self.deflections)
        if maps is None:
            drawn = self._below(shape, pixels)
            return drawn, ops.ones_like(drawn, dtype="bool")
        weights = 1 - ops.cast(ops.reshape(maps, (batch, pixels)), "float32")
        weights = ops.clip(weights, 0, 1)
        total = ops.cumsum(weights, axis=1)
        value = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        value = value * total[:, -1:]
        # The first place whose sum exceeds the value, by halving.
        known = None not in extent
        halvings = (extent[0] * extent[1]).bit_length() if known else _MOST_HALVINGS
        low = ops.zeros(shape, "int32")
        high = low + ops.cast(pixels - 1, "int32")
        for _ in range(halvings):
            middle = (low + high) // 2
            above = ops.take_along_axis(total, middle, axis=1) > value
            low, high = (
                ops.where(above, low, ops.minimum(middle + 1, high)),
                ops.where(above, middle, high),
            )
        return low, ops.take_along_axis(weights, low, axis=1) > 0

    def _below(self, shape, limit):
        """Integers from 0 to a limit that may be a tensor."""
        value = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        limit = ops.cast(limit, "float32")
        return ops.cast(ops.minimum(ops.floor(value * limit), limit - 1), "int32")

    def _near(self, place, extent):
        low = ops.maximum(place - self.window, 0)
        span = ops.minimum(place + self.window, extent - 1) + 1 - low
        return low + self._below(ops.shape(place), span)

    def compute_output_shape(self, input_shape):
        return self._shapes(input_shape)[0]

    def get_config(self):
        seed = self.seed
        if isinstance(seed, keras.random.SeedGenerator):
            seed = keras.saving.serialize_keras_object(seed)
        return {
            **super().get_config(),
            "deflections": self.deflections,
            "window": self.window,
            "seed": seed,
            "data_format": self.data_format,
        }

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("seed"), dict):
            seed = keras.saving.deserialize_keras_object(config["seed"])
            config = {**config, "seed": seed}
        return cls(**config)
