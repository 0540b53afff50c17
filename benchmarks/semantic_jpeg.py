"""Semantic JPEG against plain JPEG of equal size, on the color photographs of scikit-image.

    python benchmarks/semantic_jpeg.py [--match 50] [--small]

Maps are ellipses around one object of each photograph, placed by hand: 1 inside, falling to 0
over a third of the radius. The last rows of a photograph have a map of one value.
"""

import io

import numpy as np
import pandas as pd
import runner
from PIL import Image
from skimage import data

from keras_saliency import imaging

# The middle and the half axes of the object, in pixels: rows, columns.
OBJECTS = {
    "astronaut": ("the face", (110, 225), (75, 60)),
    "chelsea": ("an eye", (112, 190), (42, 60)),
    "coffee": ("the spoon", (285, 365), (45, 55)),
    "rocket": ("the rocket", (210, 322), (150, 28)),
    "retina": ("the optic disc", (640, 190), (150, 130)),
}
SCHEMES = {
    "coefficients": {},
    "coefficients, (30, 70)": {"quality": (30, 70)},
    "mosaic": {"mode": "mosaic"},
    "mosaic, (30, 70)": {"mode": "mosaic", "quality": (30, 70)},
}
COLUMNS = ("bytes", "PSNR-S", "PSNR of the rest", "PSNR", "SSIM", "MS-SSIM")


def ellipse(extent, middle, axes):
    rows, columns = np.mgrid[: extent[0], : extent[1]]
    radius = np.hypot((rows - middle[0]) / axes[0], (columns - middle[1]) / axes[1])
    return np.clip((4 / 3 - radius) * 3, 0, 1)


def plain(photograph, quality):
    file = io.BytesIO()
    Image.fromarray(photograph).save(
        file, "JPEG", quality=quality, subsampling="4:2:0", optimize=True
    )
    return file.getvalue()


def measured(photograph, files, saliency):
    frame = imaging.image_quality(photograph, files, saliency)
    rest = imaging.image_quality(photograph, files, (saliency <= 0.5).astype("float64"))
    return frame.assign(**{"PSNR of the rest": rest["PSNR-S"]})[list(COLUMNS)]


def main():
    options = runner.arguments(__doc__.splitlines()[0], match=50)
    rows = []
    names = list(OBJECTS)[: 1 if options.small else None]
    print(f"{len(names)} photographs, {len(SCHEMES) + 1} files each: under a minute each")
    for name in names:
        what, middle, axes = OBJECTS[name]
        photograph = np.ascontiguousarray(getattr(data, name)()[..., :3])
        saliency = ellipse(photograph.shape[:2], middle, axes)
        files = {"plain": plain(photograph, options.match)}
        for scheme, arguments in SCHEMES.items():
            files[scheme] = imaging.semantic_jpeg(
                photograph, saliency, match=options.match, **arguments
            )
        frame = measured(photograph, files, saliency)
        nothing = np.ones(photograph.shape[:2])
        uniform = imaging.semantic_jpeg(photograph, nothing, match=options.match)
        frame.loc["a map of ones"] = measured(photograph, [uniform], saliency).iloc[0]
        base = frame.loc["plain"]
        for scheme, row in frame.iterrows():
            rows.append(
                {
                    "photograph": f"{name}: {what}",
                    "share of the area": float((saliency > 0.5).mean()),
                    "file": scheme,
                    **row,
                    "gain in PSNR-S": row["PSNR-S"] - base["PSNR-S"],
                    "loss of the rest": base["PSNR of the rest"] - row["PSNR of the rest"],
                }
            )
        print(name, flush=True)
    table = pd.DataFrame(rows).round(3)
    for scheme in SCHEMES:
        part = table[table["file"] == scheme]
        gain, loss = part["gain in PSNR-S"].mean(), part["loss of the rest"].mean()
        print(f"{scheme}: {gain:+.2f} dB of PSNR-S, {loss:.2f} dB lost by the rest, mean")
    runner.write(
        "semantic_jpeg",
        table,
        notes=f"""Every file is at most as large as a plain JPEG of quality {options.match}; PSNR in
        decibels, PSNR-S where the map exceeds 0.5, the rest where it does not. `coefficients` is
        the default of `imaging.semantic_jpeg`, which tries several ranges of qualities; pairs are
        one range. `a map of ones` says nothing about the photograph.""",
        small=options.small,
    )


if __name__ == "__main__":
    main()
