"""A sample's identity: a hash over all that it holds."""

import hashlib

from finesight.core.sample import Image, Sample, Text


def sample_digest(sample: Sample) -> bytes:
    """A hash over all that an example is made from: words, pictures and references.

    Pictures and sounds that were looked for and not read count by their files' names and sizes.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(kind: bytes, content: bytes) -> None:
        digest.update(kind + len(content).to_bytes(8, "little") + content)

    for turn in sample.messages:
        add(b"R" if turn.learn else b"r", turn.role.encode())
        for part in turn.parts:
            if isinstance(part, Text):
                add(b"T", part.text.encode())
                continue
            add(b"I" if isinstance(part, Image) else b"S", part.data)
            if part.file is not None and not part.data:
                add(b"F", f"{part.file.size} {part.file.name}".encode())
    for reference in sample.references:
        add(b"A", reference.encode())
    return digest.digest()
