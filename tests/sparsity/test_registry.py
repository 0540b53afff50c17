"""Where rules are found: by class, by ancestor, by the name that Keras knows a class by."""

import keras
import pytest
from keras import layers

from keras_saliency.sparsity.registry import Registry, find_shrink_rule, find_significance_rule


class Child(layers.Dense):
    pass


class OwnCall(layers.Dense):
    def call(self, inputs):
        return 2 * inputs


@keras.saving.register_keras_serializable(package="stranger")
class Stranger(layers.Layer):
    pass


class StrangersChild(Stranger):
    pass


def test_a_subclass_inherits_from_its_nearest_ancestor():
    registry = Registry("rule")
    registry.set(layers.Layer, "layer")
    registry.set(layers.Dense, "dense")
    assert registry.find(Child(3)) == "dense"
    assert registry.find(OwnCall(3)) == "dense"
    assert registry.find(layers.ReLU()) == "layer"
    registry.set(Child, "child")
    assert registry.find(Child(3)) == "child"


def test_same_call_stops_at_a_subclass_that_computes_something_else():
    registry = Registry("rule", same_call=True)
    registry.set(layers.Dense, "dense")
    assert registry.find(Child(3)) == "dense"
    assert registry.find(OwnCall(3)) is None
    registry.set(OwnCall, "own")
    assert registry.find(OwnCall(3)) == "own"


def test_names_stand_for_classes_that_are_not_imported():
    registry = Registry("rule")
    registry.set("stranger>Stranger", 1)
    assert registry.find(Stranger()) == registry.find(StrangersChild()) == 1
    registry.set(Stranger, 2)  # the class itself comes before its name
    assert registry.find(Stranger()) == 2


def test_operations_and_layers_of_one_name_are_told_apart():
    registry = Registry("rule")
    registry.set("keras.ops>Add", "operation")
    registry.set("keras>Add", "layer")
    x = keras.Input((3,))
    assert registry.find((x + x)._keras_history.operation) == "operation"
    assert registry.find(layers.Add()) == "layer"
    assert registry.find(layers.Subtract()) is None


@pytest.mark.parametrize("key", ["Dense", 3, int, None])
def test_what_is_no_class_is_refused(key):
    with pytest.raises(TypeError, match="`layer_class`"):
        Registry("rule").set(key, 1)


def test_both_kinds_of_rules_know_the_same_families():
    for layer in (layers.Dense(2), layers.Conv2D(2, 3), layers.LSTM(2), layers.Add()):
        assert find_significance_rule(layer) is not None
        assert find_shrink_rule(layer) is not None
    assert find_significance_rule(OwnCall(2)) is not None
    assert find_shrink_rule(OwnCall(2)) is None
