"""What tests of several folders run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import TinyNetworks, predictor_arguments, write_networks

from tag_lightning.cli import main

_THREADS = torch.get_num_threads()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyNetworks:
    """A denoiser, a time predictor, a guide and a judge."""
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="session")
def trained(tiny: TinyNetworks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished ``fit`` of a time predictor, only to be read."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    main(predictor_arguments("fit", run, tiny))
    return run


@pytest.fixture(autouse=True)
def _all_threads_for_slow_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    slow = request.node.get_closest_marker("slow") is not None
    torch.set_num_threads(_THREADS if slow else 1)
    yield
    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    # Threads wait for each other longer than they compute with tensors as small as these, the more so on busy cores.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
    # Lightning warns of arguments handed over in Python while pytest has its own.
    config.addinivalue_line("filterwarnings", "ignore:LightningCLI's args parameter")
