"""Statistics as JSON, with a checksum: a flipped bit must not design another network."""

import dataclasses
import hashlib
import json
import re

_FORMAT = 1


def to_text(statistics):
    """The JSON of a `DatasetStatistics`."""
    data = {"format": _FORMAT, **dataclasses.asdict(statistics)}
    data = {"format": _FORMAT, "checksum": _checksum(data), **data}
    text = json.dumps(data, indent=1, allow_nan=False)
    # One histogram per line instead of a line for every number.
    return re.sub(r"\[[\d\s,.eE+-]*\]", _on_one_line, text)


def from_text(text, statistics, octave, component, sample):
    """The object that the JSON describes.

    Args:
        text: str or bytes (UTF-8).
        statistics, octave, component, sample: The classes to make.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError: whatever is
            wrong with the text.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    data = json.loads(text, parse_constant=_refuse)
    checksum = data.pop("checksum", None)
    if checksum is not None and checksum != _checksum(data):
        raise ValueError(
            "the checksum does not fit, so the contents were changed; if that was on purpose, "
            'leave out the entry "checksum"'
        )
    if data.pop("format") != _FORMAT:
        raise ValueError(f"unknown format, this version reads {_FORMAT}")
    data["octaves"] = tuple(
        octave(
            **{
                **one,
                "components": tuple(component(**c) for c in one["components"]),
                "histogram": tuple(one["histogram"]),
            }
        )
        for one in data["octaves"]
    )
    data["samples"] = tuple(
        sample(**{**one, "keypoints": tuple(map(tuple, one["keypoints"]))})
        for one in data["samples"]
    )
    for name in ("input_shape", "value_range", "settings", "warnings"):
        data[name] = _tuples(data[name])
    return statistics(**data)


def _refuse(constant):
    raise ValueError(f"{constant} is no number")


def _checksum(data):
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _on_one_line(match):
    return re.sub(r"\s+", " ", match.group(0)).replace("[ ", "[").replace(" ]", "]")
