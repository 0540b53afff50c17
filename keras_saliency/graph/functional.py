"""The graph of a functional model: whether it is there, its nodes in order, its nested inputs."""

import keras
from keras import tree


def is_functional(layer):
    """Whether `layer` is a model whose graph is there to read: Functional, or a built Sequential.

    A subclass that writes its own `call` is not, even where it passes `inputs` and `outputs` on.
    """
    if not isinstance(layer, keras.Model):
        return False
    if isinstance(layer, keras.Sequential):
        return layer._functional is not None and type(layer).call is keras.Sequential.call
    return hasattr(layer, "_nodes_by_depth") and type(layer).call.__qualname__ == "Functional.call"


def functional_of(model):
    """The functional graph of a Functional or Sequential model."""
    return model._functional if isinstance(model, keras.Sequential) else model


def sorted_nodes(model):
    """The nodes of a functional model, each after those it depends on, inputs left out."""
    functional = functional_of(model)
    return nodes_between(functional.inputs, functional.outputs)


def nodes_between(inputs, outputs):
    """The nodes that lead from symbolic `inputs` to `outputs`, each after those it depends on."""
    known = {id(x) for x in inputs}
    order, done = [], set()
    stack = [(x, False) for x in reversed(outputs)]
    while stack:
        item, visited = stack.pop()
        if visited:
            order.append(item)
            continue
        history = getattr(item, "_keras_history", None)
        if id(item) in known or history is None or history.operation is None:
            continue
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) in done or not node.arguments.keras_tensors:
            continue
        done.add(id(node))
        stack.append((node, True))
        stack.extend((x, False) for x in reversed(node.arguments.keras_tensors))
    return order


def walk_nodes(inputs, values, outputs, visit):
    """Send values through a functional graph: the one walk behind tracing, shrinking, rebuilding.

    Args:
        inputs: The symbolic tensors to start from.
        values: What stands for each of them, of any kind.
        outputs: The symbolic tensors to reach.
        visit: Function of a node and the values so far, a dict by `id` of the symbolic tensor,
            that returns a value for each output of the node. What a node is to it, a call or a
            graph to walk in turn, is its affair.

    Returns:
        The dict of all values.
    """
    known = {id(x): value for x, value in zip(inputs, values, strict=True)}
    for node in nodes_between(inputs, outputs):
        results = visit(node, known)
        known.update((id(x), value) for x, value in zip(node.outputs, results, strict=True))
    return known


def nested_inputs(model, args, kwargs):
    """What a call gives to a functional model, in the order of the model's inputs.

    Args:
        model: The Functional or Sequential model that is called.
        args, kwargs: The arguments of the call. A dict may name the inputs and hold more.

    Returns:
        A list as long as the model's inputs, or `None` where it is unclear which goes where.
    """
    functional = functional_of(model)
    given = args[0] if args else kwargs.get("inputs")
    if isinstance(given, dict):
        struct = functional._inputs_struct
        names = list(struct) if isinstance(struct, dict) else [x.name for x in functional.inputs]
        if not set(names) <= set(given):
            return None
        kept = {name: given[name] for name in names}
        given = kept if isinstance(struct, dict) else list(kept.values())
    flat = tree.flatten(given)
    return flat if len(flat) == len(functional.inputs) else None
