from __future__ import annotations

import pytest

from ml_toolbox.runtime.progress import Progress


def test_a_printed_epoch_with_its_total_is_a_share_of_the_work() -> None:
    progress = Progress({"epoch": r"epoch (\d+)/(\d+)", "loss": r"loss=([\d.]+)"})
    assert progress.printed("epoch 3/12 loss=0.25") == {"epoch": 3.0, "loss": 0.25}
    assert (progress.epoch, progress.share) == (3, 0.25)


@pytest.mark.parametrize("pattern", [r"epoch (\d+)", r"epoch (\d+)/?(\w*)"])
def test_without_a_total_there_is_no_share(pattern: str) -> None:
    progress = Progress({"epoch": pattern})
    progress.printed("epoch 3")
    assert (progress.epoch, progress.share) == (3, None)


def test_a_total_of_another_metric_means_nothing() -> None:
    progress = Progress({"loss": r"loss=([\d.]+)/([\d.]+)"})
    progress.printed("loss=1/2")
    assert progress.share is None
