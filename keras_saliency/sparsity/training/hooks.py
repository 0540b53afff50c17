"""What holds masked weights of a plain model at 0 in `fit`, on every backend, and its removal."""

import functools

import keras
import numpy as np

from keras_saliency.layers.masked.base import masked_in_place

_HOOKS = "_isparse_hooks"
_PATCHED = (
    "_update_model_variables_moving_average",
    "save_own_variables",
    "load_own_variables",
)


class State(keras.layers.Layer):
    """Has what a checkpoint needs besides the weights saved and loaded with the model.

    It is no layer of the model (nothing tracks it), but one of its attributes, which is where
    Keras looks for things to save.
    """

    def __init__(self, callback, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["_callback"] = callback

    @property
    def callback(self):
        return self._callback

    def save_own_variables(self, store):
        sparsifier = self._callback.sparsifier
        if sparsifier is not None:
            for key, value in sparsifier.state().items():
                store[key] = value

    def load_own_variables(self, store):
        state = {key: np.array(store[key]) for key in store.keys()}  # noqa: SIM118  (a file)
        if self._callback.sparsifier is not None:
            self._callback.sparsifier.set_state(state)
        else:
            self._callback._restored = state


class _MaskConstraint(keras.constraints.Constraint):
    """The user's constraint, then the mask: every optimizer applies it after every update."""

    def __init__(self, mask, inner):
        self.mask = mask
        self.inner = inner

    def __call__(self, w):
        return masked_in_place(w if self.inner is None else self.inner(w), self.mask)


class Hooks:
    """What keeps the masked weights of a plain model at 0 in `fit`, and its removal.

    A kernel's `constraint` is applied after the optimizer's update, averages and all, inside the
    compiled step and on every backend; so no weight has to leave the device for it.
    """

    def __init__(self, model, sparsifier):
        self.model = model
        self.sparsifier = sparsifier
        sparsifier.make_variables()
        self._pairs = sparsifier.plain_pairs()
        self._removed = False
        self._optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        self._watch_for_the_next_training()
        if not self._pairs:
            return
        self._constraints = []
        for variable, mask in self._pairs:
            variable.constraint = _MaskConstraint(mask, variable.constraint)
            self._constraints.append(variable.constraint)
        self._optimizer.__dict__.setdefault(_HOOKS, []).append(self)
        if self._optimizer.use_ema:
            self._patch("_update_model_variables_moving_average", self._mask_averages)
        if keras.backend.backend() == "jax":
            # A compiled step sees what is in its state, and of that the optimizer sees its own
            # variables. The masks stay out of its files.
            self._optimizer._variables.extend(mask for _, mask in self._pairs)
            self._patch("save_own_variables", self._without_masks)
            self._patch("load_own_variables", self._without_masks)
        model.make_train_function(force=True)

    def _watch_for_the_next_training(self):
        """A training that an exception ended tells nobody: the next one, which makes sure of its
        train function first, takes away what was left."""
        make = self.model.make_train_function

        def make_train_function(force=False):
            if not force:
                self.remove()
            return make(force=force)

        self._made = make_train_function
        self._make_before = self.model.__dict__.get("make_train_function")
        self.model.__dict__["make_train_function"] = make_train_function

    def remove(self):
        if self._removed:
            return
        self._removed = True
        if self.model.__dict__.get("make_train_function") is self._made:
            if self._make_before is None:
                del self.model.__dict__["make_train_function"]
            else:
                self.model.__dict__["make_train_function"] = self._make_before
        if not self._pairs:
            return
        for (variable, _), mine in zip(self._pairs, self._constraints, strict=True):
            _unlink(variable, mine)
        if keras.backend.backend() == "jax":
            self._hide()
        hooks = self._optimizer.__dict__.get(_HOOKS, [])
        if self in hooks:
            hooks.remove(self)
        if not hooks:
            for name in (*_PATCHED, _HOOKS):
                self._optimizer.__dict__.pop(name, None)
        self.model.train_function = None

    def _patch(self, name, wrapper):
        original = getattr(self._optimizer, name)

        @functools.wraps(original)
        def patched(*args, **kwargs):
            if self._removed:
                return original(*args, **kwargs)
            return wrapper(original, *args, **kwargs)

        self._optimizer.__dict__[name] = patched

    def _mask_averages(self, original, trainable_variables):
        # The weights that an optimizer averages are those before the constraint. The averages
        # stand in for the weights at the end, and whenever `SwapEMAWeights` swaps them in.
        original(trainable_variables)
        masks = {id(variable): mask for variable, mask in self._pairs}
        averages = self._optimizer._model_variables_moving_average
        for variable, average in zip(trainable_variables, averages, strict=True):
            if average is not None and id(variable) in masks:
                average.assign(masked_in_place(average, masks[id(variable)]))

    def _hide(self):
        masks = {id(mask) for _, mask in self._pairs}
        variables = self._optimizer._variables
        hidden = [v for v in variables if id(v) in masks]
        variables[:] = [v for v in variables if id(v) not in masks]
        return hidden

    def _without_masks(self, original, *args, **kwargs):
        hidden = self._hide()
        try:
            return original(*args, **kwargs)
        finally:
            self._optimizer._variables.extend(hidden)


def _unlink(variable, constraint):
    """Take one constraint out of the chain of a variable's."""
    if variable.constraint is constraint:
        variable.constraint = constraint.inner
        return
    link = variable.constraint
    while isinstance(link, _MaskConstraint):
        if link.inner is constraint:
            link.inner = constraint.inner
            return
        link = link.inner
