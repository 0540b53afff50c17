"""The mechanism of every masked layer: Keras's own layer reads a masked kernel.

While a masked layer's `call` runs, the attribute that holds its kernel answers with
`where(mask, kernel, 0)`; outside it answers with the stored kernel, as in Keras. So a masked
layer is Keras's layer, down to the last bit when its mask is all ones.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_saliency.typing import ArrayLike

# The masked kernels that are in force in this thread: {(id of a layer, attribute): tensor}. They
# belong to a call, not to a layer, so that two threads may call one layer (distribution
# strategies trace their replicas in threads).
_ACTIVE = threading.local()


def _active():
    if not hasattr(_ACTIVE, "kernels"):
        _ACTIVE.kernels = {}
    return _ACTIVE.kernels


def masked(kernel, mask):
    """`kernel` where `mask`, else 0 (equation 4.12).

    A selection rather than a product: a masked infinity (float16 overflow) gives 0, not NaN, and
    the gradient of a masked edge is exactly 0 (equation 4.13).
    """
    kernel = ops.convert_to_tensor(kernel)
    return ops.where(ops.convert_to_tensor(mask), kernel, ops.zeros((), dtype=kernel.dtype))


def masked_in_place(kernel, mask):
    """`masked(kernel, mask)` of a variable or tensor that nobody needs as it was.

    On PyTorch it is changed in place, in a fifth of the time that a new tensor and its copying
    back take (`benchmarks/isparse_training.py`, "callback on plain").
    """
    if keras.backend.backend() != "torch":
        return masked(kernel, mask)
    import torch

    values = ops.convert_to_tensor(kernel).data
    # The product of bits: a masked infinity gives 0 too.
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    values.view(integers).mul_(ops.convert_to_tensor(mask))
    return kernel


def mask_attribute(kernel):
    """Name of the mask of a kernel: `mask`, `recurrent_mask`, `depthwise_mask`, ..."""
    if kernel in ("kernel", "embeddings"):
        return "mask"
    name = kernel.lstrip("_").removesuffix("kernel")
    return f"{name}mask" if name.endswith("_") or not name else f"{name}_mask"


def _kernel_property(name, base):
    inherited = getattr(base, name, None)

    def get(self):
        value = _active().get((id(self), name))
        if value is not None:
            return value
        if inherited is not None:
            return inherited.fget(self)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            ) from None

    def put(self, value):
        if inherited is not None:
            inherited.fset(self, value)
        else:
            self.__dict__[name] = value

    def remove(self):
        self.__dict__.pop(name)

    return property(get, put, remove)


def _with_masks(method):
    # Keras reads the signature of `call`, so it stays the stock layer's.
    @functools.wraps(method)
    def masked_method(self, *args, **kwargs):
        with self.masking():
            return method(self, *args, **kwargs)

    return masked_method


def _build_with_masks(base):
    build = base.build

    # Keras reads the signature of `build` too.
    @functools.wraps(build)
    def masked_build(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self._tracker.unlock()  # LoRA has locked it
        self._add_masks()

    return masked_build


def _quantizes(layer_class):
    """Whether Keras quantizes layers of a class: they have a method of their own for it, or, from
    Keras 3.16 on, tell the base class their geometry."""
    base = keras.layers.Layer
    return any(
        getattr(layer_class, name, None) is not getattr(base, name, None)
        for name in ("quantize", "_quantization_geometry")
    )


class MaskedRegularizer(keras.regularizers.Regularizer):
    """A kernel's regularizer that sees the kernel as the layer uses it."""

    def __init__(self, regularizer, mask):
        self.regularizer = regularizer
        self.mask = mask

    def __call__(self, x):
        return self.regularizer(masked(x, self.mask))


class MaskedConstraint(keras.constraints.Constraint):
    """A kernel's constraint that is met by the kernel as the layer uses it."""

    def __init__(self, constraint, mask):
        self.constraint = constraint
        self.mask = mask
        self.seen = None

    def see(self, mask):
        """Remember a mask that the forward pass has read.

        A compiled step of JAX hands an optimizer the trainable weights and its own variables: the
        mask is not among them, but stands in the same step's forward pass.
        """
        if keras.backend.backend() != "jax":
            return
        import jax

        mask = ops.convert_to_tensor(mask)
        self.seen = mask if isinstance(mask, jax.core.Tracer) else None

    def __call__(self, w):
        mask, self.seen = self.seen, None
        mask = ops.convert_to_tensor(self.mask) if mask is None else mask
        w = ops.convert_to_tensor(w)
        return ops.where(mask, self.constraint(masked(w, mask)), w)


class MaskedKernels(keras.layers.Layer):
    """Mixin that masks the kernels named in `kernels` of the Keras layer that it precedes.

    Subclasses are Keras's layer plus, for each kernel, a non-trainable boolean variable of its
    shape, all ones at first. Weight lists and weight files of the plain layer load; the masks
    then stay as they are.

    It is a layer itself for the sake of NNX, where Python lets an object change its class only if
    both come from Keras's own.
    """

    kernels: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "kernels" not in cls.__dict__:
            return
        base = next(c for c in cls.__mro__[1:] if not issubclass(c, MaskedKernels))
        cls.plain_class = base
        for name in cls.kernels:
            setattr(cls, name, _kernel_property(name, base))
        own = not base.__module__.startswith(("keras.", "keras_saliency."))
        if cls.kernels or own or issubclass(base, keras.layers.RNN):
            # A layer may name other methods than `call` that compute with its kernels.
            for name in ("call", *getattr(base, "kernel_methods", ())):
                if getattr(cls, name) is getattr(base, name):
                    setattr(cls, name, _with_masks(getattr(base, name)))
        if cls.kernels:
            cls.build = _build_with_masks(base)

    def _add_masks(self):
        for name in self.kernels:
            attribute = mask_attribute(name)
            mask = self.add_weight(
                name=attribute,
                shape=getattr(self, name).shape,
                initializer="ones",
                dtype="bool",
                trainable=False,
            )
            setattr(self, attribute, mask)
            variable = self.kernel_variable(name)
            if variable.regularizer is not None:
                variable.regularizer = MaskedRegularizer(variable.regularizer, mask)
            if variable.constraint is not None:
                variable.constraint = MaskedConstraint(variable.constraint, mask)

    def kernel_variable(self, name: str) -> keras.Variable:
        """The variable behind the kernel attribute `name` (LoRA makes `kernel` a sum)."""
        variable = getattr(self, f"_{name}", None)
        return getattr(self, name) if variable is None else variable

    @property
    def masks(self) -> dict[str, keras.Variable]:
        """Dict from kernel attribute to its mask variable; empty before `build`."""
        found = {name: self.__dict__.get(mask_attribute(name)) for name in self.kernels}
        return {name: mask for name, mask in found.items() if mask is not None}

    def kernel_masks(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """List of `(kernel variable, mask variable)` pairs."""
        return [(self.kernel_variable(name), mask) for name, mask in self.masks.items()]

    def set_mask(self, mask: ArrayLike, kernel: str | None = None) -> None:
        """Set the mask of a kernel.

        Args:
            mask: Array of the kernel's shape, of booleans or of zeros and ones; 1 keeps an edge.
            kernel: Attribute of the kernel. Default: the layer's first one.

        Raises:
            ValueError: If the layer is not built, has no such kernel, or the mask has another
                shape or other values. The layer's mask is then unchanged.
        """
        if not self.masks:
            raise ValueError(f"Layer {self.name!r} has no mask before it is built.")
        kernel = self.kernels[0] if kernel is None else kernel
        if kernel not in self.kernels:
            raise ValueError(
                f"Argument `kernel` must be one of {list(self.kernels)} in layer {self.name!r}. "
                f"Received: kernel={kernel!r}"
            )
        variable = self.masks[kernel]
        value = np.asarray(ops.convert_to_numpy(mask))
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"Argument `mask` must have the kernel's shape {tuple(variable.shape)} in layer "
                f"{self.name!r}. Received: shape {value.shape}"
            )
        if value.dtype != bool and not np.isin(value, (0, 1)).all():
            raise ValueError(
                f"Argument `mask` must hold booleans, or zeros and ones, in layer {self.name!r}. "
                f"Received: dtype {value.dtype} with values from {value.min()} to {value.max()}"
            )
        variable.assign(value.astype(bool))

    @contextlib.contextmanager
    def masking(self) -> Iterator[None]:
        """While open, the kernel attributes answer with the masked kernels."""
        active = _active()
        mine = []
        for name, mask in self.masks.items():
            key = (id(self), name)
            # Already there when a recurrent layer has masked its cell once for all time steps.
            if key not in active:
                constraint = getattr(self.kernel_variable(name), "constraint", None)
                if isinstance(constraint, MaskedConstraint):
                    constraint.see(mask)
                value = masked(getattr(self, name), mask)
                active[key] = value
                mine.append(key)
        try:
            yield
        finally:
            for key in mine:
                del active[key]

    def quantize(self, mode=None, type_check=True, config=None):
        """Quantize the masked kernel to `"int8"` or `"int4"`: a zero stays a zero.

        Raises:
            ValueError: For the other modes, whose updates would fill the masked edges again.
        """
        self._before_quantize(mode)
        super().quantize(mode, type_check=False, config=config)

    def _before_quantize(self, mode):
        if not self.masks or not _quantizes(self.plain_class):
            return
        if mode not in ("int8", "int4"):
            raise ValueError(
                "A masked layer quantizes to 'int8' or 'int4', which keep zeros; call "
                "`keras_saliency.strip_masks(model)` first for other modes. "
                f"Received: mode={mode!r} (layer {self.name!r})"
            )
        if getattr(self, "lora_enabled", False):
            raise ValueError(
                f"Masked layer {self.name!r} has LoRA weights, which would escape its mask once it "
                "is quantized. Save and load it (which merges them) before `quantize`."
            )
        for name, mask in self.masks.items():
            variable = self.kernel_variable(name)
            variable.assign(masked(variable.value, mask))

    def _plain_entries(self):
        """What the plain layer would save, in its order."""
        store = {}
        super().save_own_variables(store)
        masks = {id(mask) for mask in self.masks.values()}
        return [value for value in store.values() if id(value) not in masks]

    def save_own_variables(self, store):
        for i, value in enumerate([*self._plain_entries(), *self.masks.values()]):
            store[str(i)] = value

    def load_own_variables(self, store):
        values = [store[str(i)] for i in range(len(store.keys()))]
        masks = list(self.masks.values())
        if len(values) == len(self._plain_entries()):  # a plain layer's file
            values += masks
        super().load_own_variables({str(i): value for i, value in enumerate(values)})
        for mask, value in zip(masks, values[len(values) - len(masks) :], strict=True):
            if value is not mask:
                mask.assign(value)

    def set_weights(self, weights):
        """Set all weights, masks last, or only those that the plain layer has."""
        masks = {id(mask) for mask in mask_variables(self)}
        if len(weights) == len(self.weights) - len(masks):
            given = iter(weights)
            weights = [v.numpy() if id(v) in masks else next(given) for v in self.weights]
        super().set_weights(weights)


def mask_variables(layer):
    """The masks of a layer or model and of everything inside it."""
    return [
        mask
        for item in layer._flatten_layers()
        if isinstance(item, MaskedKernels)
        for mask in item.masks.values()
    ]
