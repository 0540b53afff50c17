import base64
import dataclasses
import json
import tracemalloc
import zlib

import numpy as np
import pytest

from keras_saliency import DatasetStatistics
from keras_saliency.racknet import Component, Octave, Sample, storage

FULL = DatasetStatistics(
    octaves=(
        Octave(
            0,
            (
                Component(3, 1.5, 0.25, 0.75, 30, 20, 1.1),
                Component(7, 2.5, 0.5, 0.25, 10, 10, 1.3),
            ),
            keypoints=40,
            images=9,
            sigma=1.2,
            histogram=(0, 0, 5, 35),
        ),
        Octave(1, (), keypoints=1, images=1, sigma=2.4, histogram=(1,)),
        Octave(2, (Component(2, 3.0, 0.1, 1.0, 5, 5, 6.4),), 5, 4, 6.4, (2, 3)),
    ),
    input_shape=(None, 17, 3),
    num_classes=4,
    images=9,
    images_seen=11,
    images_skipped=2,
    value_range=(-1.0, 1.0),
    engine="opencv",
    seed=5,
    settings=(("max_images", None), ("eps", 0.05)),
    warnings=("2 of 11 images were skipped",),
    samples=(Sample.from_array(np.eye(2, 3, dtype="uint8"), [(1.0, 2.0, 0.5, 0)]),),
    separation=0.875,
    seconds={"features": 1.5, "total": 2.5},
)


def test_racks_are_the_octaves_with_components():
    assert FULL.clusters == ((3, 7), (2,))
    assert [octave.index for octave in FULL.racks] == [0, 2]


@pytest.mark.parametrize("stats", [FULL, DatasetStatistics.from_counts([[1, 2], [3]], (9, 9, 1))])
def test_json_gives_back_what_was_written(stats, tmp_path):
    assert DatasetStatistics.from_json(stats.to_json()) == stats
    stats.to_json(tmp_path / "s.json")
    again = DatasetStatistics.from_json(tmp_path / "s.json")
    assert again == stats
    assert again.seconds == stats.seconds
    assert again.to_json() == stats.to_json()
    json.loads(stats.to_json())


def test_equality_is_by_value_and_leaves_out_the_times():
    assert dataclasses.replace(FULL, seconds={}) == FULL
    assert dataclasses.replace(FULL, seed=6) != FULL
    changed = dataclasses.replace(FULL.octaves[0], histogram=(0, 1, 4, 35))
    assert dataclasses.replace(FULL, octaves=(changed, *FULL.octaves[1:])) != FULL
    assert hash(dataclasses.replace(FULL, seconds={})) == hash(FULL)


def test_they_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.seed = 1


@pytest.mark.parametrize("text", ["{", "{}", '{"format": 99}', '{"format": 1, "octaves": 3}', "[]"])
def test_other_json_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"DatasetStatistics.to_json"):
        DatasetStatistics.from_json(tmp_path / "x.json")


def test_the_table_shows_every_component_and_note():
    text = str(FULL)
    assert "9 of 11 images, ?x17x3, 4 classes; opencv, seed 5; 2 skipped" in text
    assert "1.50 ± 0.25" in text
    assert "2 of 11 images were skipped" in text
    assert "separation index 0.875" in text
    assert len(text.splitlines()) == 1 + 1 + 4 + 1 + 1 + 1
    assert "plain numbers" in str(DatasetStatistics.from_counts([[1]], (9, 9, 1)))


def test_the_frame_has_a_row_per_component():
    frame = FULL.to_frame()
    assert frame[["rack", "layer", "octave"]].values.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 2]]
    assert frame["clusters"].tolist() == [3, 7, 2]
    assert frame["octave_keypoints"].tolist() == [40, 40, 5]


def test_windows_follow_the_scopes():
    # 2 sigma + 1 in pixels of the rack: 1.1 and 1.3 give 3; 6.4, halved once, 3.2: 7.
    assert FULL.kernel_sizes() == ((3, 3), (7,))
    assert DatasetStatistics.from_counts([[1, 1]], (9, 9, 1)).kernel_sizes() == ((3, 3),)


@pytest.mark.parametrize("shape", [(9, 9), (9, 9, 0), "9x9", (9.0, 9, 1), None])
def test_a_bad_input_shape_is_named(shape):
    with pytest.raises(ValueError, match="`input_shape` must be"):
        DatasetStatistics.from_counts([[1]], shape)


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match="`clusters` must be"):
        DatasetStatistics.from_counts([[]], (9, 9, 1))
    with pytest.raises(ValueError, match="`data_format` must be"):
        DatasetStatistics.from_counts([[1]], (9, 9, 1), data_format="hwc")


# ---- files that are not what was written -------------------------------------------------


PLAIN = {k: v for k, v in json.loads(FULL.to_json()).items() if k != "checksum"}


def refused(data, match):
    with pytest.raises(ValueError, match=r"`path` must be JSON written by .*" + match):
        DatasetStatistics.from_json(data if isinstance(data, str) else json.dumps(data))


def test_a_text_without_a_checksum_is_read():
    assert DatasetStatistics.from_json(json.dumps(PLAIN)) == FULL


def test_a_text_from_before_the_separation_index_is_read():
    older = {k: v for k, v in PLAIN.items() if k != "separation"}
    expected = dataclasses.replace(FULL, separation=None)
    assert DatasetStatistics.from_json(json.dumps(older)) == expected
    older["checksum"] = storage._checksum(older)
    assert DatasetStatistics.from_json(json.dumps(older)) == expected


@pytest.mark.parametrize("value", [1.5, -0.1, "0.5", True])
def test_an_impossible_separation_index_is_refused(value):
    refused({**PLAIN, "separation": value}, "separation")


def test_the_checksum_covers_the_separation_index():
    refused(FULL.to_json().replace("0.875", "0.975"), "checksum")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("octaves", []),
        ("input_shape", [9, 9]),
        ("input_shape", [9, 9, None]),
        ("input_shape", "9"),
        ("num_classes", 0),
        ("num_classes", 2.5),
        ("images", [9]),
        ("images_seen", -1),
        ("images_skipped", True),
        ("value_range", [1.0, -1.0]),
        ("value_range", [1.0, 1.0]),
        ("value_range", [0.0, 10**400]),
        ("value_range", []),
        ("data_format", "hwc"),
        ("engine", "matlab"),
        ("seed", -5),
        ("bin_size", 0),
        ("bin_size", "x"),
        ("settings", [["a", 1, 2]]),
        ("settings", [[1, 2]]),
        ("warnings", [1]),
        ("warnings", "note"),
        ("samples", [{"height": 9, "width": 9, "pixels": "", "keypoints": []}]),
        ("seconds", {"total": "long"}),
        ("seconds", []),
        ("no_such_name", 1),
    ],
)
def test_an_impossible_value_is_refused(name, value):
    refused({**PLAIN, name: value}, "pixels" if name == "samples" else name)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"index": 7}, "octaves"),
        ({"index": -1}, "index"),
        ({"keypoints": 39}, "histogram"),
        ({"histogram": [50, -10]}, "histogram"),
        ({"histogram": [40.0]}, "histogram"),
        ({"sigma": -1.0}, "sigma"),
        ({"components": [{"clusters": -1}]}, "clusters"),
        ({"components": [{"clusters": 3, "mean": 1.0}]}, "std"),
        ({"components": [{"clusters": 3, "weight": "x"}]}, "weight"),
        ({"components": 3}, ""),
    ],
)
def test_an_impossible_octave_is_refused(change, match):
    first, *rest = PLAIN["octaves"]
    refused({**PLAIN, "octaves": [{**first, **change}, *rest]}, match)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_refused(number):
    refused(
        json.dumps(PLAIN).replace('"value_range": [-1.0,', f'"value_range": [{number},'), number
    )


def test_a_picture_is_not_unpacked_beyond_its_size():
    bomb = base64.b64encode(zlib.compress(bytes(10**8), 9)).decode()
    tracemalloc.start()
    with pytest.raises(ValueError, match="2 x 3 packed gray levels"):
        Sample(2, 3, bomb)
    with pytest.raises(ValueError, match="`height` must be"):
        Sample(10**5, 10**5, bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


@pytest.mark.parametrize(
    "contents", [b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000, b"\x00" * 99, b"null"]
)
def test_any_bytes_give_one_error(contents, tmp_path):
    (tmp_path / "s.json").write_bytes(contents)
    with pytest.raises(ValueError, match=r"`path` must be JSON written by .*s\.json"):
        DatasetStatistics.from_json(tmp_path / "s.json")


def test_a_flipped_bit_never_makes_other_statistics(tmp_path):
    text = bytearray(FULL.to_json(tmp_path / "s.json").encode())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(text), 400):
        damaged = bytearray(text)
        damaged[place] ^= 1 << rng.integers(0, 8)
        (tmp_path / "s.json").write_bytes(damaged)
        try:
            found = DatasetStatistics.from_json(tmp_path / "s.json")
        except ValueError as error:
            assert "`path`" in str(error)
            continue
        assert found == FULL  # between the values
        assert found.seconds == FULL.seconds


def test_a_checksum_says_what_to_do_after_a_change_by_hand():
    text = FULL.to_json().replace('"seed": 5', '"seed": 6')
    refused(text, 'leave out the entry "checksum"')


def test_other_paths_are_refused():
    with pytest.raises(TypeError, match="`path` must be"):
        DatasetStatistics.from_json(7)
    with pytest.raises(FileNotFoundError):
        DatasetStatistics.from_json("no_such_file.json")


def test_repr_is_one_short_line():
    stats = DatasetStatistics.from_counts([[3, 5], [2]], (7, None, 3), num_classes=4)
    assert repr(stats) == "DatasetStatistics(7x?x3, 0 images, clusters=[[3, 5], [2]])"
