"""Files and folders that are written whole or not at all, whatever ends the process meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_moments.errors import WriteError

FULL = "the disk is full; make room or choose another place"


@contextmanager
def writing(path: Path, kept: str) -> Iterator[None]:
    """Makes an OSError of the block, or a full disk told otherwise, a WriteError that names the file and the cure. kept: what is left."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = FULL
        elif error.errno == errno.EFBIG:
            why = "the file would be larger than is allowed here (ulimit -f)"
        else:
            why = error.strerror or str(error)
        raise WriteError(f"{path} could not be written: {why}. {kept}") from error
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise WriteError(f"{path} could not be written: {FULL}. {kept}") from error  # as safetensors tells it


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, text: str) -> None:
    """All of the text or none of it: sibling temporary file, fsync, rename."""
    with writing(path, "What was there before is unchanged."):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def sibling(path: Path, *, unless: str = "") -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    unless: a file that says that `path` is whole; if another process has put it there meanwhile, its
    folder stays and this one is dropped. What a killed process left half-swapped is put right first.
    """
    with writing(path, "Nothing was changed."):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            made.chmod(0o755)
            yield made
            with _alone(path.parent):
                if not (unless and (path / unless).exists()):
                    _swap(made, path)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def recover(path: Path) -> None:
    """Puts the old folder back if a process was killed between the two renames of an overwriting save."""
    if not path.exists() and _old(path).exists():
        with _alone(path.parent):  # a save that is going on now is waited for
            if not path.exists() and _old(path).exists():
                _old(path).rename(path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _swap(made: Path, path: Path) -> None:
    """Two renames, since no portable one replaces a folder; `recover` knows the state between them."""
    old = _old(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    try:
        made.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, by a lock on the folder itself: it ends with the process that holds it."""
    fd = -1
    try:
        import fcntl

        fd = os.open(folder, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass  # no locks on this system or file system: the renames are still whole
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)
