"""A functional model as a list of steps that can be run one at a time."""

import keras
from keras import ops, tree
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

from keras_saliency.graph.functional import functional_of, is_functional, sorted_nodes


class Slot:
    """The place of a tensor among the arguments of a step."""

    __slots__ = ("number",)

    def __init__(self, number):
        self.number = number


class Step:
    """One call of a layer or operation.

    Attributes:
        operation: The layer or operation.
        args, kwargs: Its arguments, with a `Slot` for each tensor.
        inputs, outputs: The numbers of the tensors that it reads and makes.
    """

    def __init__(self, operation, args, kwargs, outputs):
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.inputs = [x.number for x in tree.flatten((args, kwargs)) if isinstance(x, Slot)]
        self.outputs = outputs

    def run(self, values):
        """Call the operation on the tensors in `values`, a dict; returns a dict of its outputs.

        It can be run again: attention takes the masks that Keras carries off its inputs, they are
        put back.
        """
        masked = [(x, get_keras_mask(x)) for x in map(values.get, self.inputs)]
        results = self.run_last(values)
        for x, mask in masked:
            if mask is not None:
                set_keras_mask(x, mask)
        return results

    def run_last(self, values):
        """As `run`, with the tensors left as the operation leaves them, as in the model itself."""

        def fill(x):
            return values[x.number] if isinstance(x, Slot) else x

        args, kwargs = tree.map_structure(fill, (self.args, self.kwargs))
        results = tree.flatten(self.operation(*args, **kwargs))
        return dict(zip(self.outputs, results, strict=True))


class Steps:
    """The steps of a model, nested functional models opened up, in an order that can be run.

    Attributes:
        steps: List of `Step`.
        inputs, outputs: Numbers of the model's input and output tensors.
    """

    def __init__(self, model):
        self.steps = []
        self._count = 0
        graph = functional_of(model)
        self.inputs = [self._new() for _ in graph.inputs]
        self.outputs = self._add(graph, self.inputs)
        self._last = {}
        for i, step in enumerate(self.steps):
            for number in step.inputs:
                self._last[number] = i

    def _new(self):
        self._count += 1
        return self._count - 1

    def _add(self, graph, inputs):
        known = {id(x): number for x, number in zip(graph.inputs, inputs, strict=True)}
        for node in sorted_nodes(graph):
            self._add_node(node, known)
        return [known[id(x)] for x in graph.outputs]

    def _add_node(self, node, known):
        def slot(x):
            return Slot(known[id(x)]) if isinstance(x, keras.KerasTensor) else x

        args = tree.map_structure(slot, node.arguments.args)
        kwargs = tree.map_structure(slot, node.arguments.kwargs)
        operation = node.operation
        if is_functional(operation):
            inner = functional_of(operation)
            given = _inputs_of(inner, args[0] if args else kwargs.get("inputs"))
            if given is not None:
                outputs = self._add(inner, given)
                known.update({id(x): n for x, n in zip(node.outputs, outputs, strict=True)})
                return
        outputs = [self._new() for _ in node.outputs]
        known.update({id(x): n for x, n in zip(node.outputs, outputs, strict=True)})
        self.steps.append(Step(operation, args, kwargs, outputs))

    def dead_after(self, index):
        """The tensors that nothing reads behind a step, the model's outputs left out."""
        step = self.steps[index]
        used = [*step.inputs, *step.outputs]
        return [n for n in set(used) if self._last.get(n, -1) <= index and n not in self.outputs]

    def readers(self, number):
        """The steps that read a tensor."""
        return [step for step in self.steps if number in step.inputs]

    def feed(self, model, data):
        """Dict from number to tensor for a batch of the model's inputs."""
        graph = functional_of(model)
        return {
            number: ops.convert_to_tensor(x, dtype=symbol.dtype)
            for number, x, symbol in zip(
                self.inputs, order_inputs(model, data), graph.inputs, strict=True
            )
        }

    def advance(self, index, batches):
        """Run a step on every batch of tensors, and let go of those that nothing reads any more."""
        dead = self.dead_after(index)
        for values in batches:
            values.update(self.steps[index].run_last(values))
            for number in dead:
                values.pop(number, None)


def order_inputs(model, data):
    """The arrays of `data` in the order of a functional model's inputs."""
    if isinstance(data, dict):
        return [data[x.name] for x in functional_of(model).inputs]
    return tree.flatten(data)


def _inputs_of(graph, given):
    """Numbers of the tensors that a call hands to a nested model, or `None` where it is unclear."""
    if isinstance(given, dict):
        names = [x.name for x in graph.inputs]
        if not set(names) <= set(given):
            return None
        given = [given[name] for name in names]
    slots = tree.flatten(given)
    if len(slots) != len(graph.inputs) or not all(isinstance(x, Slot) for x in slots):
        return None
    return [x.number for x in slots]
