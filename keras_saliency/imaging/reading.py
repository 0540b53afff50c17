"""Pictures, batches of images and maps of them, checked."""

import io

import numpy as np

from keras_saliency import validation


def picture(name, value) -> np.ndarray:
    """Pixels of a gray or RGB picture, uint8 `(height, width)` or `(height, width, 3)`."""
    if isinstance(value, bytes | bytearray):
        from PIL import Image

        value = Image.open(io.BytesIO(value))
    mode = getattr(value, "mode", None)
    if mode is not None and hasattr(value, "getpixel"):
        if mode not in ("L", "RGB"):
            # Pillow cuts the numbers of these modes off at 255.
            wide = mode.startswith(("I", "F"))
            way = (
                "scale its numbers to 0 .. 255: `numpy.asarray(picture) / 257` of 16 bits, as uint8"
                if wide
                else 'its `convert("RGB")` will do'
            )
            raise ValueError(
                f"`{name}` must be a gray or RGB picture of 8 bits. Received: one of mode {mode!r};"
                f" {way}."
            )
        return np.asarray(value)
    pixels = validation.array(name, value, ranks=(2, 3))
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"`{name}` must hold 8-bit pixels. Received: {pixels.dtype}; scale it to 0 .. 255 and "
            'call `astype("uint8")`.'
        )
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[-1] != 3:
        raise ValueError(
            f"`{name}` must have one channel or three. Received: shape={pixels.shape}; drop an "
            "alpha channel with `[..., :3]`."
        )
    return np.ascontiguousarray(pixels)


def batch(name, value) -> np.ndarray:
    """A batch of images `(images, height, width, channels)`."""
    value = validation.array(name, value, finite=True)
    if value.ndim == 3:
        raise ValueError(
            f"`{name}` must be (images, height, width, channels). Received: shape={value.shape}; "
            "of one image pass `image[None]`, of gray ones `images[..., None]`."
        )
    return validation.array(name, value, ranks=(4,))


def saliency(name, value, extent) -> np.ndarray:
    """Maps in [0, 1], resized to `extent`, the last two axes of the result."""
    from skimage.transform import resize

    maps = validation.array(name, value, finite=True).astype("float64")
    if maps.ndim < 2:
        raise ValueError(f"`{name}` must be (height, width). Received: shape={maps.shape}")
    if maps.min() < -1e-6 or maps.max() > 1 + 1e-6:
        raise ValueError(
            f"`{name}` must lie in [0, 1], as `saliency_map` returns it. Received: values from "
            f"{maps.min():.4g} to {maps.max():.4g}"
        )
    (height, width), (rows, columns) = extent, maps.shape[-2:]
    if abs(rows - height * columns / width) >= 1 and abs(columns - width * rows / height) >= 1:
        raise ValueError(
            f"`{name}` must have the proportions of the image, {extent}. Received: "
            f"{(rows, columns)}; crop or resize it first."
        )
    if (rows, columns) != tuple(extent):
        shrinks = rows > height
        flat = maps.reshape(-1, rows, columns)
        made = [resize(x, extent, order=1, mode="edge", anti_aliasing=shrinks) for x in flat]
        maps = np.stack(made).reshape(*maps.shape[:-2], *extent)
    return np.clip(maps, 0, 1)


def maps_of(name, value, images) -> np.ndarray:
    """Maps for a batch of images, `(images, height, width)`."""
    maps = saliency(name, value, images.shape[1:3])
    if maps.shape != images.shape[:3]:
        raise ValueError(
            f"`{name}` must be one map per image, {images.shape[:3]}. Received: shape={maps.shape}"
        )
    return maps
