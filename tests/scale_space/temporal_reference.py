"""Events and saliency of one series, from the equations of G 2.1.2 and 6.4, with plain loops."""

import math

import numpy as np


def gaussian(variance):
    """The discrete analogue of the Gaussian: the solution of the discrete diffusion equation."""
    n = 256
    frequency = 2 * np.pi * np.arange(n) / n
    return np.fft.fftshift(np.fft.ifft(np.exp(variance * (np.cos(frequency) - 1))).real)[1:]


def smooth(series, variance):
    return np.convolve(series, gaussian(variance), mode="same") if variance > 1e-12 else series


def scale_space(series, octaves, scales, sigma0):
    """List over octaves of (scales + 3, steps), and of the octaves' differences."""
    margin = 256 * 2 ** (octaves - 1)
    wide = np.concatenate([np.full(margin, series[0]), series, np.full(margin + 1, series[-1])])
    result = []
    for o in range(octaves):
        variances = [(sigma0 * 2 ** (s / scales)) ** 2 for s in range(scales + 3)]
        if o == 0:
            levels = [smooth(wide, v) for v in variances]
        else:
            # From the octave below: in its steps, variances are fourfold, the average of two
            # steps does 1/4, and its own series is smoothed to sigma0 (the first one not at all).
            inherited = sigma0**2 if o > 1 else 0.0
            levels = [smooth(wide, 4 * v - inherited - 0.25) for v in variances]
            levels = [(x[0 : len(x) // 2 * 2 : 2] + x[1::2]) / 2 for x in levels]
            wide = levels[0]
        steps, start = len(series) // 2**o, margin // 2**o
        result.append(np.array(levels)[:, start : start + steps])
    return result


def events(
    series,
    octaves=3,
    scales=3,
    sigma0=0.5,
    contrast_threshold=0.005,
    theta=1.0,
    amplitude="mean",
    **_,
):
    """List of (time, octave, scale, sigma, amplitude)."""
    found = []
    times = np.arange(len(series))
    for o, levels in enumerate(scale_space(series, octaves, scales, sigma0)):
        d = np.diff(levels, axis=0)
        for s in range(1, scales + 1):
            for t in range(1, d.shape[1] - 1):
                value = d[s, t]
                window = d[s - 1 : s + 2, t - 1 : t + 2].ravel()
                others = np.delete(window, 4)
                if abs(value) < contrast_threshold or value == 0:
                    continue
                # Only a positive value can be a maximum, a negative one a minimum: elsewhere
                # diffusion leaves none.
                if np.sign(value) * value <= theta * max(np.sign(value) * others):
                    continue
                sigma = sigma0 * 2 ** (o + s / scales)
                time = 2**o * t + (2**o - 1) / 2
                near = np.abs(times - time) <= 3 * sigma + 1e-9
                height = {
                    "mean": series[near].mean(),
                    "center": (series[math.floor(time)] + series[math.ceil(time)]) / 2,
                    "unit": 1.0,
                }[amplitude]
                found.append((time, o, s, sigma, height))
    return found


def saliency(series, cut=False, **arguments):
    times = np.arange(len(series))
    total = np.zeros(len(series))
    for time, _, _, sigma, height in events(series, **arguments):
        bell = np.exp(-((times - time) ** 2) / (2 * sigma**2))
        if cut:
            bell[np.abs(times - time) > 3 * sigma + 1e-9] = 0
        total += height * bell
    return total


def batch_saliency(x, **arguments):
    return np.stack(
        [
            np.stack([saliency(x[b, :, v], **arguments) for v in range(x.shape[2])], axis=1)
            for b in range(x.shape[0])
        ]
    )
