import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale_space import temporal_reference as reference

from keras_saliency import SaliencySeries, scale_space
from keras_saliency.scale_space import (
    gaussian_kernel,
    scale_sigmas,
    temporal_events,
    temporal_extrema,
    temporal_scale_space,
)

COLUMNS = ["batch", "variate", "time", "octave", "scale", "sigma", "amplitude"]


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def walk(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).cumsum(axis=1).astype("float32")


def summed(frame, shape, cut=False):
    total = np.zeros(shape)
    steps = np.arange(shape[1])
    for e in frame.itertuples():
        bell = e.amplitude * np.exp(-((steps - e.time) ** 2) / (2 * e.sigma**2))
        if cut:
            bell[np.abs(steps - e.time) > 3 * e.sigma + 1e-9] = 0
        total[e.batch, :, e.variate] += bell
    return total


# ---- kernels and scale space --------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.5, 1.0, 3.7, 20.0])
def test_kernels_sum_to_one_and_have_their_variance(sigma):
    kernel = gaussian_kernel(sigma, tolerance=1e-12)
    steps = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert (kernel * steps**2).sum() == pytest.approx(sigma**2, rel=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1])


def test_kernel_of_no_width_is_refused():
    with pytest.raises(ValueError, match="sigma"):
        gaussian_kernel(-1.0)
    with pytest.raises(ValueError, match="sigma"):
        gaussian_kernel(float("nan"))


def test_scales_double_with_the_octave():
    sigmas = scale_sigmas(3, 2, 0.7)
    assert sigmas.shape == (3, 5)
    np.testing.assert_allclose(sigmas[1:], 2 * sigmas[:-1])
    np.testing.assert_allclose(sigmas[0], 0.7 * 2 ** (np.arange(5) / 2))


def test_scale_space_matches_the_equations():
    x = walk(2, 53, 3)
    space = temporal_scale_space(x, octaves=3, scales=2, sigma0=0.8)
    assert [a.shape for a in space.smoothed] == [(2, 5, n, 3) for n in (53, 26, 13)]
    expected = reference.scale_space(x[1, :, 2].astype("float64"), 3, 2, 0.8)
    for octave, levels in enumerate(expected):
        np.testing.assert_allclose(space.smoothed[octave][1, :, :, 2], levels, atol=1e-5)
        np.testing.assert_allclose(
            space.differences[octave][1, :, :, 2], np.diff(levels, axis=0), atol=1e-5
        )
    np.testing.assert_allclose(space.times[2], 4 * np.arange(13) + 1.5)


def test_extrema_are_the_events():
    x = walk(2, 61, 2, seed=4)
    space = temporal_scale_space(x)
    frame = temporal_events(x)
    for octave, d in enumerate(space.differences):
        found = temporal_extrema(d)
        b, s, t, v = np.nonzero(found)
        mine = sorted(zip(b, v, space.times[octave][t], s + 1, strict=True))
        rows = frame[frame.octave == octave]
        theirs = sorted(zip(rows.batch, rows.variate, rows.time, rows.scale, strict=True))
        assert mine == theirs


def test_ties_belong_to_the_earlier_step():
    d = np.zeros((1, 3, 9, 1))
    d[0, 1, 3:5, 0] = 1.0
    assert np.argwhere(temporal_extrema(d)).tolist() == [[0, 0, 3, 0]]
    assert not temporal_extrema(np.ones((1, 3, 9, 1))).any()
    whole = np.round(d * 100)  # also where the differences are whole, or unsigned, numbers
    assert (temporal_extrema(whole.astype("int64")) == temporal_extrema(whole)).all()
    assert not temporal_extrema(np.ones((1, 3, 9, 1), "uint8")).any()


# ---- events -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"octaves": 4, "scales": 2, "sigma0": 1.1, "theta": 0.8, "amplitude": "center"},
    ],
    ids=["default", "other"],
)
def test_events_match_the_equations(arguments):
    x = walk(2, 79, 2, seed=1)
    frame = temporal_events(x, **arguments)
    assert list(frame.columns) == COLUMNS
    expected = [
        (b, v, *event)
        for b in range(2)
        for v in range(2)
        for event in reference.events(x[b, :, v].astype("float64"), **arguments)
    ]
    expected = sorted(expected, key=lambda e: (e[0], e[1], e[2], e[5]))
    assert len(frame) == len(expected) > 20
    np.testing.assert_allclose(frame.to_numpy(), np.array(expected), atol=1e-4)


@pytest.mark.parametrize("cut", [False, True])
def test_the_saliency_is_the_sum_over_the_events(cut):
    x = walk(3, 157, 2, seed=2)
    frame = temporal_events(x, octaves=4, cut=cut)
    saliency = numpy(SaliencySeries(octaves=4, cut=cut)(x))
    np.testing.assert_allclose(saliency, summed(frame, x.shape, cut), atol=1e-4, rtol=1e-5)


def test_scale_space_strategy_shows_the_smoothed_series_within_the_scopes():
    x = walk(1, 67, 1, seed=3)
    frame = temporal_events(x, octaves=2, amplitude="scale-space")
    saliency = numpy(SaliencySeries(octaves=2, amplitude="scale-space")(x))
    steps, expected = np.arange(67), np.zeros(67)
    series = x[0, :, 0].astype("float64")
    wide = np.concatenate([np.full(200, series[0]), series, np.full(200, series[-1])])
    for e in frame.itertuples():
        smooth = np.convolve(wide, reference.gaussian(e.sigma**2), mode="same")[200:-200]
        expected += smooth * (np.abs(steps - e.time) <= 3 * e.sigma + 1e-9)
        low, high = int(np.floor(e.time)), int(np.ceil(e.time))
        assert e.amplitude == pytest.approx((smooth[low] + smooth[high]) / 2, abs=1e-4)
    np.testing.assert_allclose(saliency[0, :, 0], expected, atol=1e-3)


@settings(max_examples=8, deadline=None)
@given(shift=st.integers(1, 8).map(lambda n: 4 * n), seed=st.integers(0, 99))
def test_a_shift_of_the_series_shifts_its_interior_events(shift, seed):
    long = walk(1, 160, 1, seed=seed)
    frames = [temporal_events(long[:, s : s + 120]) for s in (shift, 0)]
    frames[0]["time"] += shift
    rows = [
        f[(f.time > shift + 40) & (f.time < 80)][["time", "octave", "scale"]].to_numpy()
        for f in frames
    ]
    np.testing.assert_array_equal(*rows)


def test_wider_bumps_have_larger_scales():
    t = np.arange(400)
    widths = [0.8, 1.5, 2.5, 4.0, 7.0]
    found = []
    for width in widths:
        frame = temporal_events(np.exp(-((t - 200) ** 2) / (2 * width**2)), octaves=5)
        nearest = (frame.time - 200).abs().idxmin()
        assert abs(frame.time[nearest] - 200) < frame.sigma[nearest]
        found.append(frame.sigma[nearest])
    assert np.all(np.diff(found) > 0), found
    ratios = np.array(found) / widths
    assert ratios.max() < 2 * ratios.min(), found


def test_many_series_are_worked_on_in_slabs(monkeypatch):
    x = walk(7, 67, 2, seed=6)
    whole, frame = numpy(SaliencySeries()(x)), temporal_events(x)
    monkeypatch.setattr(scale_space.temporal, "SLAB", 4 * 67)
    scale_space.temporal.fused.cache_clear()
    np.testing.assert_allclose(numpy(SaliencySeries()(x)), whole, atol=1e-5)
    scale_space.temporal.fused.cache_clear()
    np.testing.assert_allclose(temporal_events(x), frame, atol=1e-5)


# ---- what is not an ordinary series -------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 7.3, -1e6])
def test_a_constant_series_has_no_events_and_no_saliency(value):
    x = np.full((2, 67, 2), value, "float32")
    assert temporal_events(x).empty
    assert list(temporal_events(x).columns) == COLUMNS
    np.testing.assert_array_equal(numpy(SaliencySeries()(x)), 0)


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 2, 3), (2, 0, 3), (0, 67, 2), (1, 67, 0)])
def test_series_too_short_for_events(shape):
    x = np.ones(shape, "float32")
    assert temporal_events(x).empty
    result = numpy(SaliencySeries()(x))
    assert result.shape == shape
    np.testing.assert_array_equal(result, np.zeros(shape))


def test_octaves_that_the_length_does_not_allow_are_empty():
    x = walk(1, 67, 2)
    frames = [temporal_events(x, octaves=n) for n in (5, 20)]
    np.testing.assert_array_equal(*frames)
    assert frames[0].octave.max() <= 4
    np.testing.assert_array_equal(*(numpy(SaliencySeries(octaves=n)(x)) for n in (5, 20)))


def test_a_large_offset_does_not_hide_small_events():
    x = walk(1, 67, 1).astype("float64")
    x = np.round(x * 64) / 64  # exact in float32 next to the offset
    near, far = temporal_events(x), temporal_events(x + 2.0**14)
    columns = ["time", "octave", "scale", "sigma"]
    np.testing.assert_array_equal(near[columns], far[columns])
    np.testing.assert_allclose(far.amplitude - near.amplitude, 2.0**14, atol=0.01)


def test_integers_are_taken():
    x = np.random.default_rng(0).integers(-9, 9, (2, 67, 2))
    expected = numpy(SaliencySeries()(x.astype("float32")))
    np.testing.assert_array_equal(numpy(SaliencySeries()(x)), expected)
    np.testing.assert_array_equal(temporal_events(x), temporal_events(x.astype("float32")))


def test_one_series_needs_no_batch_axis():
    x = walk(1, 67, 2)
    frame = temporal_events(x)
    np.testing.assert_allclose(temporal_events(x[0]), frame, atol=1e-5)
    np.testing.assert_allclose(
        temporal_events(x[0, :, 1]).drop(columns="variate"),
        frame[frame.variate == 1].drop(columns="variate"),
        atol=1e-5,
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_variate_of_its_series(bad):
    clean = walk(2, 67, 2)
    x = clean.copy()
    x[1, 30, 0] = bad
    expected = numpy(SaliencySeries()(clean))
    result = numpy(SaliencySeries()(x))
    assert np.isnan(result[1, :, 0]).all()
    result[1, :, 0] = expected[1, :, 0]
    np.testing.assert_allclose(result, expected, atol=1e-5)
    frame = temporal_events(clean)
    rest = frame[(frame.batch != 1) | (frame.variate != 0)]
    np.testing.assert_allclose(temporal_events(x), rest, atol=1e-5)


def test_gaps_are_interpolated():
    x = walk(2, 67, 2)
    holes = x.copy()
    holes[0, 20:24, 1] = [np.nan, np.inf, np.nan, -np.inf]
    holes[1, :3, 0] = np.nan
    filled = x.copy()
    filled[0, 20:24, 1] = np.interp([20, 21, 22, 23], [19, 24], x[0, [19, 24], 1])
    filled[1, :3, 0] = x[1, 3, 0]
    expected = numpy(SaliencySeries()(filled))
    np.testing.assert_allclose(
        numpy(SaliencySeries(missing="interpolate")(holes)), expected, atol=1e-4
    )
    np.testing.assert_allclose(
        temporal_events(holes, missing="interpolate"), temporal_events(filled), atol=1e-4
    )
    holes[1, :, 1] = np.nan
    result = numpy(SaliencySeries(missing="interpolate")(holes))
    assert np.isnan(result[1, :, 1]).all()
    assert np.isfinite(np.delete(result.reshape(2, 67, 2)[1], 1, axis=1)).all()


@pytest.mark.parametrize("missing", [None, "interpolate"])
def test_padding_on_either_side_changes_nothing(missing):
    lengths, starts = [67, 50, 3, 0], [0, 5, 60, 0]
    x = np.full((4, 71, 2), np.nan, "float32")
    mask = np.zeros((4, 71), bool)
    for b, (n, s) in enumerate(zip(lengths, starts, strict=True)):
        x[b, s : s + n] = walk(1, 67, 2, seed=b)[0, :n]
        mask[b, s : s + n] = True
    layer = SaliencySeries(missing=missing)
    result = numpy(layer(x, mask=keras.ops.convert_to_tensor(mask)))
    frame = temporal_events(x, mask=mask, missing=missing)
    for b, (n, s) in enumerate(zip(lengths, starts, strict=True)):
        alone = walk(1, 67, 2, seed=b)[:, :n]
        np.testing.assert_allclose(
            result[b, s : s + n], numpy(layer(alone))[0], atol=1e-4, err_msg=str(b)
        )
        expected = temporal_events(alone, missing=missing).drop(columns="batch")
        expected["time"] += s
        rows = frame[frame.batch == b].drop(columns="batch")
        np.testing.assert_allclose(rows, expected, atol=1e-4)
    np.testing.assert_array_equal(result[~mask], 0)


def test_masked_steps_inside_hold_no_event():
    x = walk(1, 67, 2)
    mask = np.ones((1, 67), bool)
    mask[0, 30:37] = False
    x[0, 30:37] = 1e4
    frame = temporal_events(x, mask=mask)
    assert not frame.empty
    assert not ((frame.time > 29.5) & (frame.time < 36.5)).any()
    result = numpy(SaliencySeries()(x, mask=keras.ops.convert_to_tensor(mask)))
    assert np.abs(result).max() < 1e3
    np.testing.assert_array_equal(result[0, 30:37], 0)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"octaves": 0}, "octaves"),
        ({"octaves": 2.0}, "octaves"),
        ({"scales": -1}, "scales"),
        ({"sigma0": 0.1}, "sigma0"),
        ({"sigma0": float("inf")}, "sigma0"),
        ({"contrast_threshold": -1}, "contrast_threshold"),
        ({"theta": 0}, "theta"),
        ({"theta": "1"}, "theta"),
        ({"amplitude": "median"}, "amplitude"),
        ({"missing": "drop"}, "missing"),
        ({"cut": "no"}, "cut"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        SaliencySeries(**arguments)
    with pytest.raises(ValueError, match=name):
        temporal_events(np.zeros(9), **arguments)


def test_bad_series_are_named():
    with pytest.raises(ValueError, match="series"):
        temporal_events(np.zeros((2, 3, 4, 5)))
    with pytest.raises(ValueError, match="series"):
        temporal_events(np.array(["a", "b"]))
    with pytest.raises(ValueError, match="series"):
        temporal_events(np.zeros(7, complex))
    with pytest.raises(ValueError, match="mask"):
        temporal_events(np.zeros((2, 9, 3)), mask=np.ones((2, 8), bool))
    with pytest.raises(ValueError, match="ndim"):
        SaliencySeries()(np.zeros((2, 9), "float32"))
    with pytest.raises(ValueError, match="differences"):
        temporal_extrema(np.zeros((1, 2, 9, 1)))


@pytest.mark.parametrize("level", [1e6, 1.7e9, -3e12])
@pytest.mark.parametrize("amplitude", ["mean", "center", "unit", "scale-space"])
def test_events_do_not_depend_on_the_level(level, amplitude):
    rng = np.random.default_rng(0)
    # Multiples of 1/64, which stay exact at every level.
    series = np.round(np.cumsum(rng.normal(size=(2, 90, 2)), axis=1) * 64) / 64
    low = temporal_events(series, amplitude=amplitude)
    high = temporal_events(series + level, amplitude=amplitude)
    assert len(low) > 20
    columns = [c for c in low.columns if c != "amplitude"]
    pd.testing.assert_frame_equal(low[columns], high[columns])
    lift = 0 if amplitude == "unit" else level
    np.testing.assert_allclose(high.amplitude - lift, low.amplitude, atol=1e-3)


def test_whole_numbers_of_64_bits_keep_their_events():
    rng = np.random.default_rng(1)
    series = rng.integers(0, 50, (60, 1))
    low, high = temporal_events(series), temporal_events(series + 2**52)
    pd.testing.assert_frame_equal(low.drop(columns="amplitude"), high.drop(columns="amplitude"))


def test_a_scale_space_keeps_its_digits_at_a_high_level():
    series = np.round(np.random.default_rng(2).normal(size=(1, 40, 2)) * 64) / 64
    low, high = temporal_scale_space(series), temporal_scale_space(series + 1.7e9)
    for a, b in zip(low.differences, high.differences, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(low.smoothed, high.smoothed, strict=True):
        np.testing.assert_allclose(a, b - 1.7e9, atol=1e-5)


def test_a_frame_of_instances_is_several_series():
    rng = np.random.default_rng(3)
    parts = [rng.normal(size=(n, 2)) for n in (40, 31, 40)]
    index = [("abc"[i], t) for i, part in enumerate(parts) for t in range(len(part))]
    frame = pd.DataFrame(np.concatenate(parts), pd.MultiIndex.from_tuples(index), ["u", "v"])
    found = temporal_events(frame)
    assert set(found.batch) == {0, 1, 2}
    for i, part in enumerate(parts):
        alone = temporal_events(part).drop(columns="batch")
        mine = found[found.batch == i].drop(columns="batch").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone, atol=1e-5)
    # The order of the rows within an instance does not matter.
    shuffled = frame.groupby(level=0, sort=False, group_keys=False).apply(lambda g: g[::-1])
    pd.testing.assert_frame_equal(temporal_events(shuffled), found)
    one = temporal_events(frame["v"])
    assert len(one) == (found.variate == 1).sum()
    with pytest.raises(ValueError, match="`mask` must be None"):
        temporal_events(frame, mask=np.ones((3, 40), bool))
    with pytest.raises(ValueError, match="two levels at most"):
        temporal_events(pd.concat({"x": frame}))


@pytest.mark.parametrize(
    "series",
    ["abc", None, np.zeros((2, 2), complex), np.array([[1, None]]), np.zeros([1] * 4)],
)
def test_other_series_are_named(series):
    with pytest.raises(ValueError, match="`series` must"):
        temporal_events(series)
