"""What every saliency method costs on ResNet-50: time beside a prediction and a peer, and memory.

    OMP_NUM_THREADS=1 KERAS_BACKEND=torch taskset -c 0 python benchmarks/attribution_methods.py
    OMP_NUM_THREADS=1 KERAS_BACKEND=jax python benchmarks/attribution_methods.py --first ResNet50

All methods in one process, rows of 224 x 224 pixels, random weights, which cost what trained ones
cost. Methods of many samples take few here, and a row says how many: their time and that of their
peers grows with them in proportion, their memory does not. Peers are captum and pytorch-grad-cam on
PyTorch, and gradients written by hand on TensorFlow and JAX (`attribution_cost.py`, which also says
how far maps differ). Seconds are the CPU's, since a clock on a busy machine counts others' work.
Each finished row is kept at once; rows that are there are skipped. `--first` is what a user waits
for in a fresh process: the first Grad-CAM of one image with a model of keras.applications.
"""

import functools
import time

import keras
import numpy as np
import runner
from attribution_cost import CLASS, LAYER, jax_peers, network, tensorflow_peers, torch_channels

from keras_saliency import saliency_map

ROWS = 4  # pass through the network at once
SAMPLES = 8
MANY = {
    "smooth_grad": {"samples": SAMPLES},
    "smooth_taylor": {"samples": SAMPLES},
    "integrated_gradients": {"steps": SAMPLES},
    "expected_gradients": {"samples": SAMPLES},
    "score_cam": {"channels": SAMPLES},
    "occlusion": {},  # nine windows of half the extent
    "rise": {"samples": SAMPLES},
}
METHODS = (
    *("prediction", "random", "cam", "grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam"),
    *("eigen_cam", "robust_cam", "gradient", "gradient_x_input", *MANY),
)
# Nothing may grow with the inputs and samples: the same again with more of them.
AGAIN = {
    "prediction": (4, {}),
    "grad_cam": (4, {}),
    "integrated_gradients": (1, {"steps": 4 * SAMPLES}),
}


def torch_by_method(model, x, background):
    """What captum and pytorch-grad-cam have, each with the settings of our row."""
    import captum.attr as captum
    import torch

    module, turn = torch_channels(model)
    import pytorch_grad_cam as cams
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def forward(x):
        return model(x, training=False)

    def cam(name):
        made = getattr(cams, name)(module, [model.get_layer(LAYER)], reshape_transform=turn)
        first = torch.tensor(x).permute(0, 3, 1, 2)
        targets = [ClassifierOutputTarget(CLASS)] * len(x)
        return lambda: made(input_tensor=first, targets=targets)

    def attribute(peer, count, **options):
        def run():
            values = torch.tensor(x[:count], requires_grad=True)
            return peer.attribute(values, target=CLASS, **options).detach().numpy()

        return run

    noisy = {"nt_samples": SAMPLES, "nt_samples_batch_size": ROWS, "stdevs": 0.3}
    path = {"n_steps": SAMPLES, "method": "riemann_middle", "internal_batch_size": ROWS}
    half = x.shape[1] // 2
    drawn = {"baselines": torch.tensor(background), "n_samples": SAMPLES, "stdevs": 0.0}
    window = {
        "sliding_window_shapes": (half, half, 3),
        "strides": (half // 2, half // 2, 3),
        "perturbations_per_eval": ROWS,
    }
    every, saliency = len(x), captum.Saliency(forward)
    return {
        "grad_cam": ("pytorch-grad-cam", cam("GradCAM")),
        "grad_cam_plus_plus": ("pytorch-grad-cam", cam("GradCAMPlusPlus")),
        "hires_cam": ("pytorch-grad-cam", cam("HiResCAM")),
        "layer_cam": ("pytorch-grad-cam", cam("LayerCAM")),
        "eigen_cam": ("pytorch-grad-cam", cam("EigenCAM")),
        "gradient": ("captum", attribute(saliency, every)),
        "gradient_x_input": ("captum", attribute(captum.InputXGradient(forward), every)),
        "smooth_grad": ("captum", attribute(captum.NoiseTunnel(saliency), 1, **noisy)),
        "integrated_gradients": (
            "captum",
            attribute(captum.IntegratedGradients(forward), 1, **path),
        ),
        "expected_gradients": ("captum", attribute(captum.GradientShap(forward), 1, **drawn)),
        "occlusion": ("captum", attribute(captum.Occlusion(forward), 1, **window)),
    }


def peers_of(model, x, background):
    """Return a dict from a method to its peer's name and call; ours without one are not in it."""
    backend = keras.backend.backend()
    if backend == "torch":
        return torch_by_method(model, x, background)
    peers = {"tensorflow": tensorflow_peers, "jax": jax_peers}[backend]
    cam, integrated = peers(model, x, SAMPLES, ROWS)
    return {"grad_cam": cam, "integrated_gradients": integrated}


def first(name, small):
    """CPU seconds of the first and the second map in this process."""
    model = getattr(keras.applications, name)(weights=None)
    x = np.random.default_rng(0).uniform(-1, 1, (1, *model.input_shape[1:])).astype("float32")
    row = {"model": name}
    for which in ("first", "second"):
        start = time.process_time()
        saliency_map(model, x)
        row[f"{which} map, CPU seconds"] = time.process_time() - start
    notes = "Grad-CAM of one image in a fresh process, no compiled code kept on disk."
    runner.Rows("attribution_first", notes, small).add(row)


def main():
    options = runner.arguments(
        __doc__.splitlines()[0], images=ROWS, repeats=3, methods="", first=""
    )
    if options.first:
        return first(options.first, options.small)
    model, x = network(options.small, options.images)
    background = np.random.default_rng(1).uniform(-1, 1, x.shape).astype("float32")
    peers = peers_of(model, x, background)
    table = runner.Rows(
        "attribution_methods",
        f"{ROWS} rows at a time through the network. CPU seconds an image, medians of "
        f"{options.repeats} runs in turn with a prediction of {len(x)} images and with the peer; "
        "of a prediction: of an image by `predict_on_batch`. MiB: the peak beyond what the process "
        "holds before, at the second call, when all is compiled. ResNet-50 has no "
        "attention and no MS-ROI head, so their methods have no row.",
        options.small,
    )

    def predict():
        return model.predict_on_batch(x)

    def measured(method, repeated, given):
        many = method in MANY
        inputs = np.concatenate([x[:1] if many else x] * repeated)
        if method == "occlusion":
            given = {"window": x.shape[1] // 2, "stride": x.shape[1] // 4}
        if method == "expected_gradients":
            given = {**given, "background": background}
        shown = ", ".join(f"{key}={value}" for key, value in given.items() if key != "background")
        shown = shown or "defaults"
        subject = {"method": method, "images": len(inputs), "options": shown}
        if len(table.find(method=method, images=len(inputs), options=shown)):
            return
        if method == "prediction":
            ours = functools.partial(model.predict, inputs, batch_size=ROWS, verbose=0)
        else:
            target = None if method == "robust_cam" else CLASS  # which looks at the highest five
            given = {"target": target, "batch_size": ROWS, **given}
            ours = functools.partial(saliency_map, model, inputs, method, **given)
        tasks = {"ours": ours}
        name = ""
        if method in peers and (repeated, given.get("steps", SAMPLES)) == (1, SAMPLES):
            name, tasks["peer"] = peers[method]
        memory = {}
        for task, run in tasks.items():
            runner.block(run())  # compiles
            memory[task] = runner.working_memory(run) / 2**20
        seconds = runner.cpu_seconds({**tasks, "predict": predict}, options.repeats)
        ours, base = seconds["ours"] / len(inputs), seconds["predict"] / len(x)
        table.add(
            {
                **subject,
                "CPU seconds an image": ours,
                "of a prediction": ours / base,
                "peer": name,
                "of the peer's": seconds["ours"] / seconds["peer"] if name else np.nan,
                "MiB": round(memory["ours"]),
                "the peer's": str(round(memory["peer"])) if name else "",
            }
        )

    predict()
    chosen = options.methods.split(",") if options.methods else METHODS
    for method in chosen:
        measured(method, 1, MANY.get(method, {}))
        if method in AGAIN:
            measured(method, *AGAIN[method])


if __name__ == "__main__":
    main()
