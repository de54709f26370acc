"""The audit for those who read it: a page or all of it, of one chain or of several, one after the other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, ConfigDict, Field

from perdure.audit.reading import AuditFilter, search_lines
from perdure.audit.record import AuditRecord
from perdure.audit.store import AuditStore
from perdure.errors import AuditNotConfiguredError, InvalidInputError
from perdure_api import visibility
from perdure_api.schemas import Answer, Request
from perdure_api.text import RUN_ID_PATTERN, SearchKey

MAX_PAGE: Final = 1000
MAX_LOOKS: Final = 50_000
"""Records that are looked through for one page; what is not found by then is on the next."""


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_utc)]
"""A date, or a time of day; without a time zone it is UTC."""


class AuditQuery(Request):
    """Which records are wanted."""

    model_config = ConfigDict(populate_by_name=True)

    org: SearchKey | None = None
    """Whose; default: all that the caller may see."""
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Facts from this moment on."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Facts before this moment."""
    kind: Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)?$", max_length=100)] | None = None
    """As in `tool.called`, or `tool` for all of a tool's."""
    run_id: Annotated[str, Field(pattern=RUN_ID_PATTERN)] | None = None

    @property
    def filter(self) -> AuditFilter:
        """The same without the organisation."""
        return AuditFilter(since=self.since, until=self.until, kind=self.kind, run_id=self.run_id)


class AuditPage(Answer):
    """A page of records, in the order of their chains."""

    items: tuple[AuditRecord, ...]
    next_page_token: str | None = None
    """Asks for the next page; null on the last one. A page may be short, or empty, and not be the last."""


class Audit:
    """What there is to read."""

    def __init__(self, store: AuditStore | None) -> None:
        """Take the store.

        Args:
            store: None: there is no audit.
        """
        self._store = store

    async def reach(self) -> None:
        """Return if the store answers now.

        Raises:
            AuditNotConfiguredError: There is no audit.
            AuditError: The store does not answer.
        """
        await self._opened().manifest()

    async def page(
        self, query: AuditQuery, *, org: str | None, limit: int = 100, page_token: str | None = None
    ) -> AuditPage:
        """Return a page of records.

        Args:
            query: Which of them.
            org: Only this organisation's, whatever is asked; None: what is asked.
            limit: As many at most.
            page_token: `next_page_token` of the page before, with the same query.

        Raises:
            AuditNotConfiguredError: There is no audit.
            InvalidInputError: The page token is none of ours.
            AuditError: The store does not answer.
        """
        store = self._opened()
        asked = query.model_dump_json() + json.dumps(org)
        first, after = _place(visibility.decode_token(page_token, query=asked))
        found: list[AuditRecord] = []
        looks = 0
        for chain in await self._chains(query, org):
            if chain < first:
                continue
            begin = after if chain == first else 0
            async for record, _ in search_lines(store, chain, AuditFilter(since=query.since), after=begin):
                looks += 1
                if query.filter.wants(record):
                    found.append(record)
                if len(found) >= limit or looks >= MAX_LOOKS:
                    token = json.dumps([chain, record.seq]).encode()
                    return AuditPage(items=tuple(found), next_page_token=visibility.encode_token(token, query=asked))
        return AuditPage(items=tuple(found))

    async def lines(self, query: AuditQuery, *, org: str | None) -> AsyncIterator[bytes]:
        """Iterate over the wanted records as they stand in their chains, one line of JSON each; raises as `page`."""
        store = self._opened()
        for chain in await self._chains(query, org):
            async for _, line in search_lines(store, chain, query.filter):
                yield line

    def check(self) -> None:
        """Refuse to be read if there is nothing.

        Raises:
            AuditNotConfiguredError: There is no audit.
        """
        self._opened()

    def _opened(self) -> AuditStore:
        if self._store is None:
            raise AuditNotConfiguredError("the API has no PERDURE_AUDIT_URL, so it has no audit to show")
        return self._store

    async def _chains(self, query: AuditQuery, org: str | None) -> Sequence[str]:
        if org is None and query.org is None:
            return sorted(await self._opened().chains())
        if org is not None and query.org not in (None, org):
            return []
        return [org if org is not None else query.org or ""]


def _place(token: bytes | None) -> tuple[str, int]:
    """Return behind which record of which chain a page begins."""
    if token is None:
        return "", 0
    try:
        chain, seq = json.loads(token)
        return str(chain), int(seq)
    except (ValueError, TypeError) as error:
        raise InvalidInputError("this is no page token of the audit") from error
