"""`regrow="gradient"` (RigL) and `"random"` (SET): which edges go, which come, and how many."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency import Sparsifier, iSparseCallback
from keras_saliency.sparsity.masking.options import MaskingOptions
from keras_saliency.sparsity.masking.regrowing import Regrowth

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 7)).astype("float32")
Y = np.tanh(X[:, :5] * 2)
SIZES = {"first": 7 * 11, "last": 11 * 5}


def numpy(x):
    return np.array(ops.convert_to_numpy(x))


def mlp(optimizer=None, activation="tanh"):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((7,)),
            layers.Dense(11, activation=activation, name="first"),
            layers.Dense(5, name="last"),
        ]
    )
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse")
    return model


def kernels(model):
    return {layer.name: numpy(layer.kernel) for layer in model.layers}


def gradients(first, bias, last, bias_last):
    """Of the mean squared error of tanh(x @ first + bias) @ last + bias_last, by hand."""
    hidden = np.tanh(X @ first + bias)
    error = 2 * (hidden @ last + bias_last - Y) / Y.size
    return {"first": X.T @ (error @ last.T * (1 - hidden**2)), "last": hidden.T @ error}


def chosen(values, active, target, share, worth):
    """The masks that RigL's update gives, written once more: magnitudes go, worth comes."""
    order = [i for i in np.argsort(np.abs(values), kind="stable") if active[i]]
    kept = order[len(order) - target :]
    going = min(round(share * len(kept)), values.size - target)
    stay = kept[going:]
    masked = [i for i in range(values.size) if i not in kept]
    coming = sorted(masked, key=lambda i: -worth[i])[: target - len(stay)]
    mask = np.zeros(values.size, bool)
    mask[[*stay, *coming]] = True
    return mask, coming


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_chooses_what_comes_as_written_once_more_in_numpy(masked):
    model = mlp()
    if masked:
        # All edges on; what a masked layer stores beneath must not count.
        model = keras_saliency.sparsify(model, 0.0, method="magnitude", masked=True)
        model.compile(keras.optimizers.SGD(0.0), "mse")
    options = {"method": "magnitude", "frequency": "batch", "end": 4, "scope": "layer"}
    sparsifier = Sparsifier(model, 0.6, (X, Y), regrow="gradient", regrow_share=0.4, **options)
    before = kernels(model)
    masks = {name: np.ones(value.size, bool) for name, value in before.items()}
    target = {name: size - round(0.6 * size) for name, size in SIZES.items()}
    for step in range(6):
        share = 0.4 * (1 + np.cos(np.pi * min(step / 4, 1))) / 2
        used = {name: np.where(masks[name], value.ravel(), 0) for name, value in before.items()}
        found = gradients(
            used["first"].reshape(7, 11),
            numpy(model.layers[0].bias),
            used["last"].reshape(11, 5),
            numpy(model.layers[1].bias),
        )
        sparsifier.step()
        after = kernels(model)
        for name, layer in zip(SIZES, model.layers, strict=True):
            if step <= 4:
                wanted, came = chosen(
                    before[name].ravel(),
                    masks[name],
                    target[name],
                    share,
                    np.abs(found[name]).ravel(),
                )
                assert step == 4 or len(came) == round(share * target[name]) > 0
                assert (after[name].ravel()[came] == 0).all()
            else:  # after `end` the masks stand still
                wanted = masks[name]
            masks[name] = sparsifier.masks[name].ravel()
            np.testing.assert_array_equal(masks[name], wanted, err_msg=f"{name}, step {step}")
            # What has come is given a weight of its own here, in place of training.
            fresh = wanted & (after[name].ravel() == 0)
            value = after[name].ravel()
            value[fresh] = RNG.normal(size=fresh.sum()) * 0.3
            layer.kernel.assign(value.reshape(after[name].shape))
            before[name] = kernels(model)[name]
    if masked:
        zeros = keras_saliency.sparsity_report(model)["zeros"].tolist()
        assert zeros == [round(0.6 * size) for size in SIZES.values()]


def test_random_comes_by_seed_alone_and_moves_as_many():
    def run(seed):
        model = mlp(keras.optimizers.SGD(0.3))
        options = {"method": "magnitude", "frequency": 2, "end": 5, "seed": seed}
        sparsifier = Sparsifier(model, 0.7, regrow="random", **options)
        found = []
        for _ in range(12):
            if sparsifier.step():
                found.append(sparsifier.masks)
            model.train_on_batch(X, Y)
            sparsifier.apply()
        return found

    one, same, other = run(1), run(1), run(2)
    assert len(one) == 6
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a["first"], b["first"])
    assert (one[0]["first"] != other[0]["first"]).any()
    kept = {name: size - round(0.7 * size) for name, size in SIZES.items()}
    for step, (a, b) in enumerate(itertools.pairwise(one), start=1):
        share = 0.3 * (1 + np.cos(np.pi * step / 5)) / 2
        for name, count in kept.items():
            assert b[name].sum() == count
            assert (b[name] & ~a[name]).sum() == round(share * count)


@pytest.mark.parametrize("regrow", ["gradient", "random"])
@pytest.mark.parametrize("schedule", ["polynomial", "constant"])
def test_fit_keeps_exact_counts_and_least_edges_and_learns(regrow, schedule):
    keras.utils.set_random_seed(2)
    model = mlp(keras.optimizers.Adam(0.02))
    callback = iSparseCallback(0.8, (X, Y), regrow=regrow, schedule=schedule, end=9)
    found = []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found.append(callback.sparsifier.masks)
            assert all(not kernels(model)[k][~mask].any() for k, mask in found[-1].items())

    options = {"epochs": 12, "batch_size": 8, "verbose": 0, "shuffle": False}
    losses = model.fit(X, Y, callbacks=[callback, Record()], **options).history["loss"]
    total = round(0.8 * 132)
    for masks in found[9:] if schedule == "polynomial" else found:
        assert sum(int((~mask).sum()) for mask in masks.values()) == total
    for masks in found:
        for mask in masks.values():
            assert (mask.sum(0) >= min(2, int(mask.sum()) // mask.shape[1]) - 1).all()
    assert any((b["first"] & ~a["first"]).any() for a, b in itertools.pairwise(found))
    assert all((a["first"] == b["first"]).all() for a, b in itertools.pairwise(found[9:]))
    assert losses[-1] < 0.8 * losses[0]


def test_a_falling_schedule_lets_more_come_than_go():
    model = mlp()
    sparsifier = Sparsifier(
        model,
        0.8,
        method="magnitude",
        schedule=lambda batch: 0.8 - 0.2 * batch,
        end=3,
        regrow="random",
    )
    for step in range(3):
        sparsifier.step()
        for name, mask in sparsifier.masks.items():
            assert (~mask).sum() == round((0.8 - 0.2 * step) * SIZES[name])


def test_convolutions_batch_norm_and_labels():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(5, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(3, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    x = RNG.normal(size=(24, 6, 6, 2)).astype("float32")
    y = RNG.integers(0, 3, 24)
    callback = iSparseCallback(
        0.5, (x, y), frequency="batch", scope="layer", regrow="gradient", batch_size=7
    )
    model.fit(x, y, epochs=3, batch_size=8, verbose=0, callbacks=[callback])
    masks = callback.sparsifier.masks
    assert [int((~mask).sum()) for mask in masks.values()] == [45, 68, 18]
    # The moving statistics of now count, not those of when the function was compiled.
    growth = callback.sparsifier._gradients
    kernel = growth.kernels[0]
    old = growth.at(0, masks)(kernel)
    model.layers[1].moving_variance.assign(4 * numpy(model.layers[1].moving_variance))
    assert not np.allclose(growth.at(0, masks)(kernel), old, rtol=1e-3)


def test_least_edges_stay_where_better_ones_are_masked():
    class Kernel:
        key, shape, size, input_axes, output_axes = "k", (4, 2), 8, (0,), (1,)

    class Scores:
        size = 8

        def array(self):
            return np.array([[9.0, 8], [1, 7], [2, 6], [3, 5]])

        def blocks(self):
            yield 0, 8, self.array().ravel()

    # Of the first output the best edge is masked; its next ones are 3 and 2.
    drop = np.array([1, 0, 0, 0, 0, 0, 0, 0], bool)
    options = MaskingOptions("magnitude", min_edges=1)
    growth = Regrowth(5 / 7, lambda kernel: np.arange(8.0).reshape(4, 2))
    masked = growth.move(Kernel, Scores(), drop, 1, options)
    assert masked.sum() == 1 and growth.came["k"].ravel().nonzero()[0].tolist() == [0]
    growth = Regrowth(0.8, lambda kernel: np.zeros((4, 2)))
    drop = np.array([1, 0, 1, 0, 0, 0, 0, 1], bool)
    masked = growth.move(Kernel, Scores(), drop, 3, options)
    # 4, 6 are 2 and 3 of the first output, of which the best stays; 3, 5 of the second go.
    assert (~masked).ravel().tolist() == [1, 1, 1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regrow": "gradient"}, "data=.x, y.* labels"),
        ({"regrow": "gradient", "data": X}, "data without labels"),
        ({"regrow": "momentum"}, "gradient"),
        ({"regrow": "random", "regrow_share": 1.5}, "regrow_share"),
        ({"regrow": "random", "granularity": "channel"}, "regrow=True"),
        ({"regrow": "random", "scope": "global"}, "scope='erk'"),
        ({"regrow": "random", "method": "lottery"}, "lottery"),
        ({"regrow": "random", "method": "wanda", "data": X}, "magnitude"),
    ],
)
def test_what_cannot_be_is_refused_before_training(arguments, message):
    model = mlp()
    before = kernels(model)
    arguments = {"sparsity": 0.5, "method": "magnitude", **arguments}
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, epochs=4, verbose=0, callbacks=[iSparseCallback(**arguments)])
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_loop_without_an_end_and_a_model_without_a_loss_are_refused():
    with pytest.raises(ValueError, match="pass `end`"):
        Sparsifier(mlp(), 0.5, method="magnitude", regrow="random")
    model = keras.Sequential([keras.Input((7,)), layers.Dense(5)])
    options = {"method": "magnitude", "regrow": "gradient", "end": 3}
    with pytest.raises(ValueError, match="not compiled"):
        Sparsifier(model, 0.5, (X, Y), **options)
    sparsifier = Sparsifier(model, 0.5, (X, Y), loss="mse", **options)
    assert sparsifier.step() and sparsifier.sparsity == round(0.5 * 35) / 35
