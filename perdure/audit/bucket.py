"""Chains in an S3-compatible bucket: each append is an object of its own, which the store refuses to write twice.

An object is named by its first record's number, and a writer always goes on behind the last record of an object. So
two writers who both think that they are next want the same name, and the store's conditional put lets one of them
have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from perdure.audit.record import Head
from perdure.audit.store import (
    CHAINS,
    HEAD,
    MANIFEST,
    HeadNote,
    Manifest,
    Segment,
    first_of,
    folder_of,
    further,
    last_sound,
    org_of,
    read_manifest,
    read_note,
    segment_name,
)
from perdure.errors import AuditError, ChainMovedError, ConfigurationError

FIRST_LINE_BYTES: Final = 16 * 1024
"""More than a record can have."""
MAX_RETRIES: Final = 3
"""Of one request; after that Temporal tries again."""


@dataclass(frozen=True)
class Bucket:
    """Which bucket, and how it is reached."""

    name: str
    prefix: str = ""
    endpoint: str | None = None
    """None: Amazon's, of the region."""
    region: str | None = None
    access_key_id: str | None = None
    """None: as the AWS variables, the machine's role, … say."""
    secret_access_key: str | None = None


class BucketStore:
    """Chains in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        """Take note of the bucket; nothing is connected to yet.

        Raises:
            ConfigurationError: The package obstore is not installed, or the bucket cannot be one.
        """
        self.url = f"s3://{bucket.name}/{bucket.prefix}".rstrip("/")
        self._root = f"{bucket.prefix}/" if bucket.prefix else ""
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError, BaseError
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "PERDURE_AUDIT_URL is a bucket, which needs the package obstore: pip install 'perdure[storage]'"
            ) from error
        self._obstore = obstore
        self._exists = AlreadyExistsError
        self._failed = BaseError
        self._bucket = self._open(bucket)

    async def prepare(self) -> Manifest:
        """Write the manifest if the store is new, and see whether the store refuses to write it twice.

        Raises:
            ConfigurationError: It cannot be written, or is overwritten.
        """
        content = Manifest().model_dump_json().encode()
        try:
            for _ in range(2):
                if not await self._create(MANIFEST, content) and (manifest := await self.manifest()):
                    return manifest
        except AuditError as error:
            raise ConfigurationError(f"PERDURE_AUDIT_URL: {self.url} cannot be written to: {error}") from error
        raise ConfigurationError(
            f"PERDURE_AUDIT_URL: {self.url} overwrites objects although told not to (If-None-Match), so two writers "
            "could break the chain; take a store with conditional writes"
        )

    async def manifest(self) -> Manifest | None:
        """Return what the store is; None if there is none."""
        content = await self.load(MANIFEST)
        return read_manifest(content, url=self.url) if content is not None else None

    async def chains(self) -> list[str]:
        """Return the organisations that have a chain."""
        with self._errors(CHAINS):
            found = await self._obstore.list_with_delimiter_async(self._bucket, prefix=f"{self._root}{CHAINS}")
        folders = sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])
        return [org for folder in folders if (org := await self._org(folder)) is not None]

    async def head(self, org: str) -> Head | None:
        """Return the note of a chain's end."""
        note = read_note(await self.load(f"{CHAINS}/{folder_of(org)}/{HEAD}"))
        return note.end if note else None

    async def segments(self, org: str, *, after: int = 0) -> list[Segment]:
        """Return a chain's segments in order."""
        folder = f"{CHAINS}/{folder_of(org)}"
        offset = f"{self._root}{folder}/{segment_name(after)}" if after else None
        found: list[Segment] = []
        with self._errors(folder):
            async for page in self._obstore.list(self._bucket, prefix=f"{self._root}{folder}/", offset=offset):
                for item in page:
                    name = item["path"].rpartition("/")[2]
                    if (first := first_of(name)) is not None:
                        found.append(Segment(f"{folder}/{name}", first))
        return sorted(found, key=lambda segment: segment.first)

    async def read(self, segment: Segment) -> bytes:
        """Return a segment's lines."""
        return await self.load(segment.path) or b""

    async def first_line(self, segment: Segment) -> bytes:
        """Return a segment's first line."""
        with self._errors(segment.path):
            beginning = await self._obstore.get_range_async(
                self._bucket, self._root + segment.path, start=0, length=FIRST_LINE_BYTES
            )
        return bytes(beginning).partition(b"\n")[0]

    async def tail(self, org: str) -> Head:
        """Return where the chain ends. A segment that begins behind the head was written after it, or not at all."""
        head = await self.head(org)
        for segment in reversed(await self.segments(org, after=head.seq if head else 0)):
            if end := last_sound(await self.read(segment)):
                return further(end, head)
        return further(None, head)

    async def append(self, org: str, lines: Sequence[bytes], *, tail: Head, head: Head) -> None:
        """Put lines at the end of a chain, as one object.

        Raises:
            ChainMovedError: Another writer was quicker; nothing was written.
            AuditError: The store refuses.
        """
        folder = f"{CHAINS}/{folder_of(org)}"
        first = head.seq - len(lines) + 1
        if not await self._create(f"{folder}/{segment_name(first)}", b"".join(line + b"\n" for line in lines)):
            raise ChainMovedError(f"the chain of {org!r} goes on behind record {tail.seq}")
        await self.save(f"{folder}/{HEAD}", HeadNote(org=org, end=head).model_dump_json().encode())

    async def load(self, name: str) -> bytes | None:
        """Return an object; None if there is none."""
        with self._errors(name):
            try:
                found = await self._obstore.get_async(self._bucket, self._root + name)
                return bytes(await found.bytes_async())
            except FileNotFoundError:
                return None

    async def save(self, name: str, content: bytes) -> None:
        """Write an object, in place of an earlier one of its name."""
        with self._errors(name):
            await self._obstore.put_async(self._bucket, self._root + name, content)

    async def _create(self, name: str, content: bytes) -> bool:
        """Write an object unless it exists; return whether it was written."""
        with self._errors(name):
            try:
                await self._obstore.put_async(self._bucket, self._root + name, content, mode="create")
            except self._exists:
                return False
            return True

    async def _org(self, folder: str) -> str | None:
        org = org_of(folder)
        if org is not None:
            return org
        note = read_note(await self.load(f"{CHAINS}/{folder}/{HEAD}"))
        return note.org if note else None

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (self._failed, FileNotFoundError, PermissionError) as error:
            said = str(error).split("\n\nDebug source", maxsplit=1)[0]
            raise AuditError(f"{self.url}/{name}: {' '.join(said.split())[:500]}") from error

    def _open(self, bucket: Bucket) -> Any:
        from obstore.store import S3Store

        plain = (bucket.endpoint or "").startswith("http://")
        given = {
            "endpoint": bucket.endpoint,
            "region": bucket.region,
            "access_key_id": bucket.access_key_id,
            "secret_access_key": bucket.secret_access_key,
        }
        try:
            return S3Store(
                bucket.name,
                # Given at all, they take the place of those that the environment has, `AWS_ALLOW_HTTP` among them.
                client_options={"allow_http": True} if plain else None,
                retry_config={"max_retries": MAX_RETRIES},
                **{name: value for name, value in given.items() if value},  # type: ignore[arg-type]  # all are text
            )
        except (self._failed, ValueError) as error:
            raise ConfigurationError(f"PERDURE_AUDIT_URL: {self.url} cannot be used: {error}") from error
