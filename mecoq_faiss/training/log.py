"""recorder(): where a run's training figures go, metrics.jsonl and TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mecoq_faiss.training.run_folder import RunFolder


def recorder(
    run: RunFolder, steps_per_epoch: int, epoch: int, step: int, tensorboard: bool
) -> tuple[Callable[[dict[str, Any]], None], Callable[[], None]]:
    """(record, close): metrics.jsonl, and TensorBoard when asked, from a place in the training on."""
    if not tensorboard:
        return run.append_metrics, lambda: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs TensorBoard: pip install 'mecoq-faiss[tensorboard]'") from error
    first = (epoch - 1) * steps_per_epoch + step + 1
    writer = SummaryWriter(run.path / "tensorboard", purge_step=first)  # hides a killed run's unsaved steps

    def record(values: dict[str, Any]) -> None:
        run.append_metrics(values)
        place = (values["epoch"] - 1) * steps_per_epoch + values.get("step", steps_per_epoch)
        for name, value in values.items():
            if name not in ("epoch", "step"):
                writer.add_scalar(name, value, place)

    return record, writer.close
