"""What is said goes to the console and to the run's `log.txt`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finesight.core.errors import FinesightError


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Add everything that finesight says to the file `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("finesight")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


@contextmanager
def errors_to(path: Path, known: Callable[[], bool]) -> Iterator[None]:
    """Say nothing but what ends this process, and that in the file `path`, which is there only then.

    Where it is `known` to the others that all end, one of them tells it.
    """
    logger = logging.getLogger("finesight")
    level, spread = logger.level, logger.propagate
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    try:
        yield
    except Exception as error:
        if not known():
            with logging_to(path):
                logger.error("%s", error, exc_info=None if isinstance(error, FinesightError) else error)
        raise
    finally:
        logger.setLevel(level)
        logger.propagate = spread
