"""When the masks change in training, and how sparse they are then: pure functions of the step."""

import math
import numbers

from keras_saliency.sparsity.masking.targets import check_sparsity

SCHEDULES = ("constant", "polynomial", "cosine", "dense-sparse-dense")
_MOST_CHECKED = 10_000


class Schedule:
    """When masks are computed anew, and the sparsity they have.

    Args:
        schedule: `"constant"`: the target at once. `"polynomial"`: from 0 to the target as
            `target * (1 - (1 - t)**3)`, fast at first, while most edges are dispensable.
            `"cosine"`: `target * (1 - cos(pi * t)) / 2`. Here t runs from 0 at `begin` to 1 at
            `end`. `"dense-sparse-dense"`: the target from `begin` up to, not at, `end`, else 0.
            Or a function of the training batch, counted from 0, that returns the sparsity
            itself, in [0, 1), whatever the target.
        frequency: How often masks are computed: `"epoch"`, `"batch"`, or every so many batches.
        begin, end: First and last time at which masks are computed, counted in units of
            `frequency` from 0. Before `begin` nothing is masked, after `end` the masks stay.
            `end=None` is the last unit of the training.

    Raises:
        ValueError, TypeError: If an argument is of another kind or out of range.

    Example:

    >>> schedule = Schedule("polynomial", frequency="batch", begin=10, end=20)
    >>> schedule.sparsity(15, batch=15, target=0.8)
    0.7
    """

    def __init__(self, schedule="constant", frequency="epoch", begin=0, end=None):
        if not callable(schedule) and not (isinstance(schedule, str) and schedule in SCHEDULES):
            raise ValueError(
                f"`schedule` must be one of {SCHEDULES}, or a function of the training batch. "
                f"Received: schedule={schedule!r}"
            )
        named = isinstance(frequency, str) and frequency in ("epoch", "batch")
        if not named and not (_is_int(frequency) and frequency > 0):
            raise ValueError(
                "`frequency` must be 'epoch', 'batch', or a positive number of batches. "
                f"Received: frequency={frequency!r}"
            )
        if not _is_int(begin) or begin < 0:
            raise ValueError(f"`begin` must be an integer >= 0. Received: begin={begin!r}")
        if end is not None and (not _is_int(end) or end < begin):
            raise ValueError(
                f"`end` must be an integer >= begin, or None. Received: begin={begin}, end={end!r}"
            )
        self.schedule = schedule
        self.frequency = frequency
        self.begin = begin
        self.end = end

    @property
    def by_epoch(self):
        return self.frequency == "epoch"

    @property
    def needs_end(self):
        return self.end is None and self.schedule in SCHEDULES[1:]

    @property
    def has_dense_end(self):
        """Whether everything is unmasked again at `end`."""
        return self.schedule == "dense-sparse-dense"

    def unit(self, batch, epoch):
        """The time in units of `frequency`."""
        if self.by_epoch:
            return epoch
        return batch if self.frequency == "batch" else batch // self.frequency

    def is_due(self, unit):
        return unit >= self.begin and (self.end is None or unit <= self.end)

    def sparsity(self, unit, batch, target, last=None):
        """The sparsity at a time.

        Args:
            unit: The time in units of `frequency`.
            batch: The time in training batches.
            target: The sparsity in the end.
            last: What `end` is where it is `None`.
        """
        if unit < self.begin:
            return 0.0
        if callable(self.schedule):
            return check_sparsity(self.schedule(batch), f"the schedule's value at batch {batch}")
        if self.schedule == "constant":
            return target
        end = self.end if self.end is not None else last
        if self.has_dense_end:
            return target if end is None or unit < end else 0.0
        t = 1.0 if end is None or end <= self.begin else (unit - self.begin) / (end - self.begin)
        if t >= 1:
            return target
        rise = (
            1 - (1 - t) ** 3 if self.schedule == "polynomial" else 0.5 - math.cos(math.pi * t) / 2
        )
        return target * rise

    def finished(self, batch, epoch, last, end_batch=None):
        """Whether the sparsity is what the schedule leads to.

        Args:
            batch, epoch: The time.
            last: What `end` is where it is `None`.
            end_batch: The last batch of the training, for a function of the batch.
        """
        unit = self.unit(batch, epoch)
        if callable(self.schedule):
            final = batch if end_batch is None else end_batch
            return unit >= self.begin and self.schedule(batch) >= self.schedule(final)
        if self.schedule == "constant":
            return unit >= self.begin
        end = self.end if self.end is not None else last
        return unit >= max(end, self.begin)

    def fall(self, unit, last):
        """1 at `begin`, along a cosine to 0 at `last`."""
        if last <= self.begin:
            return 0.0
        t = min(max((unit - self.begin) / (last - self.begin), 0.0), 1.0)
        return 0.5 + math.cos(math.pi * t) / 2

    def last_unit(self, epochs, steps):
        """The last unit of a training, or `None` if the number of batches is not known."""
        if self.by_epoch:
            return epochs - 1
        if steps is None:
            return None
        return self.unit(epochs * steps - 1, epochs - 1)

    def ever_acts(self, epochs, steps, target, end=None):
        """Whether anything is ever masked in a training of so many epochs of so many batches."""
        last = self.last_unit(epochs, steps)
        if last is None:
            return True
        stop = last if self.end is None else min(last, self.end)
        units = range(self.begin, stop + 1)
        if len(units) > _MOST_CHECKED:  # its ends, and a sample of what is between
            units = [*units[:: len(units) // _MOST_CHECKED], units[-1]]
        size = (steps or 1) if self.by_epoch else 1 if self.frequency == "batch" else self.frequency
        end = last if end is None else end
        return any(self.sparsity(unit, unit * size, target, end) > 0 for unit in units)


def _is_int(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
