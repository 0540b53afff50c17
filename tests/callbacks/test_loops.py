"""Loops of one's own: what works, and what JAX's stateless loops are told."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency import Sparsifier

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(24, 7)).astype("float32")
Y = np.tanh(X[:, :5] * 2)


def mlp():
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [keras.Input((7,)), layers.Dense(11, activation="tanh"), layers.Dense(5)]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def zeros(model):
    return [int((ops.convert_to_numpy(layer.kernel) == 0).sum()) for layer in model.layers]


OPTIONS = {"method": "magnitude", "regrow": False}


@pytest.mark.parametrize("frequency", [1, 2])
@pytest.mark.parametrize("before", [True, False])
def test_loops_that_train_the_model_are_left_alone(frequency, before):
    model = mlp()
    sparsifier = Sparsifier(model, 0.5, frequency=frequency, **OPTIONS)
    for _ in range(4):
        sparsifier.step()
        if before:  # the masks of `step` stand already
            sparsifier.apply()
        model.train_on_batch(X, Y)
        if not before:
            sparsifier.apply()
    sparsifier.apply()
    sparsifier.apply()
    assert zeros(model) == [38, 28]


if BACKEND == "jax":
    import jax

    def parts(model):
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)

        def loss(trainable, fixed):
            out, _ = model.stateless_call(trainable, fixed, X)
            return ops.mean(ops.square(out - Y))

        @jax.jit
        def train(trainable, fixed, state):
            gradients = jax.grad(loss)(trainable, fixed)
            return optimizer.stateless_apply(state, gradients, trainable)

        return train, [
            [v.value for v in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                optimizer.variables,
            )
        ]

    def test_a_stateless_loop_works_with_its_own_values():
        model = mlp()
        sparsifier = Sparsifier(model, 0.5, frequency=2, **OPTIONS)
        train, (trainable, fixed, state) = parts(model)
        for _ in range(5):
            if sparsifier.is_due(sparsifier.batch):
                for variable, value in zip(model.trainable_variables, trainable, strict=True):
                    variable.assign(value)
            if sparsifier.step():
                trainable = [v.value for v in model.trainable_variables]
            trainable, state = train(trainable, fixed, state)
            trainable = sparsifier.apply(trainable)
            assert [int((value == 0).sum()) for value in trainable[::2]] == [38, 28]

    def test_a_stateless_loop_that_leaves_the_model_behind_is_refused():
        model = mlp()
        sparsifier = Sparsifier(model, 0.5, frequency=2, **OPTIONS)
        train, (trainable, fixed, state) = parts(model)
        with pytest.raises(ValueError, match=r"sparsifier.apply\(trainable_variables\)"):
            for _ in range(2):
                sparsifier.step()
                trainable, state = train(trainable, fixed, state)
                sparsifier.apply()
        keeper = Sparsifier.from_zeros(model)
        with pytest.raises(ValueError, match=r"sparsifier.apply\(trainable_variables\)"):
            for _ in range(3):
                keeper.apply()

    def test_masks_from_weights_of_long_ago_are_refused():
        model = mlp()
        sparsifier = Sparsifier(model, 0.5, frequency=2, **OPTIONS)
        trainable = [v.value for v in model.trainable_variables]
        for _ in range(2):
            sparsifier.step()
            trainable = sparsifier.apply(trainable)
        with pytest.raises(ValueError, match=r"before `step\(\)`"):
            sparsifier.step()

    def test_a_compiled_function_does_not_hold_on_to_masks():
        model = mlp()
        sparsifier = Sparsifier(model, 0.5, **OPTIONS)
        sparsifier.step()
        values = [v.value for v in model.trainable_variables]
        with pytest.raises(ValueError, match="behind the compiled step"):
            jax.jit(sparsifier.apply)(values)
        with pytest.raises(ValueError, match="behind the compiled step"):
            jax.jit(lambda: sparsifier.apply())()
        assert zeros(model) == [38, 28]
        sparse = keras_saliency.sparsify(model, 0.5, method="magnitude", scope="layer")
        keeper = Sparsifier.from_zeros(sparse)
        kept = jax.jit(keeper.apply)([ops.ones(v.shape) for v in sparse.trainable_variables])
        assert [int((value == 0).sum()) for value in kept[::2]] == [38, 28]
