"""Loops of one's own on JAX: the weights that train may be others than the model's."""

import weakref

import keras
from keras import ops

_ADVICE = (
    "This looks like a stateless loop on JAX, whose weights are not those of the model '{name}': "
)


class LoopGuard:
    """Tells a loop that trains values of its own, where nothing done to the model would matter.

    JAX's arrays never change: a variable that was assigned holds another array. On the other
    backends an update happens in the variable, and nothing is checked.
    """

    def __init__(self, model):
        self._model = model
        self._on = keras.backend.backend() == "jax"
        self._seen = None
        self._trained = True
        self._idle = 0
        self._batch = -1
        self._stateless = False

    def look(self, variables):
        """Remember what the variables hold, after masks were put into force."""
        if self._on:
            self._seen = [weakref.ref(variable.value) for variable in variables]

    def before_update(self, variables):
        """Refuse to compute masks from weights that a stateless loop has left behind."""
        self._note(variables)
        if self._stateless and self._seen and not self._changed(variables):
            raise ValueError(
                f"{_ADVICE.format(name=self._model.name)}masks are due, and the model holds the "
                "weights of the last masks. Assign the loop's values to its variables before "
                "`step()`, and read them again after it, as `examples/custom_loop.py` does."
            )

    def before_apply(self, variables, batch, keeps):
        """Refuse to set zeros in a model that is not the one which trains."""
        self.outside_of_compilation(
            "call `values = sparsifier.apply(values)` behind the compiled step, not in it."
        )
        self._note(variables)
        self._idle = 0 if self._trained else self._idle + 1
        if variables and self._idle and (batch > self._batch or (keeps and self._idle > 1)):
            raise ValueError(
                f"{_ADVICE.format(name=self._model.name)}they have not changed since the last "
                "`apply()`, which so does nothing. Pass the loop's own: "
                "`trainable_variables = sparsifier.apply(trainable_variables)`."
            )
        self._trained = False
        self._batch = batch

    def of_values(self, keeps):
        """Refuse masks that a compiled function would hold on to."""
        self._stateless = True
        if not keeps:
            self.outside_of_compilation(
                "call `apply` behind the compiled step, not in it.",
                "The masks would be compiled in as they stand, and the next ones never be seen: ",
            )

    def outside_of_compilation(self, advice, reason=None):
        if not self._on:
            return
        import jax

        if isinstance(ops.zeros(()), jax.core.Tracer):
            reason = reason or "The model cannot be changed in a compiled function: "
            raise ValueError(f"{reason}{advice}")

    def _note(self, variables):
        if not self._on or self._seen is None or self._changed(variables):
            self._trained = True

    def _changed(self, variables):
        now = [variable.value for variable in variables]
        return any(seen() is not value for seen, value in zip(self._seen, now, strict=True))
