"""QIDO: which studies, series or instances match a query string, and what is said of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from lib.dicomweb.archive import MODALITY, SERIES_UID, STUDY_UID, Archive, Element, Instance

MODALITIES_IN_STUDY, RETRIEVE_URL = "00080061", "00081190"
SERIES_IN_STUDY, INSTANCES_IN_STUDY, INSTANCES_IN_SERIES = "00201206", "00201208", "00201209"
# PS3.18 tables 10.6.3-3 to 10.6.3-5.
STUDY_TAGS = (
    *("00080005", "00080020", "00080030", "00080050", "00080090", "00080201", "00081030"),
    *("00100010", "00100020", "00100030", "00100040", STUDY_UID, "00200010"),
)
SERIES_TAGS = (
    *(MODALITY, "00080021", "00080031", "0008103E", "00180015", SERIES_UID, "00200011", "00400244", "00400245"),
    "00400275",
)
INSTANCE_TAGS = ("00080016", "00080018", "00200013", "00280008", "00280010", "00280011", "00280100")
TAGS: Mapping[str, tuple[str, ...]] = {
    "studies": STUDY_TAGS,
    "series": (*STUDY_TAGS, *SERIES_TAGS),
    "instances": (*STUDY_TAGS, *SERIES_TAGS, *INSTANCE_TAGS),
}
MOST_RESULTS = 10_000
TAG = re.compile(r"[0-9A-Fa-f]{8}")
RANGED = ("DA", "TM", "DT")
WITHOUT_WILDCARDS = ("UI", *RANGED)
OPTIONS = frozenset({"limit", "offset", "includefield", "fuzzymatching"})


class QueryError(Exception):
    """A query that makes no sense; the message is one sentence for the client."""


@dataclass(frozen=True)
class Query:
    """A parsed query string: what must match, what to say beside the usual, and which part of the answer."""

    filters: Mapping[str, str]
    extra: tuple[str, ...]
    is_all: bool
    offset: int
    limit: int


def parse_query(pairs: Iterable[tuple[str, str]]) -> Query:
    """The query of `key=value` pairs; keys are keywords or tags of 8 digits. QueryError for others."""
    filters: dict[str, str] = {}
    extra: list[str] = []
    numbers = {"offset": 0, "limit": MOST_RESULTS}
    for key, value in pairs:
        if key in numbers:
            if not (value.isascii() and value.isdecimal()):
                raise QueryError(f"{key} is {value[:40]!r}; it must be a whole number from 0 up")
            numbers[key] = int(value)
        elif key == "includefield":
            extra += [part for part in value.split(",") if part]
        elif key not in OPTIONS:
            filters[_tag(key)] = value
    tags = tuple(_tag(name) for name in extra if name != "all")
    return Query(filters, tags, "all" in extra, numbers["offset"], min(numbers["limit"], MOST_RESULTS))


def answer_query(
    archive: Archive, level: str, query: Query, root: str, study: str | None = None, series: str | None = None
) -> list[dict[str, Element]]:
    """What matches at a level (`studies`, `series` or `instances`), as DICOM JSON; `root` is the server's own URL.

    A study or series matches if one of its instances does.
    """
    groups = _grouped(archive.find(study, series), level)
    modalities = _modalities(archive)
    matching = [
        group for group in groups if any(_matches(each, query.filters, modalities[each.study]) for each in group)
    ]
    page = matching[query.offset : query.offset + query.limit]
    return [_described(archive, group, level, query, root, modalities[group[0].study]) for group in page]


def _grouped(instances: Sequence[Instance], level: str) -> list[list[Instance]]:
    keys: Mapping[str, Callable[[Instance], str]] = {
        "studies": lambda each: each.study,
        "series": lambda each: each.series,
        "instances": lambda each: each.uid,
    }
    groups: dict[str, list[Instance]] = {}
    for each in instances:
        groups.setdefault(keys[level](each), []).append(each)
    return list(groups.values())


def _modalities(archive: Archive) -> dict[str, list[str]]:
    """The modalities in each study."""
    found: dict[str, set[str]] = {}
    for each in archive.find():
        found.setdefault(each.study, set()).add(str(each.first(MODALITY) or ""))
    return {study: sorted(names) for study, names in found.items()}


def _described(
    archive: Archive, group: Sequence[Instance], level: str, query: Query, root: str, modalities: list[str]
) -> dict[str, Element]:
    first = group[0]
    tags = first.fields if query.is_all else dict.fromkeys((*TAGS[level], *query.extra))
    said: dict[str, Element] = {tag: first.fields[tag] for tag in tags if tag in first.fields}
    url = f"{root}/studies/{first.study}"
    if level == "studies":
        said[MODALITIES_IN_STUDY] = {"vr": "CS", "Value": modalities}
        said[SERIES_IN_STUDY] = {"vr": "IS", "Value": [len({each.series for each in group})]}
        said[INSTANCES_IN_STUDY] = {"vr": "IS", "Value": [len(group)]}
    if level != "studies":
        url += f"/series/{first.series}"
    if level == "series":
        said[INSTANCES_IN_SERIES] = {"vr": "IS", "Value": [len(group)]}
    if level == "instances":
        url += f"/instances/{first.uid}"
    said[RETRIEVE_URL] = {"vr": "UR", "Value": [url]}
    return dict(sorted(said.items()))


def _matches(instance: Instance, filters: Mapping[str, str], modalities: Sequence[str]) -> bool:
    for tag, wanted in filters.items():
        have = list(modalities) if tag == MODALITIES_IN_STUDY else _texts(instance.fields.get(tag, {}))
        if wanted not in ("", "*") and not any(_is_match(value, wanted, _vr(tag)) for value in have):
            return False
    return True


def _is_match(value: str, wanted: str, vr: str) -> bool:
    if vr in RANGED and "-" in wanted:
        low, _, high = wanted.partition("-")
        # An upper bound of less precision covers all it begins: 2026 is the whole year.
        return (not low or value >= low) and (not high or value[: len(high)] <= high)
    if vr in WITHOUT_WILDCARDS or "\\" in wanted:
        return value in re.split(r"[,\\]", wanted)
    pattern = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in wanted)
    return re.fullmatch(pattern, value, re.IGNORECASE | re.DOTALL) is not None


def _texts(element: Element) -> list[str]:
    values = [value.get("Alphabetic", "") if isinstance(value, dict) else value for value in element.get("Value", [])]
    return [str(value) for value in values if value is not None]


def _tag(name: str) -> str:
    tag: Any = name if TAG.fullmatch(name) else tag_for_keyword(name)
    if tag is None:
        raise QueryError(f"{name[:80]!r} is no attribute that can be asked for; name a keyword or a tag of 8 digits")
    return tag.upper() if isinstance(tag, str) else f"{tag:08X}"


def _vr(tag: str) -> str:
    try:
        return str(dictionary_VR(int(tag, 16)))
    except KeyError:  # private
        return "UN"
