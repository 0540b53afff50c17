"""Assign many variables so that they are never half in force."""

import contextlib

from keras_saliency.layers.masked.base import masked_in_place


def assign_all(jobs):
    """Assign everything, even if interrupted in between: masks are never half in force."""
    jobs = list(jobs)
    done = 0
    try:
        for done, job in enumerate(jobs):  # noqa: B007
            _assign(*job)
        done = len(jobs)
    except BaseException:
        for job in jobs[done:]:
            with contextlib.suppress(Exception):
                _assign(*job)
        raise


def _assign(variable, value, mask=None):
    variable.assign(value if mask is None else masked_in_place(variable, mask))
