"""Transforms of whole feature maps by trained matrices that begin as cosines."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.typing import Constraint, DataFormat, Initializer, Regularizer

Transform = Literal["dct", "inverse_dct", "dft", "random"]
TRANSFORMS = get_args(Transform)


@keras.saving.register_keras_serializable(package="keras_saliency")
class SpectralTransform2D(keras.layers.Layer):
    """Multiplies every channel by trained matrices, from the left and from the right.

        Y = A X B^T,  A of (height, height), B of (width, width)

    `A` and `B` are shared by all channels, and begin as the matrices of a spectral transform:

    | transform | begins as | output channels |
    | --- | --- | --- |
    | `"dct"` | discrete cosine transform of type II | as many |
    | `"inverse_dct"` | its inverse | as many |
    | `"dft"` | discrete Fourier transform, in real and imaginary matrices | twice as many |
    | `"random"` | what `kernel_initializer` draws | as many |

    Source: M. Alberti, A. Botros, N. Schütz, R. Ingold, M. Liwicki, M. Seuret, "Trainable
    Spectrally Initializable Matrix Transformations in Convolutional Neural Networks", ICPR 2020
    (arXiv:1911.05045), and the authors' public code. Choices: the matrices are orthonormal, which
    keeps the power of a map (the code's are not scaled); the two parts of the Fourier transform
    are stacked as channels (the code puts them side by side).

    Significance and shrinking treat the layer as unknown as long as nobody registers a rule.

    Args:
        transform: One of the table.
        parts: Of `"dft"`: `"polar"` for amplitude and phase, `"cartesian"` for the real and the
            imaginary part.
        data_format: `"channels_last"`, `"channels_first"`, or None for Keras's setting.
        kernel_initializer: Of `"random"`.
        kernel_regularizer, kernel_constraint: Of all matrices.
        **kwargs: Arguments of `keras.layers.Layer`; `trainable=False` keeps the transform.

    Call arguments:
        inputs: Tensor (batch, height, width, channels), or with the channels first. Height and
            width must be known.

    Output shape:
        (batch, height, width, channels, or twice as many), or with the channels first.

    Raises:
        ValueError: If an argument is not of the kind above, or an extent is not known.

    Example:

    >>> import numpy as np
    >>> x = np.ones((1, 4, 4, 1), "float32")
    >>> y = keras.ops.convert_to_numpy(SpectralTransform2D("dct")(x))
    >>> round(float(y[0, 0, 0, 0]), 3), round(float(np.abs(y).sum()), 3)
    (4.0, 4.0)
    """

    def __init__(
        self,
        transform: Transform = "dct",
        parts: str = "polar",
        data_format: DataFormat | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        kernel_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.transform = validation.choice("transform", transform, TRANSFORMS)
        self.parts = validation.choice("parts", parts, ("polar", "cartesian"))
        self.data_format = validation.data_format(data_format)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                "SpectralTransform2D takes images of rank 4. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        extents = input_shape[2:] if self.data_format == "channels_first" else input_shape[1:3]
        if None in tuple(extents):
            raise ValueError(
                "SpectralTransform2D needs a known height and width, since its matrices have them. "
                f"Received: input_shape={tuple(input_shape)}, data_format={self.data_format!r}"
            )
        self.rows, self.columns = (
            [self._matrix(*m) for m in self._first(n, i)] for i, n in enumerate(extents)
        )

    def _first(self, n, i):
        """Name and first value of the matrices of an axis."""
        name = ("rows", "columns")[i]
        if self.transform == "random":
            return [(name, n, self.kernel_initializer)]
        if self.transform == "dft":
            angles = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
            real, imaginary = np.cos(angles) / np.sqrt(n), -np.sin(angles) / np.sqrt(n)
            return [(f"{name}_real", n, real), (f"{name}_imaginary", n, imaginary)]
        cosines = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5))
        cosines *= np.where(np.arange(n) == 0, np.sqrt(1 / n), np.sqrt(2 / n))[:, None]
        return [(name, n, cosines if self.transform == "dct" else cosines.T)]

    def _matrix(self, name, n, first):
        given = isinstance(first, np.ndarray)
        return self.add_weight(
            name=name,
            shape=(n, n),
            initializer=(lambda shape, dtype: ops.convert_to_tensor(first, dtype))
            if given
            else first.clone()
            if hasattr(first, "clone")
            else first,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def call(self, inputs):
        last = self.data_format == "channels_last"
        x = ops.moveaxis(inputs, -1, 1) if last else inputs
        x = ops.cast(x, self.compute_dtype)
        if self.transform == "dft":
            rows = [ops.matmul(matrix, x) for matrix in self.rows]
            real, imaginary = (ops.transpose(matrix) for matrix in self.columns)
            x = self._pair(
                ops.matmul(rows[0], real) - ops.matmul(rows[1], imaginary),
                ops.matmul(rows[0], imaginary) + ops.matmul(rows[1], real),
            )
        else:
            x = ops.matmul(ops.matmul(self.rows[0], x), ops.transpose(self.columns[0]))
        x = ops.cast(x, self.compute_dtype)
        return ops.moveaxis(x, 1, -1) if last else x

    def _pair(self, real, imaginary):
        if self.parts == "polar":
            # Where both parts are 0 there is no phase, and the slope of neither is finite.
            nothing = ops.logical_and(real == 0, imaginary == 0)
            safe = ops.where(nothing, ops.ones_like(real), real)
            amplitude = ops.sqrt(ops.square(safe) + ops.square(imaginary))
            zeros = ops.zeros_like(real)
            amplitude = ops.where(nothing, zeros, amplitude)
            real, imaginary = amplitude, ops.arctan2(imaginary, safe)
        return ops.concatenate([real, imaginary], axis=1)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        axis = 1 if self.data_format == "channels_first" else -1
        if self.transform == "dft" and shape[axis] is not None:
            shape[axis] *= 2
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "transform": self.transform,
            "parts": self.parts,
            "data_format": self.data_format,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
