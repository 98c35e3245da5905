"""Errors of ``torch.compile`` in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tag_lightning.tensor_file import reason


@contextmanager
def naming_the_compiler(setting: str, remedy: str) -> Iterator[None]:
    """Run compiled networks.

    Args:
        setting: The setting that asks for compilation, such as ``compile is true``.
        remedy: The way out, such as ``set it to false``.

    Raises:
        ValueError: If a network cannot be compiled; names both.
    """
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # a second to import

        if not isinstance(error, TorchDynamoException):
            raise
        raise ValueError(f"{setting}, but torch.compile failed on a network: {reason(error)}; {remedy}") from error
