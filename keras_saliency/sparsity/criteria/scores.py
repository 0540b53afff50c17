"""Scores of edges and channels that are held in memory."""

from keras_saliency.sparsity.significance.scores import BLOCK


class HeldScores:
    """An array of scores, read in blocks. Negative scores are lifted by `shift`."""

    def __init__(self, array, shift=0.0):
        self.size = array.size
        self.shape = array.shape
        self.shift = shift
        self._array = array

    @property
    def lowest(self):
        return float(self._array.min(initial=0.0))

    def lifted(self, lowest):
        """These scores, `lowest` counting as 0: what is ranked must not be negative."""
        return HeldScores(self._array, -lowest) if lowest < 0 else self

    def blocks(self):
        flat = self._array.reshape(-1)
        for start in range(0, self.size, BLOCK):
            stop = min(start + BLOCK, self.size)
            yield start, stop, flat[start:stop] + self.shift

    def array(self):
        return self._array + self.shift
