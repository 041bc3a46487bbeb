"""Curves of a training run, as MONAI Label offers them: TensorBoard, and MLflow where the server has it switched on.

Both write below the run's own folder, unless the server was told of a tracking address.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlflow.telemetry import set_telemetry_client
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler
from monailabel.config import settings as server_settings

EXPERIMENT = "sam3d"

# MLflow, which MONAI Label imports whether it is used or not, reports its use to its makers unless told not to.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
set_telemetry_client()


def tracking_handlers(folder: Path) -> list[Any]:
    """Ignite handlers that log each step's loss below `folder`."""
    handlers: list[Any] = [TensorBoardStatsHandler(log_dir=str(folder), tag_name="loss", output_transform=_loss)]
    if server_settings.MONAI_LABEL_TRACKING_ENABLED:
        # MLflow gave up plain files; a database of one file is the nearest to it.
        folder.mkdir(parents=True, exist_ok=True)
        local = f"sqlite:///{folder.parent / 'mlruns.db'}"
        handlers.append(
            MLFlowHandler(
                tracking_uri=server_settings.MONAI_LABEL_TRACKING_URI or local,
                experiment_name=EXPERIMENT,
                run_name=folder.name,
                output_transform=_loss,
                close_on_complete=True,
            )
        )
    return handlers


def _loss(output: Any) -> float:
    return float(output["loss"])
