"""How sparse a model is, kernel by kernel: the frame behind every report."""

import numpy as np
from keras import layers as keras_layers
from keras import ops

from keras_saliency.graph import lora
from keras_saliency.graph.trace import flatten_model
from keras_saliency.layers.masked.base import MaskedKernels
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.registry import ADVICE, has_rule


def kernel_frame(model, layers=None, exclude=None, skipped=False):
    """The frame that `sparsity_report` returns."""
    import pandas as pd

    found = maskable_kernels(model, layers, exclude)
    positions = _positions(model)
    rows = []
    for kernel in found:
        values = ops.convert_to_numpy(kernel.variable)
        if getattr(kernel.owner, "lora_enabled", False):  # the kernel in use
            values = lora.merged_kernel(kernel.owner)
        mask, target, note = None, np.nan, ""
        if isinstance(kernel.owner, MaskedKernels):
            name = kernel.name.lstrip("_")
            mask = kernel.owner.masks.get(name)
            target = kernel.owner.__dict__.get("mask_targets", {}).get(name, np.nan)
        if mask is None:
            note = "no mask"
            kept = int(np.count_nonzero(values))
        else:
            kept = int(np.count_nonzero(values[ops.convert_to_numpy(mask)]))
        size = kernel.size
        flops = 2.0 * size * positions.get(id(kernel.variable), lambda k: np.nan)(kernel)
        rows.append(
            {
                "layer": kernel.key,
                "type": type(kernel.layer).__name__,
                "shape": kernel.shape,
                "size": size,
                "zeros": size - kept,
                "kept": kept,
                "sparsity": (size - kept) / size if size else 0.0,
                "target": target,
                "reached": bool(size - kept >= round(target * size)) if target == target else None,
                "flops": flops,
                "flops_sparse": flops * kept / size if size else 0.0,
                "bytes_dense": values.nbytes,
                "bytes_compressed": kept * values.itemsize + -(-size // 8),
                "note": note,
            }
        )
    reasons = {item.path: item.reason for item in found.skipped}
    if skipped:
        rows += [
            {"layer": item.path, "type": type(item.layer).__name__, "note": item.reason}
            for item in found.skipped
        ]
    frame = pd.DataFrame(rows)
    frame.attrs["skipped"] = reasons
    if len(found):
        sums = ["size", "zeros", "kept", "flops", "flops_sparse", "bytes_dense", "bytes_compressed"]
        total = {name: frame[name].sum().item() for name in sums}
        frame.attrs["total"] = {**total, "sparsity": total["zeros"] / total["size"]}
    return frame


def _positions(model):
    """Dict from id of a kernel variable to a function: at how many positions it is applied."""
    try:
        graph = flatten_model(model, None, has_rule, ADVICE)
    except (ValueError, TypeError):
        return {}
    uses = {}
    for call in graph.calls:
        if isinstance(call.layer, keras_layers.Layer):
            for variable in call.layer.weights:
                uses.setdefault(id(variable), []).append(call)
    return {
        key: lambda kernel, calls=calls: sum(_count(call, kernel) for call in calls)
        for key, calls in uses.items()
    }


def _count(call, kernel):
    layer = call.layer
    if kernel.name.lstrip("_") == "embeddings":
        return 0
    if isinstance(layer, keras_layers.RNN):
        steps = call.inputs[0].shape[1]
        return np.nan if steps is None else steps * _space(layer, call)
    transposed = type(layer).__name__.endswith("Transpose")
    shape = (call.inputs if transposed else call.outputs)[0].shape[1:]
    if None in shape:
        return np.nan
    if transposed or "SeparableConv" in type(layer).__name__:
        channels = shape[0] if layer.data_format == "channels_first" else shape[-1]
    else:
        channels = np.prod([kernel.shape[axis] for axis in kernel.output_axes])
    return float(np.prod(shape) / channels)


def _space(layer, call):
    """Positions in space of one step of a convolutional recurrent layer."""
    shape = call.outputs[0].shape[2 if layer.return_sequences else 1 :]
    if len(shape) < 2:
        return 1
    return np.nan if None in shape else float(np.prod(shape) / layer.cell.filters)
