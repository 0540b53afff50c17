"""The class that users call: `RACKNet`."""

from keras_saliency.racknet import allocation
from keras_saliency.racknet.statistics import DatasetStatistics


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
    def from_statistics(
        cls,
        statistics,
        budget=400,
        num_classes=None,
        network="cnn",
        activation="relu",
        pooling="average",
        dropout=0.25,
        kernel_size=3,
        strategy="racknet",
        task="classification",
        steps=3,
        share_weights=True,
        normalization=None,
        seed=0,
        name="racknet",
    ):
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
            normalization: None as in the paper, or `"batch"` for batch normalisation (`"cnn"`).
            seed: int, of `strategy="random"`.
            name: str, name of the model.

        Returns:
            A functional `keras.Model`, not compiled. It takes the pixels as they are in the data
            set: a `Rescaling` layer is put first where they do not lie in [0, 1] or [-1, 1].

        Raises:
            ValueError, TypeError: when an argument is none of the above, the budget is below the
                number of layers, or the number of classes is not known.
        """
        from keras_saliency.racknet.builder import build_network

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
                "`num_classes` must be given, since the data set had no labels to tell it. "
                "Received: num_classes=None"
            )
        kernels = cls.allocate(statistics, budget, strategy=strategy, seed=seed)
        if isinstance(kernel_size, str) and kernel_size == "auto":
            kernel_size = statistics.kernel_sizes()
        return build_network(
            kernels,
            statistics.input_shape,
            num_classes,
            network=network,
            activation=activation,
            pooling=pooling,
            dropout=dropout,
            kernel_size=kernel_size,
            task=task,
            steps=steps,
            share_weights=share_weights,
            normalization=normalization,
            value_range=statistics.value_range,
            data_format=statistics.data_format,
            name=name,
        )
