"""Where chains are kept: a folder and a bucket keep the same promises."""

from __future__ import annotations

import asyncio
import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perdure.audit.folder import FolderStore
from perdure.audit.opening import open_store, require_store
from perdure.audit.reading import AuditFilter, verify_chain
from perdure.audit.record import AuditEntry, Head, seal
from perdure.audit.store import AuditStore, Segment, folder_of, org_of
from perdure.audit.verification import Fault
from perdure.errors import AuditError, ChainMovedError, ConfigurationError
from perdure.settings import Settings
from tests.audit_stores import bucket_place, folder_place, recorded

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ORGS = ("", "acme", "-", "../..", "a/b", "Ümläut & co.", "~", ".", "x" * 255, "ü" * 255)


@pytest.fixture(params=["folder", "bucket"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AuditStore:
    """A new store of either kind."""
    is_folder = request.param == "folder"
    place = folder_place(tmp_path) if is_folder else bucket_place(request.getfixturevalue("s3"))
    opened = place.store()
    await opened.prepare()
    return opened


def sealed(after: Head, *, count: int = 3, org: str = "acme", writer: str = "w") -> tuple[list[bytes], Head]:
    """Return records that follow on an end, and the new end."""
    lines, head = [], after
    for number in range(after.seq + 1, after.seq + 1 + count):
        entry = AuditEntry(
            at=BEGIN + timedelta(hours=number),
            org=org,
            kind="tool.called" if number % 2 else "approval.asked",
            run_id=f"run-{number}",
            execution_id=writer,
            source=f"{writer}/{number}.0",
        )
        line, head = seal(entry, after=head, now=entry.at)
        lines.append(line)
    return lines, head


async def filled(store: AuditStore, *, batches: int = 4, org: str = "acme") -> Head:
    """Append some batches, and return the end."""
    head = Head()
    for _ in range(batches):
        lines, end = sealed(head, org=org)
        await store.append(org, lines, tail=head, head=end)
        head = end
    return head


async def test_what_is_appended_is_read_back(store: AuditStore) -> None:
    """Records come back in order, the chain is sound, and another process finds its end."""
    head = await filled(store)

    records = await recorded(store, "acme")
    report = await verify_chain(store, "acme")

    assert [record.seq for record in records] == list(range(1, 13))
    assert (report.problems, report.records, report.hash) == ((), 12, head.hash)
    assert await store.tail("acme") == await store.head("acme") == head


async def test_two_writers_never_have_the_same_place(store: AuditStore) -> None:
    """Who thinks that the chain ends where it does not writes nothing, and is told."""
    head = await filled(store)
    before = await recorded(store, "acme")
    lines, end = sealed(head, writer="quicker")
    await store.append("acme", lines, tail=head, head=end)
    late, late_end = sealed(head, writer="late")

    with pytest.raises(ChainMovedError):
        await store.append("acme", late, tail=head, head=late_end)

    assert {record.execution_id for record in (await recorded(store, "acme"))[len(before) :]} == {"quicker"}
    assert (await verify_chain(store, "acme")).sound


async def test_many_writers_make_one_chain(store: AuditStore) -> None:
    """However many writers append at once, each after having looked, the chain is sound and has all that was said."""

    async def write(name: str) -> None:
        for _ in range(5):
            while True:
                tail = await store.tail("acme")
                lines, end = sealed(tail, count=2, writer=name)
                try:
                    await store.append("acme", lines, tail=tail, head=end)
                    break
                except ChainMovedError:
                    continue

    await asyncio.gather(*(write(f"writer-{number}") for number in range(4)))

    report = await verify_chain(store, "acme")
    assert (report.problems, report.records) == ((), 40)


@pytest.mark.parametrize("org", ORGS)
def test_an_organisations_folder_is_its_own(org: str) -> None:
    """Whatever an organisation is called, its folder is a plain name that no other organisation's has."""
    folder = folder_of(org)

    assert folder not in (".", "..")
    assert "/" not in folder
    assert len(folder) <= 255
    assert folder not in {folder_of(other) for other in ORGS if other != org}
    assert org_of(folder) in (org, None)


async def test_organisations_are_listed(store: AuditStore) -> None:
    """Every organisation that has a chain is found, also one whose name is too long for a folder."""
    for org in ORGS:
        await filled(store, batches=1, org=org)

    assert sorted(await store.chains()) == sorted(ORGS)
    assert all([(await verify_chain(store, org)).sound for org in ORGS])


async def test_a_store_is_the_same_store_for_everyone(store: AuditStore) -> None:
    """Of many processes that find it new at once, one says what it is called."""
    manifests = await asyncio.gather(*(store.prepare() for _ in range(8)))

    assert {manifest.id for manifest in manifests} == {(await store.prepare()).id}


async def test_files_beside_the_chains_are_kept(store: AuditStore) -> None:
    """What is saved is loaded, the last time's; what never was is told from it."""
    await store.save("cursors.json", b"1")
    await store.save("cursors.json", b"2")

    assert await store.load("cursors.json") == b"2"
    assert await store.load("others.json") is None


async def test_records_of_a_stretch_of_time_are_found(store: AuditStore) -> None:
    """A search by time, kind and run finds these records and no other, wherever it begins to read."""
    await filled(store, batches=20)

    async def found(wanted: AuditFilter) -> list[int]:
        return [record.seq for record in await recorded(store, "acme", wanted=wanted)]

    since, until = BEGIN + timedelta(hours=31), BEGIN + timedelta(hours=41)
    assert await found(AuditFilter(since=since, until=until)) == list(range(31, 41))
    assert await found(AuditFilter(since=since, until=until, kind="tool.called")) == [31, 33, 35, 37, 39]
    assert await found(AuditFilter(since=since, kind="approval")) == list(range(32, 61, 2))
    assert await found(AuditFilter(run_id="run-7")) == [7]
    assert await found(AuditFilter(since=BEGIN + timedelta(days=9))) == []


async def test_a_search_by_time_reads_little_of_a_long_chain(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a chain of many segments is found by a few looks, not by reading what is before it."""
    store = bucket_place(s3).store()
    await store.prepare()
    await filled(store, batches=40)
    read: list[str] = []
    whole = store.read

    async def noted(segment: Segment) -> bytes:
        read.append(segment.path)
        return await whole(segment)

    monkeypatch.setattr(store, "read", noted)

    found = await recorded(store, "acme", wanted=AuditFilter(since=BEGIN + timedelta(hours=118)))

    assert [record.seq for record in found] == [118, 119, 120]
    assert len(read) <= 3


async def test_a_missing_head_is_found_again(store: AuditStore) -> None:
    """A writer that died between append and note left a chain whose end is found all the same."""
    head = await filled(store, batches=1)
    lines, end = sealed(head)
    note = await store.load("chains/acme/head.json")
    await store.append("acme", lines, tail=head, head=end)
    await store.save("chains/acme/head.json", note or b"")

    assert await store.head("acme") == head
    assert await store.tail("acme") == end


async def test_an_end_that_is_cut_off_is_named(store: AuditStore) -> None:
    """The head tells of records that are no longer there; a new writer does not go on over them."""
    head = await filled(store)
    await cut_off(store, first=10)

    report = await verify_chain(store, "acme")
    lines, end = sealed(head)
    await store.append("acme", lines, tail=await store.tail("acme"), head=end)
    later = await verify_chain(store, "acme")

    assert [(one.fault, one.seq, one.last) for one in report.problems] == [(Fault.TRUNCATED, 10, 12)]
    assert [(one.fault, one.seq, one.last) for one in later.problems] == [(Fault.REMOVED, 10, 12)]


async def cut_off(store: AuditStore, *, first: int) -> None:
    """Remove the records from `first` on, which begins a batch."""
    for segment in await store.segments("acme"):
        lines = (await store.read(segment)).splitlines(keepends=True)
        kept = b"".join(lines[: max(0, first - segment.first)])
        if isinstance(store, FolderStore):
            write(Path(segment.path), kept)
        else:
            await store.save(segment.path, kept)


def write(path: Path, content: bytes, *, mode: str = "wb") -> None:
    """Write a file, or with the mode `ab` add to it."""
    with path.open(mode) as file:
        file.write(content)


def only_segment(folder: Path) -> Path:
    """Return the only segment in a folder."""
    [segment] = folder.glob("audit/chains/acme/*.jsonl")
    return segment


@pytest.mark.parametrize("torn", [b"x", b'{"agent":"a', b"\0" * 100])
async def test_a_torn_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    """What a killed writer left half written is no fault of the chain, and makes way for the next record."""
    store = folder_place(tmp_path).store()
    await store.prepare()
    head = await filled(store)
    write(only_segment(tmp_path), torn, mode="ab")

    report = await verify_chain(store, "acme")
    lines, end = sealed(head)
    await store.append("acme", lines, tail=await store.tail("acme"), head=end)
    later = await verify_chain(store, "acme")

    assert report.sound
    assert report.notes == (f"the last line was cut off while it was written ({len(torn)} bytes)",)
    assert (later.problems, later.records, later.notes) == ((), 15, ())


async def test_a_killed_writers_whole_lines_stay(tmp_path: Path) -> None:
    """Of a batch that was written in part, the records that are whole are the chain's end, and nobody repeats them."""
    store = folder_place(tmp_path).store()
    await store.prepare()
    head = await filled(store)
    lines, _ = sealed(head)
    write(only_segment(tmp_path), lines[0] + b"\n" + lines[1][:50], mode="ab")

    tail = await store.tail("acme")
    more, end = sealed(tail)
    await store.append("acme", more, tail=tail, head=end)

    assert (tail.seq, tail.hash) == (13, (await recorded(store, "acme"))[12].hash)
    assert (await verify_chain(store, "acme")).sound


async def test_a_full_segment_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments stay small, and the chain goes on across them."""
    monkeypatch.setattr("perdure.audit.folder.SEGMENT_BYTES", 2000)
    store = folder_place(tmp_path).store()
    await store.prepare()
    head = await filled(store, batches=20)

    report = await verify_chain(store, "acme")

    assert len(await store.segments("acme")) > 5
    assert (report.problems, report.records) == ((), head.seq)
    assert min(segment.first for segment in await store.segments("acme", after=30)) > 30


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.com/x", "is no place for the audit"),
        ("file://relative/path", "is no place for the audit"),
        ("/var/lib/audit", "is no place for the audit"),
        ("s3:///prefix", "is no place for the audit"),
    ],
)
def test_a_wrong_address_is_refused(url: str, said: str) -> None:
    """An address that can be none is refused before anything starts, with one that could be."""
    with pytest.raises(ConfigurationError, match=said):
        open_store(Settings(audit_url=url))


async def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path, s3: str) -> None:
    """A file in the way, a bucket that is not there: the message says which setting and why."""
    (tmp_path / "audit").write_text("in the way")

    with pytest.raises(ConfigurationError, match=r"PERDURE_AUDIT_URL: .* cannot be written to: .*exists"):
        await folder_place(tmp_path).store().prepare()
    with pytest.raises(ConfigurationError, match=r"PERDURE_AUDIT_URL: s3://nowhere.* written to: .*NoSuchBucket"):
        await bucket_place(s3, "nowhere").store().prepare()


async def test_a_store_of_another_format_is_refused(store: AuditStore) -> None:
    """A newer version's store is not written to."""
    await store.save("perdure-audit.json", b'{"format": 2, "id": "x"}')

    with pytest.raises(ConfigurationError, match="has format 2"):
        await store.prepare()


def test_no_address_is_no_audit() -> None:
    """Without the setting there is no audit; a command that needs one says which setting it is."""
    assert open_store(Settings()) is None
    with pytest.raises(ConfigurationError, match="set PERDURE_AUDIT_URL"):
        require_store(Settings())


async def test_a_held_lock_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stopped while it held the lock makes an append fail, which is then tried again; not hang."""
    monkeypatch.setattr("perdure.audit.folder.LOCK_SECONDS", 0.05)
    store = folder_place(tmp_path).store()
    await store.prepare()
    head = await filled(store, batches=1)
    lines, end = sealed(head)
    descriptor = os.open(tmp_path / "audit/chains/acme/lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(AuditError, match="another process has held"):
            await store.append("acme", lines, tail=head, head=end)
    finally:
        os.close(descriptor)

    await store.append("acme", lines, tail=head, head=end)
    assert (await verify_chain(store, "acme")).records == end.seq
