"""An animated picture of what a page shows, for the documentation."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page

SIZE = (1024, 640)
POINTER = ((0, 0), (0, 22), (6, 17), (10, 26), (14, 24), (10, 16), (17, 16))
LIMIT_BYTES = 1_000_000


class Film:
    """Frames of a page, each with how long it is shown."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[Image.Image] = []
        self._durations_ms: list[int] = []

    def take(self, duration_ms: int, pointer: tuple[float, float] | None = None) -> None:
        """The page as it is now, with the mouse's pointer, which screenshots lack, at a place of it."""
        frame = Image.open(BytesIO(self._page.screenshot())).convert("RGB")
        if pointer is not None:
            outline = [(pointer[0] + x, pointer[1] + y) for x, y in POINTER]
            ImageDraw.Draw(frame).polygon(outline, fill="white", outline="black")
        self._frames.append(frame.resize(SIZE, Image.Resampling.LANCZOS))
        self._durations_ms.append(duration_ms)

    def save(self, path: Path) -> None:
        """All frames, over and over, as WebP."""
        first, *others = self._frames
        first.save(path, save_all=True, append_images=others, duration=self._durations_ms, loop=0, quality=75, method=6)
        assert path.stat().st_size < LIMIT_BYTES
