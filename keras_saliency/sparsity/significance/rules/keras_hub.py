"""Layers of KerasHub, which need not be installed: rules are found by the name of the class.

Layers that are made of Keras's layers, such as `TransformerEncoder`, need no rule: what their
`call` does is looked at.
"""

import numpy as np

from keras_saliency.graph.trace import Tensor
from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.activation import ends
from keras_saliency.sparsity.significance.rules.common import collect, only_first, times, unchanged
from keras_saliency.sparsity.significance.rules.normalization import _scaled

# Norms over the last axis, and the name of their scale; `None` where they have none or add 1 to it.
_NORMS = {
    "EdRecRMSNormalization": None,
    "Gemma3nRMSNorm": "scale",
    "Gemma4VNorm": None,
    "GptOssLayerNormalization": "scale",
    "LlamaLayerNorm": "scale",
    "MistralLayerNormalization": "scale",
    "MixtralLayerNormalization": "scale",
    "Phi3LayerNorm": "scale",
    "Qwen3LayerNorm": "scale",
    "Qwen3MoeLayerNorm": "scale",
    "Qwen3_5LayerNorm": None,
    "QwenLayerNorm": "scale",
    "QwenMoeLayerNorm": "scale",
    "RMSNormalization": None,
    "RmsNorm2d": "gamma",
    "RoformerNorm": "scale",
    "T5LayerNorm": "weight",
}


def _norm(weight):
    def rule(call):
        known = weight is not None and hasattr(getattr(call.layer, weight, None), "shape")
        factor = call.magnitude(weight) if known else None
        return only_first(call, _scaled(call, factor, (-1,)))

    return rule


for _name, _weight in _NORMS.items():
    register_significance_rule(
        f"keras_hub>{_name}", kernels=(), reason="normalization is never masked"
    )(_norm(_weight))


def _layer_scale(weight):
    def rule(call):
        return times(call.output_scores[0], call.magnitude(weight))

    return rule


for _name, _weight in (
    ("DINOV2LayerScale", "lambda1"),
    ("DINOV3LayerScale", "lambda1"),
    ("LayerScale2d", "gamma"),
):
    register_significance_rule(
        f"keras_hub>{_name}", kernels=(), reason="its weights scale channels, no edges"
    )(_layer_scale(_weight))


# A table of positions is the same whatever comes in, as a bias is.
register_significance_rule(
    "keras_hub>PositionEmbedding",
    kernels=(),
    reason="positions are added whatever comes in, as a bias is",
)(ends)

# It turns pairs of a query or key by an angle.
for _name in (
    "RotaryEmbedding",
    "LlamaRotaryEmbedding",
    "Phi3SuScaledRotaryEmbedding",
    "ESMRotaryEmbedding",
    "MoonshineRotaryEmbedding",
):
    register_significance_rule(f"keras_hub>{_name}", kernels=())(unchanged)


@register_significance_rule(
    "keras_hub>T5MultiHeadAttention",
    kernels=(),
    reason="a bias of attention scores, no edges",
)
def t5_attention(call):
    """As `MultiHeadAttention`, its heads side by side on one axis."""
    layer = call.layer
    states = call.args[0] if call.args else call.kwargs["hidden_states"]
    memory = call.kwargs.get("key_value_states")
    memory = states if memory is None else memory
    wide = [
        Tensor((*x.shape[:-1], layer.num_heads * layer.key_value_dim), x.dtype)
        for x in (states, memory)
    ]
    (values,) = call.delegate(
        layer.output_projector, wide[:1], call.outputs[:1], call.output_scores[:1]
    )
    values = values.reshape(-1, values.shape[-1]).sum(axis=0)
    heads = values.reshape(layer.num_heads, layer.key_value_dim).mean(axis=1)
    even = np.repeat(heads, layer.key_value_dim)
    results = []
    for projector, tensor, output, score in (
        (layer.value_projector, memory, wide[1], values),
        (layer.query_projector, states, wide[0], even),
        (layer.key_projector, memory, wide[1], even),
    ):
        score = score.reshape((1,) * (len(tensor.shape) - 1) + (-1,))
        (result,) = call.delegate(projector, [tensor], [output], [score])
        results.append((tensor, result))
    return collect(call, results)
