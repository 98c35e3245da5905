"""Digests of content: of what prepared data and kept samples depend on."""

from __future__ import annotations

import hashlib


def content_digest(*parts: str | bytes) -> bytes:
    """The SHA-256 of the parts in this order; their lengths count, so ``"ab", "c"`` is not ``"a", "bc"``."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def content_key(*parts: str | bytes) -> str:
    """The digest in 64 hexadecimal digits, for names of files and entries in them."""
    return content_digest(*parts).hex()
