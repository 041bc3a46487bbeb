"""/cases/list: how far each case is, as a page, for whoever picks one by hand or reviews; and the way to it in OHIF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from lib.activelearning.case_states import REJECTED, REVIEWED, STATES, SUBMITTED, CaseState, CaseStates
from lib.infers.failures import answer
from lib.serving.cases_door import CasesApp, store_with
from lib.serving.pages import page

# What somebody has to do something about comes first.
ORDER = (SUBMITTED, REJECTED, *(state for state in STATES if state not in (SUBMITTED, REJECTED, REVIEWED)), REVIEWED)
HEAD = "<tr><th>Case<th>State<th>Label<th>Submitted<th>Review</tr>"


def cases_page(app: CasesApp, states: CaseStates) -> APIRouter:
    """The routes; endpoints that are no coroutines are run in threads."""
    router = APIRouter(include_in_schema=False)

    @router.get("/cases/list")
    def all_cases(state: str = "") -> Response:
        if state and state not in STATES:
            raise answer(422, f"state is {state[:40]!r}: it must be one of {list(STATES)}")
        return page(_body(states.all(app.datastore()), state), width="80em")

    @router.get("/cases/view")
    def view(image: str) -> Response:
        study = store_with(app, image).get_image_info(image).get("StudyInstanceUID")
        if not study:
            raise answer(404, f"{image[:80]} is no DICOM study, which OHIF could show: use 3D Slicer")
        return RedirectResponse(f"/ohif/monai-label?StudyInstanceUIDs={quote(str(study), safe='')}", 303)

    return router


def _body(cases: Sequence[CaseState], state: str) -> str:
    """The cases of a state, of all if none is named; of one state the one that waits longest first."""
    counts = Counter(each.state for each in cases)
    links = [f'<a href="?state={quote(each)}">{each}</a> {counts[each]}' for each in ORDER]
    shown = [each for each in cases if state in ("", each.state)]
    rows = [_row(each) for each in sorted(shown, key=lambda each: (ORDER.index(each.state), each.when, each.id))]
    return (
        f"<h1>sam3d: {len(shown)} of {len(cases)} cases</h1>"
        f'<p><a href="?">all</a> {len(cases)} · {" · ".join(links)}</p><table>{HEAD}{"".join(rows)}</table>'
    )


def _row(case: CaseState) -> str:
    review = ": ".join(part for part in (case.reviewer, case.comment) if part)
    label = f"version {case.version} by {case.by or 'somebody'}" if case.version else ""
    state = f"{case.state} by {case.in_work_by}" if case.in_work_by and not case.version else case.state
    cells = "".join(f"<td>{escape(text)}" for text in (state, label, case.when[:16].replace("T", " "), review))
    return f'<tr><td><a href="view?image={quote(case.id, safe="")}">{escape(case.id)}</a>{cells}</tr>'
