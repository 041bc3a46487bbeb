"""POST, GET and DELETE /scoring/: the stock contract, but scored in this process, where clicks have precedence.

The stock endpoint starts a process of its own for each method, which knows nothing of who is clicking.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol
from uuid import uuid4

from fastapi import APIRouter, HTTPException

from lib.activelearning.background import BackgroundScoring
from lib.infers.failures import answer

logger = logging.getLogger(__name__)

SUBMITTED, RUNNING, DONE, STOPPED, FAILED = "SUBMITTED", "RUNNING", "DONE", "STOPPED", "ERROR"
KEPT_TASKS = 20


class ScoringApp(Protocol):
    """What the routes need of the app."""

    def scoring(self, request: dict[str, Any]) -> dict[str, Any]: ...


class ScoringTasks:
    """The scorings that clients asked for, one at a time; the last ones are remembered."""

    def __init__(self, app: ScoringApp, background: BackgroundScoring, methods: Mapping[str, Any]) -> None:
        self._app, self._background, self.methods = app, background, methods
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._tasks: list[dict[str, Any]] = []

    def check(self, method: str) -> None:
        """HTTPException 404 for a method that there is not."""
        if method not in self.methods:
            raise answer(404, f"there is no scoring method {method[:80]!r} here: they are {sorted(self.methods)}")

    def start(self, method: str) -> dict[str, Any]:
        """A scoring in a thread of its own; how it stands."""
        task: dict[str, Any] = {"id": str(uuid4()), "status": SUBMITTED, "start_ts": _now()}
        task["request"] = {"method": method}
        with self._lock:
            self._tasks = [*self._tasks, task][-KEPT_TASKS:]
        threading.Thread(target=self._work, args=(task, method), daemon=True, name="scoring task").start()
        return self._shown(task)

    def run(self, method: str) -> dict[str, Any]:
        """A scoring to its end; its result."""
        with self._turn:
            self._background.interrupt()  # the pass that takes its time
            return self._app.scoring({"method": method})

    def status(self, is_all: bool, is_running: bool) -> list[dict[str, Any]] | dict[str, Any]:
        """The task that runs, or all, or the last one; HTTPException 404 if there is none."""
        with self._lock:
            tasks = [self._shown(task) for task in self._tasks]
        if is_running:
            tasks = [task for task in tasks if task["status"] in (SUBMITTED, RUNNING)]
        if not tasks:
            raise answer(404, "nothing is being scored for a client" if is_running else "nobody has asked for scores")
        return tasks if is_all else tasks[0 if is_running else -1]

    def stop(self) -> dict[str, Any] | None:
        """Stop the scorings that are going on; the first of them, or None."""
        with self._lock:
            going = [task for task in self._tasks if task["status"] in (SUBMITTED, RUNNING)]
            for task in going:
                task |= {"status": STOPPED, "end_ts": _now()}
        if going:
            self._background.interrupt()
        return self._shown(going[0]) if going else None

    def _work(self, task: dict[str, Any], method: str) -> None:
        with self._turn:
            if not self._passes(task, SUBMITTED, RUNNING):
                return
            self._background.interrupt()
            try:
                task["result"] = self._app.scoring({"method": method})
                self._passes(task, RUNNING, DONE)
            except HTTPException as refusal:
                task["result"] = {"error": refusal.detail}
                self._passes(task, RUNNING, FAILED)

    def _passes(self, task: dict[str, Any], before: str, after: str) -> bool:
        """Whether the task was in one state and now is in another."""
        with self._lock:
            if task["status"] != before:
                return False
            task["status"] = after
            if after != RUNNING:
                task["end_ts"] = _now()
            return True

    def _shown(self, task: dict[str, Any]) -> dict[str, Any]:
        is_going = task["status"] in (SUBMITTED, RUNNING)
        progress = self._background.progress
        details = {"details": [progress.sentence], **progress.as_json()}
        return {**task, **(details if is_going else {"details": [str(task.get("result", ""))]})}


def scoring_door(tasks: ScoringTasks) -> APIRouter:
    """The routes; endpoints that are no coroutines are run in threads."""
    router = APIRouter(include_in_schema=False)

    @router.get("/scoring/")
    def status(all: bool = False, check_if_running: bool = False) -> Any:
        return tasks.status(all, check_if_running)

    @router.post("/scoring/{method}")
    def score(method: str, params: dict[str, Any] | None = None, run_sync: bool = False) -> dict[str, Any]:
        tasks.check(method)
        return tasks.run(method) if run_sync else tasks.start(method)

    @router.post("/scoring/")
    def score_all(params: dict[str, Any] | None = None, run_sync: bool = False) -> dict[str, Any]:
        # All methods make the same scores: the first of them does it for the others.
        method = sorted(tasks.methods)[0]
        return {method: {"result": tasks.run(method) if run_sync else tasks.start(method), "detail": None}}

    @router.delete("/scoring/")
    def stop() -> dict[str, Any] | None:
        return tasks.stop()

    return router


def progress_door(background: BackgroundScoring) -> APIRouter:
    """A route beside the stock's: how far the scores are, whoever asked for them. It is cheap enough for a viewer to
    ask again and again."""
    router = APIRouter(include_in_schema=False)

    @router.get("/scoring/progress")
    def progress() -> dict[str, Any]:
        return {**background.progress.as_json(), "message": background.progress.sentence}

    return router


def _now() -> str:
    return datetime.today().strftime("%Y-%m-%d %H:%M:%S")
