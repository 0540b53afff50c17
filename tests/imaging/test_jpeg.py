"""Files that are sharper where a map says so, against plain JPEG."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from keras_saliency import imaging

PHOTO = np.ascontiguousarray(data.astronaut()[40:232, 130:354])  # (192, 224, 3)
MAP = np.zeros(PHOTO.shape[:2])
MAP[70:120, 70:130] = 1


def plain(image, quality, subsampling="4:2:0"):
    file = io.BytesIO()
    Image.fromarray(image).save(
        file, "JPEG", quality=quality, subsampling=subsampling, optimize=True
    )
    return file.getvalue()


def opened(file):
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize("mode", ["coefficients", "mosaic"])
def test_what_matters_is_sharper_at_the_same_size(mode):
    files = {"plain": plain(PHOTO, 50), "semantic": imaging.semantic_jpeg(PHOTO, MAP, mode=mode)}
    frame = imaging.image_quality(PHOTO, files, MAP)
    assert frame.loc["semantic", "bytes"] <= frame.loc["plain", "bytes"]
    assert frame.loc["semantic", "PSNR-S"] > frame.loc["plain", "PSNR-S"] + 1


def test_coefficients_are_better_than_the_mosaic():
    one = imaging.semantic_jpeg(PHOTO, MAP, quality=(20, 60))
    other = imaging.semantic_jpeg(PHOTO, MAP, quality=(20, 60), mode="mosaic")
    frame = imaging.image_quality(PHOTO, [one, other], MAP)
    assert frame["PSNR-S"][0] >= frame["PSNR-S"][1] and frame["PSNR"][0] > frame["PSNR"][1]


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_map_of_one_value_costs_nothing(value):
    file = imaging.semantic_jpeg(PHOTO, np.full((12, 14), value), match=40)
    frame = imaging.image_quality(PHOTO, [plain(PHOTO, 40), file])
    assert frame["PSNR"][1] >= frame["PSNR"][0] - 0.01
    assert frame["bytes"][1] <= frame["bytes"][0]


def test_the_levels_lose_what_their_quality_would_round_to_zero():
    """One gray block of the lowest level, against a cosine transform of SciPy's."""
    from scipy.fft import dctn, idctn

    image = np.random.default_rng(0).integers(0, 256, (8, 8), "uint8")
    image = (image // 4 + 90).astype("uint8")
    file = imaging.semantic_jpeg(image, np.zeros((8, 8)), quality=(20, 60), final_quality=100)
    table = Image.open(io.BytesIO(plain(image, 20))).quantization[0]
    values = dctn(image - 128.0, norm="ortho")
    kept = np.abs(values) >= np.array(table).reshape(8, 8) / 2
    kept[0, 0] = True
    assert 0 < kept.sum() < 40
    expected = idctn(values * kept, norm="ortho") + 128
    np.testing.assert_allclose(opened(file), expected, atol=2)


def test_the_mosaic_is_made_of_decoded_blocks():
    """Equation 2.7, by hand, in a file of the highest quality."""
    saliency = np.repeat(np.arange(8) / 8 + 0.06, 8)[None].repeat(16, 0)
    image = np.random.default_rng(1).integers(90, 160, (16, 64), "uint8")
    file = imaging.semantic_jpeg(
        image, saliency, 4, quality=(10, 70), final_quality=100, mode="mosaic"
    )
    for column in range(8):
        level = min(int(np.ceil(4 * (column / 8 + 0.06))) - 1, 3)
        whole = image if level == 3 else opened(plain(image, (10, 30, 50)[level]))
        here = np.s_[:, 8 * column : 8 * column + 8]
        np.testing.assert_allclose(opened(file)[here].astype(int), whole[here], atol=2)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("extent", [(8, 8), (37, 61), (1, 3)])
def test_any_extent_and_subsampling(subsampling, extent):
    image = np.random.default_rng(2).integers(0, 256, (*extent, 3), "uint8")
    for quality in ("auto", (20, 60)):
        file = imaging.semantic_jpeg(
            image, np.ones(extent), quality=quality, subsampling=subsampling
        )
        assert opened(file).shape == image.shape
        assert len(file) <= len(plain(image, 50, subsampling))


def test_grey_pictures_and_pillow_images_with_their_marks():
    grey = PHOTO[..., 0]
    np.testing.assert_array_equal(
        opened(imaging.semantic_jpeg(grey, MAP)),
        opened(imaging.semantic_jpeg(Image.fromarray(grey), MAP)),
    )
    image = Image.fromarray(PHOTO)
    image.getexif()[0x0112] = 6
    image.info["icc_profile"] = b"a profile"
    found = Image.open(io.BytesIO(imaging.semantic_jpeg(image, MAP)))
    assert found.getexif()[0x0112] == 6 and found.info["icc_profile"] == b"a profile"
    assert found.size == image.size


def test_a_size_in_bytes_and_a_final_quality():
    small = imaging.semantic_jpeg(PHOTO, MAP, size=4000)
    assert 3000 < len(small) <= 4000
    fixed = imaging.semantic_jpeg(PHOTO, MAP, final_quality=65)
    assert fixed == imaging.semantic_jpeg(PHOTO, MAP, quality=(30, 70), final_quality=65)
    assert Image.open(io.BytesIO(fixed)).quantization == (
        Image.open(io.BytesIO(plain(PHOTO, 65))).quantization
    )
    for options in ({}, {"final_quality": 60}):
        with pytest.raises(ValueError, match="`size`: no file"):
            imaging.semantic_jpeg(PHOTO, MAP, size=300, **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": np.zeros((8, 8, 4), "uint8")}, "alpha"),
        ({"image": np.zeros((8, 8, 3), "uint16")}, "8-bit"),
        ({"image": np.zeros((8, 8, 3))}, "8-bit"),
        ({"image": Image.new("P", (8, 8))}, "mode 'P'"),
        ({"image": Image.new("RGBA", (8, 8))}, "mode 'RGBA'"),
        ({"image": Image.new("I;16", (8, 8))}, "'I;16'; scale its numbers to 0 .. 255"),
        ({"image": Image.new("I;16", (8, 8))}, "mode 'I;16'"),
        ({"saliency": np.full((8, 8), np.nan)}, "`saliency` must be finite"),
        ({"saliency": np.full((8, 8), 2.0)}, "must lie in"),
        ({"saliency": np.zeros((4, 8))}, "proportions"),
        ({"saliency": np.zeros((2, 8, 8))}, "one map"),
        ({"quality": (0, 50)}, "`quality`"),
        ({"quality": (70, 50)}, "lowest, highest"),
        ({"quality": "best"}, "`quality`"),
        ({"final_quality": 101}, "`final_quality`"),
        ({"match": 0}, "`match`"),
        ({"levels": 0}, "`levels`"),
        ({"size": 0}, "`size`"),
        ({"subsampling": "4:1:1"}, "`subsampling`"),
        ({"mode": "dct"}, "`mode`"),
    ],
)
def test_bad_input(changed, message):
    arguments = {"image": np.zeros((8, 8, 3), "uint8"), "saliency": np.zeros((8, 8)), **changed}
    with pytest.raises((ValueError, TypeError), match=message):
        imaging.semantic_jpeg(**arguments)


def test_quality_against_scikit_image():
    other = opened(plain(PHOTO, 30))
    row = imaging.image_quality(PHOTO, other, MAP).iloc[0]
    assert np.isnan(row["bytes"])
    np.testing.assert_allclose(row["PSNR"], peak_signal_noise_ratio(PHOTO, other), rtol=1e-6)
    inside = PHOTO[70:120, 70:130], other[70:120, 70:130]
    np.testing.assert_allclose(row["PSNR-S"], peak_signal_noise_ratio(*inside), rtol=1e-6)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(PHOTO, other, data_range=255, channel_axis=-1, **options)
    np.testing.assert_allclose(row["SSIM"], expected, rtol=1e-6)
    assert row["SSIM"] < row["MS-SSIM"] < 1


def test_quality_of_equal_small_and_wrong_pictures():
    same = imaging.image_quality(PHOTO, PHOTO, np.zeros(PHOTO.shape[:2])).iloc[0]
    assert same["PSNR"] == np.inf and same["SSIM"] == same["MS-SSIM"] == 1
    assert np.isnan(same["PSNR-S"])
    small = imaging.image_quality(PHOTO[:12, :12], PHOTO[:12, :12] // 2).iloc[0]
    assert small["SSIM"] < 1 and np.isnan(small["MS-SSIM"])
    with pytest.raises(ValueError, match="shape of the original"):
        imaging.image_quality(PHOTO, PHOTO[:50])
    with pytest.raises(ValueError, match="at least one picture"):
        imaging.image_quality(PHOTO, [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"original": Image.new("RGBA", (8, 8))}, "`original`.*mode 'RGBA'"),
        ({"other": Image.new("P", (8, 8))}, "`other`.*mode 'P'"),
        ({"other": np.zeros((8, 8, 3), "uint16")}, "`other`.*8-bit"),
        ({"saliency": np.full((8, 8), np.nan)}, "`saliency` must be finite"),
        ({"saliency": np.zeros((4, 8))}, "proportions"),
    ],
)
def test_quality_refuses_what_is_no_picture_or_map(changed, message):
    picture = np.zeros((8, 8, 3), "uint8")
    with pytest.raises(ValueError, match=message):
        imaging.image_quality(**{"original": picture, "other": picture, **changed})


def test_a_map_of_another_extent_is_resized():
    coarse = np.kron(np.eye(2)[::-1], np.ones((3, 3)))
    fine = np.kron(np.eye(2)[::-1], np.ones((48, 48)))
    photo = PHOTO[:96, :96]
    for file in (imaging.semantic_jpeg(photo, x, match=30) for x in (coarse, fine)):
        frame = imaging.image_quality(photo, [plain(photo, 30), file], coarse)
        assert frame["PSNR-S"][1] > frame["PSNR-S"][0]
