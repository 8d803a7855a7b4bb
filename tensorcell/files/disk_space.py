"""Disk space for a file, claimed before it is needed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


def reserve(path: Path, size: int) -> None:
    """Claim disk space for a file to have this size in bytes.

    HDF5, and what is written through a map of memory, crash the process when the disk fills up under them.
    """
    with path.open("rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except AttributeError:  # this system has no such call
            pass
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # this disk has no such call
                raise
    held = path.stat().st_blocks * 512  # a file may be longer than what the disk holds of it
    if shutil.disk_usage(path.parent).free < size - held:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
