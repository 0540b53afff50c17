"""Reading `data=`: whatever `fit` takes, as NumPy arrays in the structure that a model takes."""

import itertools
import reprlib

import keras
import numpy as np
from keras import tree

from keras_saliency import validation
from keras_saliency.graph.functional import functional_of, is_functional, nested_inputs


def read_inputs(model, data, max_samples=None, argument="data"):
    """The inputs in `data`.

    - `x`: an array, a tensor of any backend, a data frame, nested lists of numbers; several inputs
      are a list or a dict of these.
    - `(x,)`, `(x, y)`, `(x, y, sample_weight)`: a tuple is read as `fit` reads it, its first part
      are the inputs.
    - A data set of batches of these: `tf.data.Dataset`, `keras.utils.PyDataset`, a PyTorch
      `DataLoader`, a generator. One that is endless, can be read only once or does not tell its
      length is read up to `max_samples`, and refused before anything is read without.

    NaN stays NaN; what a value means is for others to judge.

    Args:
        model: The model that takes the inputs.
        data: As above. `None` stays `None`.
        max_samples: How many samples to read at most; all by default.
        argument: What the user knows `data` by, for messages.

    Returns:
        A NumPy array, or a list or dict of arrays, as the model's `call` takes them.

    Raises:
        TypeError: If `data` is nothing of the kind.
        ValueError: If it holds no sample, if its arrays differ in length, if a tuple looks like
            several inputs, or if a stream would not end. Messages never print the data.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency.graph.data import read_inputs

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x, y = np.zeros((8, 3)), np.zeros((8, 2))
    assert read_inputs(model, (x, y)).shape == (8, 3)
    batches = ((x, y) for _ in range(10**9))
    assert read_inputs(model, batches, max_samples=20).shape == (20, 3)
    ```
    """
    return read_pairs(model, data, max_samples, argument)[0]


def read_pairs(model, data, max_samples=None, argument="data"):
    """The inputs, targets and sample weights in `data`; arguments and errors of `read_inputs`.

    Returns:
        `(x, y, sample_weight)`, each an array, a nest of arrays, or `None` where it is absent.
    """
    validation.integer("max_samples", max_samples, optional=True)
    if data is None:
        return None, None, None
    try:
        return _read_pairs(model, data, max_samples)
    except (ValueError, TypeError) as error:
        if argument == "data" or "`data`" not in str(error):
            raise
        raise type(error)(str(error).replace("`data`", f"`{argument}`")) from None


def _read_pairs(model, data, max_samples):
    if isinstance(data, (str, bytes)):
        raise TypeError(_unknown(data))
    if isinstance(data, (list, tuple, dict)) or hasattr(data, "shape"):
        parts = _parts(model, data)
    else:
        parts = _concatenated(_batches(model, data, max_samples))
    lengths = {len(array) for array in tree.flatten(parts) if array is not None}
    if len(lengths) != 1:
        shapes = [array.shape for array in tree.flatten(parts) if array is not None]
        raise ValueError(
            "All arrays of `data` must have the same number of samples. "
            f"Received shapes: {shapes[:10]}"
        )
    if lengths == {0}:
        raise ValueError("`data` holds no sample.")
    if max_samples is not None and lengths.pop() > max_samples:
        parts = _sliced(parts, max_samples)
    return parts


def first_sample(inputs):
    """The inputs of one sample, for their shapes; `None` for no inputs."""
    return None if inputs is None else tree.map_structure(lambda x: x[:1], inputs)


def _parts(model, data):
    """`(x, y, sample_weight)` of arrays, or of one batch."""
    if isinstance(data, (list, tuple, dict)) and not data:
        raise ValueError(f"`data` is empty: {data!r}.")
    if not isinstance(data, tuple):
        return _inputs(model, data), None, None
    if len(data) > 3:
        raise ValueError(_several(f"a tuple of {len(data)}"))
    _refuse_inputs_in_tuple(model, data)
    x, y, weights = (*data, None, None)[:3]
    return _inputs(model, x), _nest(y), _nest(weights)


def _refuse_inputs_in_tuple(model, data):
    """Read as `fit` does, a tuple of inputs would lose all but the first in silence."""
    shapes = _input_shapes(model)
    if len(data) != len(shapes) or len(shapes) == 1:
        return
    # A first part that already holds several arrays, `([a, b], y)`, says what it is.
    if isinstance(data[0], (list, tuple, dict)) and len(data[0]) == len(shapes):
        return
    second = getattr(data[1], "shape", None)
    if second is None and isinstance(data[1], (list, tuple)):
        second = _to_numpy(data[1]).shape
    if second is not None and any(_fits(second, shape) for shape in shapes):
        raise ValueError(_several(f"a tuple of {len(data)} whose second part has an input's shape"))


def _several(received):
    return (
        "`data` as a tuple means `(x, y)` or `(x, y, sample_weight)`. Pass several inputs in a "
        f"list or a dict, `[a, b]` or `([a, b], y)`. Received: {received}"
    )


def _fits(shape, wanted):
    return len(shape) == len(wanted) and all(
        n is None or m == n for m, n in zip(shape[1:], wanted[1:], strict=True)
    )


def _input_shapes(model):
    """Shapes of the model's inputs as far as it knows them; of one input if it does not."""
    if is_functional(model):
        return [tuple(x.shape) for x in functional_of(model).inputs]
    built = getattr(model, "_build_shapes_dict", None) or {}
    shapes = []
    for shape in built.values():
        parts = shape.values() if isinstance(shape, dict) else shape or ()
        nested = all(isinstance(part, (list, tuple)) for part in parts)
        shapes += [tuple(part) for part in parts] if nested else [tuple(shape)]
    return shapes or [()]


def _inputs(model, x):
    """Inputs in the structure that the model takes."""
    several = is_functional(model) and len(functional_of(model).inputs) > 1
    x = _nest(x, split=several)
    if x is None:
        raise TypeError("The inputs in `data` are None.")
    if not is_functional(model):
        return x
    given = nested_inputs(model, (x,), {})
    functional = functional_of(model)
    if given is None:
        names = [tensor.name for tensor in functional.inputs]
        received = sorted(x) if isinstance(x, dict) else _describe(x)
        raise ValueError(
            f"The model '{model.name}' takes {len(names)} input(s): {names}. Pass several in a "
            f"list or a dict. Received: {received}"
        )
    for array, symbol in zip(given, functional.inputs, strict=True):
        _check_input(array, symbol)
    return tree.pack_sequence_as(functional._inputs_struct, given)


def _check_input(array, symbol):
    """Refuse what the model would refuse in the words of its first layer."""
    wanted = tuple(symbol.shape)
    kind = getattr(array, "dtype", np.dtype("float32")).kind
    if kind in "OUS" and symbol.dtype != "string":
        raise TypeError(
            f"`data` must hold numbers for the input '{symbol.name}'. "
            f"Received: an array of {array.dtype}"
        )
    shape = tuple(array.shape)
    # Keras adds, or takes away, a last axis of 1.
    same = [shape, (*shape, 1), *([shape[:-1]] if shape[-1:] == (1,) else [])]
    if not any(_fits(s, wanted) for s in same):
        one = " It looks like one sample: add the batch axis, x[None]." * _fits((1, *shape), wanted)
        raise ValueError(
            f"`data` must have the shape {wanted} for the input '{symbol.name}'. "
            f"Received: shape {shape}.{one}"
        )


def _nest(x, split=False):
    """A nest of arrays; nested lists of numbers become one array, or with `split` one an entry."""
    if x is None:
        return None
    if isinstance(x, dict):
        return {name: _array(part) for name, part in x.items()}
    if isinstance(x, (list, tuple)) and (split or _holds_arrays(x)):
        return [_array(part) for part in x]
    return _array(x)


def _holds_arrays(x):
    while isinstance(x, (list, tuple)) and x:
        x = x[0]
    return hasattr(x, "__array__") and getattr(x, "shape", ()) != ()


def _array(x):
    if isinstance(x, (str, bytes)) or x is None:
        raise TypeError(_unknown(x))
    array = _to_numpy(x)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.ndim:
        raise ValueError(
            "The arrays of `data` must have a first axis of samples. "
            f"Received: {_describe(x)} without axes"
        )
    return array


def _to_numpy(value):
    """An array, a tensor of any backend, or nested lists, as a NumPy array; strings are fine."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
            return keras.ops.convert_to_numpy(value)
        if hasattr(value, "detach"):  # a tensor of torch, whatever the backend is
            value = value.detach().cpu()
        elif hasattr(value, "toarray"):  # a sparse matrix
            value = value.toarray()
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty((), object)
    if array.dtype == object and not all(isinstance(x, (str, bytes)) for x in array.flat):
        kind = ValueError if isinstance(value, (list, tuple)) else TypeError
        raise kind(
            "`data` must hold arrays, or nested lists of numbers of one length each. "
            f"Received: {_describe(value)}"
        )
    return array


def _describe(value):
    """What a value is, in a few words, however large it is."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def _unknown(data):
    return (
        "`data` must be an array, a list or a dict of arrays, a tuple `(x, y)`, or a data set of "
        f"batches. Received: {_describe(data)}"
    )


def _batches(model, data, max_samples):
    """Parts of each batch of a data set, no more batches than `max_samples` need."""
    count = _length(data)
    if count is None and max_samples is None:
        raise ValueError(
            f"`data` is a {type(data).__name__} that is endless, can be read only once or does not "
            "tell its length. Say how many samples to take of it, for example `max_samples=1024`, "
            "or pass arrays."
        )
    if isinstance(data, keras.utils.PyDataset):
        batches = (data[i] for i in (itertools.count() if count is None else range(count)))
    else:
        try:
            batches = iter(data)
        except TypeError:
            raise TypeError(_unknown(data)) from None
    read = 0
    for batch in batches:
        # `fit` reads a list in a data set as it reads a tuple: PyTorch's loaders make lists.
        parts = _parts(model, tuple(batch) if isinstance(batch, list) else batch)
        yield parts
        read += len(tree.flatten(parts[0])[0])
        if max_samples is not None and read >= max_samples:
            return


def _length(data):
    """How many batches a data set has, `None` if it may be endless or ends for good."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    if hasattr(data, "__next__"):
        return None
    try:
        return len(data)
    except TypeError:  # tf.data's, if it is endless or unknown
        if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
            raise TypeError(_unknown(data)) from None
        return None


def _concatenated(batches):
    collected = list(batches)
    if not collected:
        raise ValueError("`data` holds no sample.")
    if len({tuple(part is None for part in parts) for parts in collected}) > 1:
        raise ValueError("The batches of `data` differ in what they hold: `x`, `(x, y)`, ...")
    return tree.map_structure(
        lambda *arrays: None if arrays[0] is None else np.concatenate(arrays), *collected
    )


def _sliced(parts, count):
    return tree.map_structure(lambda x: None if x is None else x[:count], parts)
