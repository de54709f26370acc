"""From settings to a store: `PERDURE_AUDIT_URL`, and what a bucket takes besides."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from perdure.audit.bucket import Bucket, BucketStore
from perdure.audit.folder import FolderStore
from perdure.audit.store import AuditStore
from perdure.errors import AuditNotConfiguredError, ConfigurationError
from perdure.settings import Settings


def open_store(settings: Settings) -> AuditStore | None:
    """Return the store that the settings name; None if they name none. Nothing is read or written yet.

    Raises:
        ConfigurationError: It cannot be one.
    """
    if settings.audit_url is None:
        return None
    url = urlsplit(settings.audit_url)
    if url.scheme == "file" and url.netloc in ("", "localhost") and url.path.startswith("/"):
        return FolderStore(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc:
        return BucketStore(
            Bucket(
                name=url.netloc,
                prefix=url.path.strip("/"),
                endpoint=settings.audit_s3_endpoint,
                region=settings.audit_s3_region,
                access_key_id=settings.audit_s3_access_key_id,
                secret_access_key=(
                    settings.audit_s3_secret_access_key.get_secret_value()
                    if settings.audit_s3_secret_access_key
                    else None
                ),
            )
        )
    raise ConfigurationError(
        f"PERDURE_AUDIT_URL: {settings.audit_url!r} is no place for the audit; one looks like 'file:///var/lib/perdure/"
        "audit', or 's3://bucket/prefix'"
    )


def require_store(settings: Settings) -> AuditStore:
    """Return the store that the settings name.

    Raises:
        AuditNotConfiguredError: They name none.
        ConfigurationError: It cannot be one.
    """
    store = open_store(settings)
    if store is None:
        raise AuditNotConfiguredError(
            "there is no audit: set PERDURE_AUDIT_URL to where it is, as in 'file:///var/lib/perdure/audit'"
        )
    return store
