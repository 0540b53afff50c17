"""Masks of sequences, and what is passed for one by mistake."""


def check_mask(mask, shape, hint):
    """Raise an error unless `mask` is `None` or fits a sequence.

    Args:
        mask: Tensor or `None`.
        shape: Shape of the sequence, `(batch, time, ...)`.
        hint: What to do if a second input was meant: as the second positional argument it arrives
            as the mask.
    """
    if mask is None:
        return
    found, expected = tuple(mask.shape), tuple(shape[:2])
    known = [(a, b) for a, b in zip(found, expected, strict=False) if None not in (a, b)]
    if len(found) != 2 or any(a not in (1, b) for a, b in known):
        raise ValueError(
            f"`mask` must be a boolean tensor of shape (batch, time), {expected} here. "
            f"Received: shape={found}. {hint}"
        )
