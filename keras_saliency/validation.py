"""The checks that several arguments share. Each names the argument, and returns its plain value."""

import math
import numbers
import reprlib

import numpy as np

DATA_FORMATS = ("channels_last", "channels_first")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 120


class ArgumentTypeError(TypeError, ValueError):
    """An argument of a type that cannot be meant: a TypeError, and a ValueError as in Keras."""


def wrong(name, expected, value, error=ValueError):
    """The error that says what an argument must be and what it was."""
    return error(f"`{name}` must be {expected}. Received: {name}={_repr.repr(value)}")


def integer(name, value, minimum=1, maximum=None, optional=False):
    """Return an integer argument as an int.

    Args:
        name: Name of the argument.
        value: What the user passed: any integer but a bool.
        minimum, maximum: Bounds, inclusive; `None` for none.
        optional: Whether `None` is legal too, and returned as it is.
    """
    if value is None and optional:
        return None
    what = "an integer" + _bounds(minimum, maximum) + (", or None" if optional else "")
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise wrong(name, what, value, ArgumentTypeError)
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        raise wrong(name, what, value)
    return int(value)


def seed(value, name="seed"):
    """Return a seed as an int, or None: an integer that every generator takes."""
    return integer(name, value, minimum=0, maximum=2**32 - 1, optional=True)


def number(name, value, minimum=None, maximum=None, above=False, below=False, optional=False):
    """Return a finite number as a float.

    Args:
        name, value, minimum, maximum, optional: As for `integer`.
        above, below: Whether the minimum, or the maximum, is itself excluded.
    """
    if value is None and optional:
        return None
    what = "a number" + _bounds(minimum, maximum, above, below) + (", or None" * optional)
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise wrong(name, what, value, ArgumentTypeError)
    try:
        result = float(value)
    except OverflowError as error:  # a huge integer
        raise wrong(name, what, value) from error
    low = minimum is not None and (result < minimum or (above and result == minimum))
    high = maximum is not None and (result > maximum or (below and result == maximum))
    if low or high or not math.isfinite(result):
        raise wrong(name, what, value)
    return result


def boolean(name, value):
    """Return a flag as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise wrong(name, "True or False", value, ArgumentTypeError)
    return bool(value)


def choice(name, value, choices):
    """Return `value` if it is one of `choices`."""
    for known in choices:
        # By type first: an array compares element by element.
        if value is known or (type(value) is type(known) and value == known):
            return value
    raise wrong(name, f"one of {', '.join(map(repr, choices))}", value)


def array(name, value, ranks=None, finite=False, empty=False):
    """Return numbers as a NumPy array in the machine's own byte order.

    Args:
        name: Name of the argument.
        value: An array, a tensor of any backend, a pandas object, nested lists, or a number.
        ranks: Integers, the numbers of axes that are legal; `None` for any.
        finite: Whether NaN and infinity are errors.
        empty: Whether there may be no element at all.

    Returns:
        An array of a real or boolean dtype.
    """
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()
    try:
        result = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, say
        raise wrong(name, "an array of numbers", value, ArgumentTypeError) from error
    if result.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        result = result.astype("float32")
    if result.dtype.kind not in "biuf":
        raise ArgumentTypeError(
            f"`{name}` must be an array of real numbers. Received: {type(value).__name__} of dtype "
            f"{result.dtype}; convert it, with numpy.asarray({name}, 'float32') say"
        )
    if ranks is not None and result.ndim not in ranks:
        axes = " or ".join(map(str, ranks))
        raise ValueError(f"`{name}` must have {axes} axes. Received: shape={result.shape}")
    if not empty and 0 in result.shape:
        raise ValueError(f"`{name}` must not be empty. Received: shape={result.shape}")
    if finite and result.dtype.kind == "f" and not np.isfinite(result).all():
        bad = np.argwhere(~np.isfinite(result))
        raise ValueError(
            f"`{name}` must be finite. Received NaN or infinity at {len(bad)} of {result.size} "
            f"places, first at {tuple(bad[0].tolist())}"
        )
    return result.astype(result.dtype.newbyteorder("="), copy=False)


def data_format(value):
    """Return `"channels_last"` or `"channels_first"`, for None Keras's setting."""
    if value is None:
        import keras

        return keras.config.image_data_format()
    return choice("data_format", value, DATA_FORMATS)


def _bounds(minimum, maximum, above=False, below=False):
    parts = []
    if minimum is not None:
        parts.append(f"{'>' if above else '>='} {minimum}")
    if maximum is not None:
        parts.append(f"{'<' if below else '<='} {maximum}")
    return " " + " and ".join(parts) if parts else ""
