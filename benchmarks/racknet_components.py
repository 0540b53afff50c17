"""How many components? Criteria for RACKNet's mixtures, on known mixtures and real entropies.

The count that each criterion chooses of 1 to 6, and the seconds it takes, at 500 to 100 000
values. BIC, AIC and ICL judge the same scikit-learn mixtures of all values; the silhouette judges
their groups on 2000 values; the Dirichlet process is scikit-learn's, counting components with at
least 1 % of the values. "quantiles" is what the library does: BIC for 250 quantiles.
"""

import time
import warnings

import numpy as np
import pandas as pd
import runner
from racknet_stability import load
from sklearn.metrics import silhouette_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from keras_saliency import RACKNet
from keras_saliency.racknet.components import find_components

SIZES = (500, 5_000, 20_000, 100_000)
LARGEST = 6


def known(components):
    """Entropies of `components` Gaussians of unlike width and weight, three to five sigma apart."""
    rng = np.random.default_rng(components)
    stds = rng.uniform(0.15, 0.3, components)
    means = 1.5 + np.cumsum(stds * rng.uniform(3.0, 5.0, components))
    weights = rng.dirichlet(np.full(components, 8.0))

    def draw(count):
        chosen = rng.choice(components, count, p=weights)
        return np.clip(rng.normal(means[chosen], stds[chosen]), 0, 7.99)

    return draw


def real(name, octave):
    """Entropies of an octave of images, read back from its histogram."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statistics = RACKNet.analyze(
            load(name, 6_000), engine="opencv", n_jobs=OPTIONS.jobs, verbose=0
        )
    histogram = np.array(statistics.octaves[octave].histogram)
    rng = np.random.default_rng(0)

    def draw(count):
        bins = rng.choice(len(histogram), count, p=histogram / histogram.sum())
        return (bins + rng.uniform(size=count)) * statistics.bin_size

    return draw


def criteria(values):
    """Yield (criterion, count, seconds)."""
    column = values[:, None]
    start = time.perf_counter()
    fits = [
        GaussianMixture(k, reg_covar=0.0025, random_state=0).fit(column)
        for k in range(1, LARGEST + 1)
    ]
    fitting = time.perf_counter() - start

    def icl(mixture):
        p = mixture.predict_proba(column)
        return mixture.bic(column) - 2 * np.sum(p * np.log(np.maximum(p, 1e-300)))

    few = np.random.default_rng(0).permutation(column)[:2000]

    def silhouette(mixture):
        groups = mixture.predict(few)
        return -silhouette_score(few, groups) if len(np.unique(groups)) > 1 else 0.0

    for name, judge in (
        ("BIC", lambda m: m.bic(column)),
        ("AIC", lambda m: m.aic(column)),
        ("ICL", icl),
        ("silhouette", silhouette),
    ):
        start = time.perf_counter()
        count = int(np.argmin([judge(m) for m in fits])) + 1
        yield name, count, fitting + time.perf_counter() - start
    start = time.perf_counter()
    process = BayesianGaussianMixture(
        n_components=LARGEST,
        weight_concentration_prior_type="dirichlet_process",
        random_state=0,
    ).fit(column)
    count = f"{np.sum(process.weights_ > 0.01)}{'' if process.converged_ else ' (unfinished)'}"
    yield "Dirichlet process", count, time.perf_counter() - start
    start = time.perf_counter()
    histogram = np.bincount((values / 0.01).astype(int))
    yield (
        "quantiles",
        len(find_components(histogram, max_components=LARGEST).means),
        time.perf_counter() - start,
    )


def main():
    sizes = SIZES[:1] if OPTIONS.small else SIZES
    sources = {f"{k} Gaussians": lambda k=k: known(k) for k in range(1, 3 if OPTIONS.small else 6)}
    if not OPTIONS.small:
        for name, octave in (("digits, 28", 0), ("digits, 28", 2), ("12 photographs, 32", 1)):
            sources[f"{name}, octave {octave}"] = lambda n=name, o=octave: real(n, o)
    rows = []
    for source, make in sources.items():
        draw = make()
        found = {}
        for size in sizes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for name, count, seconds in criteria(draw(size)):
                    found.setdefault(name, []).append((count, seconds))
            print(source, size, {k: v[-1] for k, v in found.items()}, flush=True)
        for name, values in found.items():
            rows.append(
                {
                    "entropies": source,
                    "criterion": name,
                    **{f"{size} values": v[0] for size, v in zip(sizes, values, strict=True)},
                    "seconds for the most": round(values[-1][1], 2),
                }
            )
    runner.write(
        "racknet_components",
        pd.DataFrame(rows),
        notes=(
            "Chosen number of components, of at most 6, against the number of values. The "
            "Gaussians are three to five sigma apart, of unlike width and weight. "
            "Command: racknet_components.py."
        ),
        small=OPTIONS.small,
    )


if __name__ == "__main__":
    OPTIONS = runner.arguments(__doc__.splitlines()[0], jobs=-1)
    main()
