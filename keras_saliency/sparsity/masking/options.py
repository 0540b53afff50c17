"""How masks are made: the arguments that `sparsify`, `Sparsifier`, callbacks and reports share."""

from dataclasses import dataclass, field, replace

from keras_saliency import validation
from keras_saliency.sparsity.criteria import Criterion, ISparse
from keras_saliency.sparsity.criteria.criterion import criterion_of
from keras_saliency.sparsity.masking.regrowing import REGROW
from keras_saliency.sparsity.masking.shares import SCOPES
from keras_saliency.sparsity.masking.targets import check_granularity
from keras_saliency.sparsity.significance.walk import ORDERS


@dataclass(frozen=True)
class MaskingOptions:
    """What decides which edges go, checked once; see `keras_saliency.sparsify`.

    Attributes:
        criterion: The `Criterion` that `method` means, by `power` where it is a name.
    """

    method: object = "isparse"
    scores: object = "inffs"
    scope: str | None = "layer"
    granularity: object = "edge"
    order: str = "forward"
    layers: object = None
    exclude: object = None
    seed: int | None = 0
    regrow: bool | str = True
    regrow_share: float = 0.3
    normalization: str = "pass"
    batch_size: int = 32
    power: float = 1.0
    min_edges: int = 0
    loss: object = None
    criterion: Criterion = field(init=False, repr=False)

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        put("criterion", criterion_of(self.method))
        put("power", validation.number("power", self.power, 0))
        if isinstance(self.criterion, ISparse) and self.power != 1:
            put("criterion", ISparse(self.power))
        put("granularity", check_granularity(self.granularity))
        validation.choice("scope", self.scope, (*SCOPES, None))
        validation.choice("order", self.order, ORDERS)
        if self.scope == "global" and self.order != "forward":
            raise ValueError(
                "`scope='global'` ranks all edges at once, so `order` must be 'forward'. "
                f"Received: order={self.order!r}"
            )
        if self.granularity == "head" and self.order != "forward":
            raise ValueError(
                "`granularity='head'` ranks the heads of a layer together, so `order` must be "
                f"'forward'. Received: order={self.order!r}"
            )
        if self.scope in ("lamp", "erk") and self.granularity != "edge":
            raise ValueError(
                f"`scope={self.scope!r}` counts edges, so it cannot be combined with "
                f"`granularity={self.granularity!r}`. Take scope='layer' or 'global'."
            )
        label = self.criterion.label
        if self.criterion.channels_only and self.granularity != "channel":
            raise ValueError(
                f"`method={label!r}` scores whole channels. Pass granularity='channel', or take "
                f"method='isparse'. Received: granularity={self.granularity!r}"
            )
        if self.criterion.within_outputs and self.scope == "global":
            raise ValueError(
                f"`method={label!r}` ranks the edges of each output among themselves, so "
                "`scope='global'` has nothing to rank. Take scope='layer' or 'lamp'."
            )
        validation.choice("regrow", self.regrow, REGROW)
        put("regrow_share", validation.number("regrow_share", self.regrow_share, 0, 1))
        if self.moves:
            self._check_moves()
        put("seed", validation.seed(self.seed))
        put("batch_size", validation.integer("batch_size", self.batch_size))
        put("min_edges", validation.integer("min_edges", self.min_edges, 0))
        validation.choice("normalization", self.normalization, ("pass", "scale"))
        put("exclude", () if self._all_in(self.exclude) else self.exclude)

    def _check_moves(self):
        if self.granularity != "edge":
            raise ValueError(
                f"`regrow={self.regrow!r}` moves single edges, so it needs granularity='edge'. "
                f"Received: granularity={self.granularity!r}; take regrow=True there."
            )
        if self.scope == "global":
            raise ValueError(
                f"`regrow={self.regrow!r}` keeps the number of edges of each kernel, which "
                "`scope='global'` leaves open. Take scope='erk' or scope='layer'."
            )
        if self.criterion.within_outputs:
            raise ValueError(
                f"`method={self.criterion.label!r}` keeps the same number of edges in every "
                f"output, which `regrow={self.regrow!r}` would undo. Take method='magnitude'."
            )
        if self.method == "lottery":
            raise ValueError(
                f"`method='lottery'` goes back to its first weights, and `regrow={self.regrow!r}` "
                "lets edges come back at 0. Take method='magnitude'."
            )

    @property
    def moves(self):
        """Whether edges go and others come at each update: RigL and SET."""
        return isinstance(self.regrow, str)

    @staticmethod
    def _all_in(exclude):
        return isinstance(exclude, (tuple, list)) and not exclude

    @property
    def takes_all(self):
        """Whether `exclude=()` took in what is left out by default."""
        return self.exclude == ()

    @property
    def excluded(self):
        """`exclude` as `maskable_kernels` takes it."""
        auto = isinstance(self.exclude, str) and self.exclude == "auto"
        return None if auto else self.exclude

    @property
    def walk(self):
        """Keyword arguments of `SignificanceWalk`."""
        return {
            "scores": self.scores,
            "order": self.order,
            "seed": self.seed,
            "layers": self.layers,
            "exclude": self.excluded,
            "normalization": self.normalization,
            "batch_size": self.batch_size,
        }

    def replaced(self, **changes):
        """The same with some of them changed."""
        return replace(self, **changes)
