"""Masked twins of Keras's layers (G section 4.4.3, equations 4.12 and 4.13)."""

import keras
from keras import layers, ops

from keras_saliency.layers.masked.base import MaskedKernels, mask_attribute

_DOC = """`keras.layers.{base}` with a mask over its {what}.

    The layer computes what `keras.layers.{base}` computes, with `{kernel} * {mask}` for
    `{kernel}` (G section 4.4.3, equation 4.12); a masked edge gets no gradient (equation 4.13)
    and keeps its stored value, which is how it can come back. With a mask of ones, as after
    `build`, the output is that of `keras.layers.{base}`, bit for bit.

    Args, input and output shapes: those of `keras.layers.{base}`.

    Attributes:
        {mask}: Non-trainable boolean variable of the shape of `{kernel}`; `True` keeps an edge.
            Set it with `set_mask(array)`, which checks shape and values.

    `set_weights` and `load_own_variables` also take the weights of the plain layer. LoRA updates
    are masked too. `quantize("int8")` and `quantize("int4")` keep the zeros. A weight that is
    infinite under its mask contributes 0 (float16).

    Example:

    >>> layer = keras_saliency.layers.{name}({args})
    >>> layer.build({shape})
    >>> layer.set_mask(np.random.default_rng(0).random(layer.{kernel}.shape) < 0.5)
    """


class _RowsMasked(MaskedKernels):
    """Masks the rows that are looked up, not the whole table."""

    def call(self, inputs):
        outputs = super().call(inputs)
        indices = inputs
        if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
            indices = ops.cast(inputs, "int32")
        rows = ops.take(self.mask, indices, axis=0)
        return ops.where(rows, outputs, ops.zeros((), dtype=outputs.dtype))


def _twin(base, kernels=("kernel",), args="4", shape="(None, 3)", mixin=MaskedKernels):
    name = f"Masked{base.__name__}"
    first = kernels[0]
    doc = _DOC.format(
        base=base.__name__,
        name=name,
        args=args,
        shape=shape,
        kernel=first,
        mask=mask_attribute(first),
        what=" and ".join(k.replace("_", " ") for k in kernels),
    )
    twin = type(
        name,
        (mixin, base),
        {"kernels": kernels, "__doc__": doc, "__module__": __name__},
    )
    return keras.saving.register_keras_serializable(package="keras_saliency")(twin)


MaskedDense = _twin(layers.Dense)
MaskedEinsumDense = _twin(layers.EinsumDense, args='"abc,cd->abd", (None, 4)', shape="(None, 5, 3)")

MaskedConv1D = _twin(layers.Conv1D, args="4, 3", shape="(None, 7, 3)")
MaskedConv2D = _twin(layers.Conv2D, args="4, 3", shape="(None, 7, 7, 3)")
MaskedConv3D = _twin(layers.Conv3D, args="4, 3", shape="(None, 7, 7, 7, 3)")
MaskedConv = MaskedConv2D

MaskedConv1DTranspose = _twin(layers.Conv1DTranspose, args="4, 3", shape="(None, 7, 3)")
MaskedConv2DTranspose = _twin(layers.Conv2DTranspose, args="4, 3", shape="(None, 7, 7, 3)")
MaskedConv3DTranspose = _twin(layers.Conv3DTranspose, args="4, 3", shape="(None, 7, 7, 7, 3)")
MaskedConvTranspose = MaskedConv2DTranspose

MaskedDepthwiseConv1D = _twin(layers.DepthwiseConv1D, args="3", shape="(None, 7, 3)")
MaskedDepthwiseConv2D = _twin(layers.DepthwiseConv2D, args="3", shape="(None, 7, 7, 3)")
MaskedDepthwiseConv = MaskedDepthwiseConv2D

_SEPARABLE = ("depthwise_kernel", "pointwise_kernel")
MaskedSeparableConv1D = _twin(layers.SeparableConv1D, _SEPARABLE, "4, 3", "(None, 7, 3)")
MaskedSeparableConv2D = _twin(layers.SeparableConv2D, _SEPARABLE, "4, 3", "(None, 7, 7, 3)")
MaskedSeparableConv = MaskedSeparableConv2D

_RECURRENT = ("kernel", "recurrent_kernel")
MaskedSimpleRNNCell = _twin(layers.SimpleRNNCell, _RECURRENT)
MaskedLSTMCell = _twin(layers.LSTMCell, _RECURRENT)
MaskedGRUCell = _twin(layers.GRUCell, _RECURRENT)


MaskedEmbedding = _twin(layers.Embedding, ("embeddings",), "5, 3", "(None, 7)", _RowsMasked)

# A plain class -> its masked twin. Other layers take `mask_layer`.
TWINS = {
    twin.plain_class: twin
    for twin in list(globals().values())
    if isinstance(twin, type) and issubclass(twin, MaskedKernels) and hasattr(twin, "plain_class")
}
