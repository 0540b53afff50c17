"""The class that users call: `RACKNet`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_saliency import validation
from keras_saliency.racknet import allocation
from keras_saliency.racknet.statistics import DatasetStatistics
from keras_saliency.scale_space.keypoints import Engine
from keras_saliency.typing import Data, DataFormat, FilePath

_BUDGET = 400


class RACKNet:
    """Designs a convolutional network from the images it is going to see.

    The sizes, complexities and distributions of the images' keypoints decide how many racks of
    layers there are, how many layers in each, and how a budget of kernels is shared among them.
    Single shot: nothing is searched and no candidate is trained. All methods are class methods.

    * `build(dataset, budget)` goes all the way from images to a model;
    * `analyze(dataset)` stops at the statistics, which can be kept, printed and drawn;
    * `allocate(statistics, budget)` gives the kernels per layer;
    * `from_statistics(statistics, budget)` builds the model.

    Example:

    >>> import keras_saliency
    >>> stats = keras_saliency.DatasetStatistics.from_counts([[3, 5], [2, 2, 4]], (28, 28, 1), 10)
    >>> model = keras_saliency.RACKNet.from_statistics(stats, budget=40)
    >>> [layer.filters for layer in model.layers if hasattr(layer, "filters")]
    [10, 6, 9, 9, 6]

    Source: G chapter 3; Garg and Candan, RACKNet: robust allocation of convolutional kernels in
    neural network for image classification, ICMR 2019.
    """

    allocate = staticmethod(allocation.allocate)

    @classmethod
    def analyze(
        cls,
        dataset: Data | FilePath,
        max_images: int | None = 6000,
        seed: int = 0,
        engine: Engine = "auto",
        n_jobs: int | None = -1,
        verbose: int = 1,
        data_format: DataFormat | None = None,
        value_range: tuple[float, float] | None = None,
        max_octaves: int | None = None,
        contrast_threshold: float = 0.04,
        min_share: float = 0.01,
        bin_size: float = 0.01,
        min_components: int = 2,
        max_components: int = 8,
        eps: float | None = None,
        min_samples: int = 2,
        max_descriptors: int = 2000,
    ) -> DatasetStatistics:
        """Finds the keypoints of a data set and sums them up.

        Images are read, analyzed and forgotten chunk by chunk, in parallel: memory does not
        grow with the data set (a sample of a stream is held, `max_images` images). The result
        depends on the data, the arguments and the engine, and on nothing else: any number of
        workers gives the same.

        Args:
            dataset: an array (batch, height, width) or (batch, height, width, channels), a tuple
                `(images, labels)`, a list of images of different sizes, a `tf.data.Dataset`, a
                `keras.utils.PyDataset`, a torch `DataLoader`, any iterable of batches or
                images, with labels or without, or the path of a folder of image files, one
                subfolder per class where there are classes, as
                `keras.utils.image_dataset_from_directory` counts them. Hidden files and folders
                are left out, files above 8 million pixels are shrunk.
            max_images: int, the size of a random sample; None for all images. A stream is read
                to its end either way.
            seed: int >= 0, of the samples of images and descriptors.
            engine: `"opencv"`, `"scikit-image"`, or `"auto"` for OpenCV where it is installed.
            n_jobs: int, workers: -1 is all cores, None what `joblib.parallel_config` says. Under
                `parallel_config(backend="dask")`, or Ray's, a cluster does the work.
            verbose: 0 or 1, whether a progress bar is shown.
            data_format: `"channels_last"`, `"channels_first"`, or None for Keras's setting.
            value_range: (low, high), the pixel values of black and white. None: 0 to 255 for
                uint8, otherwise the usual range that the first images lie in ([0, 1], [-1, 1],
                [0, 255]), or else, with a warning, their own. Files of more than 8 bits (PNG,
                TIFF) are read so, too.
            max_octaves: int, or None for all that the images allow.
            contrast_threshold: float, least contrast of a keypoint (Lowe: 0.04).
            min_share: float in [0, 1], the part of all keypoints that an octave must have to
                become a rack (observation 1).
            bin_size: float, bits, width of the bins of the entropy histogram (G table 3.3).
            min_components, max_components: ints, the layers a rack may have. Kernels are shared
                by comparing the layers of a rack, so it has at least two where its entropies
                differ; 1 leaves it to the criterion alone, which depends more on the sample.
            eps: float, cosine distance of neighbors in DBSCAN. None for each octave's own: the
                median distance of a descriptor from the nearest one of its component.
            min_samples: int, descriptors that make a cluster in DBSCAN.
            max_descriptors: int, descriptors that are clustered per component, a random sample. The
                components of a rack are compared at the same number of them: the larger ones
                are divided, and their clusters are the mean over the parts.

        Returns:
            A `DatasetStatistics`.

        Raises:
            TypeError, ValueError: when an argument is none of the above, no image can be used,
                or no image has a keypoint.

        Warns:
            UserWarning: when images were skipped (broken files, NaN), are very small or outside the
                range of the pixels, when this had to be assumed, or when there are few keypoints.

        Example:

        >>> from sklearn.datasets import load_digits
        >>> import keras_saliency
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # these images have 8 pixels a side
        ...     stats = keras_saliency.RACKNet.analyze(load_digits().images[:200], verbose=0)
        >>> stats.input_shape
        (8, 8, 1)

        Source: G 3.4.3 to 3.4.6.
        """
        from keras_saliency.racknet.analysis import analyze

        arguments = {name: value for name, value in locals().items() if name in _ANALYSIS}
        return analyze(dataset, **arguments)[0]

    @classmethod
    def build(
        cls,
        dataset: Data | FilePath,
        budget: int = 400,
        num_classes: int | None = None,
        network: str = "cnn",
        activation: str = "relu",
        **kwargs: Any,
    ) -> keras.Model:
        """Designs and builds the network for a data set.

        Args:
            dataset: see `analyze`.
            budget: int, the kernels of all convolutional layers together.
            num_classes: int, or None for the number in the labels.
            network: `"cnn"` or `"rcnn"`.
            activation: `"relu"` or `"maxout"`.
            **kwargs: any other argument of `analyze` and `from_statistics`; `seed` goes to
                both.

        Returns:
            A functional `keras.Model`, not compiled, for images as they are in the data set.

        Raises:
            TypeError, ValueError: as `analyze` and `from_statistics`, and when the labels do
                not fit `num_classes` or `task`.

        Example:

        ```python
        from sklearn.datasets import load_digits
        import keras_saliency

        digits = load_digits()
        x, y = digits.images, digits.target
        model = keras_saliency.RACKNet.build((x, y), budget=400)
        model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, epochs=10, validation_split=0.1)
        ```
        """
        from keras_saliency.racknet.analysis import analyze

        unknown = set(kwargs) - set(_ANALYSIS) - set(_BUILDING)
        if unknown:
            raise TypeError(
                f"RACKNet.build got unknown arguments {sorted(unknown)}. Known, besides its own: "
                f"{sorted({*_ANALYSIS, *_BUILDING})}"
            )
        design = {
            "network": network,
            "activation": activation,
            **{name: kwargs[name] for name in _BUILDING if name in kwargs},
        }
        # Whatever can be wrong with the design is found before the images are read.
        probe = DatasetStatistics.from_counts([[1]], (8, 8, 1))
        size = design.get("kernel_size", 3)
        per_layer = isinstance(size, list | tuple) or (isinstance(size, str) and size == "auto")
        _limit(budget, design.get("parameters"), design.get("macs"))
        free = {"parameters": None, "macs": None, "kernel_size": 3 if per_layer else size}
        cls.from_statistics(
            probe,
            allocation.check_budget(budget, 1),
            **{**design, **free},
            num_classes=2 if num_classes is None else num_classes,
        )
        settings = {name: kwargs[name] for name in _ANALYSIS if name in kwargs}
        statistics, labels = analyze(dataset, **settings)
        num_classes = labels.check(num_classes, design.get("task", "classification"))
        return cls.from_statistics(statistics, budget, num_classes, **design)

    @classmethod
    def from_statistics(
        cls,
        statistics: DatasetStatistics,
        budget: int = 400,
        num_classes: int | None = None,
        network: str = "cnn",
        activation: str = "relu",
        pooling: str = "average",
        dropout: float = 0.25,
        kernel_size: int | Literal["auto"] | Sequence[Sequence[int]] = 3,
        strategy: str = "racknet",
        task: str = "classification",
        steps: int = 3,
        share_weights: bool = True,
        normalization: str | None = "batch",
        head: str = "flatten",
        seed: int = 0,
        name: str = "racknet",
        *,
        parameters: int | None = None,
        macs: int | None = None,
    ) -> keras.Model:
        """Builds the model that the statistics of a data set describe.

        Args:
            statistics: a `DatasetStatistics`.
            budget: int, the kernels of all convolutional layers together; they sum to it
                exactly.
            num_classes: int, or None for the number found in the labels. With
                `task="regression"` the number of values per image.
            network: `"cnn"`, or `"rcnn"` for recurrent convolutions that share weights within a
                rack; train those with `keras_saliency.callbacks.KernelSharingCallback()`.
            activation: `"relu"` or `"maxout"`.
            pooling: `"average"` or `"max"`, between racks.
            dropout: float in [0, 1), after each rack.
            kernel_size: int, `"auto"` for windows from the scopes of the features (observation
                1), or nested lists of ints, one per layer.
            strategy: how the budget is shared, see `RACKNet.allocate`.
            task: `"classification"` (softmax) or `"regression"` (linear).
            steps: int, recurrent steps of `"rcnn"`.
            share_weights: bool, whether `"rcnn"` shares weights within a rack (G 3.4.6.2).
            normalization: `"batch"` for batch normalization after every convolution of `"cnn"`, or
                None as in the paper. The layers of `"rcnn"` normalize their responses themselves.
            head: `"flatten"`: the head reads every position of the last map, where it has at most
                64 of them; larger maps, and those of unknown extent, are averaged. `"pool"`:
                always averaged.
            seed: int, of `strategy="random"`.
            name: str, name of the model.
            parameters: int, the most parameters that the model may have, in place of `budget`.
            macs: int, the most multiply-accumulate operations that it may do for one image, in
                place of `budget`.

        Returns:
            A functional `keras.Model`, not compiled. It takes the pixels as they are in the data
            set: a `Rescaling` layer is put first where they do not lie in [0, 1] or [-1, 1].

        Raises:
            ValueError, TypeError: when an argument is none of the above, the budget is below the
                number of layers, or the number of classes is not known.
        """
        from keras_saliency.racknet.builder import assemble, build_network, fitting_budget

        if not isinstance(statistics, DatasetStatistics):
            raise TypeError(
                "`statistics` must be a DatasetStatistics, as RACKNet.analyze or "
                "DatasetStatistics.from_counts returns. Received: "
                f"{type(statistics).__name__}"
            )
        if num_classes is None:
            num_classes = statistics.num_classes
        if num_classes is None:
            raise ValueError(
                "`num_classes` must be given, since the data set had no labels, or a single class. "
                "Received: num_classes=None"
            )
        if isinstance(kernel_size, str) and kernel_size == "auto":
            kernel_size = statistics.kernel_sizes()
        design = {
            "input_shape": statistics.input_shape,
            "num_classes": num_classes,
            "network": network,
            "activation": activation,
            "pooling": pooling,
            "dropout": dropout,
            "kernel_size": kernel_size,
            "task": task,
            "steps": steps,
            "share_weights": share_weights,
            "normalization": normalization,
            "head": head,
            "value_range": statistics.value_range,
            "data_format": statistics.data_format,
            "name": name,
        }

        def allocated(budget):
            return cls.allocate(statistics, budget, strategy=strategy, seed=seed)

        limit = _limit(budget, parameters, macs)
        if limit is not None:
            name, most = limit
            layers = sum(map(len, statistics.clusters))
            budget = fitting_budget(lambda b: assemble(allocated(b), **design), layers, most, name)
        return build_network(allocated(budget), **design)


def _limit(budget, parameters, macs):
    """`(name, number)` of the limit that stands in place of a budget, or `None`."""
    given = {"parameters": parameters, "macs": macs}
    given = {name: number for name, number in given.items() if number is not None}
    if not given:
        return None
    if len(given) > 1 or budget != _BUDGET:
        raise ValueError(
            "Give one of `budget`, `parameters` and `macs`. Received: "
            + ", ".join(f"{name}={number}" for name, number in {"budget": budget, **given}.items())
        )
    ((name, number),) = given.items()
    return name, validation.integer(name, number)


def _names(method, *without):
    return tuple(name for name in inspect.signature(method).parameters if name not in without)


_ANALYSIS = _names(RACKNet.analyze, "dataset")
_BUILDING = _names(
    RACKNet.from_statistics, "statistics", "budget", "num_classes", "network", "activation"
)
