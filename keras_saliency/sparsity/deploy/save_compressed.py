"""Files in which zeros cost next to nothing."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

import keras

from keras_saliency.files import replacing
from keras_saliency.typing import FilePath

_BLOCK = 1 << 20
_LARGEST_RATIO = 80  # Keras refuses what is deflated by more than 100 as a decompression bomb


def save_compressed(model: keras.Model, path: FilePath, level: int = 9) -> int:
    """Save a model as a `.keras` file whose entries are deflated.

    Plain Keras loads the file. Keras itself stores weights as they are, so a zero costs four bytes
    there; deflated, zeros and masks cost next to nothing, and other numbers about what they cost
    before. The masked weights of a masked layer are no zeros: `strip_masks` makes them so.

    Args:
        model: A `keras.Model`.
        path: Where to save it; must end in `".keras"`. An existing file is replaced once the new
            one is complete, and stays as it is where that fails.
        level: How hard to compress, 1 (fast) to 9 (small).

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: If `path` does not end in `".keras"`, or `level` is out of range.
        TypeError: If `model` is no `keras.Model`.

    Example:

    ```python
    import tempfile
    import keras
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(64, kernel_initializer="zeros")]
    )
    with tempfile.TemporaryDirectory() as folder:
        size = keras_saliency.save_compressed(model, f"{folder}/model.keras")
        same = keras.saving.load_model(f"{folder}/model.keras")
    ```
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if not isinstance(path, str | os.PathLike) or Path(path).suffix != ".keras":
        raise ValueError(f"`path` must end in '.keras'. Received: path={path!r}")
    if isinstance(level, bool) or level not in range(1, 10):
        raise ValueError(f"`level` must be an integer from 1 to 9. Received: level={level!r}")
    folder = Path(os.path.realpath(path)).parent
    with replacing(path) as file, _Stored(folder) as stored:
        keras.saving.save_model(model, stored)
        with (
            zipfile.ZipFile(stored) as source,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as target,
        ):
            for entry in source.infolist():
                with (
                    source.open(entry) as read,
                    target.open(entry.filename, "w", force_zip64=True) as write,
                ):
                    write._compressor = _Deflate(level)  # type: ignore[attr-defined]
                    shutil.copyfileobj(read, write, _BLOCK)
    return Path(path).stat().st_size


class _Stored(io.BufferedRandom):
    """A file without a name, which no kill leaves behind, in Keras's eyes one of its own."""

    def __init__(self, folder):
        with tempfile.TemporaryFile(dir=folder) as file:
            super().__init__(io.FileIO(os.dup(file.fileno()), "r+"))
        self.folder = folder

    def __str__(self):
        return "model.keras"

    @property
    def name(self):  # Keras writes beside it where memory is short
        return self.folder / "model.keras"


class _Deflate:
    """Deflates block by block, and never by more than Keras reads.

    A block that is nothing but zeros would shrink a thousandfold. Its beginning is stored as it is;
    to whoever inflates it, it is the same stream.
    """

    def __init__(self, level):
        self.level, self.pending = level, bytearray()

    def compress(self, data):
        self.pending += data
        if len(self.pending) < _BLOCK:
            return b""
        block, self.pending = bytes(self.pending), bytearray()
        small = self._pack(block, self.level)
        if len(small) * _LARGEST_RATIO < len(block):
            begin = len(block) // _LARGEST_RATIO
            small = self._pack(block[:begin], 0) + self._pack(block[begin:], self.level)
        return small

    def flush(self):
        return self._pack(bytes(self.pending), self.level, zlib.Z_FINISH)

    @staticmethod
    def _pack(block, level, end=zlib.Z_FULL_FLUSH):
        deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflate.compress(block) + deflate.flush(end)
