"""The sparsity that is asked for: of what, in what grain, and how much of each kernel."""

import numbers

import numpy as np


def check_sparsity(value, argument="sparsity"):
    """Returns `value` as a float in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.generic)):
        raise TypeError(f"`{argument}` must be a number in [0, 1). Received: {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"`{argument}` must lie in [0, 1). Received: {value!r}")
    return float(value)


def check_granularity(granularity):
    """Returns `"edge"`, `"channel"`, `"head"` or the pair (n, m)."""
    if isinstance(granularity, str) and granularity in ("edge", "channel", "head"):
        return granularity
    pair = granularity
    if (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in pair)
        and 0 < pair[0] < pair[1]
    ):
        return int(pair[0]), int(pair[1])
    raise ValueError(
        "`granularity` must be 'edge', 'channel', 'head', or a pair (n, m) with 0 < n < m that "
        f"keeps n of every m neighbors. Received: granularity={granularity!r}"
    )


def resolve_targets(kernels, sparsity):
    """Target sparsity of each kernel.

    Args:
        kernels: What `maskable_kernels` found.
        sparsity: A number in [0, 1) for all; a dict from layer name, path or kernel key to a
            number (what is not named stays dense); or a function of the layer.

    Returns:
        A dict from kernel key to a float in [0, 1); kernels that stay dense are left out when
        the dict or the function gives `None` for them.

    Raises:
        ValueError: If a value lies outside [0, 1), or a name is not found.
    """
    if isinstance(sparsity, dict):
        targets, unused = {}, set(sparsity)
        for kernel in kernels:
            for name in (kernel.key, kernel.path, kernel.layer.name):
                if name in sparsity:
                    unused.discard(name)
                    if kernel.key not in targets and sparsity[name] is not None:
                        targets[kernel.key] = check_sparsity(sparsity[name], f"sparsity[{name!r}]")
        if unused:
            raise ValueError(
                f"`sparsity` names {sorted(map(str, unused))}, which are no maskable layers of the "
                f"model. Maskable are: {', '.join(kernel.key for kernel in kernels)}"
            )
        return targets
    if callable(sparsity):
        values = {kernel.key: sparsity(kernel.layer) for kernel in kernels}
        return {
            key: check_sparsity(value, f"sparsity of {key!r}")
            for key, value in values.items()
            if value is not None
        }
    value = check_sparsity(sparsity)
    return {kernel.key: value for kernel in kernels}
