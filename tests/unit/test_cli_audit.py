"""`perdure audit …` on a folder, without a server: what is wrong is named, and a program can go by the exit code."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perdure.audit.record import AuditEntry, Head, canonical, digest, seal
from perdure.audit.store import AuditStore
from tests.audit_stores import folder_place
from tests.unit.test_cli import perdure

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """An audit of two organisations, and of what belongs to none."""
    asyncio.run(fill(folder_place(tmp_path).store()))
    return tmp_path


async def fill(store: AuditStore) -> None:
    """Write some records a day apart."""
    await store.prepare()
    for org in ("", "acme", "umbrella"):
        head, lines = Head(), []
        for number in range(1, 11):
            entry = AuditEntry(
                at=BEGIN + timedelta(days=number),
                org=org,
                kind="tool.called" if number % 2 else "approval.asked",
                who="ann",
                run_id=f"run-{number}",
                execution_id="e",
                source=f"e/{number}.0",
            )
            line, head = seal(entry, after=head, now=entry.at)
            lines.append(line)
        await store.append(org, lines, tail=Head(), head=head)


def segment(audit: Path, org: str = "acme") -> Path:
    """Return the file of a chain."""
    [path] = audit.glob(f"audit/chains/{org}/*.jsonl")
    return path


def lines(audit: Path) -> list[bytes]:
    """Return the lines of a chain."""
    return segment(audit).read_bytes().splitlines(keepends=True)


def verify(audit: Path, *options: str) -> tuple[int, str, str]:
    """Verify offline; return exit code, output and errors."""
    ended = perdure("audit", "verify", "--offline", "--url", (audit / "audit").as_uri(), *options, folder=audit)
    return ended.returncode, ended.stdout, ended.stderr


def test_a_sound_audit_is_told_with_what_was_not_compared(audit: Path) -> None:
    """Each chain with its length; and that nothing was compared with Temporal."""
    code, out, errors = verify(audit)

    assert (code, errors) == (0, "")
    assert out.splitlines()[:3] == ["-: 10 records, sound", "acme: 10 records, sound", "umbrella: 10 records, sound"]
    assert "not compared with Temporal (--offline)" in out
    assert out.splitlines()[-1] == "the audit is as it was written"


def test_each_bad_record_is_named(audit: Path) -> None:
    """Changed, removed, reordered and truncated records are named with file and line, and the exit code is 1."""
    given = lines(audit)
    changed = canonical({**json.loads(given[1]), "who": "eve"}) + b"\n"
    segment(audit).write_bytes(b"".join([given[0], changed, given[3], given[5], given[4], *given[6:9]]))

    code, out, _ = verify(audit)

    shown = [line.strip() for line in out.splitlines()]
    assert code == 1
    assert "acme: 9 records, 4 problems" in shown
    path = segment(audit)
    assert f"record 2, line 2 of {path}: changed: it does not have the hash that it names" in shown
    assert f"record 3, {path}: removed: record 4 follows on record 2" in shown
    assert f"record 5, line 5 of {path}: reordered: it stands behind record 6" in shown
    assert f"record 10, {path}: truncated: the chain once ended with record 10, and now ends with 9" in shown
    assert shown[-1] == "the audit is not as it was written"


def test_a_forged_head_is_named(audit: Path) -> None:
    """A chain whose last record was written anew is betrayed by its head; one whose head was too, only by Temporal."""
    given = lines(audit)
    record = {**json.loads(given[-1]), "who": "eve"}
    forged = canonical({**record, "hash": digest(record)}) + b"\n"
    segment(audit).write_bytes(b"".join([*given[:-1], forged]))

    code, out, _ = verify(audit, "--json")

    [acme] = [chain for chain in json.loads(out)["chains"] if chain["org"] == "acme"]
    assert code == 1
    assert [(problem["fault"], problem["seq"]) for problem in acme["problems"]] == [("forged", 10)]


def test_one_chain_can_be_verified_alone(audit: Path) -> None:
    """A fault in another organisation's chain is not told, and does not count."""
    segment(audit).write_bytes(b"nonsense\n")

    assert verify(audit, "--org", "umbrella", "--org", "-")[0] == 0
    assert verify(audit, "--org", "acme")[0] == 1


def test_a_report_for_programs_has_everything(audit: Path) -> None:
    """The JSON says where, which store, whether it is sound and compared, and each chain's end."""
    code, out, _ = verify(audit, "--json")

    report = json.loads(out)
    assert code == 0
    assert (report["sound"], report["anchored"], report["url"]) == (True, False, (audit / "audit").as_uri())
    assert [(chain["org"], chain["records"]) for chain in report["chains"]] == [
        ("", 10),
        ("acme", 10),
        ("umbrella", 10),
    ]
    assert report["chains"][1]["hash"] == json.loads(lines(audit)[-1])["hash"]


def test_a_stretch_of_time_is_exported_as_it_was_written(audit: Path) -> None:
    """By the time of the facts, from and to, of one organisation and kind; each line as it stands in the chain."""
    url = (audit / "audit").as_uri()
    options = ("--from", "2026-01-04", "--to", "2026-01-08T00:00:00", "--org", "acme")

    some = perdure("audit", "export", "--url", url, *options, folder=audit)
    few = perdure("audit", "export", "--url", url, *options, "--kind", "approval", "--run", "run-4", folder=audit)
    perdure("audit", "export", "-o", str(audit / "all.jsonl"), folder=audit, PERDURE_AUDIT_URL=url)

    assert some.stdout.encode() == b"".join(lines(audit)[2:6])
    assert few.stdout.encode() == lines(audit)[3]
    assert len((audit / "all.jsonl").read_text().splitlines()) == 30


def test_commands_without_an_audit_say_what_to_set(tmp_path: Path) -> None:
    """Nothing is set, or nothing is there: one line, exit code 2, and nothing is created."""
    nowhere = (tmp_path / "nowhere").as_uri()

    unset = perdure("audit", "verify", "--offline", folder=tmp_path)
    empty = perdure("audit", "export", "--url", nowhere, folder=tmp_path)

    assert (unset.returncode, empty.returncode) == (2, 2)
    assert "set PERDURE_AUDIT_URL" in unset.stderr
    assert empty.stderr == f"perdure: there is no audit in {nowhere}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_worker_refuses_to_start_with_a_bad_place(tmp_path: Path) -> None:
    """Where nothing can be written, no worker starts; the message says which setting and why."""
    (tmp_path / "file").write_text("in the way")
    place = (tmp_path / "file").as_uri()

    ended = perdure("worker", "--app", "tests.e2e.crash_app.app:app", PERDURE_AUDIT_URL=place)

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("perdure: PERDURE_AUDIT_URL: ")
    assert "cannot be written to" in ended.stderr
