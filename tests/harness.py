"""One declaration tests a layer for everything a user may do with it.

    class TestMyLayer(LayerTests):
        layer = MyLayer
        config = {...}      # every constructor argument at a value that is not its default
        cases = [Case("2d", kwargs={...}, inputs=[(2, 5, 7, 3)], reference=reference)]

``reference(inputs, weights, **kwargs)`` is written in NumPy from the equations, not from the
layer's code. It gets a list of float64 arrays and a dict from the path of a variable inside
the layer ("smoothing/kernel") to its float64 value.
"""

import dataclasses
import inspect
from collections.abc import Callable

import compat
import keras
import numpy as np

import keras_saliency  # noqa: F401  (registers the layers)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One way to call a layer.

    Attributes:
        id: Name of the case in the test's id.
        kwargs: Constructor arguments.
        inputs: Shapes with the batch axis, or arrays. Several inputs are passed as a list.
        reference: Independent implementation, see the module's docstring.
        scores: Whether `return_attention_scores=True` is tested: the reference then returns
            `(output, scores)`.
        mask: Whether padded time steps (axis 1 of every input) are tested.
        data_format: Whether the layer takes `data_format`, and the case is `channels_last`.
        dynamic: Axes that may be unknown when the model is built. Default: all but the last.
        no_gradient: Paths of weights, or indices of inputs, that rightly get no gradient.
        prepare: Called with the built layer, for weights the harness should not invent.
        tolerance, half_tolerance: Largest absolute and relative errors in float32 and in half
            precision.
    """

    id: str
    kwargs: dict = dataclasses.field(default_factory=dict)
    inputs: tuple | list = ()
    reference: Callable | None = None
    scores: bool = False
    mask: bool = False
    data_format: bool = False
    dynamic: tuple | None = None
    no_gradient: tuple = ()
    prepare: Callable | None = None
    tolerance: float = 1e-5
    half_tolerance: float = 3e-2

    def arrays(self, seed=3):
        rng = np.random.default_rng(seed)
        return [
            rng.normal(size=x).astype("float32") if isinstance(x, tuple) else np.asarray(x)
            for x in self.inputs
        ]

    def shapes(self):
        return [x if isinstance(x, tuple) else np.shape(x) for x in self.inputs]


def parametrize_cases(metafunc):
    """Run each test of a `LayerTests` class that takes `case` (or `policy`) once per value."""
    if "case" in metafunc.fixturenames and metafunc.cls is not None:
        cases = metafunc.cls.cases
        needs = getattr(metafunc.function, "needs", None)
        if needs:
            cases = [case for case in cases if getattr(case, needs)]
        if metafunc.function.__name__ == "test_compiled_equals_eager" and _traces_slowly():
            cases = cases[:1]
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])


def _traces_slowly():
    """TorchDynamo takes up to a minute to trace one small layer: there, one case must do."""
    return keras.backend.backend() == "torch"


def _needs(flag):
    def mark(function):
        function.needs = flag
        return function

    return mark


def pack(values):
    return values[0] if len(values) == 1 else list(values)


def relative_weights(layer):
    """Return {path inside the layer: float64 value} of all its variables."""
    prefix = layer.path + "/" if layer.path else layer.name + "/"
    return {
        v.path.removeprefix(prefix): np.asarray(compat.to_numpy(v.value), "float64")
        for v in layer.variables
        if "seed_generator" not in v.path
    }


def assert_close(actual, expected, tolerance, what=""):
    actual, expected = keras.tree.flatten(actual), keras.tree.flatten(expected)
    assert len(actual) == len(expected), f"{what}: {len(actual)} outputs, not {len(expected)}"
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(compat.to_numpy(a), "float64"),
            np.asarray(compat.to_numpy(e), "float64"),
            rtol=tolerance,
            atol=tolerance,
            err_msg=what,
        )


class LayerTests:
    """Mixin with the tests. Subclasses set `layer`, `config` and `cases`."""

    layer = None
    config = {}
    cases = ()
    # Whether the layer can be made in half precision throughout: an initializer of recurrent
    # layers cannot. And how near float64 comes, where no layer of Keras's inside falls short.
    half = True
    wide_tolerance = 1e-9

    # ---- making things -------------------------------------------------------------------

    def make(self, case, **overrides):
        """Return a built layer whose weights are random, so that no part is switched off."""
        layer = self.layer(**{**case.kwargs, **overrides})
        shapes = case.shapes()
        if overrides.get("data_format") == "channels_first":
            shapes = [(s[0], s[-1], *s[1:-1]) for s in shapes]
        layer.build(pack(shapes))
        rng = np.random.default_rng(5)
        for v in layer.trainable_variables:
            v.assign(rng.uniform(-0.6, 0.6, size=v.shape).astype("float32"))
        if case.prepare is not None:
            case.prepare(layer)
        return layer

    def model(self, case, layer):
        inputs = []
        for array in case.arrays():
            axes = case.dynamic if case.dynamic is not None else range(array.ndim - 1)
            shape = [None if i in axes else n for i, n in enumerate(array.shape)]
            inputs.append(keras.Input(batch_shape=shape, dtype=str(array.dtype)))
        return keras.Model(pack(inputs), layer(pack(inputs)))

    # ---- tests of the layer ----------------------------------------------------------------

    def test_every_argument_survives_its_config(self):
        parameters = {
            name: p
            for name, p in inspect.signature(self.layer.__init__).parameters.items()
            if name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
        missing = set(parameters) - set(self.config)
        assert not missing, f"`config` of the test lacks {sorted(missing)}"
        required = {n: self.config[n] for n, p in parameters.items() if p.default is p.empty}
        default = self.layer(**required).get_config()
        layer = self.layer(**self.config)
        config = layer.get_config()
        for name in parameters:
            assert name in config, f"get_config() lacks {name!r}"
            if name not in required:
                assert config[name] != default.get(name), f"`config` has the default of {name!r}"
        data = keras.saving.serialize_keras_object(layer)
        assert data["registered_name"] == f"keras_saliency>{self.layer.__name__}"
        assert keras.saving.deserialize_keras_object(data).get_config() == config
        assert self.layer.from_config(config).get_config() == config

    def test_unknown_argument_is_refused(self):
        required = self.cases[0].kwargs
        try:
            self.layer(**required, no_such_argument=1)
        except (TypeError, ValueError) as error:
            assert "no_such_argument" in str(error)
        else:
            raise AssertionError("a misspelt argument was accepted")

    # ---- tests of each case ----------------------------------------------------------------

    def test_output_matches_the_reference(self, case):
        layer, arrays = self.make(case), case.arrays()
        wide = [a.astype("float64") if a.dtype.kind == "f" else a for a in arrays]
        expected = case.reference(wide, relative_weights(layer), **case.kwargs)
        if case.scores:
            assert_close(layer(pack(arrays)), expected[0], case.tolerance, "without scores")
            result = layer(pack(arrays), return_attention_scores=True)
            assert_close(result, expected, case.tolerance, "with scores")
        else:
            assert_close(layer(pack(arrays)), expected, case.tolerance)

    def test_shapes_are_known_before_the_call(self, case):
        layer, arrays = self.make(case), case.arrays()
        actual = keras.tree.map_structure(lambda t: tuple(t.shape), layer(pack(arrays)))
        spec = pack([keras.KerasTensor(a.shape, dtype=str(a.dtype)) for a in arrays])
        symbolic = layer.compute_output_spec(spec)
        assert keras.tree.map_structure(lambda t: tuple(t.shape), symbolic) == actual
        computed = layer.compute_output_shape(pack([a.shape for a in arrays]))
        flat_computed = [tuple(s) for s in _flat_shapes(computed)]
        assert flat_computed == [tuple(s) for s in _flat_shapes(actual)]

    def test_dynamic_batch_and_extents(self, case):
        layer = self.make(case)
        model = self.model(case, layer)
        arrays = case.arrays()
        assert_close(model(pack(arrays)), layer(pack(arrays)), case.tolerance)
        one = [a[:1] for a in arrays]
        assert_close(model(pack(one)), layer(pack(one)), case.tolerance, "another batch size")

    def test_save_and_load(self, case, tmp_path):
        model = self.model(case, self.make(case))
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        arrays = pack(case.arrays())
        assert_close(loaded(arrays), model(arrays), 1e-6)

    def test_clone(self, case):
        model = self.model(case, self.make(case))
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        arrays = pack(case.arrays())
        assert_close(clone(arrays), model(arrays), 1e-6)

    def test_gradients_reach_everything(self, case):
        layer, arrays = self.make(case), case.arrays()
        rng = np.random.default_rng(7)
        outputs = keras.tree.flatten(layer(pack(arrays)))
        probes = [
            keras.ops.convert_to_tensor(rng.normal(size=t.shape).astype("float32")) for t in outputs
        ]

        def loss(result):
            terms = zip(keras.tree.flatten(result), probes, strict=True)
            return sum(keras.ops.sum(t * p) for t, p in terms)

        by_input, by_weight = compat.gradients(layer, arrays, loss)
        prefix = layer.path + "/"
        named = {
            **dict(enumerate(by_input)),
            **{
                v.path.removeprefix(prefix): g
                for v, g in zip(layer.trainable_variables, by_weight, strict=True)
            },
        }
        for name, gradient in named.items():
            assert np.isfinite(gradient).all(), f"gradient of {name} is not finite"
            if name not in case.no_gradient:
                assert np.abs(gradient).max() > 1e-7, f"no gradient reaches {name}"

    def test_fit_changes_the_weights(self, case):
        layer = self.make(case)
        model = self.model(case, layer)
        arrays = case.arrays()
        outputs = keras.tree.map_structure(compat.to_numpy, layer(pack(arrays)))
        targets = keras.tree.map_structure(np.zeros_like, outputs)
        before = [np.array(v) for v in layer.get_weights()]
        if not layer.trainable_variables:
            # Something must be trainable, or there is nothing to fit.
            model = keras.Model(pack(model.inputs), keras.layers.Dense(1)(model.outputs[0]))
            targets = compat.to_numpy(model(pack(arrays)))
        model.compile("sgd", "mse", jit_compile=False)
        history = model.fit(pack(arrays), targets, epochs=1, batch_size=len(arrays[0]), verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        if layer.trainable_variables:
            pairs = zip(layer.get_weights(), before, strict=True)
            assert any(not np.array_equal(a, b) for a, b in pairs), "fit() changed no weight"

    def test_compiled_equals_eager(self, case):
        layer, arrays = self.make(case), case.arrays()
        tensors = pack([keras.ops.convert_to_tensor(a) for a in arrays])
        assert_close(compat.compiled(layer)(tensors), layer(tensors), max(case.tolerance, 1e-5))

    def test_mixed_precision(self, case):
        arrays = case.arrays()
        full = self.make(case)
        for dtype in ("float16", "bfloat16"):
            half = self.make(case, dtype=f"mixed_{dtype}")
            half.set_weights(full.get_weights())
            for tensor in keras.tree.flatten(half(pack(arrays))):
                assert keras.backend.standardize_dtype(tensor.dtype) == dtype
            tolerance = case.half_tolerance * (1 if dtype == "float16" else 4)
            result = keras.tree.map_structure(
                lambda t: keras.ops.cast(t, "float32"), half(pack(arrays))
            )
            assert_close(result, full(pack(arrays)), tolerance, dtype)

    def test_one_precision_throughout(self, case):
        """In float64 the result is the reference's; in half precision it is near."""
        arrays = case.arrays()
        full = self.make(case)
        # JAX has float64 only where the whole process was set to it.
        wide = () if keras.backend.backend() == "jax" else ("float64",)
        for dtype in (*wide, *(("float16", "bfloat16") if self.half else ())):
            layer = self.make(case, dtype=dtype)
            layer.set_weights(full.get_weights())
            # As tensors: an array of NumPy's would be rounded to Keras's float type first.
            kinds = [dtype if a.dtype.kind == "f" else str(a.dtype) for a in arrays]
            pairs = zip(arrays, kinds, strict=True)
            result = layer(pack([keras.ops.convert_to_tensor(a, kind) for a, kind in pairs]))
            for tensor in keras.tree.flatten(result):
                assert keras.backend.standardize_dtype(tensor.dtype) == dtype
            if dtype == "float64":
                given = [a.astype(kind) for a, kind in zip(arrays, kinds, strict=True)]
                expected = case.reference(given, relative_weights(layer), **case.kwargs)
                expected = expected[0] if case.scores else expected
                # On PyTorch, Keras itself multiplies matrices of float64 in float32.
                exact = keras.backend.backend() != "torch"
                assert_close(result, expected, self.wide_tolerance if exact else 1e-4, dtype)
                continue
            tolerance = case.half_tolerance * (2 if dtype == "float16" else 8)
            result = keras.tree.map_structure(lambda t: keras.ops.cast(t, "float32"), result)
            assert_close(result, full(pack(arrays)), tolerance, dtype)

    @_needs("data_format")
    def test_channels_first(self, case):
        last = self.make(case)
        first = self.make(case, data_format="channels_first")
        first.set_weights(last.get_weights())
        arrays = case.arrays()
        moved = [np.moveaxis(a, -1, 1) for a in arrays]
        expected = keras.tree.map_structure(
            lambda t: np.moveaxis(compat.to_numpy(t), -1, 1), last(pack(arrays))
        )
        if keras.backend.backend() == "tensorflow":
            # On many processors TensorFlow convolves channels first under XLA alone.
            first = compat.compiled(first)
        assert_close(first(pack(moved)), expected, max(case.tolerance, 1e-5))

    @_needs("mask")
    def test_padding_changes_nothing(self, case):
        layer, arrays = self.make(case), case.arrays()
        batch, steps = arrays[0].shape[:2]
        lengths = [steps - i % 3 for i in range(batch)]
        junk = np.random.default_rng(1)
        padded = []
        for a in arrays:
            p = junk.normal(scale=50, size=(batch, steps + 2, *a.shape[2:])).astype("float32")
            for i, n in enumerate(lengths):
                p[i, :n] = a[i, :n]
            padded.append(p)
        mask = np.arange(steps + 2)[None] < np.array(lengths)[:, None]
        masks = pack([keras.ops.convert_to_tensor(mask)] * len(arrays))
        takes_mask = "mask" in inspect.signature(layer.call).parameters
        result = compat.to_numpy(layer(pack(padded), **({"mask": masks} if takes_mask else {})))
        for i, n in enumerate(lengths):
            alone = compat.to_numpy(layer(pack([a[i : i + 1, :n] for a in arrays])))
            for r, e in zip(keras.tree.flatten(result), keras.tree.flatten(alone), strict=True):
                has_time = r.ndim > 2 and r.shape[1] == steps + 2
                valid = r[i : i + 1, :n] if has_time else r[i : i + 1]
                assert_close(valid, e, max(case.tolerance, 1e-5), f"sample {i}, {n} steps")

    @_needs("mask")
    def test_mask_of_a_masking_layer_arrives(self, case):
        layer, arrays = self.make(case), case.arrays()
        inputs = [keras.Input((None, *a.shape[2:])) for a in arrays]
        masked = [keras.layers.Masking(mask_value=-77.0)(x) for x in inputs]
        model = keras.Model(pack(inputs), layer(pack(masked)))
        padded = [np.pad(a, [(0, 0), (0, 3)] + [(0, 0)] * (a.ndim - 2)) for a in arrays]
        for p in padded:
            p[:, -3:] = -77.0
        result, alone = compat.to_numpy(model(pack(padded))), compat.to_numpy(layer(pack(arrays)))
        for r, e in zip(keras.tree.flatten(result), keras.tree.flatten(alone), strict=True):
            if r.shape != e.shape:
                r = r[:, : e.shape[1]]
            assert_close(r, e, max(case.tolerance, 1e-5))


def _flat_shapes(shapes):
    """Flatten a nest of shapes, where a tuple of integers is a leaf."""
    if isinstance(shapes, dict):
        shapes = list(shapes.values())
    if not shapes or all(isinstance(n, int) or n is None for n in shapes):
        return [shapes]
    return [leaf for s in shapes for leaf in _flat_shapes(s)]
