"""The checks that several arguments share. Each names the argument, and returns its plain value."""

import functools
import inspect
import math
import numbers
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import numpy as np

from keras_saliency.typing import DataFormat

DATA_FORMATS = get_args(DataFormat)
_LARGEST = float(np.finfo("float32").max)

_Function = TypeVar("_Function", bound=Callable[..., Any])

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
    if abs(result) > _LARGEST:  # a backend would say so without the name, or make it infinite
        raise wrong(name, f"{what}, at most {_LARGEST:.1e} in size, as float32 holds", value)
    return result


def boolean(name, value):
    """Return a flag as a bool; 0 and 1 are flags too."""
    if isinstance(value, numbers.Integral | np.bool_) and value in (0, 1):
        return bool(value)
    raise wrong(name, "True or False", value, ArgumentTypeError)


def choice(name, value, choices):
    """Return `value` if it is one of `choices`."""
    for known in choices:
        # By type first: an array compares element by element.
        if value is known or (type(value) is type(known) and value == known):
            return value
    raise wrong(name, f"one of {', '.join(map(repr, choices))}", value)


def array(name, value, ranks=None, finite=False, empty=False) -> np.ndarray:
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


def text(name, value, optional=True):
    """Return a string, or None."""
    if isinstance(value, str) or (optional and value is None):
        return value
    raise wrong(name, "a string" + ", or None" * optional, value, ArgumentTypeError)


def arguments_of(name, value):
    """Return a dict from names to arguments, empty for None."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise wrong(name, "a dict from names to arguments, or None", value, ArgumentTypeError)
    return dict(value)


def activation(name, value):
    """Return what names an activation, or is one."""
    import keras

    try:
        keras.activations.get(value)
    except (ValueError, TypeError) as error:
        raise wrong(name, "the name of an activation, or a callable", value) from error
    return value


def shape(name, value, what):
    """Return the shape of a sample as a tuple; extents may be None.

    Args:
        name, value: As above.
        what: The names of the axes, such as `("time", "variates")`; the last one, or with images
            the channels, are checked by the caller.
    """
    expected = f"({', '.join(what)}), positive integers, or None for an extent that is not known"
    result = items(name, value)
    if len(result) != len(what):
        raise wrong(name, expected, value)
    for n in result:
        if n is not None and (isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1):
            raise wrong(name, expected, value)
    return tuple(None if n is None else int(n) for n in result)


def items(name, value):
    """Return what a list, a tuple or an array holds, as a list."""
    if not isinstance(value, str | bytes | dict | set):
        try:
            return list(value)
        except TypeError:
            pass
    raise wrong(name, "a list", value, ArgumentTypeError)


def sizes(name, value):
    """Return integers >= 1, at least one of them, as a tuple."""
    result = tuple(integer(name, one) for one in items(name, value))
    if not result:
        raise wrong(name, "one or more integers >= 1", value)
    return result


def pair(name, value):
    """Return a positive integer, twice, or two of them, as a tuple: sizes along two axes."""
    expected = "a positive integer or a pair of them"
    if isinstance(value, numbers.Integral):
        value = (value, value)
    try:
        result = tuple(value)
    except TypeError as error:
        raise wrong(name, expected, value) from error
    if len(result) != 2 or any(
        isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1 for n in result
    ):
        raise wrong(name, expected, value)
    return tuple(int(n) for n in result)


# ---- in one declarative place ----------------------------------------------------------------


def checked(**rules: Callable[[str, Any], Any]) -> Callable[[_Function], _Function]:
    """Decorate a function so that its arguments are checked before it begins.

    Args:
        **rules: By the name of an argument, a function of `(name, value)` that returns the plain
            value or raises an error. Defaults are not checked.

    Example:

    >>> from keras_saliency import validation
    >>> @validation.checked(sigma=validation.real(0, above=True), octaves=validation.whole(1))
    ... def smooth(sigma, octaves=3):
    ...     return sigma * octaves
    >>> smooth(2)
    6.0
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            for name, rule in rules.items():
                if name in bound.arguments:
                    bound.arguments[name] = rule(name, bound.arguments[name])
            return function(*bound.args, **bound.kwargs)

        wrapper.__signature__ = signature
        return wrapper

    return decorate


def whole(minimum=1, maximum=None, optional=False):
    """A rule: `integer`."""
    return lambda name, value: integer(name, value, minimum, maximum, optional)


def real(minimum=None, maximum=None, above=False, below=False, optional=False):
    """A rule: `number`."""
    return lambda name, value: number(name, value, minimum, maximum, above, below, optional)


def share(name, value):
    """A rule: a number in [0, 1)."""
    return number(name, value, 0, 1, below=True)


def one_of(*choices):
    """A rule: `choice`."""
    return lambda name, value: choice(name, value, choices)


def numbers_in(ranks=None, finite=False, empty=False):
    """A rule: `array`."""
    return lambda name, value: array(name, value, ranks, finite, empty)


def seeds(name, value):
    """A rule: `seed`."""
    return seed(value, name)


def _bounds(minimum, maximum, above=False, below=False):
    parts = []
    if minimum is not None:
        parts.append(f"{'>' if above else '>='} {minimum}")
    if maximum is not None:
        parts.append(f"{'<' if below else '<='} {maximum}")
    return " " + " and ".join(parts) if parts else ""
