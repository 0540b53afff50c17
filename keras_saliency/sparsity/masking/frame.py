"""How sparse a model is, kernel by kernel: the frame behind every report."""

import numpy as np
from keras import ops

from keras_saliency.graph import lora
from keras_saliency.graph.reading import read
from keras_saliency.layers.masked.base import MaskedKernels
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.operations import work_of


def kernel_frame(model, layers=None, exclude=None, skipped=False):
    """The frame that `sparsity_report` returns."""
    import pandas as pd

    found = maskable_kernels(model, layers, exclude)
    counts = _multiplications(model)
    rows = []
    for kernel in found:
        values = read(kernel.variable)
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
        flops = 2.0 * counts.get(id(kernel.variable), np.nan)
        if kernel.name.lstrip("_") == "embeddings":  # rows are looked up, not multiplied
            flops = 0.0
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


def _multiplications(model):
    """Dict from id of a weight to the multiplications that it does for one sample."""
    counts = {}
    try:
        work = work_of(model)
    except (ValueError, TypeError):
        return counts
    for weight, count in work:
        known = np.nan if count is None else float(count)
        counts[id(weight)] = counts.get(id(weight), 0.0) + known
    return counts
