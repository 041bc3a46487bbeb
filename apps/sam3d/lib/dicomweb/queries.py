"""QIDO: which studies, series or instances match a query string, and what is said of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from lib.dicomweb.archive import SERIES_TAGS as SERIES_KNOWN
from lib.dicomweb.archive import Archive, Instance, Series
from lib.dicomweb.headers import MODALITY, SERIES_UID, STUDY_UID, Element, first_value

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

    def extra_known(self, known: Mapping[str, Element]) -> bool:
        """Whether what is asked for beside the usual is known."""
        return all(tag in known for tag in self.extra)


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

    A study matches if one of its series does; a series if one of its instances does, where that is asked for.
    """
    found = [each for each in archive.series(study) if series in (None, each.uid)]
    modalities = _modalities(archive.series(study))
    page = slice(query.offset, query.offset + query.limit)
    if level == "instances":
        wanted = {tag: value for tag, value in query.filters.items() if value not in ("", "*")}
        uids = [(each, one) for each in found for one in archive.find(each.study, each.uid)]
        matching = [(each, one) for each, one in uids if _instance_matches(one, each, wanted, modalities[each.study])]
        return [_described_instance(each, one, query, root) for each, one in matching[page]]
    matching_series = [each for each in found if _series_matches(archive, each, query.filters, modalities[each.study])]
    if level == "series":
        return [_described_series(archive, each, query, root) for each in matching_series[page]]
    studies = list(dict.fromkeys(each.study for each in matching_series))
    return [_described_study(archive, uid, query, root, modalities[uid]) for uid in studies[page]]


def _modalities(series: Sequence[Series]) -> dict[str, list[str]]:
    """The modalities in each study."""
    found: dict[str, set[str]] = {}
    for each in series:
        found.setdefault(each.study, set()).add(str(first_value(each.fields, MODALITY) or ""))
    return {study: sorted(names) for study, names in found.items()}


def _described_study(
    archive: Archive, study: str, query: Query, root: str, modalities: list[str]
) -> dict[str, Element]:
    series = archive.series(study)
    said = _said(series[0].fields, _first(archive, series[0]), STUDY_TAGS, query)
    said[MODALITIES_IN_STUDY] = {"vr": "CS", "Value": modalities}
    said[SERIES_IN_STUDY] = {"vr": "IS", "Value": [len(series)]}
    said[INSTANCES_IN_STUDY] = {"vr": "IS", "Value": [sum(len(each.files) for each in series)]}
    said[RETRIEVE_URL] = {"vr": "UR", "Value": [f"{root}/studies/{study}"]}
    return dict(sorted(said.items()))


def _described_series(archive: Archive, series: Series, query: Query, root: str) -> dict[str, Element]:
    said = _said(series.fields, _first(archive, series), (*STUDY_TAGS, *SERIES_TAGS), query)
    said[INSTANCES_IN_SERIES] = {"vr": "IS", "Value": [len(series.files)]}
    said[RETRIEVE_URL] = {"vr": "UR", "Value": [f"{root}/studies/{series.study}/series/{series.uid}"]}
    return dict(sorted(said.items()))


def _described_instance(series: Series, instance: Instance, query: Query, root: str) -> dict[str, Element]:
    known = {**series.fields, **instance.header.fields()}
    said = _said(known, lambda: instance, (*STUDY_TAGS, *SERIES_TAGS, *INSTANCE_TAGS), query)
    url = f"{root}/studies/{series.study}/series/{series.uid}/instances/{instance.uid}"
    said[RETRIEVE_URL] = {"vr": "UR", "Value": [url]}
    return dict(sorted(said.items()))


def _first(archive: Archive, series: Series) -> Callable[[], Instance | None]:
    return lambda: next(iter(archive.find(series.study, series.uid)), None)


def _said(
    known: Mapping[str, Element], instance: Callable[[], Instance | None], tags: Iterable[str], query: Query
) -> dict[str, Element]:
    """The elements that are asked for; those that no index keeps come from the header of an instance."""
    more: Mapping[str, Element] = {}
    if query.is_all or not query.extra_known(known):
        one = instance()
        more = one.fields() if one is not None else {}
    every = {**more, **known}
    asked = every if query.is_all else dict.fromkeys((*tags, *query.extra))
    return {tag: every[tag] for tag in asked if tag in every}


def _series_matches(archive: Archive, series: Series, filters: Mapping[str, str], modalities: Sequence[str]) -> bool:
    wanted = {tag: value for tag, value in filters.items() if value not in ("", "*")}
    known = {*SERIES_KNOWN, MODALITIES_IN_STUDY}
    if not _matches(series.fields, {tag: wanted[tag] for tag in wanted.keys() & known}, modalities):
        return False
    rest = {tag: wanted[tag] for tag in wanted.keys() - known}
    if not rest:
        return True
    return any(_instance_matches(one, series, rest, modalities) for one in archive.find(series.study, series.uid))


def _instance_matches(instance: Instance, series: Series, wanted: Mapping[str, str], modalities: Sequence[str]) -> bool:
    fields = {**series.fields, **instance.header.fields()}
    if not wanted.keys() <= {*SERIES_KNOWN, *INSTANCE_TAGS, MODALITIES_IN_STUDY}:
        fields = {**instance.fields(), **fields}
    return _matches(fields, wanted, modalities)


def _matches(fields: Mapping[str, Element], wanted: Mapping[str, str], modalities: Sequence[str]) -> bool:
    for tag, value in wanted.items():
        have = list(modalities) if tag == MODALITIES_IN_STUDY else _texts(fields.get(tag, {}))
        if not any(_is_match(each, value, _vr(tag)) for each in have):
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
