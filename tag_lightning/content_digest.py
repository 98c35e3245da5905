"""Digests of content: of what prepared data and kept samples depend on."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def content_digest(*parts: str | bytes) -> bytes:
    """The SHA-256 of the parts in this order; their lengths count, so ``"ab", "c"`` is not ``"a", "bc"``."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def weights_key(network: nn.Module) -> str:
    """The digest of a network's parameters and buffers, in 64 hexadecimal digits."""
    return content_key(*(part for entry in sorted(weights_bytes(network).items()) for part in entry))


def weights_bytes(network: nn.Module) -> dict[str, bytes]:
    """A network's parameters and buffers as bytes, by name."""
    return {
        name: values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, values in network.state_dict().items()
    }


def content_key(*parts: str | bytes) -> str:
    """The digest in 64 hexadecimal digits, for names of files and entries in them."""
    return content_digest(*parts).hex()
