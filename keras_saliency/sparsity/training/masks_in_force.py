"""The masks that are in force in a model while it is trained, of plain and of masked layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_saliency.graph import lora
from keras_saliency.layers.masked.base import MaskedKernels
from keras_saliency.sparsity.kernels import Kernel


class MasksInForce:
    """Reads the masks of a model's kernels: those of masked layers, and variables for plain ones.

    Subclasses have a `model`, a `maker` with `kernels`, and `_variables`, a dict from the key of a
    plain kernel to its mask variable.
    """

    model: keras.Model
    maker: Any
    _variables: dict[str, keras.Variable]

    @property
    def kernels(self) -> list[Kernel]:
        """The `Kernel` objects that are masked."""
        return self.maker.kernels

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return {key: ops.convert_to_numpy(mask) for key, mask in self._mask_variables().items()}

    @property
    def sparsity(self) -> float:
        """Share of the edges that are masked now, over all kernels with a target."""
        return self.masked / sum(kernel.size for kernel in self.kernels)

    @property
    def masked(self) -> int:
        """How many edges of the kernels in use are masked now."""
        return sum(kernel.size - self._kept(kernel) for kernel in self.kernels)

    @property
    def zeros(self) -> int:
        """How many edges of the kernels in use are 0, or masked, in the model as it stands."""
        return sum(kernel.size - self._kept(kernel, True) for kernel in self.kernels)

    def _kept(self, kernel, nonzero=False):
        """How many edges of the kernel in use are not masked; with `nonzero`, are not 0."""
        layer_mask = self._layer_mask(kernel)
        if getattr(kernel.owner, "lora_enabled", False) and layer_mask is None:
            return int(np.count_nonzero(lora.merged_kernel(kernel.owner)))  # the update is dense
        mask = self.masks_of(kernel)
        if nonzero and layer_mask is None:
            return int(np.count_nonzero(ops.convert_to_numpy(kernel.variable)))
        return kernel.size if mask is None else int(np.count_nonzero(mask))

    def masks_of(self, kernel: Kernel) -> np.ndarray | None:
        """The mask in force for one kernel, a boolean array, or `None`."""
        variable = self._mask_variables().get(kernel.key)
        return None if variable is None else ops.convert_to_numpy(variable)

    def adopt_zeros(self) -> None:
        """Take the zeros in the plain kernels for masked: of a model that was trained before."""
        self.make_variables()
        for variable, mask in self.plain_pairs():
            mask.assign(ops.convert_to_numpy(variable) != 0)

    def _layer_mask(self, kernel):
        owner = kernel.owner
        if not isinstance(owner, MaskedKernels):
            return None
        return owner.masks.get(kernel.name.lstrip("_"))

    def _mask_variables(self):
        # In `fit` on JAX the masks travel with the training's state, away from the model.
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None:
            sync()
        found = {}
        for kernel in self.kernels:
            mask = self._layer_mask(kernel)
            if mask is None:
                mask = self._variables.get(kernel.key)
            if mask is not None:
                found[kernel.key] = mask
        return found

    def plain_pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """The kernels without a masked layer: `(variable, mask variable)`."""
        return [
            (kernel.variable, self._variables[kernel.key])
            for kernel in self.kernels
            if kernel.key in self._variables
        ]

    def make_variables(self) -> None:
        """Make the mask variables of plain kernels, all ones, so that a compiled step has them."""
        for kernel in self.kernels:
            if self._layer_mask(kernel) is None and kernel.key not in self._variables:
                self._variables[kernel.key] = keras.Variable(
                    np.ones(kernel.shape, bool),
                    dtype="bool",
                    trainable=False,
                    name=f"{kernel.key}_mask".replace("/", "_"),
                )
