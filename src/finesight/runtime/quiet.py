"""Keep `transformers` from drawing its own progress bars between ours."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without `transformers`' progress bars; afterwards they are as they were."""
    from transformers.utils import logging  # not above: who draws none does not wait for it

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
