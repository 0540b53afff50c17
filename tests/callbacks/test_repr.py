"""RePr: filters that are dropped for a while, and come back new."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_saliency import RePrCallback
from keras_saliency.sparsity import filter_overlap
from keras_saliency.sparsity.training.filter_cycles import lowest, new_filters

X = np.random.default_rng(0).normal(size=(24, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 3)).astype("float32")


def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(6, 3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Conv2D(4, 3, activation="relu", bias_initializer="ones", name="second"),
            layers.Flatten(),
            layers.Dense(5, activation="relu", name="hidden"),
            layers.Dense(3, name="head"),
        ]
    )


def nested():
    """The same, its convolutions in a model of their own, on JAX and others alike."""
    flat = model()
    inner = keras.Sequential([keras.Input((6, 6, 2)), *flat.layers[:4]], name="inner")
    return keras.Sequential([keras.Input((6, 6, 2)), inner, *flat.layers[4:]])


def perceptron():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((2,)), layers.Dense(5, activation="relu", name="hidden"), layers.Dense(3)]
    )


def compiled(optimizer="adam", model=model):
    made = model()
    made.compile(optimizer() if callable(optimizer) else optimizer, "mse")
    return made


def value(variable):
    return np.array(ops.convert_to_numpy(variable))


class Watch(keras.callbacks.Callback):
    """Keeps what the weights and slots are when an epoch begins and ends."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.begin, self.end, self.slots = {}, {}, {}
        self.stop_at = stop_at

    def read(self):
        return {"/".join(w.path.split("/")[-2:]): value(w) for w in self.model.weights}

    def on_epoch_begin(self, epoch, logs=None):
        self.begin[epoch] = self.read()
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        self.slots[epoch] = [value(v) for v in optimizer.variables]

    def on_epoch_end(self, epoch, logs=None):
        self.end[epoch] = self.read()

    def on_train_batch_end(self, batch, logs=None):
        if self.stop_at is not None and len(self.begin) == self.stop_at + 1 and batch == 1:
            raise KeyboardInterrupt


def fit(made, callbacks, epochs=3):
    return made.fit(
        X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )


OPTIMIZERS = {
    "adam": "adam",
    "accumulating": lambda: keras.optimizers.Adam(0.001, gradient_accumulation_steps=4),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "decay and averages": lambda: keras.optimizers.AdamW(0.01, use_ema=True),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop(0.001)),
}
if hasattr(keras.optimizers, "Muon"):
    OPTIMIZERS["muon"] = lambda: keras.optimizers.Muon(0.001)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_filters_stand_at_zero_and_come_back_orthogonal(optimizer):
    made = compiled(OPTIMIZERS[optimizer])
    before = filter_overlap(made)
    watch = Watch()
    callback = RePrCallback(0.4, full=1, reduced=1, cycles=1)
    history = fit(made, [callback, watch])
    dropped = {}
    for name in ("first", "second", "hidden"):
        kernel = watch.end[1][f"{name}/kernel"]
        dropped[name] = (kernel.reshape(-1, kernel.shape[-1]) == 0).all(0)
        assert (watch.end[1][f"{name}/bias"][dropped[name]] == 0).all()
    assert sum(d.sum() for d in dropped.values()) == 6  # 0.4 of 15
    assert all(not d.all() for d in dropped.values())
    for weight in ("gamma", "beta"):
        assert (watch.end[1][f"norm/{weight}"][dropped["first"]] == 0).all()
    assert not (watch.end[1]["head/kernel"] == 0).all(0).any()
    assert history.history["sparsity"][0] == history.history["sparsity"][2] == 0
    assert 0.2 < history.history["sparsity"][1] < 0.6
    start = watch.begin[2]
    for name, gone in dropped.items():
        old = watch.end[0][f"{name}/kernel"].reshape(-1, gone.size)[:, gone]
        matrix = start[f"{name}/kernel"].reshape(-1, gone.size)
        assert np.abs(matrix[:, gone].T @ matrix[:, ~gone]).max(initial=0) < 1e-5
        assert np.abs(matrix[:, gone].T @ old).max(initial=0) < 1e-5
        norms = np.linalg.norm(matrix, axis=0)
        np.testing.assert_allclose(norms[gone], norms[~gone].mean(), rtol=1e-4)
        np.testing.assert_array_equal(start[f"{name}/bias"][gone], float(name == "second"))
    gone = dropped["first"]
    np.testing.assert_array_equal(start["norm/gamma"][gone], 1)
    np.testing.assert_array_equal(start["norm/moving_mean"][gone], 0)
    np.testing.assert_array_equal(start["norm/moving_variance"][gone], 1)
    slots = [s for s in watch.slots[2] if s.shape == (3, 3, 2, 6) and s.dtype != bool]
    assert slots
    if optimizer == "decay and averages":  # the averages come first
        np.testing.assert_allclose(slots[0][..., gone], start["first/kernel"][..., gone])
        slots = slots[1:]
    for slot in slots:
        assert (slot[..., gone] == 0).all() and slot[..., ~gone].any()
    assert all(np.isfinite(w).all() for w in made.get_weights())
    assert len(filter_overlap(made)) == len(before)


def test_what_is_dropped_at_the_end_comes_back():
    made = compiled()
    with pytest.warns(UserWarning, match="comes to the end of 0"):
        fit(made, [RePrCallback(0.3, full=1, reduced=4, cycles=1)])
    assert not any((value(made.get_layer(n).kernel) == 0).any() for n in ("first", "second"))
    assert all(v.constraint is None for v in made.trainable_variables)


def test_batches_are_units_too():
    made = compiled()
    callback = RePrCallback(0.3, full=2, reduced=1, cycles=2, unit="batch")
    watch = Watch()
    fit(made, [callback, watch], epochs=2)
    # Batches 2 and 5 are reduced: each epoch of three batches ends in one.
    for epoch in (0, 1):
        kernels = [watch.end[epoch][f"{name}/kernel"] for name in ("first", "second", "hidden")]
        gone = [(kernel == 0).reshape(-1, kernel.shape[-1]).all(0).sum() for kernel in kernels]
        assert sum(gone) == 4
    assert callback.sparsifier.cycle == 1 and not callback.sparsifier.dropped


def test_a_training_that_is_broken_off_while_filters_are_dropped_goes_on(tmp_path):
    def callbacks(folder, stop_at=None):
        repr_callback = RePrCallback(0.4, full=1, reduced=2, cycles=1)
        backup = keras.callbacks.BackupAndRestore(folder)
        return [repr_callback, backup, Watch(stop_at)]

    whole, broken = compiled(), compiled()
    fit(whole, callbacks(tmp_path / "whole"), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, callbacks(tmp_path / "broken", stop_at=2), epochs=4)
    again = compiled()
    fit(again, callbacks(tmp_path / "broken"), epochs=4)
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_nested_models_are_treated_as_flat_ones():
    flat, made = compiled(), compiled(model=nested)
    watches = Watch(), Watch()
    for one, watch in zip((flat, made), watches, strict=True):
        fit(one, [RePrCallback(0.4, full=1, reduced=1, cycles=1), watch])
    for epoch in (1, 2):
        for name, weight in watches[0].begin[epoch].items():
            np.testing.assert_allclose(watches[1].begin[epoch][name], weight, atol=1e-5)
    assert (watches[1].end[1]["first/kernel"] == 0).all((0, 1, 2)).any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_reduced_precision_trains_on(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        made = compiled()
        watch = Watch()
        fit(made, [RePrCallback(0.4, full=1, reduced=1, cycles=1), watch])
    finally:
        keras.config.set_dtype_policy(before)
    scaled = isinstance(made.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    gone = (watch.end[1]["hidden/kernel"] == 0).all(0)
    assert gone.any() and not (watch.begin[2]["hidden/kernel"] == 0).any()
    assert (watch.begin[2]["hidden/kernel"] != watch.end[2]["hidden/kernel"])[:, gone].any()
    assert all(np.isfinite(w).all() for w in made.get_weights())


def test_the_defaults_fit_into_100_epochs_and_need_no_convolution():
    made = compiled("sgd", perceptron)
    history = made.fit(
        X[:4, 0, 0], Y[:4], epochs=100, verbose=0, callbacks=[RePrCallback(0.4)]
    ).history["sparsity"]
    expected = [0.4 if place >= 20 else 0.0 for _ in range(3) for place in range(30)]
    np.testing.assert_allclose(history, [*expected, *[0.0] * 10])


def test_weights_that_are_not_finite_are_named():
    made = compiled()
    made.get_layer("first").kernel.assign(np.full((3, 3, 2, 6), np.nan))
    with pytest.raises(ValueError, match="gives NaN for 'first'"):
        fit(made, [RePrCallback(full=1, reduced=1, cycles=1)])


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "apoz", lambda k: -abs(k)])
def test_criteria_decide(criterion):
    if callable(criterion):
        from keras_saliency.sparsity.criteria import Criterion

        class Largest(Criterion):
            name = "largest goes"

            def edges(self, kernel):
                return -np.abs(kernel.values)

        criterion = Largest()
    made = compiled()
    watch = Watch()
    options = {"criterion": criterion, "layers": ["second", "hidden"], "data": (X, Y)}
    fit(made, [RePrCallback(0.3, full=1, reduced=1, cycles=1, **options), watch], epochs=2)
    zeros = [
        (watch.end[1][f"{n}/kernel"] == 0).reshape(-1, count).all(0).sum()
        for n, count in (("first", 6), ("second", 4), ("hidden", 5))
    ]
    assert zeros[0] == 0 and zeros[1] + zeros[2] == 3


@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_the_lowest_go_and_every_layer_keeps_one(scores, count):
    scores = [np.array(s) for s in scores]
    most = sum(len(s) - 1 for s in scores)
    gone = lowest(scores, min(count, most))
    assert sum(g.sum() for g in gone) == min(count, most)
    assert all(not g.all() for g in gone)
    for s, g in zip(scores, gone, strict=True):
        if g.any():
            assert s[g].max() <= s[~g].min()


@given(st.integers(2, 12), st.integers(0, 6), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_new_filters_are_orthogonal_as_far_as_the_dimension_goes(dimension, kept, old, seed):
    rng = np.random.default_rng(seed)
    kept, old = rng.normal(size=(dimension, kept)), rng.normal(size=(dimension, old))
    new = new_filters(kept, old, rng)
    assert new.shape == old.shape and np.isfinite(new).all()
    norm = np.linalg.norm(kept if kept.size else old, axis=0).mean()
    np.testing.assert_allclose(np.linalg.norm(new, axis=0), norm, rtol=1e-6)
    count = new.shape[1]
    if count + kept.shape[1] <= dimension:
        assert np.abs(new.T @ kept).max(initial=0) < 1e-6 * norm**2 + 1e-9
    if count + kept.shape[1] + count <= dimension:
        assert np.abs(new.T @ old).max(initial=0) < 1e-6 * norm**2 + 1e-9


def test_new_filters_are_orthogonal_to_what_filters_that_repeat_hide():
    # The second filter is the first again: its direction must not be one of chance.
    kept = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0.0]])
    old = np.array([[0, 0, 0, 1.0]]).T
    new = new_filters(kept, old, np.random.default_rng(0))
    np.testing.assert_allclose(np.abs(new.T @ np.hstack([kept, old])), 0, atol=1e-12)
    # Three directions are taken: two new filters get the last one, and that of the old filter.
    new = new_filters(kept, np.hstack([old, 0 * old]), np.random.default_rng(0))
    np.testing.assert_allclose(np.abs(new.T @ kept), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"share": 0}, ValueError, "`share`"),
        ({"share": 1.0}, ValueError, "`share`"),
        ({"full": 0}, ValueError, "`full`"),
        ({"cycles": 1.5}, TypeError, "`cycles`"),
        ({"unit": "week"}, ValueError, "`unit` must be one of"),
        ({"criterion": "taylor"}, ValueError, "`criterion='taylor'` differentiates"),
        ({"criterion": "best"}, ValueError, "`criterion`"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, match):
    with pytest.raises(error, match=match):
        RePrCallback(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"share": 0.01}, "is 0 of 15 filters"),
        ({"share": 0.9}, "at most 12 can go"),
        ({"layers": "head"}, "No chosen layer"),
    ],
)
def test_what_cannot_be_dropped_is_refused_when_training_begins(kwargs, match):
    made = compiled()
    before = made.get_weights()
    with pytest.raises(ValueError, match=match):
        fit(made, [RePrCallback(**kwargs)])
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def one_layer():
    return keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(3)])


def depthwise():
    stack = [layers.DepthwiseConv2D(3), layers.SeparableConv2D(4, 3), layers.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 2)), *stack, layers.Dense(3)])


def recurrent():
    stack = [layers.Reshape((6, 12)), layers.LSTM(4), layers.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 2)), *stack])


def frozen():
    made = model()
    made.trainable = False
    return made


@pytest.mark.parametrize("build", [one_layer, depthwise, recurrent, frozen])
def test_models_without_filters_are_refused(build):
    with pytest.raises(ValueError, match=r"No chosen layer of .* has filters to drop"):
        fit(compiled(model=build), [RePrCallback(full=1, reduced=1, cycles=1)])


def test_a_single_filter_is_refused():
    stack = [layers.Conv2D(1, 3), layers.Flatten(), layers.Dense(3)]
    made = keras.Sequential([keras.Input((6, 6, 2)), *stack])
    made.compile("adam", "mse")
    with pytest.raises(ValueError, match="none can go, for every layer keeps one"):
        fit(made, [RePrCallback(0.9, full=1, reduced=1, cycles=1)])
