"""Files in which zeros cost next to nothing."""

import os
import tempfile
import zipfile
from pathlib import Path


def save_compressed(model, path, level=9):
    """Save a model as a `.keras` file whose entries are deflated.

    Plain Keras loads the file. Keras itself stores weights as they are, so a zero costs four bytes
    there; deflated, zeros and masks cost next to nothing, and other numbers about what they cost
    before. The masked weights of a masked layer are no zeros: `strip_masks` makes them so.

    Args:
        model: A `keras.Model`.
        path: Where to save it; must end in `".keras"`. An existing file is replaced once the new
            one is complete.
        level: How hard to compress, 1 (fast) to 9 (small).

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: If `path` does not end in `".keras"`, or `level` is out of range.

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
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"`path` must end in '.keras'. Received: path={str(path)!r}")
    if level not in range(1, 10):
        raise ValueError(f"`level` must be an integer from 1 to 9. Received: level={level!r}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        stored, deflated = Path(folder, "stored.keras"), Path(folder, "deflated.keras")
        model.save(stored)
        with (
            zipfile.ZipFile(stored) as source,
            zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as target,
        ):
            for entry in source.infolist():
                with (
                    source.open(entry) as read,
                    target.open(entry.filename, "w", force_zip64=True) as write,
                ):
                    while block := read.read(1 << 20):
                        write.write(block)
        os.replace(deflated, path)
    return path.stat().st_size
