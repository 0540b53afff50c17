"""How far do RACKNet's kernels move when another seed takes another sample of the same data?

Each set holds three times the images of a sample, which is drawn several times with other seeds:
the default sample of 6000, and 2000 of images of 64 pixels a side and more. Between two designs
of 400 kernels, the layers of an octave are paired from the simplest on, and a layer that only one
of them has is paired with nothing. What moved is half the sum of the differences, over the
budget: 0 for equal designs, 1 for designs without a kernel in common. The same for racks, with
the kernels of a rack taken together.
"""

import itertools
import warnings

import numpy as np
import pandas as pd
import runner
from racknet_cost import images as digits

from keras_saliency import RACKNet

BUDGET = 400
PHOTOGRAPHS = [
    *("astronaut", "cat", "coffee", "camera", "rocket", "coins", "moon", "hubble_deep_field"),
    *("immunohistochemistry", "retina", "china.jpg", "flower.jpg"),
]
SETS = {
    "digits, 28": 28,
    "digits, 48": 48,
    "12 photographs, 32": (PHOTOGRAPHS, 32),
    "12 photographs, 64": (PHOTOGRAPHS, 64),
    "12 photographs, 96": (PHOTOGRAPHS, 96),
    "2 photographs, 32": (["china.jpg", "flower.jpg"], 32),
    "2 photographs, 64": (["china.jpg", "flower.jpg"], 64),
    "3 textures, 32": (["brick", "grass", "gravel"], 32),
    "3 textures, 64": (["brick", "grass", "gravel"], 64),
    "2 pages of text, 48": (["page", "text"], 48),
    "4 micrographs, 48": (["immunohistochemistry", "retina", "cell", "microaneurysms"], 48),
}


def picture(name):
    """One bundled image of scikit-image, or of scikit-learn where it ends on .jpg, in gray."""
    if name.endswith(".jpg"):
        from sklearn.datasets import load_sample_image

        image = load_sample_image(name)
    else:
        import skimage.data

        image = getattr(skimage.data, name)()
    if image.ndim == 3:
        image = np.round(image[..., :3] @ [0.299, 0.587, 0.114])
    return image.astype("uint8")


def crops(names, side, count, seed=0):
    """Return `count` random crops, (count, side, side), at one to three pixels per pixel."""
    from skimage.transform import downscale_local_mean

    rng = np.random.default_rng(seed)
    scaled = [
        [np.round(downscale_local_mean(picture(name), (step, step))) for step in (1, 2, 3)]
        for name in names
    ]
    scaled = [[v for v in sizes if min(v.shape) >= side] for sizes in scaled]
    x = np.empty((count, side, side), "uint8")
    for i in range(count):
        sizes = scaled[rng.integers(len(scaled))]
        image = sizes[rng.integers(len(sizes))]
        top, left = (rng.integers(n - side + 1) for n in image.shape)
        crop = image[top : top + side, left : left + side]
        x[i] = crop[:, ::-1] if rng.integers(2) else crop
    return x


def load(name, count):
    source = SETS[name]
    return digits(count, source)[0] if isinstance(source, int) else crops(*source, count)


def design(statistics):
    """Kernels per layer, by octave."""
    octaves = [octave.index for octave in statistics.racks]
    return dict(zip(octaves, RACKNet.allocate(statistics, BUDGET), strict=True))


def moved(a, b):
    """(part of the kernels that moved between layers, between racks) of two designs."""
    layers = racks = 0
    for octave in a.keys() | b.keys():
        one, other = a.get(octave, []), b.get(octave, [])
        layers += sum(abs(p - q) for p, q in itertools.zip_longest(one, other, fillvalue=0))
        racks += abs(sum(one) - sum(other))
    return layers / (2 * BUDGET), racks / (2 * BUDGET)


def compare(x, seeds, **settings):
    """One row: how designs of `x` differ over seeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        designs = [
            design(RACKNet.analyze(x, seed=seed, verbose=0, **settings)) for seed in range(seeds)
        ]
    pairs = list(itertools.combinations(designs, 2))
    layers, racks = np.array([moved(a, b) for a, b in pairs]).T
    same = np.mean(
        [{o: len(r) for o, r in a.items()} == {o: len(r) for o, r in b.items()} for a, b in pairs]
    )
    return {
        "kernels moved, mean %": 100 * layers.mean(),
        "largest %": 100 * layers.max(),
        "racks moved, mean %": 100 * racks.mean(),
        "largest of racks %": 100 * racks.max(),
        "pairs with the same layers %": 100 * same,
        "pairs below 10 %": 100 * np.mean(layers < 0.1),
        "design of seed 0": " · ".join(", ".join(map(str, r)) for r in designs[0].values()),
    }


def main():
    options = runner.arguments(__doc__.splitlines()[0], seeds=4, jobs=-1)
    names = list(SETS)
    if options.small:
        options.seeds, names = 2, names[:1]
    common = {"engine": "opencv", "n_jobs": options.jobs}
    rows, others = [], []
    for name in names:
        sample = 100 if options.small else 2_000 if name.endswith((" 64", " 96")) else 6_000
        x = load(name, 3 * sample)
        row = compare(x, options.seeds, **{**common, "max_images": sample})
        rows.append({"images, side": name, "sample": sample, **row})
        print(rows[-1], flush=True)
        if name in ("digits, 28", "12 photographs, 32") and not options.small:
            for key, value in (("max_images", 1_500), ("min_components", 1)):
                row = compare(x, options.seeds, **common, **{key: value})
                others.append({"images, side": name, "setting": f"{key}={value}", **row})
                print(others[-1], flush=True)
    command = "Command: racknet_stability.py."
    notes = f"OpenCV; {options.seeds} seeds, every pair of them; {BUDGET} kernels. {command}"
    frame = pd.DataFrame(rows).astype({"sample": object})
    numbers = frame.select_dtypes("number")
    summary = {column: numbers[column].mean() for column in numbers}
    for column in ("largest %", "largest of racks %"):
        summary[column] = numbers[column].max()
    frame.loc[len(frame)] = {
        "images, side": "all",
        "sample": "",
        **summary,
        "design of seed 0": "",
    }
    runner.write("racknet_stability", frame, notes=notes, small=options.small)
    if others:
        runner.write(
            "racknet_stability_settings",
            pd.DataFrame(others),
            notes=f"What other settings of the analysis do, measured in the same way. {command}",
        )


if __name__ == "__main__":
    main()
