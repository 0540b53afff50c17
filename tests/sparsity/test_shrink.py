"""Shrinking: outputs stay, dead channels go, what cannot be judged is refused."""

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import layers
from random_models import random_image_model, random_sequence_model, randomise, zero_channels

from keras_saliency.callbacks import iSparseCallback
from keras_saliency.sparsity import register_shrink_rule, registry, shrink, sparsify


def outputs(model, x):
    if keras.backend.backend() == "jax":  # eagerly it compiles every operation by itself
        return keras.tree.flatten(model.predict(x, verbose=0))
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=False))]


def data(model, batch=2, seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, *model.input_shape[1:])).astype("float32")


def assert_same_outputs(model, small, x=None):
    x = data(model) if x is None else x
    for a, b in zip(outputs(model, x), outputs(small, x), strict=True):
        scale = max(1.0, np.abs(a).max())
        np.testing.assert_allclose(a, b, atol=2e-5 * scale, rtol=0)


def zero_outputs(layer, which, name="kernel"):
    kernel = keras.ops.convert_to_numpy(getattr(layer, name)).copy()
    kernel[..., which] = 0
    getattr(layer, name).assign(kernel)


def zero_inputs(layer, which):
    kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
    kernel[..., which, :] = 0
    layer.kernel.assign(kernel)


def image_model(*stack, shape=(7, 9, 3)):
    model = keras.Sequential([keras.Input(shape), *stack])
    return randomise(model)


class TestProperty:
    @hypothesis.settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(st.integers(0, 2**16), st.sampled_from([0.3, 0.5, 0.7]))
    @pytest.mark.parametrize("make", [random_image_model, random_sequence_model])
    def test_random_graphs_keep_their_outputs(self, make, seed, share):
        keras.utils.clear_session(free_memory=False)
        model = zero_channels(randomise(make(seed), seed), share, seed, keep=("head",))
        before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
        try:
            small = shrink(model, verbose=False)
        except ValueError as error:
            assert "Every channel of the layer" in str(error)
            return
        assert_same_outputs(model, small)
        assert small.count_params() <= model.count_params()
        for old, weight in zip(before, model.weights, strict=True):
            np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(weight))

    def test_nothing_dead_nothing_removed(self):
        model = randomise(random_image_model(5))
        small = shrink(model, verbose=False)
        assert small.count_params() == model.count_params()
        assert_same_outputs(model, small)


class TestConstants:
    def test_dead_channels_leave_their_bias_in_the_next(self):
        model = image_model(
            layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(4, 3, name="next")
        )
        zero_outputs(model.layers[0], [0, 1, 2, 5])
        model.layers[0].bias.assign([1, 2, -3, 0, 0, 5, 0, 0])
        small = shrink(model, verbose=False)
        assert [x.filters for x in small.layers] == [4, 4]
        assert_same_outputs(model, small)

    def test_a_constant_under_zero_padding_needs_one_carrier(self):
        model = image_model(
            layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(4, 3, padding="same")
        )
        zero_outputs(model.layers[0], [0, 1, 2, 5])
        model.layers[0].bias.assign([1, 2, -3, 0, 0, 5, 0, 0])
        small = shrink(model, verbose=False)
        assert [x.filters for x in small.layers] == [5, 4]
        assert_same_outputs(model, small)

    def test_zero_constants_need_none(self):
        model = image_model(
            layers.Conv2D(8, 3, activation="relu", use_bias=False),
            layers.Conv2D(4, 3, padding="same"),
        )
        zero_outputs(model.layers[0], [0, 1, 2, 5])
        assert shrink(model, verbose=False).layers[0].filters == 4

    def test_a_layer_without_bias_gets_one(self):
        model = image_model(
            layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(4, 1, use_bias=False)
        )
        zero_outputs(model.layers[0], [0, 1])
        model.layers[0].bias.assign(np.ones(8))
        small = shrink(model, verbose=False)
        assert small.layers[0].filters == 6 and small.layers[1].use_bias
        assert_same_outputs(model, small)

    def test_a_padded_constant_is_no_constant(self):
        model = image_model(
            layers.Conv2D(4, 1), layers.ZeroPadding2D(1), layers.Conv2D(3, 3, name="next")
        )
        zero_outputs(model.layers[0], [1])
        model.layers[0].bias.assign([1, 2, 3, 4])
        small = shrink(model, verbose=False)
        assert small.layers[0].filters == 4
        assert_same_outputs(model, small)

    def test_batch_norm_makes_constants(self):
        model = image_model(
            layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(4, 1)
        )
        gamma = keras.ops.convert_to_numpy(model.layers[1].gamma).copy()
        gamma[[1, 4]] = 0
        model.layers[1].gamma.assign(gamma)
        small = shrink(model, verbose=False)
        assert small.layers[0].filters == 4 and small.layers[1].gamma.shape == (4,)
        assert_same_outputs(model, small)


class TestUnused:
    def test_channels_that_nobody_reads_go_and_take_others_along(self):
        model = image_model(
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Conv2D(4, 3, name="head"),
        )
        zero_inputs(model.layers[2], [0, 3, 5])
        # Channel 7 of the first layer is read by channels 0 and 3 of the second alone.
        kernel = keras.ops.convert_to_numpy(model.layers[1].kernel).copy()
        kernel[:, :, 7, [1, 2, 4]] = 0
        model.layers[1].kernel.assign(kernel)
        small = shrink(model, verbose=False)
        assert [x.filters for x in small.layers] == [7, 3, 4]
        assert_same_outputs(model, small)

    def test_edge_masks_remove_what_happens_to_be_dead(self, capsys):
        model = image_model(layers.Flatten(), layers.Dense(30, activation="relu"), layers.Dense(3))
        kernel = keras.ops.convert_to_numpy(model.layers[1].kernel).copy()
        kernel[np.random.default_rng(0).random(kernel.shape) < 0.99] = 0
        kernel[:, 3] = 0
        model.layers[1].kernel.assign(kernel)
        small = shrink(model)
        dead = int((kernel == 0).all(0).sum())
        assert dead >= 1 and small.layers[1].units == 30 - dead
        assert f"removed {dead} of 33 channels" in capsys.readouterr().out
        assert_same_outputs(model, small)


class TestGroups:
    def test_a_residual_addition_keeps_what_one_branch_needs(self):
        inputs = keras.Input((7, 5, 3))
        x = layers.Conv2D(8, 3, name="stem")(inputs)
        y = layers.Conv2D(8, 1, name="branch")(x)
        x = layers.Add()([x, y])
        model = randomise(keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x)))
        zero_outputs(model.get_layer("branch"), [0, 1, 2])
        small = shrink(model, verbose=False)
        assert small.get_layer("branch").filters == 8
        zero_outputs(model.get_layer("stem"), [1, 2, 3])
        small = shrink(model, verbose=False)
        assert small.get_layer("branch").filters == 6
        assert small.get_layer("stem").filters == 6
        assert_same_outputs(model, small)

    def test_lstm_units_that_stay_at_zero_go(self):
        model = randomise(
            keras.Sequential(
                [keras.Input((7, 3)), layers.LSTM(6, return_sequences=True), layers.Dense(2)]
            )
        )
        cell = model.layers[0].cell
        for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
            value = keras.ops.convert_to_numpy(variable).copy()
            value.reshape(*value.shape[:-1], 4, 6)[..., 2, [1, 4]] = 0
            variable.assign(value)
        small = shrink(model, verbose=False)
        assert small.layers[0].units == 4
        assert_same_outputs(model, small)

    def test_attention_heads_go_as_wholes(self):
        inputs = keras.Input((5, 6))
        x = layers.MultiHeadAttention(4, 3, name="attention")(inputs, inputs)
        model = randomise(keras.Model(inputs, layers.Dense(2)(x)))
        attention = model.get_layer("attention")
        kernel = keras.ops.convert_to_numpy(attention._value_dense.kernel).copy()
        kernel[:, [0, 2]] = 0
        attention._value_dense.kernel.assign(kernel)
        small = shrink(model, verbose=False)
        assert small.get_layer("attention").num_heads == 2
        assert_same_outputs(model, small)

    def test_layer_norm_statistics_forbid_removal(self):
        model = image_model(layers.Conv2D(8, 1), layers.LayerNormalization(), layers.Conv2D(2, 1))
        zero_outputs(model.layers[0], [0, 1])
        small = shrink(model, verbose=False)
        assert small.layers[0].filters == 8
        assert_same_outputs(model, small)

    @pytest.mark.parametrize("wrap", ["functional", "sequential"])
    def test_nested_models_shrink_inside(self, wrap):
        stack = [layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(6, 3, activation="relu")]
        base = keras.Sequential([keras.Input((7, 9, 3)), *stack], name="base")
        if wrap == "functional":
            base = keras.Model(base.inputs, base.outputs[0], name="base")
        inputs = keras.Input((7, 9, 3))
        x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
        model = randomise(keras.Model(inputs, layers.Dense(2)(x)))
        zero_outputs(stack[0], [0, 1])
        zero_outputs(stack[1], [5])
        small = shrink(model, verbose=False)
        inner = small.get_layer("base")
        assert [x.filters for x in inner.layers if hasattr(x, "filters")] == [6, 5]
        assert_same_outputs(model, small)


class TestMasked:
    @pytest.mark.parametrize("granularity", ["channel", "edge"])
    def test_masked_models_become_plain_and_smaller(self, granularity):
        model = image_model(
            layers.Conv2D(8, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(12, activation="relu"),
            layers.Dense(3, name="head"),
        )
        model.compile("sgd", "mse")
        sparse = sparsify(model, 0.5, method="magnitude", granularity=granularity, exclude=["head"])
        small = shrink(sparse, verbose=False)
        assert_same_outputs(sparse, small)
        assert small.compiled
        assert all(type(x).__module__.startswith("keras.") for x in small.layers)
        if granularity == "channel":
            assert small.get_layer("first").filters in (4, 5)  # one may carry constants
            assert small.count_params() < 0.6 * model.count_params()

    def test_prune_while_training_then_shrink_then_train_on(self):
        model = image_model(
            layers.Conv2D(8, 3, activation="relu", use_bias=False, name="first"),
            layers.Flatten(),
            layers.Dense(2, name="head"),
        )
        model.compile("adam", "mse")
        callback = iSparseCallback(
            0.5, granularity="channel", method="magnitude", exclude=["head"], schedule="constant"
        )
        x = data(model, batch=8)
        model.fit(x, np.ones((8, 2)), epochs=2, verbose=0, callbacks=[callback])
        small = shrink(model, verbose=False)
        assert small.get_layer("first").filters == 4
        assert_same_outputs(model, small)
        small.fit(x, np.ones((8, 2)), verbose=0)


class TestResult:
    def test_is_plain_keras_with_flags_and_settings(self, tmp_path):
        model = image_model(
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.Flatten(),
            layers.Dense(2, kernel_initializer="he_normal", name="last"),
        )
        zero_outputs(model.layers[0], [0, 1])
        model.layers[0].trainable = False
        model.compile(keras.optimizers.Adam(0.003), "mse", metrics=["mae"])
        small = shrink(model, verbose=False)
        assert small.get_layer("first").trainable is False
        assert small.get_layer("first").filters == 6
        assert len(small.trainable_variables) == 2
        assert isinstance(small.optimizer, keras.optimizers.Adam)
        assert small.optimizer is not model.optimizer
        assert float(small.optimizer.learning_rate) == pytest.approx(0.003)
        config = small.get_layer("last").get_config()["kernel_initializer"]
        assert config["class_name"] == "HeNormal"
        x = data(model)
        small.fit(x, np.zeros((2, 2)), verbose=0)
        model.fit(x, np.zeros((2, 2)), verbose=0)  # no memory is shared
        small.save(tmp_path / "small.keras")
        assert_same_outputs(small, keras.saving.load_model(tmp_path / "small.keras"))

    def test_dictionary_inputs_and_several_outputs_keep_their_structure(self):
        a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
        hidden = layers.Dense(8, activation="relu", name="hidden")
        x = hidden(layers.Concatenate()([a, b]))
        model = keras.Model({"a": a, "b": b}, {"u": layers.Dense(2)(x), "v": layers.Dense(1)(x)})
        randomise(model)
        zero_outputs(hidden, [1, 2, 3])
        small = shrink(model, verbose=False)
        assert small.get_layer("hidden").units == 5
        x = {"a": np.ones((2, 4), "float32"), "b": np.ones((2, 3), "float32")}
        expected, found = model(x), small(x)
        assert set(found) == {"u", "v"}
        for key in expected:
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(expected[key]),
                keras.ops.convert_to_numpy(found[key]),
                atol=1e-5,
            )


class Doubled(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


class TestRefusals:
    def test_subclassed_model(self):
        class Own(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(ValueError, match=r"'own'.*cannot be seen"):
            shrink(Own())

    def test_not_a_model(self):
        with pytest.raises(TypeError, match="must be a Keras model"):
            shrink(3)

    def test_sequential_without_shapes(self):
        with pytest.raises(ValueError, match="input shape"):
            shrink(keras.Sequential([layers.Dense(2)]))

    def test_shared_layers(self):
        inputs = keras.Input((4,))
        shared = layers.Dense(4, name="twice")
        model = keras.Model(inputs, layers.Dense(2)(shared(shared(inputs))))
        with pytest.raises(ValueError, match=r"'twice' is called 2 times.*exclude=\['twice'\]"):
            shrink(model)
        assert_same_outputs(model, shrink(model, exclude="twice", verbose=False))

    def test_every_channel_dead(self):
        model = image_model(layers.Conv2D(4, 3, name="gone"), layers.Conv2D(2, 1))
        zero_outputs(model.layers[0], slice(None))
        with pytest.raises(ValueError, match=r"Every channel of the layer 'gone' is dead"):
            shrink(model)
        assert_same_outputs(model, shrink(model, exclude=["gone"], verbose=False))

    def test_unknown_layers_until_a_rule_is_registered(self, monkeypatch):
        rules = registry._SHRINK_RULES
        monkeypatch.setattr(rules, "_values", dict(rules._values))
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(6), Doubled(5, name="own"), layers.Dense(2)]
        )
        randomise(model)
        zero_outputs(model.layers[0], [0, 1])
        zero_outputs(model.layers[1], [2])
        with pytest.raises(ValueError, match=r"'own'.*register_shrink_rule\(Doubled\)"):
            shrink(model)
        kept = shrink(model, exclude="own", verbose=False)
        assert [x.units for x in kept.layers] == [6, 5, 2]
        assert_same_outputs(model, kept)

        @register_shrink_rule(Doubled)
        def rule(call):
            x = call.input()
            ids = call.new(call.layer.units)
            call.configure(units=ids)
            values = call.edges("kernel", x, ids)
            return call.output(ids, values=2 * values)

        small = shrink(model, verbose=False)
        assert [x.units for x in small.layers] == [4, 4, 2]
        assert_same_outputs(model, small)

    def test_unknown_name_in_exclude(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        with pytest.raises(ValueError, match="`exclude` names 'nothing'"):
            shrink(model, exclude="nothing")

    def test_rules_must_be_functions_of_layer_classes(self):
        with pytest.raises(TypeError, match="`layer_class`"):
            register_shrink_rule(3)
        with pytest.raises(TypeError, match="callable"):
            register_shrink_rule(Doubled)(3)
