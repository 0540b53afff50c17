"""What pruning without labels and without training keeps of MiniLM's vectors of sentences.

    KERAS_BACKEND=torch python benchmarks/minilm.py [--only WAY|...] [--budgets BUDGET,...]
        [--sentences 256] [--seeds 0] [--small]

all-MiniLM-L6-v2 as KerasHub's BERT (`benchmarks/sentences.py`), 256 sentences of the standard
library's docstrings to fit on, others from other files to test on, and sentences of another kind.
`cosine` is between a sentence's vectors by the dense and by the pruned model, `rank` Spearman's
correlation of the similarities of all pairs. The tables of tokens, positions and segments stay
dense, and take no part in shares. A refit of single weights takes some minutes of a core, the
whole about an hour. Rows that are there are skipped.
"""

import time

import networks
import numpy as np
import runner
import sentences

import keras_saliency
from keras_saliency.sparsity import count_operations

TABLES = "*_embedding"
ALONE = {"reconstruct": False}
MASKS = {
    "magnitude": {"method": "magnitude", **ALONE},
    "Wanda": {"method": "wanda", **ALONE},
    "iSparse": {"method": "isparse", **ALONE},
    "refit (default)": {},
    "Wanda, refit": {"method": "wanda"},
    "same share in each layer, refit": {"scope": "layer"},
}
NARROW = {
    "magnitude": {"method": "magnitude", **ALONE},
    "iSparse": ALONE,
    "refit (default)": {},
    "magnitude, refit": {"method": "magnitude"},
}
# `uniform`: feed-forward layers alone, in a model of the same class.
BUDGETS = {
    "50 % zeros": (MASKS, {"share": 0.5}),
    "2:4": (MASKS, {"share": 0.5, "granularity": (2, 4)}),
    "70 % zeros": (MASKS, {"share": 0.7}),
    "0.75 of the operations": (NARROW, {"flops": 0.75, "uniform": True}),
    "0.67 of the operations": (NARROW, {"flops": 0.67, "uniform": True}),
}
MEASURED = [
    *("operations", "cosine", "worst of 20", "rank"),
    *("cosine elsewhere", "rank elsewhere", "seconds"),
]
NOTES = (
    "No labels, no training. `seconds` are of a core, on a machine that was busy otherwise. "
    "`worst of 20`: the cosine that a sentence in twenty falls below. `elsewhere`: sentences from "
    "descriptions of data sets."
)


def agreement(wanted, given):
    """Mean cosine, its 5 % quantile, and the correlation of the ranks of similarities."""
    from scipy.stats import spearmanr

    cosines = (wanted * given).sum(-1)
    pairs = np.triu_indices(len(wanted), 1)
    rank = spearmanr((wanted @ wanted.T)[pairs], (given @ given.T)[pairs]).statistic
    return float(cosines.mean()), float(np.quantile(cosines, 0.05)), float(rank)


def pruned(model, data, budget, options):
    if "share" in budget:
        budget = dict(budget)
        share = budget.pop("share")
        return keras_saliency.sparsify(
            model, share, data=data, exclude=TABLES, verbose=False, **budget, **options
        )
    return keras_saliency.shrink_to(model, data=data, verbose=False, **budget, **options)


def main():
    options = runner.arguments(
        __doc__, only="", sentences=256, budgets=",".join(BUDGETS), seeds="0"
    )
    model = networks.minilm()
    shapes = [(1, sentences.LENGTH)] * 3
    table = runner.Rows("minilm", NOTES, options.small)
    for seed in map(int, options.seeds.split(",")):
        counts = (32, 32) if options.small else (options.sentences, 400)
        data, *tests = map(sentences.tokens, networks.sentences(*counts, seed=seed))
        wanted = [sentences.vectors(model, x) for x in tests]
        for title in options.budgets.split(","):
            ways, budget = BUDGETS[title]
            chosen = [w for w in ways if w in (options.only or w).split("|")]
            for way in chosen[:1] if options.small else chosen:
                subject = {"seed": seed, "sentences": counts[0], "budget": title, "way": way}
                if len(table.find(**subject)):
                    continue
                start = time.process_time()
                small = pruned(model, data, budget, ways[way])
                seconds = time.process_time() - start
                share = count_operations(small, shapes) / count_operations(model, shapes)
                given = [sentences.vectors(small, x) for x in tests]
                here, there = map(agreement, wanted, given)
                found = [share, *here, there[0], there[2], seconds]
                table.add(subject | dict(zip(MEASURED, found, strict=True)))


if __name__ == "__main__":
    main()
