"""How the examples become pages; `conf.py` names these functions to sphinx-gallery."""

import os

import keras

# `EXAMPLES=full sphinx-build ...` runs them as a reader would, for minutes; otherwise for seconds.
FULL = os.environ.get("EXAMPLES") == "full"


def arguments(gallery_conf, script_vars):
    """The command line of a script that takes one."""
    with open(script_vars["src_file"], encoding="utf-8") as file:
        takes_small = '"--small"' in file.read()
    return ["--small"] if takes_small and not FULL else []


def fresh(gallery_conf, fname):
    """What an example leaves behind is not the next one's."""
    keras.utils.clear_session()
    keras.config.set_dtype_policy("float32")


# As the home page takes its jobs; what is not named comes last.
ORDER = [
    "quickstart",
    "sparsify_a_model",
    "smaller_and_faster",
    "smaller_transformer",
    "sparse_training",
    "custom_loop",
    "better_filters",
    "look_at_a_model",
    "find_every_object",
    "semantic_jpeg",
    "dream",
    "gesture_recognition",
    "long_series",
    "forecasting",
    "which_backbone",
    "design_a_network",
]


class ByJob:
    """The place of an example in the gallery."""

    def __init__(self, src_dir):
        pass

    def __call__(self, filename):
        name = filename.removesuffix(".py")
        return ORDER.index(name) if name in ORDER else len(ORDER)
