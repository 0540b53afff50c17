"""Files that are whole at every moment: written unseen, then moved into their place."""

import contextlib
import os
import secrets
import stat
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """Open a file to write that takes the place of `path` once the block has ended well.

    A reader sees the old file or the new one, whole, whatever happens between: an exception, a
    full disk, a kill. The new file has the rights of the old one; where `path` is a symbolic link,
    what it points to is replaced. What is no regular file (a pipe, `/dev/stdout`) is written as it
    stands.

    Args:
        path: Path of the file, a string or a `pathlib.Path`. Its folder must exist.

    Yields:
        A binary file, to write and to read.

    Raises:
        OSError: As `open` does; `path` is then as it was.

    Example:

    ```python
    import tempfile
    from pathlib import Path
    from keras_saliency.files import replacing

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "numbers.txt")
        with replacing(path) as file:
            file.write(b"1 2 3")
        assert path.read_bytes() == b"1 2 3"
    ```
    """
    target = Path(os.path.realpath(path))
    old = target.stat() if target.exists() else None
    if old is not None and not stat.S_ISREG(old.st_mode):
        with target.open("wb") as file:
            yield file
        return
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(f"`path` must be a file that can be written. Received: {str(path)!r}")
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.partial")
    descriptor, named = _open(temporary)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            if old is not None:
                _keep_rights(descriptor, temporary, old)
            if not named:
                # The file has no name until it is complete: a kill leaves nothing behind.
                _link(descriptor, temporary)
                named = True
        os.replace(temporary, target)
        named = False
    finally:
        if named:
            temporary.unlink(missing_ok=True)


def _open(path):
    """A descriptor of a new file in the folder of `path`, and whether the file has that name."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # a file system that has no unnamed files
            return os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666), False
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666), True


def _link(descriptor, path):
    # With a folder's descriptor Python follows the link in /proc, which it does not without.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=folder)
    finally:
        os.close(folder)


def _keep_rights(descriptor, path, old):
    if hasattr(os, "fchown"):
        with contextlib.suppress(PermissionError):  # the file of another in a folder of ours
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.chmod(descriptor if os.chmod in os.supports_fd else path, stat.S_IMODE(old.st_mode))
