"""Which status and sentence each failure becomes, and which failures stay our own mistakes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from fastapi import HTTPException

from lib.errors import GeometryError, PromptError, SettingsError, VolumeError, WeightsError
from lib.infers.failures import as_answers
from lib.infers.model import SharedPredictor
from lib.network.weights import save_weights
from lib.settings import Settings
from network.small_networks import card_of, small_network


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (PromptError("a click is odd"), 422, "a click is odd"),
        (VolumeError("x.nii is cut short"), 422, "cut short"),
        (GeometryError("singular"), 422, "singular"),
        (SettingsError("spacing"), 400, "spacing"),
        (WeightsError("damaged"), 503, "damaged"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 503, "GPU's memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 503, "server's memory"),
        (MemoryError(), 503, "server's memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 507, "No space left"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), 507, "free disk space"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), 503, "Read-only file system"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), 503, "let it read and write its folders"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failure_becomes_a_status_and_a_sentence(error: Exception, status: int, words: str) -> None:
    with pytest.raises(HTTPException) as refusal, as_answers():
        raise error
    assert refusal.value.status_code == status
    assert words in refusal.value.detail


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(errno.EIO, "bad"), ValueError("x"), KeyError(1)]
)
def test_our_own_mistakes_are_not_dressed_up(error: Exception) -> None:
    with pytest.raises(type(error)) as same, as_answers():
        raise error
    assert same.value is error


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of random numbers whose papers let them answer."""
    return saved(tmp_path, is_trained=True)


def saved(folder: Path, is_trained: bool) -> Path:
    path = folder / "small.safetensors"
    save_weights(small_network(), card_of(version="7", is_trained=is_trained), path)
    return path


def sharing(path: Path) -> SharedPredictor:
    return SharedPredictor(Settings(checkpoint=path, model_folder=path.parent / "model"))


def test_untrained_weights_say_what_to_do(tmp_path: Path) -> None:
    shared = sharing(saved(tmp_path, is_trained=False))
    for _ in range(2):
        with pytest.raises(HTTPException) as refusal, shared.ready():
            pass
        assert refusal.value.status_code == 409
        assert "train them" in refusal.value.detail
    assert "not ready" in shared.status


def test_a_failed_loading_is_tried_again(weights: Path) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    shared = sharing(weights)
    shared.warm_up()
    assert shared.status.startswith("not ready: small.safetensors")
    with pytest.raises(WeightsError, match=r"small\.safetensors"), shared.ready():
        pass
    weights.write_bytes(whole)
    with shared.ready() as loaded:
        assert loaded.card.version == "7"
    assert shared.status == "weights 7"


def test_a_predictor_is_loaded_once(weights: Path) -> None:
    shared = sharing(weights)
    shared.warm_up()
    with shared.ready() as first:
        pass
    weights.unlink()
    with shared.ready() as second:
        pass
    assert first is second
