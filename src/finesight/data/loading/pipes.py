"""Whole messages through a pipe: batches go from process to process without a copy in between and without `/dev/shm`.

A message is a head (number of parts, bytes of what follows), the sizes of the parts, and the parts, each beginning at a
multiple of 64 bytes: the first is the pickle, the others are the arrays and tensors in it, byte for byte. Shared memory
would save one more copy, and end a process by SIGBUS where a container gives too little of it.
"""

import io
import os
import pickle
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

_HEAD = struct.Struct("<qq")
_ALIGNED = 64
_PIPE_BYTES = 1 << 18
"""What the system is asked to hold of a message on its way; Linux gives 64 KiB otherwise, and as much to anybody."""


class _Pickler(pickle.Pickler):
    """Tensors leave by their memory, as arrays do; pickle's own way for them is that of files."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1)
        content = pickle.PickleBuffer(flat.view(torch.uint8).numpy().data) if flat.numel() else b""
        return _tensor, (value.dtype, tuple(value.shape), content)


def _tensor(dtype: torch.dtype, shape: tuple[int, ...], content: Any) -> torch.Tensor:
    if not len(content):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).reshape(shape)


def widen(descriptor: int) -> None:
    """Let a pipe hold more at once, where the system has a say in that: fewer turns between its two ends."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def write(descriptor: int, message: object) -> None:
    """Write a message into a pipe, waiting until the last byte is in it; raises OSError where nobody reads."""
    buffers: list[pickle.PickleBuffer] = []
    body = io.BytesIO()
    _Pickler(body, protocol=5, buffer_callback=buffers.append).dump(message)
    parts = [body.getbuffer(), *(buffer.raw() for buffer in buffers)]
    sizes = np.array([part.nbytes for part in parts], dtype=np.int64)
    total = int(_places(sizes)[-1])
    _write_all(descriptor, memoryview(_HEAD.pack(len(parts), total)))
    for part in (memoryview(sizes.tobytes()), *parts):
        _write_all(descriptor, part)
        _write_all(descriptor, memoryview(bytes(-part.nbytes % _ALIGNED)))


def _places(sizes: np.ndarray) -> np.ndarray:
    """Where the sizes and then each part begin, and where the last one ends."""
    whole = np.concatenate([[8 * len(sizes)], sizes])
    return np.concatenate([[0], np.cumsum(-(-whole // _ALIGNED) * _ALIGNED)])


def _write_all(descriptor: int, content: memoryview) -> None:
    done = 0
    while done < content.nbytes:
        done += os.write(descriptor, content[done:])


class Inbox:
    """The reading end of a pipe. `got` counts the bytes that have come so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.got = 0
        self._expect(_HEAD.size, parts=0)

    def _expect(self, size: int, parts: int) -> None:
        self._buffer, self._have, self._parts = np.empty(size, dtype=np.uint8), 0, parts

    def take(self) -> Any:
        """The next message; None where the pipe does not block and not all of it is there yet.

        Raises EOFError where the other end is closed.
        """
        while True:
            while self._have < len(self._buffer):
                try:
                    count = os.readv(self._descriptor, [self._buffer[self._have :].data])
                except BlockingIOError:
                    return None
                if not count:
                    raise EOFError
                self._have += count
                self.got += count
            whole, parts = self._buffer, self._parts
            if parts:
                self._expect(_HEAD.size, parts=0)
                return _message(whole, parts)
            parts, size = _HEAD.unpack(whole.data)
            self._expect(size, parts)


def _message(whole: np.ndarray, parts: int) -> Any:
    sizes = whole[: 8 * parts].view(np.int64)
    begins: Sequence[int] = _places(sizes)[1:-1].tolist()
    body, *buffers = (whole[begin : begin + size] for begin, size in zip(begins, sizes.tolist(), strict=True))
    return pickle.loads(body.data, buffers=buffers)
