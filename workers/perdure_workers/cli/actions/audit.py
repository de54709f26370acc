"""`perdure audit verify` and `perdure audit export`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from temporalio.client import Client

from perdure.audit.anchors import read_anchors
from perdure.audit.contracts import Anchors
from perdure.audit.facts import keyed
from perdure.audit.folder import FolderStore
from perdure.audit.opening import require_store
from perdure.audit.reading import AuditFilter, ChainReport, search_lines, verify_chain
from perdure.audit.store import MANIFEST, NO_ORG, AuditStore
from perdure.errors import AuditNotConfiguredError
from perdure.messages import Frozen
from perdure.settings import Settings, load_settings
from perdure_activities.audit.completeness import Unrecorded, unrecorded
from perdure_workers.cli.actions.connection import connected
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.ending import ExitCode
from perdure_workers.dev import AUDIT_FOLDER
from perdure_workers.dev_server import DEFAULT_DB_FILE
from perdure_workers.plain_text import line

DEV_FOLDER = DEFAULT_DB_FILE.parent / AUDIT_FOLDER
MAX_SHOWN = 20
"""Problems of one chain that are shown to people; JSON has them all."""


class AuditReport(Frozen):
    """What `audit verify --json` prints."""

    url: str
    store: str
    """The store's id."""
    sound: bool
    anchored: bool
    """Whether the chains' ends were compared with what Temporal has noted of them."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and what else there is to know."""
    chains: tuple[ChainReport, ...]
    unrecorded: tuple[Unrecorded, ...] | None = None
    """With `--histories`: facts that no record tells of."""


async def verify_audit(
    *,
    url: str | None,
    orgs: Sequence[str] | None,
    offline: bool,
    histories: bool,
    as_json: bool,
    address: str | None,
) -> ExitCode:
    """Verify the chains, print what is wrong, and fail if anything is.

    Raises:
        AuditNotConfiguredError: Nobody says where the audit is, or there is none.
        PerdureError: The store does not answer, or Temporal does not.
    """
    settings = load_settings(audit_url=url)
    store = _store(settings)
    if offline:
        report = await _verify(store, orgs=orgs, anchors=None, client=None, quiet=as_json)
    else:
        async with connected(settings, address=address) as client:
            anchors = await read_anchors(client)
            report = await _verify(
                store, orgs=orgs, anchors=anchors, client=client if histories else None, quiet=as_json
            )
    if as_json:
        print_json(report)
    else:
        _show(report, console())
    return ExitCode.OK if report.sound else ExitCode.FAILED


async def export_audit(
    *,
    url: str | None,
    orgs: Sequence[str] | None,
    since: datetime | None,
    until: datetime | None,
    kind: str | None,
    run: str | None,
    output: Path | None,
) -> None:
    """Write the records of a stretch of time, each as it stands in its chain.

    Raises:
        AuditNotConfiguredError: Nobody says where the audit is, or there is none.
        AuditError: The store does not answer.
    """
    store = _store(load_settings(audit_url=url))
    wanted = AuditFilter(since=_utc(since), until=_utc(until), kind=kind, run_id=run)
    with _written(output) as write:
        async for found in _lines(store, await _chosen(store, orgs), wanted):
            write.write(found)


def _store(settings: Settings) -> AuditStore:
    """Return the store that is set, else the one that `perdure dev` keeps in this folder."""
    if settings.audit_url is None and (DEV_FOLDER / MANIFEST).is_file():
        return FolderStore(DEV_FOLDER.absolute())
    return require_store(settings)


async def _verify(
    store: AuditStore, *, orgs: Sequence[str] | None, anchors: Anchors | None, client: Client | None, quiet: bool
) -> AuditReport:
    manifest = await store.manifest()
    if manifest is None:
        raise AuditNotConfiguredError(f"there is no audit in {store.url}")
    anchored = anchors is not None and anchors.store == manifest.id
    heads = anchors.heads if anchors is not None and anchored else {}
    chosen = sorted({*await _chosen(store, orgs), *(heads if orgs is None else {})})
    ends = {org: await store.head(org) for org in chosen}
    reports: list[ChainReport] = []
    with _progress(sum(end.seq for end in ends.values() if end), quiet=quiet) as progress:
        for org in chosen:
            reports.append(await verify_chain(store, org, anchor=heads.get(org), progress=progress.advance))
    replaced = anchors is not None and bool(anchors.store) and not anchored
    left_out = await unrecorded(client, store, digest=keyed(None)) if client else None
    return AuditReport(
        url=store.url,
        store=manifest.id,
        sound=all(report.sound for report in reports) and not replaced and not left_out,
        anchored=anchored,
        notes=tuple(_notes(anchors, manifest.id, [report.org for report in reports])),
        chains=tuple(reports),
        unrecorded=None if left_out is None else tuple(left_out),
    )


def _notes(anchors: Anchors | None, store: str, orgs: Sequence[str]) -> Iterator[str]:
    if anchors is None:
        yield (
            "not compared with Temporal (--offline): a chain that was cut off at its end together with its head, or "
            "written anew as a whole, is not found"
        )
    elif not anchors.store:
        yield "not compared with Temporal: it has no anchors, as no auditor has run in this namespace"
    elif anchors.store != store:
        yield f"Temporal has anchored another store ({anchors.store}): this one is a stranger, or took its place"
    else:
        without = [_called(org) for org in orgs if org not in anchors.heads]
        if without:
            yield f"without an anchor in Temporal: {', '.join(without)}"


async def _chosen(store: AuditStore, orgs: Sequence[str] | None) -> list[str]:
    if await store.manifest() is None:
        raise AuditNotConfiguredError(f"there is no audit in {store.url}")
    return sorted(await store.chains()) if orgs is None else ["" if org == NO_ORG else org for org in orgs]


async def _lines(store: AuditStore, orgs: Sequence[str], wanted: AuditFilter) -> AsyncIterator[str]:
    for org in orgs:
        async for _, found in search_lines(store, org, wanted):
            yield found.decode().rstrip("\n") + "\n"


@contextmanager
def _written(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8") as file:
        yield file


class _Bar:
    """A bar for people who wait; nothing for programs."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("records", total=total) if progress else None

    def advance(self, records: int) -> None:
        """Say that so many records were read."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, records)


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[_Bar]:
    out = console(stderr=True)
    if quiet or not out.is_terminal:
        yield _Bar(None, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        yield _Bar(progress, total)


def _show(report: AuditReport, out: Console) -> None:
    for chain in report.chains:
        verdict = (
            "sound" if chain.sound else f"{len(chain.problems)} problems" if len(chain.problems) > 1 else "1 problem"
        )
        style = "green" if chain.sound else "bold red"
        out.print(Text(f"{_called(chain.org)}: {chain.records:,} records, ").append(verdict, style), soft_wrap=True)
        for problem in chain.problems[:MAX_SHOWN]:
            out.print(Text(f"  {line(str(problem))}", "red"), soft_wrap=True)
        if len(chain.problems) > MAX_SHOWN:
            out.print(f"  and {len(chain.problems) - MAX_SHOWN} more; --json has them all")
        for note in chain.notes:
            out.print(Text(f"  {line(note)}", "dim"), soft_wrap=True)
    for left_out in report.unrecorded or ():
        out.print(Text(f"not recorded: {line(left_out.kind)} of {line(left_out.run_id)} ({left_out.source})", "red"))
    for note in report.notes:
        out.print(Text(line(note), "dim"), soft_wrap=True)
    verdict = "the audit is as it was written" if report.sound else "the audit is not as it was written"
    out.print(Text(verdict, "green" if report.sound else "bold red"))


def _called(org: str) -> str:
    return line(org, 255) or NO_ORG


def _utc(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
