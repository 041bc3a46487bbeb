"""Embeddings on disk: what comes back, what is made anew, and what is removed."""

import errno
import os

import pytest
import torch

from lib.interactive import embedding_folder
from lib.interactive.embedding_folder import EmbeddingFolder
from lib.network.sam3d import Embedding


def embedding_of(seed=0, dtype=torch.float32):
    """8 * 64 + 27 * 8 + 64 numbers; the feature has its channels last in memory."""
    draw = torch.Generator().manual_seed(seed)
    feature = torch.randn(1, 8, 4, 4, 4, generator=draw).contiguous(memory_format=torch.channels_last_3d)
    fusion = torch.randn(3, 3, 3, 8, generator=draw).to(dtype)
    return Embedding(feature, fusion, torch.randn(1, 1, 4, 4, 4, generator=draw))


def never():
    pytest.fail("made again")


def size_on_disk(tmp_path):
    EmbeddingFolder(tmp_path, 10**6, "me").get("probe", embedding_of)
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    path.unlink()
    return size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_kept_comes_back_to_the_bit_and_as_it_lay_in_memory(tmp_path, dtype):
    made = embedding_of(1, dtype)
    assert EmbeddingFolder(tmp_path, 10**6, "me").get("a", lambda: made) is made
    found = EmbeddingFolder(tmp_path, 10**6, "me").get("a", never)
    for name in ("feature", "fusion", "image"):
        assert torch.equal(getattr(found, name), getattr(made, name))
        assert getattr(found, name).stride() == getattr(made, name).stride()
        assert getattr(found, name).dtype == getattr(made, name).dtype


def test_another_owner_finds_nothing_and_takes_the_folder_over(tmp_path):
    EmbeddingFolder(tmp_path, 10**6, "old weights").get("a", embedding_of)
    (tmp_path / "notes.txt").write_text("not mine")
    made = []
    EmbeddingFolder(tmp_path, 10**6, "new weights").get("a", lambda: made.append(1) or embedding_of())
    assert made == [1]
    assert len(list(tmp_path.glob(f"*{embedding_folder.ENDING}"))) == 1
    assert (tmp_path / "notes.txt").exists()


def test_the_longest_unused_goes_first(tmp_path):
    size = size_on_disk(tmp_path)
    folder = EmbeddingFolder(tmp_path, int(2.5 * size), "me")
    for age, key in ((300, "a"), (200, "b")):
        folder.get(key, embedding_of)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(newest.stat().st_atime_ns, newest.stat().st_mtime_ns - age * 10**9))
    folder.get("a", never)  # used just now
    folder.get("c", embedding_of)
    folder.get("a", never)
    folder.get("c", never)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        folder.get("b", never)


def test_what_is_larger_than_the_limit_is_not_written(tmp_path):
    folder = EmbeddingFolder(tmp_path, 1000, "me")
    folder.get("a", embedding_of)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not safetensors", None], ids=["empty", "garbage", "cut"])
def test_a_damaged_file_is_made_again(tmp_path, content, caplog):
    folder = EmbeddingFolder(tmp_path, 10**6, "me")
    folder.get("a", embedding_of)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    made = []
    folder.get("a", lambda: made.append(1) or embedding_of())
    assert made == [1]
    assert "cannot be used and is made again" in caplog.text
    folder.get("a", never)


def test_a_full_disk_costs_no_answer(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embedding_folder, "write_atomically", fail)
    made = embedding_of()
    assert EmbeddingFolder(tmp_path, 10**6, "me").get("a", lambda: made) is made
    assert "was not kept" in caplog.text


def test_what_cannot_be_made_leaves_no_file(tmp_path):
    def fail():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        EmbeddingFolder(tmp_path, 10**6, "me").get("a", fail)
    assert list(tmp_path.iterdir()) == []
