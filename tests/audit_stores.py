"""Places for an audit in tests: a folder, and a bucket of an S3 double that runs in a thread of this process."""

from __future__ import annotations

import logging
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moto.server import ThreadedMotoServer
from temporalio.client import Client

from perdure.audit.facts import keyed
from perdure.audit.opening import require_store
from perdure.audit.projection import WORKFLOW_TYPES, Projection
from perdure.audit.reading import AuditFilter, search, verify_chain
from perdure.audit.record import AuditRecord
from perdure.audit.store import AuditStore
from perdure.history import decode_event
from perdure.settings import Settings

REGION = "us-east-1"


@dataclass(frozen=True)
class Place:
    """Where an audit is to be kept, as settings say it."""

    settings: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """The same as variables."""
        return {f"PERDURE_{name.upper()}": value for name, value in self.settings.items()}

    def store(self) -> AuditStore:
        """Open it."""
        return require_store(Settings.model_validate(self.settings))


def folder_place(folder: Path) -> Place:
    """Return a place in a folder."""
    return Place({"audit_url": (folder / "audit").as_uri()})


def bucket_place(endpoint: str, bucket: str | None = None) -> Place:
    """Return a place in a new bucket."""
    if bucket is None:
        bucket = f"bucket-{uuid.uuid4().hex}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
    return Place(
        {
            "audit_url": f"s3://{bucket}/some/prefix",
            "audit_s3_endpoint": endpoint,
            "audit_s3_region": REGION,
            "audit_s3_access_key_id": "key",
            "audit_s3_secret_access_key": "secret",
        }
    )


@contextmanager
def s3_double() -> Iterator[str]:
    """Run an S3 double for the length of the block, and yield its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


async def facts_in_histories(client: Client) -> dict[str, str]:
    """Return what the audit must have, read from the histories themselves: kinds by source."""
    found: dict[str, str] = {}
    types = ", ".join(f"'{name}'" for name in WORKFLOW_TYPES)
    async for execution in client.list_workflows(f"WorkflowType IN ({types})"):
        projection = Projection(
            execution.workflow_type, run_id=execution.id, execution_id=execution.run_id, digest=keyed(None)
        )
        history = await client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history()
        for event in history.events:
            await decode_event(event, client.data_converter)
            found |= {entry.source: entry.kind for entry in projection.feed(event)}
    return found


async def facts_in_chains(store: AuditStore) -> list[tuple[str, str]]:
    """Return what the audit has, source and kind of each record of all chains, which must be sound."""
    found: list[tuple[str, str]] = []
    for org in await store.chains():
        report = await verify_chain(store, org)
        assert report.problems == (), report
        found += [(record.source, record.kind) for record in await recorded(store, org)]
    return found


async def assert_complete(client: Client, store: AuditStore) -> None:
    """Check that every fact of the histories is recorded, that none is recorded twice, and that there are no others."""
    facts, records = await facts_in_histories(client), await facts_in_chains(store)
    assert dict(records) == facts
    assert len(records) == len(facts)


async def recorded(store: AuditStore, org: str = "", *, wanted: AuditFilter | None = None) -> list[AuditRecord]:
    """Return the records of a chain."""
    return [record async for record in search(store, org, wanted or AuditFilter())]
