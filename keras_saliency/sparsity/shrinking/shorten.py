"""Fewer residual blocks: those that change the stream least leave, the others are refitted."""

import copy

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.compiling import copy_compile
from keras_saliency.graph.copying import (
    LEFT_OUT,
    Copier,
    check_built,
    copy_model,
    is_graph,
    own_variables,
    same_layer,
    zip_layers,
)
from keras_saliency.graph.functional import is_functional, sorted_nodes
from keras_saliency.graph.selection import selected
from keras_saliency.graph.symbolic import sublayers
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.reconstruction import refit
from keras_saliency.sparsity.shrinking.blocks import (
    Block,
    blocks_of_graph,
    bypass,
    chains,
    choose,
    influence,
    repeated,
    symbols,
)
from keras_saliency.sparsity.shrinking.cost import count_parameters
from keras_saliency.sparsity.significance.outputs import model_outputs

# Names under which a config says how many blocks there are.
DEPTHS = ("num_layers", "num_blocks", "depth")


def shorten(model, share, data, *, exclude, fits, verbose, steps=1, fine_tune=None, **options):
    """The model with a share of its residual blocks.

    Args:
        model: A built model.
        share: Share of the blocks that stay, rounded, one at least.
        data: Inputs.
        exclude: Layers whose blocks stay.
        fits: Whether what stays is fitted.
        verbose: Whether to print in one line what was removed.
        steps, fine_tune: As in `shrink_to`.
        **options: Of `refit.reconstruct`.

    Returns:
        A new model.
    """
    check_built(model)
    if data is None:
        raise ValueError(
            "`blocks` asks for `data`: how much a block changes what passes through it is measured "
            "on inputs, some hundred, no labels. Received: data=None"
        )
    refit.check_finite(model, data)
    names = [layer.name for layer in selected(model, exclude, "exclude")]
    given, plan = model, _plan_of(model)
    first = [len(blocks) for blocks in plan.chains]
    for step in range(1, steps + 1):
        part = 1 - (1 - share) * step / steps
        counts = [max(1, round(part * count)) for count in first]
        if step > 1:
            plan = _plan_of(model)
        if counts == [len(blocks) for blocks in plan.chains]:
            small = copy_model(model)
        else:
            small = _shortened(model, plan, counts, data, names, fits, verbose, options)
        if step == steps and share < 1 and counts == first:
            raise ValueError(
                f"`blocks={share}` removes nothing of the {sum(first)} blocks of '{model.name}': "
                f"it is rounded to {sum(counts)}. Ask for a smaller share."
            )
        copy_compile(given, small)
        if step < steps:
            trained = fine_tune(small) if fine_tune is not None else None
            model = trained if isinstance(trained, keras.Model) else small
    return small


def _shortened(model, plan, counts, data, names, fits, verbose, options):
    batch_size = options.get("batch_size", 32)
    scores = influence(model, plan.blocks, data, batch_size)
    pinned = {id(x) for x in model._flatten_layers() if x.name in names}
    for index, block in enumerate(plan.blocks):
        if pinned & block.layers:
            scores[index] += 1e3  # far above any 1 - cosine
    keep, start = [], 0
    for blocks, count in zip(plan.chains, counts, strict=True):
        chosen = choose(scores[start : start + len(blocks)], count, plan.fits(blocks))
        if chosen is None:
            raise ValueError(
                f"No {count} of the {len(blocks)} blocks of '{model.name}' can stand for each "
                "other: they differ by their place. Ask for another share."
            )
        keep += [start + index for index in chosen]
        start += len(blocks)
    gone = [i for i in range(len(plan.blocks)) if i not in keep]

    def make_copy():
        made = copy_model(model)
        blocks = _plan_of(made, plan).blocks
        for index in gone:
            bypass(blocks[index])
        return made

    if fits:
        source = _refitted(model, plan, gone, make_copy, data, verbose, options)
    else:
        source = make_copy()
    small = _plan_of(source, plan).build(keep)
    part = tree.map_structure(lambda x: x[:8], data)
    for a, b in zip(
        model_outputs(source, part, batch_size), model_outputs(small, part, batch_size), strict=True
    ):
        if a.shape != b.shape or np.abs(a - b).max() > 1e-3 * np.abs(a).max() + 1e-6:
            raise ValueError(
                f"A {type(model).__name__} with {len(keep)} blocks does not compute what "
                f"'{model.name}' does without the others: what its blocks do depends on their "
                "number or place. Give the budget as `flops` or `parameters`."
            )
    if verbose:
        left = ", ".join(f"'{plan.blocks[i].name}'" for i in gone[:8])
        print(
            f"shrink_to: {len(keep)} of {len(plan.blocks)} blocks stay in a "
            f"{type(small).__name__}, without {left}{' ...' if len(gone) > 8 else ''}; parameters "
            f"{count_parameters(model):,} -> {count_parameters(small):,}"
        )
    return small


def _refitted(model, plan, gone, make_copy, data, verbose, options):
    """A copy whose blocks in `gone` do nothing and whose other kernels are fitted to that."""
    left = set().union(*(plan.blocks[index].layers for index in gone))
    masks = {
        kernel.key: np.ones(kernel.shape, bool)
        for kernel in maskable_kernels(model)
        if id(kernel.layer) not in left and not isinstance(kernel.layer, keras.layers.Embedding)
    }
    done = refit.reconstruct(model, make_copy, data, masks, verbose=verbose, **options)
    return done.copy


def _plan_of(model, like=None):
    """Where the blocks of a model are; of a copy: as in the plan of the model, `like`."""
    if isinstance(like, _Config):
        return _Config(model, like.path, like.keys)
    if like is None:
        path = _depth_in(model.get_config()) if not is_graph(model) else None
        if path is not None:
            plan = _Config(model, path)
            if plan.keys:
                return plan
    if is_functional(model):
        plan = _Graph(model)
        if plan.blocks:
            return plan
    raise ValueError(
        f"No residual blocks are found in '{model.name}' ({type(model).__name__}): no addition of "
        "a tensor and of what layers make of it in a functional graph, no repeated layers that "
        f"keep the shape, and no config with one of {list(DEPTHS)} that makes a model with fewer "
        "blocks, none of them shared. Give the budget as `flops` or `parameters`."
    )


def _depth_in(config):
    """Where a config says how many blocks there are: keys, of which the last names a number."""
    for name in DEPTHS:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            return (name,)
    inner = config.get("backbone")
    if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
        path = _depth_in(inner["config"])
        return None if path is None else ("backbone", "config", *path)
    return None


class _Config:
    """Blocks that the class of the model makes, as many as its config says."""

    def __init__(self, model, path, keys=None):
        self.model = model
        self.path = path
        self.config = model.get_config()
        place = self.config
        for key in path:
            place = place[key]
        self.depth = place
        self.keys = keys
        if keys is None:
            try:
                probe = self.make(self.depth - 1)
            except Exception as error:
                raise ValueError(
                    f"'{model.name}' ({type(model).__name__}) cannot be made from its config with "
                    f"{path[-1]}={self.depth - 1}: {error} Give the budget as `flops` or "
                    "`parameters`."
                ) from error
            self.keys = chains(model, probe, self.depth)
        layers = repeated(model)
        self.chains = [[Block(layer, [layer]) for layer in layers[key]] for key in self.keys]
        self.blocks = [block for blocks in self.chains for block in blocks]

    def make(self, depth):
        config = copy.deepcopy(self.config)
        place = config
        for key in self.path[:-1]:
            place = place[key]
        place[self.path[-1]] = depth
        return type(self.model).from_config(config)

    def fits(self, blocks):
        kinds = [_kind(block.operation) for block in blocks]
        return lambda index, place: kinds[index] == kinds[place]

    def build(self, keep):
        small = self.make(len(keep) // len(self.chains))
        pairs, start, layers = [], 0, repeated(small)
        for key, blocks in zip(self.keys, self.chains, strict=True):
            mine = [blocks[i - start] for i in keep if start <= i < start + len(blocks)]
            start += len(blocks)
            for block, layer in zip(mine, layers[key], strict=True):
                pairs += zip_layers(block.operation, layer)
        ours = {id(part) for key in self.keys for x in layers[key] for part in x._flatten_layers()}
        theirs = set().union(*(block.layers for block in self.blocks))
        pairs += _counterparts(self.model, theirs, small, ours)
        done = set()
        for a, b in pairs:
            for variable, target in zip(own_variables(a), own_variables(b), strict=True):
                if id(target) not in done:
                    done.add(id(target))
                    target.assign(np.array(ops.convert_to_numpy(variable)))
                    target.trainable = variable.trainable
            b._trainable = a._trainable
        return small


def _counterparts(model, out, small, left):
    """Pairs of the layers of two models outside their blocks: by name, or else in their order.

    The order alone will not do: that of encoder and decoder changes with their depths.
    """
    olds, news = _by_path(model, out), _by_path(small, left)
    pairs, others = [(model, small)], ([], [])
    for path in {**olds, **news}:
        a, b = olds.get(path, []), news.get(path, [])
        if len(a) == len(b):
            pairs += zip(a, b, strict=True)
        else:
            others[0].extend(x for x in a if own_variables(x))
            others[1].extend(x for x in b if own_variables(x))
    return [*pairs, *zip(*others, strict=True)]


def _by_path(model, without):
    """Layers by the names of those around them and their own, each once."""
    found, seen = {}, set(without)

    def look(layer, path):
        for child in sublayers(layer):
            if isinstance(child, keras.layers.Layer) and id(child) not in seen:
                seen.add(id(child))
                found.setdefault((*path, child.name), []).append(child)
                look(child, (*path, child.name))

    look(model, ())
    return found


def _kind(layer):
    """What a block is, its name and its place left out."""
    try:
        config = layer.get_config()
    except Exception:  # some forget what they have
        plain = (bool, int, float, str, tuple, type(None))
        config = {k: v for k, v in vars(layer).items() if isinstance(v, plain) and k[0] != "_"}
    config = {k: v for k, v in config.items() if k != "name" and "drop" not in k}
    return config, [tuple(v.shape) for v in layer.variables]


class _Graph:
    """Blocks in a functional graph, which is built anew without some of them."""

    def __init__(self, model):
        self.model = model
        self.blocks = blocks_of_graph(model)
        self.chains = [self.blocks]

    def fits(self, blocks):
        return lambda index, place: True

    def build(self, keep):
        kept = {id(self.blocks[index].node) for index in keep}
        gone = [block for block in self.blocks if id(block.node) not in kept]
        copier = _Shorter(same_layer, gone)
        with copier.without_initializers():
            small = copier.model(self.model)
        pairs = []
        for old, new in list(copier.copies.values()):
            if is_functional(old):
                pairs.append((old, new))
            elif isinstance(old, keras.layers.Layer):
                pairs += zip_layers(old, new)
        held = {id(v) for old, _ in pairs for v in own_variables(old)}
        copier.values = {id(v): LEFT_OUT for v in self.model.variables if id(v) not in held}
        copier.copy_state(self.model, pairs)
        return small


class _Shorter(Copier):
    """Copies functional models without some of their blocks."""

    def __init__(self, make, gone):
        super().__init__(make, {})
        self.gone = {id(block.node): block for block in gone}

    def model(self, model):
        if not is_functional(model) or id(model) in self.copies or is_graph(model):
            return super().model(model)
        made = self._functional(model)  # of a class that makes its own layers
        self.copies[id(model)] = model, made
        return made

    def layer(self, layer):
        return self.model(layer) if is_functional(layer) else super().layer(layer)

    def _sequential(self, model):
        graph = model._functional
        gone = {id(node.operation) for node in sorted_nodes(model) if id(node) in self.gone}
        first = graph.inputs[0]._keras_history.operation
        entry = type(first).from_config(first.get_config())
        layers = [self.layer(layer) for layer in model.layers if id(layer) not in gone]
        return type(model)([entry, *layers], name=model.name)

    def _functional(self, model):
        nodes = sorted_nodes(model)
        through = {}
        for node in nodes:
            block = self.gone.get(id(node))
            if block is not None:
                stream = symbols(node)[block.stream]
                through[id(node.outputs[0])] = through.get(id(stream), stream)

        def source(x):
            return through.get(id(x), x)

        needed = {id(source(x)) for x in model.outputs}
        alive = []
        for node in reversed(nodes):
            if id(node) not in self.gone and any(id(x) in needed for x in node.outputs):
                alive.append(node)
                needed |= {id(source(x)) for x in node.arguments.keras_tensors}
        known = {}
        for x in model.inputs:
            layer = x._keras_history.operation
            known[id(x)] = type(layer).from_config(layer.get_config()).output
        for node in reversed(alive):
            given = {id(x): known[id(source(x))] for x in node.arguments.keras_tensors}
            args, kwargs = node.arguments.fill_in(given)
            outputs = self.layer(node.operation)(*args, **kwargs)
            for x, y in zip(node.outputs, tree.flatten(outputs), strict=True):
                known[id(x)] = y

        def new(x):
            return known[id(source(x))]

        inputs = tree.map_structure(new, model._inputs_struct)
        outputs = tree.map_structure(new, model._outputs_struct)
        cls = type(model) if is_graph(model) else keras.Model
        return cls(inputs, outputs, name=model.name)
