"""A model as a function of what it is fed: inputs, or the vectors of their embeddings."""

import contextlib
import copy

import keras
import numpy as np
from keras import ops, tree
from keras.src.backend.common.masking import set_keras_mask

from keras_saliency.attribution.differentiation import differentiate
from keras_saliency.attribution.targets import activation_handlers, warn_of_probabilities
from keras_saliency.graph.functional import functional_of, is_functional, nested_inputs
from keras_saliency.graph.listening import listening


class Passes:
    """Passes of a model over batches of inputs, copies of them and masks on them.

    Attributes:
        inputs: List of the arrays of all inputs, in the model's order.
        moving: Which of them have values that can move: numbers, or ids that are embedded.
        embeddings: By input, the calls `(layer, number)` of `Embedding` that it is fed to.
    """

    def __init__(self, model, inputs, target, logits=True, batch_size=32):
        self.model = model
        self.target = target
        self.batch_size = batch_size
        self.structure = inputs
        self.inputs = [np.asarray(x) for x in tree.flatten(inputs)]
        self.count = len(self.inputs[0])
        self.squash, visible = activation_handlers(model) if logits else ({}, True)
        self.warns = logits and not visible
        self.taps = []
        self.places = None
        self.told = False
        self.attention = []
        self._forwards = {}
        self._sync()
        self._read_inputs()
        self.mask_calls = self._find_masks()

    def _sync(self):
        # Within fit() JAX keeps the weights of the moment in the trainer.
        if keras.backend.backend() == "jax" and getattr(self.model, "_jax_state", None):
            self.model.jax_state_sync()

    def _read_inputs(self):
        """Which inputs are ids of an embedding; the others become floats, or stay as given."""
        whole = [i for i, x in enumerate(self.inputs) if x.dtype.kind in "iub"]
        self.embeddings = {i: [] for i in range(len(self.inputs))}
        dtypes = [keras.config.floatx()] * len(self.inputs)
        if is_functional(self.model):
            dtypes = [str(x.dtype) for x in functional_of(self.model).inputs]
        layers = [x for x in self.layers_within() if isinstance(x, keras.layers.Embedding)]
        for i, x in enumerate(self.inputs):
            if i not in whole:
                wide = dtypes[i] == "float64" or keras.config.floatx() == "float64"
                self.inputs[i] = x.astype("float64" if wide else "float32")
            elif i in whole and not layers and "int" not in dtypes[i] and x.dtype.kind != "b":
                self.inputs[i] = x.astype("float32")
        if layers:
            self._listen_to_embeddings(layers)
        self.moving = [
            i for i, x in enumerate(self.inputs) if x.dtype.kind == "f" or self.embeddings[i]
        ]
        if not self.moving and len(self.inputs) == 1 and self.inputs[0].dtype.kind in "iu":
            if "int" in dtypes[0]:
                raise ValueError(
                    "The inputs are integers that feed no keras.layers.Embedding, so nothing can "
                    "be differentiated. Pass floats, or score the model behind that layer."
                )
            self.inputs[0] = self.inputs[0].astype("float32")
            self.moving = [0]
        if not self.moving:
            raise ValueError(
                "No input of the model holds floats, or ids that feed a keras.layers.Embedding. "
                f"Received: arrays of {[str(x.dtype) for x in self.inputs]}"
            )
        for i in self.moving:
            if self.inputs[i].dtype.kind == "f" and not np.isfinite(self.inputs[i]).all():
                raise ValueError("`inputs` must be finite. Received: NaN or infinite values.")

    def _listen_to_embeddings(self, layers):
        calls = dict.fromkeys(layers, 0)

        def heard(layer, value, sample):
            number, calls[layer] = calls[layer], calls[layer] + 1
            for i, x in enumerate(sample):
                if x.dtype.kind in "iuf" and x.shape == value.shape and (x == value).all():
                    check_ids("inputs", self.inputs[i], layer)
                    self.embeddings[i].append((layer, number))

        self._listen(layers, heard)

    def _listen(self, layers, heard):
        """Call the model on one row and pass on what each of the layers is called with."""
        sample = self._told_apart()

        def handler(layer):
            def listen(call, args, kwargs):
                value = args[0] if args else next(iter(kwargs.values()))
                heard(layer, np.asarray(ops.convert_to_numpy(value)), sample)
                return call(*args, **kwargs)

            return listen

        with listening({layer: handler(layer) for layer in layers}), keras.StatelessScope():
            self._call_model([ops.convert_to_tensor(x) for x in sample])

    def _told_apart(self):
        """One row of every input, changed where two inputs would be equal."""
        generator = np.random.default_rng(0)
        sample = []
        for x in self.inputs:
            row = x[:1]
            for _ in range(20):  # ids that all inputs share, as of a constant one, stay
                if x.dtype.kind == "b" or not any(np.array_equal(row, y) for y in sample):
                    break
                if x.dtype.kind == "f":
                    row = row + generator.normal(size=row.shape).astype(x.dtype)
                else:
                    row = generator.integers(x.min(), x.max(), row.shape, x.dtype, endpoint=True)
            sample.append(row)
        return sample

    def layers_within(self):
        """Every layer in the model, at any depth."""
        return list(self.model._flatten_layers(include_self=False))

    def _find_masks(self):
        """Calls `(layer, number)` of `Masking` that read an input, with that input's number."""
        found = {}
        series = [i for i in self.moving if self.inputs[i].ndim == 3 and not self.embeddings[i]]
        layers = [x for x in self.layers_within() if isinstance(x, keras.layers.Masking)]
        calls = dict.fromkeys(layers, 0)

        def heard(layer, value, sample):
            number, calls[layer] = calls[layer], calls[layer] + 1
            for i in series:
                # The layer may be called in half precision.
                if value.shape == sample[i].shape and np.allclose(
                    value.astype("float32"), sample[i], rtol=1e-2, atol=1e-3
                ):
                    found[layer, number] = i

        if layers and series:
            self._listen(layers, heard)
        return found

    def names(self):
        """The names of the inputs where they are a dict, in the order of `moving`."""
        if not isinstance(self.structure, dict):
            return None
        names = tree.flatten({name: name for name in self.structure})
        return [names[i] for i in self.moving]

    def channels_of(self, i):
        """The axis of the channels of input `i`, batch axis included."""
        x = self.inputs[i]
        first = [getattr(layer, "data_format", None) for layer in self.layers_within()]
        formats = [name for name in first if name]
        first = bool(formats) and formats[0] == "channels_first"
        return 1 if first and x.ndim > 2 and not self.embeddings[i] else x.ndim - 1

    def space_of(self, i):
        """The extent of input `i` without its batch and channel axes."""
        x = self.inputs[i]
        if self.embeddings[i]:
            return x.shape[1:]
        axis = self.channels_of(i)
        return tuple(n for j, n in enumerate(x.shape) if j not in (0, axis))

    def input_mask(self, i, chosen):
        """The boolean mask `(rows, time)` of an input, or `None`."""
        x = self.inputs[i][chosen]
        for (layer, _), j in self.mask_calls.items():
            if i == j:
                return (x != layer.mask_value).any(axis=-1)
        for layer, _ in self.embeddings[i]:
            if layer.mask_zero:
                return x != 0
        return None

    def _call_model(self, flat):
        inputs = tree.pack_sequence_as(self.structure, flat)
        if is_functional(self.model) and nested_inputs(self.model, (inputs,), {}) is not None:
            inputs = tree.pack_sequence_as(functional_of(self.model)._inputs_struct, flat)
        if getattr(self.model, "_call_has_training_arg", True):
            return self.model(inputs, training=False)
        return self.model(inputs)

    def forward(self):
        """The function that `differentiate` calls, the same for equal questions.

        On JAX it is kept on the model, as Keras keeps its compiled `predict`, so that a second map
        of the same kind compiles nothing.
        """
        store = self._forwards
        if keras.backend.backend() == "jax":
            store = self.model.__dict__.setdefault("_attribution_forwards", {})
        key = (tuple(self.taps), tuple(self.attention), self._kind())
        if key not in store:
            if len(store) > 15:
                del store[next(iter(store))]
            light = copy.copy(self)
            light.inputs = None  # no data are kept
            light.structure = tree.map_structure(lambda _: 0, self.structure)
            store[key] = _Forward(light, tuple(self.taps), tuple(self.attention))
        return store[key]

    def _kind(self):
        """What a pass does, apart from the values that go through it."""
        layers = tuple(
            (id(x), id(getattr(x, "activation", None)), x.dtype_policy.name)
            for x in self.layers_within()
        )
        return (
            self.target.kind(),
            tuple(self.squash),
            tuple(self.moving),
            tuple((i, *calls) for i, calls in self.embeddings.items()),
            str(tree.map_structure(lambda _: 0, self.structure)),
            tuple((id(layer), number, i) for (layer, number), i in self.mask_calls.items()),
            layers,
            tuple(map(id, self.model.variables)),
        )

    def run(self, values, extras, copies=1, inputs=True):
        """One pass; gradients in float32, whatever the model computes in.

        In half precision the scores are multiplied by a power of two first, a lower one where a
        gradient is not finite.
        """
        forward = self.forward()
        forward.copies = copies
        half = _computes_in_half(self.model)
        scale = 2.0**12 if half else 1.0
        while True:
            extras["scale"] = np.float32(scale)
            result = differentiate(self.model, forward, values, extras, inputs)
            gradients = [*result["gradients"], *result["marked_gradients"].values()]
            if scale <= 2.0**-8 or all(np.isfinite(g).all() for g in gradients):
                break
            scale /= 16
        if scale != 1:
            result["gradients"] = [g / np.float32(scale) for g in result["gradients"]]
            marked = result["marked_gradients"]
            result["marked_gradients"] = {k: g / np.float32(scale) for k, g in marked.items()}
            result["scores"] = result["scores"] / np.float32(scale)
        return result


def check_ids(name, ids, layer):
    """Refuse what an embedding has no vector for; JAX would take another's."""
    size = getattr(layer, "input_dim", None)
    if size is not None and (ids.min() < 0 or ids.max() >= size):
        raise ValueError(
            f"`{name}` must be ids from 0 to {size - 1}, which '{layer.name}' knows. Received: "
            f"ids from {ids.min()} to {ids.max()}"
        )


def _computes_in_half(model):
    return any(getattr(x, "compute_dtype", "") == "float16" for x in model._flatten_layers())


class _Forward:
    """One way to call the model: what is replaced on the way, and what is looked at."""

    def __init__(self, passes, taps, attention):
        self.passes, self.taps, self.attention = passes, taps, attention
        self.marks = bool(taps or attention)
        self.copies = 1
        self.compiled = {}

    def __call__(self, values, extras, mark):
        passes = self.passes
        calls = {}
        replaced = {}
        flat = list(extras["fixed"])
        for i, x in zip(passes.moving, values, strict=True):
            for call in passes.embeddings[i]:
                replaced[call] = x
            if not passes.embeddings[i]:
                flat[i] = x
        handlers = dict(passes.squash)
        for layer in {call[0] for call in replaced}:
            handlers[layer] = self._embedding(layer, replaced, calls)
        if extras["masks"]:
            masks = dict(zip(passes.mask_calls, extras["masks"], strict=True))
            for layer in {call[0] for call in masks}:
                handlers[layer] = self._masking(layer, masks, calls)
        for layer in self.taps:
            handlers[layer] = self._tap(layer, calls, mark, handlers.get(layer))
        for layer in self.attention:
            handlers[layer] = self._attention(layer, calls, mark)
        with listening(handlers):
            outputs = passes._call_model(flat)
        scores, classes = passes.target.score(outputs, extras["target"], self.copies)
        scores = scores * ops.cast(extras["scale"], scores.dtype)
        others = {} if classes is None else {"classes": classes}
        if len(tree.flatten(outputs)) == 1:
            others["outputs"] = tree.flatten(outputs)[0]
        return scores, others

    def _embedding(self, layer, replaced, calls):
        def handler(call, args, kwargs):
            number = calls[layer] = calls.get(layer, -1) + 1
            if (layer, number) not in replaced:
                return call(*args, **kwargs)
            return ops.cast(replaced[layer, number], layer.compute_dtype)

        return handler

    def _masking(self, layer, masks, calls):
        def handler(call, args, kwargs):
            number = calls["masking", layer] = calls.get(("masking", layer), -1) + 1
            outputs = call(*args, **kwargs)
            mask = masks.get((layer, number))
            if mask is None:  # of features, not of an input
                return outputs
            outputs = args[0] * ops.cast(mask, args[0].dtype)[..., None]
            set_keras_mask(outputs, mask)
            return outputs

        return handler

    def _tap(self, layer, calls, mark, inner):
        def handler(call, args, kwargs):
            number = calls["tap", layer] = calls.get(("tap", layer), -1) + 1
            outputs = inner(call, args, kwargs) if inner else call(*args, **kwargs)
            if not ops.is_tensor(outputs):
                return outputs
            return mark((self.taps.index(layer), number), outputs)

        return handler

    def _attention(self, layer, calls, mark):
        softmax = layer._masked_softmax

        def handler(call, args, kwargs):
            def watched(*args, **kwargs):
                number = calls["attention", layer] = calls.get(("attention", layer), -1) + 1
                place = len(calls.setdefault("order", []))
                calls["order"].append(layer)
                key = ("attention", place, self.attention.index(layer), number)
                return mark(key, softmax(*args, **kwargs))

            layer.__dict__["_masked_softmax"] = watched
            try:
                asked = kwargs.get("return_attention_scores", False)
                outputs = call(*args, **{**kwargs, "return_attention_scores": True})
            finally:
                del layer.__dict__["_masked_softmax"]
            return outputs if asked or not isinstance(outputs, tuple) else outputs[0]

        return handler


def describe_outputs(passes):
    """Look once at what the model returns: its shapes, for the target's check."""
    sample = [ops.convert_to_tensor(x[:1]) for x in passes.inputs]
    with listening(passes.squash), keras.StatelessScope():
        outputs = _shapes_of(passes, sample)
    passes.target.check(outputs)
    passes.output_shape = outputs[0]
    if passes.warns and len(outputs) == 1 and len(outputs[0]) == 2:
        with contextlib.suppress(AttributeError):
            found = passes._call_model(sample)
            warn_of_probabilities(passes.model, ops.convert_to_numpy(found))


def _shapes_of(passes, sample):
    if is_functional(passes.model):
        return [tuple(x.shape) for x in tree.flatten(functional_of(passes.model).outputs)]
    return [tuple(x.shape) for x in tree.flatten(passes._call_model(sample))]
