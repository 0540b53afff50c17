"""Compile settings, carried from one model to another."""

import inspect
import logging

import keras

_logger = logging.getLogger("keras_saliency")


def copy_compile(model, new):
    """Compile `new` the way `model` is compiled, with an optimizer of its own.

    The objects that were handed to `compile` are used, not their configs, so that nothing of the
    user's own need be registered. Metrics and the optimizer, which have a state, are made anew.

    Args:
        model: A `keras.Model`; where it is not compiled, nothing happens.
        new: The model to compile.
    """
    if not getattr(model, "compiled", False) or getattr(model, "_compile_config", None) is None:
        return
    options = {}
    try:
        for key, value in model._compile_config.config.items():
            if key == "optimizer" and isinstance(model.optimizer, keras.optimizers.Optimizer):
                value = type(model.optimizer).from_config(model.optimizer.get_config())
            elif key in ("metrics", "weighted_metrics", "loss"):
                value = _fresh(value)
            options[key] = value
        accepted = inspect.signature(new.compile).parameters
        new.compile(**{k: v for k, v in options.items() if k in accepted})
    except Exception as error:
        _logger.warning(
            "The copy of '%s' is not compiled: its optimizer or a metric cannot be made again from "
            "its config (%s). Call compile() on it.",
            model.name,
            error,
        )


def _fresh(value):
    """Metrics count, so a second model needs its own; losses and functions are shared."""
    if isinstance(value, dict):
        return {k: _fresh(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fresh(v) for v in value)
    if isinstance(value, keras.metrics.Metric):
        return type(value).from_config(value.get_config())
    return value
