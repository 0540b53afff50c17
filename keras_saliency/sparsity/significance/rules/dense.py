"""Layers and products whose weights are a matrix from inputs to outputs."""

import numpy as np
from keras import layers

from keras_saliency.graph.trace import Tensor
from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.common import (
    argument,
    constant,
    elementwise,
    operations,
)
from keras_saliency.sparsity.significance.scores import spread, total


@register_significance_rule(layers.Dense, kernels={"_kernel": (0, 1)})
def dense(call):
    scores = call.scores()
    call.edges("_kernel", scores)
    return call.contract("_kernel", scores.reshape(1, -1), keep=(0,))


if hasattr(layers, "TernaryDense"):  # Keras 3.16 has it

    @register_significance_rule(
        layers.TernaryDense, kernels=(), reason="it learns its zeros itself, among -1, 0 and 1"
    )
    def ternary_dense(call):
        size = call.magnitude("kernel")
        threshold = call.layer.threshold
        if call.layer.quantization_mode:
            threshold = 0
        elif threshold is None:
            threshold = size.mean() / 2
        return (size > threshold) @ call.scores()


def einsum_labels(equation, ranks):
    """Labels of an einsum's operands and of its output, the ellipsis written out."""
    left, right = equation.replace(" ", "").split("->")
    terms = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widest = max(
        [
            rank - len(t.replace("...", ""))
            for t, rank in zip(terms, ranks, strict=True)
            if "..." in t
        ],
        default=0,
    )
    batch = "".join(spare[:widest])
    written = []
    for term, rank in zip(terms, ranks, strict=True):
        width = rank - len(term.replace("...", ""))
        written.append(term.replace("...", batch[len(batch) - width :]))
    return written, right.replace("...", batch)


def _einsum_dense_kernels(layer):
    left, right = layer.equation.replace(" ", "").split("->")
    kernel = left.split(",")[1].replace("...", "")
    outputs = tuple(i for i, label in enumerate(kernel) if label in right)
    inputs = tuple(i for i, label in enumerate(kernel) if label not in right)
    return {"_kernel": (inputs, outputs)}


@register_significance_rule(layers.EinsumDense, kernels=_einsum_dense_kernels)
def einsum_dense(call):
    kernel_rank = len(call.layer._kernel.shape)
    (x, kernel), out = einsum_labels(call.layer.equation, [len(call.inputs[0].shape), kernel_rank])
    # Axes of the output that the kernel does not know are positions.
    scores = total(call.output_scores[0], [i for i, c in enumerate(out) if c in kernel])
    extents = dict(zip(kernel, call.layer._kernel.shape, strict=True))
    scores = spread(scores, [extents.get(label, 1) for label in out])
    shared = [label for label in out if label in kernel]
    vector = scores.reshape([extents[label] for label in shared])
    factor = np.einsum(vector, _ids(shared), _ids([c for c in kernel if c in shared]))
    factor = factor.reshape([extents[c] if c in shared else 1 for c in kernel])
    call.edges("_kernel", factor)
    kept = [i for i, label in enumerate(kernel) if label in x]
    inputs = call.contract("_kernel", factor, keep=kept)
    order = [kernel[i] for i in kept]
    inputs = np.einsum(inputs, _ids(order), _ids([c for c in x if c in order]))
    return inputs.reshape([extents[c] if c in order else 1 for c in x])


def _ids(labels):
    return [
        ord(label) - ord("A") if label < "a" else ord(label) - ord("a") + 26 for label in labels
    ]


@register_significance_rule(layers.Embedding, kernels={"_embeddings": (0, 1)})
def embedding(call):
    call.edges("_embeddings", call.scores())


def _reversible_kernels(layer):
    kernels = {"_embeddings": (0, 1)}
    if not layer.tie_weights:
        kernels["reverse_embeddings"] = (0, 1)
    return kernels


if hasattr(layers, "ReversibleEmbedding"):

    @register_significance_rule(layers.ReversibleEmbedding, kernels=_reversible_kernels)
    def reversible_embedding(call):
        reverse = call.kwargs.get("reverse", call.args[1] if len(call.args) > 1 else False)
        if not reverse:
            return embedding(call)
        scores = call.scores()
        if call.layer.tie_weights:
            factor = scores.reshape(-1, 1)
            call.edges("_embeddings", factor)
            return call.contract("_embeddings", factor, keep=(1,))
        call.edges("reverse_embeddings", scores)
        return call.contract("reverse_embeddings", scores.reshape(1, -1), keep=(0,))


def _contraction(call, operands, labels, output):
    """Scores of the operands of an einsum; constant operands are weights."""
    score = call.output_scores[0]
    extents = {}
    for operand, axes in zip(operands, labels, strict=True):
        for label, extent in zip(axes, operand.shape, strict=True):
            if extent not in (None, 1) or label not in extents:
                extents[label] = extent
    constants = [
        (np.abs(constant(x)), axes)
        for x, axes in zip(operands, labels, strict=True)
        if not isinstance(x, Tensor)
    ]
    results = []
    for operand, axes in zip(operands, labels, strict=True):
        if not isinstance(operand, Tensor):
            continue
        known = set("".join(axes for _, axes in constants))
        # Resolve what the constants tell apart; sum over what this operand does not have.
        part = total(score, [i for i, c in enumerate(output) if c in known or c in axes])
        part = spread(
            part,
            [extents[c] if c in known else n for c, n in zip(output, part.shape, strict=True)],
        )
        names = sorted({*output, *axes, *known})
        ids = {c: i for i, c in enumerate(names)}
        terms = []
        for array, letters in [(part, output), *constants]:
            keep = [i for i, n in enumerate(array.shape) if n > 1]
            terms += [
                array.reshape([array.shape[i] for i in keep]),
                [ids[letters[i]] for i in keep],
            ]
        present = {i for term in terms[1::2] for i in term}
        kept = [c for c in axes if ids[c] in present]
        result = np.einsum(*terms, [ids[c] for c in kept], optimize=True)
        results.append(result.reshape([extents[c] if c in kept else 1 for c in axes]))
    return results


@operations("Einsum")
def einsum_op(call):
    operands = list(call.args)
    labels, output = einsum_labels(call.layer.subscripts, [len(x.shape) for x in operands])
    return _contraction(call, operands, labels, output)


@operations("Matmul")
def matmul_op(call):
    first, second = argument(call, 0, "x1"), argument(call, 1, "x2")
    m, n = len(first.shape), len(second.shape)
    batch = "abcdefgh"
    a = batch[8 - max(m - 2, 0) :] if m > 2 else ""
    b = batch[8 - max(n - 2, 0) :] if n > 2 else ""
    left = a + ("xk" if m > 1 else "k")
    right = b + ("ky" if n > 1 else "k")
    wide = a if len(a) >= len(b) else b
    output = wide + ("x" if m > 1 else "") + ("y" if n > 1 else "")
    return _contraction(call, [first, second], [left, right], output)


@operations("Dot")
def dot_op(call):
    first, second = argument(call, 0, "x1"), argument(call, 1, "x2")
    if not first.shape or not second.shape:
        return elementwise(call)
    letters = "abcdefghijmnopqrstuvwxyz"
    left = letters[: len(first.shape) - 1] + "k"
    right = letters[12 : 12 + len(second.shape) - 1]
    right = right[:-1] + "k" + right[-1:] if right else "k"
    return _contraction(call, [first, second], [left, right], (left + right).replace("k", ""))


@operations("Tensordot")
def tensordot_op(call):
    first, second = argument(call, 0, "x1"), argument(call, 1, "x2")
    axes = call.layer.axes
    m, n = len(first.shape), len(second.shape)
    if isinstance(axes, int):
        axes = (range(m - axes, m), range(axes))
    pairs = [[a] if isinstance(a, int) else list(a) for a in axes]
    left = list("abcdefghijklm"[:m])
    right = list("nopqrstuvwxyz"[:n])
    for i, j in zip(*pairs, strict=True):
        right[j % n] = left[i % m]
    contracted = {left[i % m] for i in pairs[0]}
    output = "".join(c for c in left + right if c not in contracted)
    return _contraction(call, [first, second], ["".join(left), "".join(right)], output)
