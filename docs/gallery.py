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
