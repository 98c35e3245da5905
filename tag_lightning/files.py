"""Files and folders that are complete or unchanged, whatever interrupts their writing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

_TEMPORARY = re.compile(r"\..+\.(?:(?P<host>[\w-]+)@)?(?P<pid>\d+)\.tmp")
# No file takes as long to write, and a machine that is gone never removes its own.
_ABANDONED_SECONDS = 7 * 24 * 3600.0
_REMEDY = "choose another folder, or free space and check the permissions of this one"


@contextmanager
def replacing(path: Path, remedy: str = _REMEDY) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; it replaces ``path`` when the block ends without an error.

    The temporary path does not exist yet: the block creates it, as a file or as a folder. Files reach the disk
    before they are renamed, so even a power cut leaves the old file or the new one. A rename works only
    within one file system, so the temporary file lies beside its target.

    Args:
        path: The target; missing parent folders are created.
        remedy: The way out that the error names.

    Raises:
        OSError: If the folder cannot be written; names the folder and the remedy.
    """
    temporary = path.with_name(f".{path.name}.{_host()}@{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            _replace_folder(temporary, path)
        else:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path.parent, error, remedy) from error
    except RuntimeError as error:
        # A full disk, of which torch's zip writer says only that some position was unexpected.
        cause = disk_error(error)
        if cause is None:
            raise
        raise _unwritable(path.parent, cause, remedy) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


@contextmanager
def replacing_in_cache(path: Path, remedy: str) -> Iterator[Path]:
    """As ``replacing``, after the removal of what killed processes left in the folder of ``path``.

    Args:
        path: The target; missing parent folders are created.
        remedy: The way out that the error names.

    Raises:
        OSError: If the folder cannot be written; names the folder and the remedy.
    """
    remove_leftovers(path.parent)
    with replacing(path, remedy) as temporary:
        yield temporary


def require_writable(folder: Path, remedy: str = _REMEDY) -> None:
    """Check, before long work, that files can be written into ``folder``, which is created if it does not exist.

    Raises:
        OSError: If not; names the folder and the remedy.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error, remedy) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of ``replacing`` in ``folder`` and its subfolders.

    Whatever a living process of this machine may be writing is kept, and what another machine that shares the folder
    has begun or changed within the last seven days.
    """
    for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        with suppress(OSError):
            if match["host"] in (None, _host()):
                left = not _is_alive(int(match["pid"]))
            else:
                left = time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
            if left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def disk_error(error: BaseException | None) -> OSError | None:
    """Return the error of the operating system that led to ``error``, or None."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def is_full(error: OSError) -> bool:
    """Return whether a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full_disk(error: OSError, folder: Path) -> OSError:
    """Return an error that names folder and remedy; ``folder`` if ``error`` names no file."""
    return _unwritable(Path(error.filename).parent if error.filename else folder, error, _REMEDY)


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname()) or "localhost"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's
    return True


def _replace_folder(temporary: Path, path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
    os.replace(temporary, path)


def _unwritable(folder: Path, error: Exception, remedy: str) -> OSError:
    reason = getattr(error, "strerror", None) or error
    return OSError(f"cannot write into {folder} ({reason}); {remedy}")
