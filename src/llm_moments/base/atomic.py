"""Files and folders that are written whole or not at all, whatever ends the process meanwhile."""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_moments.base.errors import InputError, WriteError
from llm_moments.base.visible import ESCAPE

FULL = "the disk is full; make room or choose another place"


@contextmanager
def writing(path: Path, kept: str) -> Iterator[None]:
    """Makes an OSError of the block, or a full disk told otherwise, a WriteError that names the file and the cure. kept: what is left."""
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number is None and not isinstance(error, OSError):
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            why = FULL
        elif number == errno.EFBIG:
            why = "the file would be larger than is allowed here (ulimit -f)"
        else:
            why = getattr(error, "strerror", None) or str(error)
        raise WriteError(f"{path} could not be written: {why}. {kept}") from error


def _number(error: Exception) -> int | None:
    """The system's number of an error; safetensors has an exception of its own, with the number in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def replacing(path: Path, kept: str = "What was there before is unchanged.") -> Iterator[Path]:
    """A new file beside `path`, empty, that takes its place when the block ends well: all of it or nothing is seen.

    Who may read it is as the user's umask says, or as it was of the file that was there.
    """
    with writing(path, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_device(path)
        made = _beside(path)
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            if path.exists():
                os.chmod(made, path.stat().st_mode & 0o777)
            yield made
            sync(made)
            os.replace(made, path)
        finally:
            made.unlink(missing_ok=True)


def refuse_device(path: Path) -> None:
    """InputError for /dev/null and its like, and for pipes: a new file would take the place of the device itself."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is a device or a pipe, which a file would replace; name a file")


def _beside(path: Path) -> Path:
    """A hidden name of nobody's, which fits where the name itself fits."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")


def drop_leftovers(path: Path) -> None:
    """New files beside `path` whose process was killed before they took its place. Only for who alone writes there."""
    for left in path.parent.glob(f".{glob.escape(path.name[:40])}.{'[0-9a-f]' * 8}"):
        left.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """All of the text or none of it: sibling temporary file, fsync, rename."""
    with replacing(path) as made:
        made.write_text(text, encoding="utf-8", errors=ESCAPE)


@contextmanager
def sibling(path: Path, *, unless: str = "") -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    unless: a file that says that `path` is whole; if another process has put it there meanwhile, its
    folder stays and this one is dropped. What a killed process left half-swapped is put right first.
    """
    with writing(path, "Nothing was changed."):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        made = _beside(path)
        made.mkdir()
        try:
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


def remove(folder: Path) -> None:
    """A folder is gone at once: under its name there is never a part of it, though a killed process may leave one
    under another (`.NAME.gone`), which the next removal takes along."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        folder.rename(gone)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def held(folder: Path, busy: str) -> Iterator[None]:
    """The folder is this process's while it lasts; InputError with what `busy` says if it is another's."""
    try:
        import fcntl
    except ImportError:  # no locks on this system
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy) from None
        except OSError:
            pass  # none on this file system
        yield
    finally:
        os.close(fd)


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
