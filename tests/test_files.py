"""A file that is written over is whole at every moment, and keeps what it was but its contents."""

import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap

import pytest

from keras_saliency.files import replacing


def write(path, data):
    with replacing(path) as file:
        file.write(data)


def test_a_new_file_has_the_rights_that_open_gives(tmp_path):
    write(tmp_path / "new", b"1")
    (tmp_path / "plain").write_bytes(b"1")
    assert (tmp_path / "new").read_bytes() == b"1"
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("unnamed", [True, False])
def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path, unnamed, monkeypatch):
    if not unnamed:  # as on a system that has no unnamed files
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of the n")
        file.flush()
        assert path.read_bytes() == b"old"
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match="too large"):
            write(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_kill_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    code = f"""
        import os, signal
        from keras_saliency.files import replacing
        with replacing({str(path)!r}) as file:
            file.write(b"new")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there/a.txt")
    write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a.txt").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]


def test_what_is_no_regular_file_is_written_as_it_stands(tmp_path):
    write(os.devnull, b"1")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(IsADirectoryError):
        write(tmp_path, b"1")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "a.txt", b"1")
