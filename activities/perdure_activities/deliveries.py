"""The activity `deliver`: sends one notice to one address, once; Temporal repeats it.

Not idempotent by itself: a receiver may get a notice twice, and knows it by the header `webhook-id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Final

import httpx2
import structlog
from pydantic import SecretStr
from standardwebhooks import Webhook
from temporalio import activity
from temporalio.exceptions import ApplicationError

from perdure.endpoint import parse_endpoint
from perdure.errors import CallbackRefusedError
from perdure.notice import REFUSED, Delivered, Notice
from perdure.outgoing import NotResolvedError, Outgoing
from perdure.redaction import Redactor
from perdure.tracing import HEADER, current_traceparent
from perdure_activities.notice_body import Links, slack_body, webhook_body
from perdure_activities.providers.posture import retry_after

MAX_RETRY_AFTER: Final = timedelta(days=1)
RETRIED: Final = frozenset({408, 409, 425, 429})
"""Statuses of the 4xx that may be another next time; the others, 410 (gone) among them, are final."""

log = structlog.get_logger(__name__)


class Deliveries:
    """Sends notices from one worker process."""

    def __init__(self, *, outgoing: Outgoing, secrets: Sequence[SecretStr], links: Links, redactor: Redactor) -> None:
        self._outgoing = outgoing
        self._secrets = secrets
        self._links = links
        self._redactor = redactor

    @activity.defn
    async def deliver(self, notice: Notice) -> Delivered:
        """Send a notice, and return what the receiver answered.

        Raises:
            ApplicationError: It did not arrive; `delivery_refused` if it never will.
        """
        host = parse_endpoint(notice.url).host
        links = replace(self._links, namespace=activity.info().namespace)
        body = await asyncio.to_thread(self._body, notice, links)
        try:
            answer = await self._outgoing.post(notice.url, body, self._headers(notice, body))
        except CallbackRefusedError as error:
            raise ApplicationError(str(error), type=REFUSED, non_retryable=True) from None
        except (NotResolvedError, httpx2.HTTPError, TimeoutError, OSError) as error:
            # An exception of the transport may quote the URL, whose path can be a secret.
            raise ApplicationError(
                f"{host} was not reached: {type(error).__name__}", type="delivery_not_reached"
            ) from None
        log.info("notice_sent", notice_id=notice.notice_id, host=host, status=answer.status, type=notice.type)
        if 200 <= answer.status < 300:
            return Delivered(status=answer.status, attempts=activity.info().attempt)
        raise _refusal(host, answer.status, retry_after(answer.headers, now=datetime.now(UTC), limit=MAX_RETRY_AFTER))

    async def close(self) -> None:
        """Release connections."""
        await self._outgoing.close()

    def _body(self, notice: Notice, links: Links) -> bytes:
        write = slack_body if notice.format == "slack" else webhook_body
        return write(notice, links=links, redactor=self._redactor)

    def _headers(self, notice: Notice, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"perdure/{version('perdure')}"}
        if trace := current_traceparent() or notice.trace:
            headers[HEADER] = trace
        if notice.format == "slack":  # its URL is the secret, and it checks no signature
            return headers
        if not self._secrets:
            # Somebody may yet set one where the worker runs, so it is tried again.
            raise ApplicationError("PERDURE_WEBHOOK_SECRETS is not set where the worker runs", type="delivery_unsigned")
        now = datetime.now(UTC)
        signatures = [
            Webhook(secret.get_secret_value()).sign(notice.notice_id, now, body.decode()) for secret in self._secrets
        ]
        return {
            **headers,
            "webhook-id": notice.notice_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def _refusal(host: str, status: int, delay: timedelta | None) -> ApplicationError:
    if 300 <= status < 400:
        return ApplicationError(
            f"{host} answered {status}; redirects are not followed", type=REFUSED, non_retryable=True
        )
    final = 400 <= status < 500 and status not in RETRIED
    return ApplicationError(
        f"{host} answered {status}",
        type=REFUSED if final else "delivery_failed",
        non_retryable=final,
        next_retry_delay=None if final else delay,
    )
