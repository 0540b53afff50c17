"""What public signatures are annotated with, where it recurs.

Types of packages that are imported late are known to type checkers alone; at run time they are
`Any`.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from pandas import DataFrame
    from PIL.Image import Image

    Layer: TypeAlias = keras.layers.Layer
else:
    ArrayLike = Axes = DataFrame = Figure = Image = Layer = Any

# A tensor of any backend, or a symbolic one.
Tensor: TypeAlias = Any
# What `model.predict` takes: arrays, tensors, lists and dicts of them, data sets of batches.
Data: TypeAlias = ArrayLike | Mapping[str, Any] | Iterable[Any]
# A layer, a name, path or pattern, a compiled regular expression, or a predicate.
LayerChoice: TypeAlias = Layer | str | re.Pattern[str] | Callable[[Layer], bool]
Layers: TypeAlias = LayerChoice | Iterable[LayerChoice]

FilePath: TypeAlias = str | os.PathLike[str]
Size: TypeAlias = int | Sequence[int]
Shape: TypeAlias = Sequence[int | None]
DataFormat: TypeAlias = Literal["channels_last", "channels_first"]

# What Keras looks up: a name, a config, an object or a function.
Named: TypeAlias = str | Mapping[str, Any] | Callable[..., Any]
Activation: TypeAlias = Named | None
Initializer: TypeAlias = Named
Regularizer: TypeAlias = Named | None
Constraint: TypeAlias = Named | None
# A layer class, a name of `get_attention`, or what returns a new layer.
Attention: TypeAlias = str | Callable[..., Layer]
