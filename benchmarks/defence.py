"""What `imaging.defend` undoes of attacks by foolbox, what its parts add, and where it stops.

    KERAS_BACKEND=torch python benchmarks/defence.py [--seeds 3] [--images 40] [--jobs 3]
    KERAS_BACKEND=torch python benchmarks/defence.py --photographs 10

LeNet-5 networks trained on Fashion-MNIST, or EfficientNet-Lite0 on foolbox's pictures of ImageNet.
The first four attacks do not know of the defence; the last one averages gradients over it (Athalye
and Carlini, 2018). Needs `foolbox` and PyTorch. About ten minutes on two cores;
`--photographs` about twenty minutes of CPU time.

C&W looks for the smallest change. On photographs its 40 steps are too few for that: it ends farther
away than FGSM (a mean distance of 3.9; DeepFool: 0.16), so its column there says little of attacks
that come close.
"""

import io
import warnings
from types import SimpleNamespace

import keras
import networks
import numpy as np
import pandas as pd
import runner
from joblib import Parallel, delayed
from PIL import Image
from scipy.special import softmax
from skimage.restoration import denoise_wavelet

from keras_saliency import imaging, saliency_map

# A pixel of FGSM, IGSM and the adaptive attack changes by `epsilon` at most.
SMALL = SimpleNamespace(  # 28 x 28 pixels
    epsilon=0.05,
    best={"maps": "robust_cam", "deflections": 20, "window": 3, "sigma": 0.04},
    steps=100,
)
LARGE = SimpleNamespace(  # 224 x 224 pixels, those of the defaults
    epsilon=2 / 255,
    best={"maps": "robust_cam", "deflections": 100, "window": 10, "sigma": 0.04},
    steps=40,
)


def defences(size):
    """Name to arguments of `defend`, what it does by default first, or to a function that takes
    images, maps and a seed and returns images, for what `defend` does not do."""
    best = size.best
    numbers = {"as by default: 100 deflections, window 10": {}}
    name = "as by default"
    if size is SMALL:
        name = "fitted"
        numbers["fitted: 20 deflections, window 3"] = best
    few = {5, 50, 100} if size is SMALL else {1000}
    windows = {1, 10} if size is SMALL else {30}
    return {
        **numbers,
        f"{name}, one run for ten": {**best, "ensemble": 1},
        f"{name}, deflection alone": {**best, "sigma": 0.0},
        f"{name}, denoising alone": {**best, "deflections": 0, "ensemble": 1},
        f"{name}, without a map": {**best, "maps": None},
        **{f"{n} deflections": {**best, "deflections": n} for n in sorted(few)},
        **{f"window {n}": {**best, "window": n} for n in sorted(windows)},
        "sigma 0.1": {**best, "sigma": 0.1},
        # Prakash (2019), table 4.7.
        "JPEG alone": lambda x, maps, seed: jpeg(x),
        f"{name}, deflection, then JPEG": lambda *given: jpeg(deflected(size, *given)),
        f"{name}, then JPEG": lambda *given: jpeg(shrunk(deflected(size, *given), size)),
        # Table 4.8; scikit-image has no SUREShrink.
        f"{name}, VisuShrink": lambda *given: shrunk(deflected(size, *given), size, "VisuShrink"),
        f"{name}, hard thresholds": lambda *given: hard(deflected(size, *given), size),
    }


def deflected(size, x, maps, seed):
    return imaging.pixel_deflection(x, maps, size.best["deflections"], size.best["window"], seed)


def shrunk(x, size, method="BayesShrink"):
    return imaging.wavelet_denoise(x, size.best["sigma"], method=method)


def hard(x, size):
    """One threshold for all coefficients, those above it left as they are."""
    colour = x.shape[-1] == 3
    arguments = {"sigma": size.best["sigma"], "wavelet": "db1", "rescale_sigma": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tiny images have few levels
        found = [
            denoise_wavelet(
                one,
                mode="hard",
                method="VisuShrink",
                convert2ycbcr=colour,
                channel_axis=-1,
                **arguments,
            )
            for one in x
        ]
    return np.clip(np.stack(found), 0, 1).astype("float32")


def jpeg(x, quality=75):
    """Images as a JPEG file gives them back."""
    found = []
    for one in np.round(255 * x).astype("uint8"):
        file = io.BytesIO()
        Image.fromarray(one.squeeze()).save(file, "jpeg", quality=quality)
        found.append(np.asarray(Image.open(file)).reshape(one.shape))
    return (np.stack(found) / 255).astype("float32")


def voted(model, x, maps, change, seed, runs=10):
    """The label that most runs say; between equals, the one that they are surer of."""
    found = [model.predict(change(x, maps, 100 * seed + run), verbose=0) for run in range(runs)]
    votes = sum(np.eye(one.shape[1])[one.argmax(1)] for one in found)
    return (votes + softmax(np.mean(found, axis=0), axis=1) / 2).argmax(1)


def attacks(size, small):
    """Name to an attack of foolbox and its bound, `None` where it looks for the least change."""
    from foolbox import attacks as made

    steps = 20 if small else size.steps
    return {
        "FGSM": (made.LinfFastGradientAttack(), size.epsilon),
        "IGSM": (made.LinfBasicIterativeAttack(steps=10), size.epsilon),
        "DeepFool": (made.L2DeepFoolAttack(steps=50), None),
        # Pixels at a bound are at the flat end of its tanh: from there small steps lead nowhere.
        "C&W": (
            made.L2CarliniWagnerAttack(
                binary_search_steps=5, steps=steps, stepsize=0.1, initial_const=0.1
            ),
            None,
        ),
    }


def logits_of(model):
    """The same network without the softmax at its end."""
    last = model.layers[-1]
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.layers[-1].activation = keras.activations.linear
    assert last.activation is keras.activations.softmax
    return copy


def attacked(model, x, labels, size, small):
    """Name of an attack to what it makes of the images."""
    import foolbox
    import torch

    for weight in model.variables:
        weight.value.requires_grad_(False)

    class Module(torch.nn.Module):
        def forward(self, images):
            return model(images, training=False)

    wrapped = foolbox.PyTorchModel(Module().eval(), bounds=(0, 1), device="cpu")
    images, truth = torch.from_numpy(x), torch.from_numpy(labels.astype("int64"))
    result = {}
    for name, (attack, epsilon) in attacks(size, small).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = attack(wrapped, images, truth, epsilons=epsilon)[1]
        result[name] = found.detach().numpy().clip(0, 1)
    return result


def adaptive(model, x, labels, size, copies=5, steps=20):
    """IGSM by gradients averaged over deflections and maps; denoising counts as the identity."""
    import torch

    truth = torch.from_numpy(labels.astype("int64"))
    current = x.copy()
    for step in range(steps):
        total = 0
        for copy in range(copies):
            changed, rows, columns = _traced(current, size.best, 1000 * step + copy)
            denoised = imaging.wavelet_denoise(changed, size.best["sigma"])
            tensor = torch.from_numpy(denoised).requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(model(tensor, training=False), truth)
            gradient = torch.autograd.grad(loss, tensor)[0].numpy()
            # A deflected pixel's gradient belongs to the pixel that it was taken from.
            numbers = np.arange(len(x))[:, None, None]
            back = np.zeros_like(x)
            np.add.at(back, (numbers, rows, columns), gradient)
            total = total + back
        current = current + 2.5 * size.epsilon / steps * np.sign(total)
        current = np.clip(current, x - size.epsilon, x + size.epsilon)
        current = np.clip(current, 0, 1).astype("float32")
    return current


def _traced(x, best, seed):
    """Deflected images, and the row and column that each of their pixels was taken from."""
    places = np.stack(np.mgrid[: x.shape[1], : x.shape[2]], axis=-1).astype("float32")
    places = np.broadcast_to(places, (*x.shape[:3], 2))
    joined = np.concatenate([x, places], axis=-1)
    changed = imaging.pixel_deflection(joined, None, best["deflections"], best["window"], seed)
    rows, columns = changed[..., -2].astype(int), changed[..., -1].astype(int)
    return np.ascontiguousarray(changed[..., :-2]), rows, columns


def lenet5(seed, count, small):
    """A network, the same without its softmax, and images that it has right."""
    model = networks.trained("LeNet-5", seed, 1 if small else None)
    x, labels = networks.fashion_mnist()[1]
    x, labels = x[: 2 * count], labels[: 2 * count]
    return model, logits_of(model), *first_right(model, x, labels, count)


def efficientnet(count):
    import pretrained

    network = pretrained.efficientnet_lite0()
    network.layers[-1].activation = keras.activations.linear  # the attacks want logits
    x, labels = pretrained.labelled_pictures()
    # From pixels in [0, 1] to what it was trained on.
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), keras.layers.Rescaling(255 / 128, -127 / 128), network]
    )
    x = ((128 * x + 127) / 255).astype("float32")
    return model, model, *first_right(model, x, labels, count)


def first_right(model, x, labels, count):
    right = np.flatnonzero(model.predict(x, verbose=0).argmax(-1) == labels)[:count]
    return x[right], labels[right]


def measured(seed, count, size, small):
    model, head, x, labels = lenet5(seed, count, small) if size is SMALL else efficientnet(count)
    made = attacked(head, x, labels, size, small)
    made["averages over the defence"] = adaptive(
        head, x, labels, size, **({} if size is SMALL else {"copies": 3, "steps": 10})
    )
    sets = {"clean": x, **made}
    everything = np.concatenate(list(sets.values()))
    # One map per image for all defences: what the map is of does not depend on them.
    maps = saliency_map(model, everything, "robust_cam")
    plain = (model.predict(everything, verbose=0).argmax(-1)).reshape(len(sets), -1) != labels
    rows = []
    for name, arguments in defences(size).items():
        if callable(arguments):
            found = voted(model, everything, maps, arguments, seed)
        else:
            used = None if arguments.get("maps", 1) is None else maps
            arguments = {**arguments, "maps": used, "seed": seed}
            found = imaging.defend(model, everything, **arguments)[1]
        right = found.reshape(len(sets), -1) == labels
        rows.append({"defence": name, "seed": seed, "clean": 100 * right[0].mean()})
        for i, attack in enumerate(made, 1):
            fooled = plain[i]
            rows[-1][attack] = 100 * right[i][fooled].mean() if fooled.any() else float("nan")
    sizes, fooled = {}, {}
    for i, (attack, images) in enumerate(made.items(), 1):
        distance = np.sqrt(((images - x) ** 2).sum(axis=(1, 2, 3)))
        sizes[attack] = float(distance[plain[i]].mean()) if plain[i].any() else float("nan")
        fooled[attack] = float(plain[i].mean())
    return rows, sizes, fooled


def main():
    options = runner.arguments(__doc__.splitlines()[0], seeds=3, images=40, jobs=1, photographs=0)
    size, name = SMALL, "defence"
    if options.photographs:
        size, name = LARGE, "defence_photographs"
        options.seeds, options.images = 1, options.photographs
    elif options.small:
        options.seeds, options.images = 1, 20
    found = Parallel(n_jobs=options.jobs)(
        delayed(measured)(seed, options.images, size, options.small)
        for seed in range(options.seeds)
    )
    rows = [row for of_seed, _, _ in found for row in of_seed]
    sizes, fooled = [size for _, size, _ in found], [share for _, _, share in found]
    groups = pd.DataFrame(rows).drop(columns="seed").groupby("defence", sort=False)
    mean, spread = groups.mean(), groups.std()
    table = mean.copy().astype("object")
    for column in mean:
        table[column] = [
            f"{m:.1f}" if np.isnan(s) else f"{m:.1f} ± {s:.1f}"
            for m, s in zip(mean[column], spread[column], strict=True)
        ]
    share = pd.DataFrame(fooled).mean()
    far = pd.DataFrame(sizes).mean()
    told = "; ".join(f"{a} {100 * share[a]:.0f} % and {far[a]:.2f}" for a in share.index)
    what = (
        f"""LeNet-5 on Fashion-MNIST, {options.seeds} seeds of training, mean and standard
        deviation; the first {options.images} test images that the network has right"""
        if size is SMALL
        else f"""EfficientNet-Lite0, pretrained; the first {options.images} of foolbox's twenty
        pictures that it has right, one run"""
    )
    adapted = "20 steps, 5 draws each" if size is SMALL else "10 steps, 3 draws each"
    runner.write(
        name,
        table.reset_index(),
        notes=f"""{what}. `clean` is
        the share still right behind the defence, the other columns the destruction rate: of the
        images that an attack turned wrong, the share that the defence turns right, in %. FGSM,
        IGSM and the attack that averages over the defence ({adapted}, its own
        deflections drawn without a map) change a pixel by {size.epsilon:.3g} at most. Share of
        images turned wrong without a defence, and mean L2 distance of those: {told}.""",
        small=options.small,
    )


if __name__ == "__main__":
    main()
