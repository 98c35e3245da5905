"""SIGTERM and Ctrl-C as an exception, and what a stop has left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # this file is loaded before everything else, to handle signals meanwhile
    from concurrent.futures import Future

    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Where Lightning, too, looks for the number of a process, in this order.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
# `timeout` and batch systems send a signal to the process and once more to its group.
_ECHO_SECONDS = 5.0


class Interrupted(BaseException):
    """The process is asked to end; not an ``Exception``, so that nothing takes it for a failure of its own.

    Attributes:
        signum: Number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interruption:
    """Turns SIGTERM and Ctrl-C into ``Interrupted``: at once, or while held, where the training can be saved.

    Attributes:
        signum: The signal that arrived, or None.
        held: True if the signal is only noted.
        trained: Training steps were taken that only a checkpoint keeps.
        checkpoint: Path and global step of the checkpoint that a stop leaves behind, or None.
        chunks: Folder of the samples that an unfinished evaluation has drawn so far, or None.
        stages: Folder of the runs of several stages, or None.
        abandoned: Work of threads whose results are not wanted any more, and which cannot be told so.
        folder: The run's folder, whose configuration goes on from it.
        launcher: Lightning's launcher of the other processes, which get the signal too.
    """

    def __init__(self) -> None:
        self._outside: dict[signal.Signals, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self.signum: int | None = None
        self.held = self.trained = False
        self.checkpoint: tuple[Path, int] | None = None
        self.chunks: Path | None = None
        self.stages: Path | None = None
        self.abandoned: Sequence[Future[Any]] = ()
        self.folder = Path()
        self.launcher: _SubprocessScriptLauncher | None = None
        self.since = self._raised_at = -float("inf")
        self._pid: int | None = None

    @contextmanager
    def ending_the_process(self) -> Iterator[None]:
        """End the process at a signal in this block, with one line; ``installed`` within takes over.

        For a whole command, in the main thread. After a signal it does not wait for abandoned work.
        """
        self._outside = {signum: signal.signal(signum, self._end_process) for signum in _SIGNALS}
        try:
            yield
        finally:
            _restore(self._outside)
            self._outside = {}
            if self.signum is not None and not all(work.done() for work in self.abandoned):
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(128 + self.signum)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals in this block; only the main thread can."""
        self._reset()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = self._outside or {signum: signal.getsignal(signum) for signum in _SIGNALS}
        self._pid = os.getpid()
        self.take_over()
        try:
            yield
        finally:
            _restore(before)

    def message(self) -> str:
        """Return what a stop has left behind, and the way on, in one line."""
        assert self.signum is not None
        stopped = f"stopped by {signal.Signals(self.signum).name}"
        if self.checkpoint is not None:
            path, step = self.checkpoint
            command = f"python -m tag_lightning fit --config {self.folder / 'config.yaml'} --ckpt_path last"
            return f"{stopped}: the training up to step {step} is in {path}; to go on: {command}"
        if self.trained:
            return f"{stopped}: nothing is left of the training, because this run keeps no checkpoints"
        if self.chunks is not None and self.chunks.is_dir():
            return f"{stopped}: finished chunks of samples are in {self.chunks}; to go on, repeat the command"
        if self.stages is not None and self.stages.is_dir():
            return f"{stopped}: finished stages are in {self.stages}; to go on, repeat the command"
        return f"{stopped} before there was anything to keep; to start again, repeat the command"

    def take_over(self) -> None:
        """Replace handlers that were set since: Lightning's ends ``fit`` without a checkpoint and with exit code 0."""
        if self._pid is not None:
            for signum in _SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let a signal end this block at once, since a checkpoint of the training is there already."""
        held, self.held = self.held, False
        try:
            if held and self.signum is not None:
                self.stop()
            yield
        finally:
            self.held = held

    def _end_process(self, signum: int, frame: Any) -> NoReturn:
        # An exception could be lost in an import that tolerates any failure of an optional package.
        self.signum = signum
        if next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0":
            start = "\n" if os.isatty(2) else ""  # the terminal's ^C has begun the line
            os.write(2, f"{start}{self.message()}\n".encode())
        os._exit(128 + signum)

    def _handle(self, signum: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a forked worker of a DataLoader; the main process decides
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        again = self.signum is not None
        if not again:
            self.signum, self.since = signum, time.monotonic()
            if self.launcher is not None and signum == signal.SIGTERM:
                self.launcher.kill(signum)
        impatient = again and signum == signal.SIGINT and time.monotonic() - self.since > 1
        if impatient or (not self.held and time.monotonic() - self._raised_at > _ECHO_SECONDS):
            self.stop()

    def stop(self) -> NoReturn:
        """Raise ``Interrupted`` for the signal that arrived."""
        assert self.signum is not None
        self._raised_at = time.monotonic()
        raise Interrupted(self.signum)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


interruption = Interruption()
