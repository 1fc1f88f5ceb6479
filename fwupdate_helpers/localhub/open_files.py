"""How many files and sockets a process may have open at a time."""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

ENOUGH: Final = 4096
"""A hub with a thousand devices, or a fleet's worker with its share of them, and room to spare."""


def allow_open_files(number: int = ENOUGH) -> None:
    """Raise this process's limit of open files, as far as the system lets it.

    Where nobody does, a process gets 256 on macOS and 1,024 on most Linux systems. Windows has no
    such limit.
    """
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError) as error:  # macOS: more than its kernel gives any process
        logger.warning("no more than %s files may be open at a time: %s", soft, error)
