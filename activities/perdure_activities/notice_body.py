"""What a notice says: as JSON for a program, and as a message for people in Slack. Redacted, and bounded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from perdure.contracts import cut
from perdure.messages import JsonObject
from perdure.notice import Notice
from perdure.redaction import Redactor, redact_model

MAX_SHOWN: Final = 2500
"""Characters of arguments or output in a message; Slack takes 3,000 in a block, marks included."""
MAX_LINE: Final = 200


@dataclass(frozen=True)
class Links:
    """Where people find what a notice is about."""

    public_url: str | None = None
    """Of the API."""
    ui_url: str | None = None
    """Of the Temporal Web UI."""
    namespace: str = "default"

    def record(self, notice: Notice) -> str | None:
        """Return the address of the approval's, or the run's, durable record, for programs."""
        approval = notice.record.approval_id if notice.record else ""
        run = f"v1/runs/{notice.run.run_id}"
        return self._public(f"{run}/approvals/{approval}" if approval else run)

    def console(self, notice: Notice) -> str | None:
        """Return the address at which people decide on the approval, or see the run."""
        approval, run_id = notice.record.approval_id if notice.record else "", notice.run.run_id
        return self._public(f"console/approvals/{run_id}/{approval}" if approval else f"console/runs/{run_id}")

    def ui(self, notice: Notice) -> str | None:
        """Return the run's address in the Temporal Web UI."""
        if self.ui_url is None:
            return None
        return f"{self.ui_url.rstrip('/')}/namespaces/{self.namespace}/workflows/{notice.run.run_id}"

    def _public(self, path: str) -> str | None:
        return None if self.public_url is None else f"{self.public_url.rstrip('/')}/{path}"


def webhook_body(notice: Notice, *, links: Links, redactor: Redactor) -> bytes:
    """Return the payload as Standard Webhooks recommends it: type, timestamp, data."""
    shown = redact_model(notice, redactor)
    data: JsonObject = shown.run.model_dump(mode="json")
    if shown.approval is not None:
        data["approval"] = shown.approval.model_dump(mode="json", exclude={"secrets"})
    if shown.record is not None:
        data["record"] = shown.record.model_dump(mode="json", exclude_defaults=True)
    if shown.result is not None:
        data["result"] = shown.result.model_dump(mode="json")
    data["links"] = {"record": links.record(notice), "console": links.console(notice), "ui": links.ui(notice)}
    payload = {"type": notice.type, "timestamp": notice.at.isoformat(), "data": data}
    return json.dumps(payload, ensure_ascii=True, separators=(",", ":")).encode()


def slack_body(notice: Notice, *, links: Links, redactor: Redactor) -> bytes:
    """Return the message as Slack's incoming webhooks, and what is compatible with them, take it."""
    shown = redact_model(notice, redactor)
    title = _title(shown)
    blocks: list[JsonObject] = [
        {"type": "section", "text": _marked(f"*{_escaped(title)}*")},
        {"type": "section", "fields": [_marked(f"*{name}*\n{value}") for name, value in _facts(shown)]},
    ]
    if text := _content(shown):
        blocks.append({"type": "section", "text": _marked(f"```{text}```")})
    buttons = [
        {"type": "button", "text": {"type": "plain_text", "text": label}, "url": url}
        for label, url in ((_invitation(notice), links.console(notice)), ("Temporal Web UI", links.ui(notice)))
        if url
    ]
    if buttons:
        blocks.append({"type": "actions", "elements": buttons})
    # Whatever shows no blocks (a notification, another product) has the text and the link in it.
    link = links.console(notice)
    text = f"{_escaped(title)} {link}" if link else _escaped(title)
    return json.dumps({"text": text, "blocks": blocks}, ensure_ascii=True).encode()


def _invitation(notice: Notice) -> str:
    return "Review and decide" if notice.approval is not None else "Open in the console"


def _title(notice: Notice) -> str:
    agent, tool = notice.run.agent, notice.record.tool if notice.record else ""
    kind = notice.approval.kind if notice.approval else "call"
    questions = {"call": f"may {tool} run?", "outcome": f"what became of {tool}?", "budget": "may it cost more?"}
    match notice.type:
        case "approval.asked":
            return f"{agent} asks: {questions[kind]}"
        case "approval.escalated":
            return f"{agent} still asks: {questions[kind]} Nobody decided in time."
        case "approval.approved" | "approval.rejected" | "approval.expired":
            by = f" by {notice.record.decided_by}" if notice.record and notice.record.decided_by else ""
            return f"{agent}: {tool or 'more money'} is {notice.type.partition('.')[2]}{by}"
        case "run.ended":
            return f"{agent}: the run is {notice.result.status if notice.result else 'over'}"


def _facts(notice: Notice) -> list[tuple[str, str]]:
    run, approval, record, result = notice.run, notice.approval, notice.record, notice.result
    facts: list[tuple[str, str | None]] = [
        ("Asked for by", run.requested_by or run.user),
        ("On behalf of", run.user if run.requested_by and run.user != run.requested_by else None),
        ("Run", run.run_id),
        ("Why", approval.reason if approval else None),
        ("Approvers", ", ".join(approval.requirement.approvers) if approval else None),
        ("Needed", f"{approval.missing} more" if approval and approval.requirement.quorum > 1 else None),
        ("Reason", record.reason if record and not approval else None),
        ("Reason", result.reason if result else None),
        ("Error", f"{result.error.type}: {result.error.message}" if result and result.error else None),
        ("Steps", str(result.totals.steps) if result else None),
    ]
    shown = [(name, _escaped(" ".join(value.split())[:MAX_LINE])) for name, value in facts if value]
    if approval and approval.deadline:
        shown.append(("Deadline", _when(approval.deadline)))
    return shown[:10]  # the most that Slack takes


def _content(notice: Notice) -> str:
    if notice.approval is not None:
        return _quoted(json.dumps(notice.approval.arguments, indent=2, ensure_ascii=False))
    return _quoted(notice.result.output or "") if notice.result else ""


def _quoted(text: str) -> str:
    # Three backticks would end the block, and let the rest be read as marks.
    return _escaped(cut(text, MAX_SHOWN // 2).replace("`", "'"))[:MAX_SHOWN]


def _when(moment: datetime) -> str:
    plain = f"{moment:%Y-%m-%d %H:%M} UTC"
    return f"<!date^{int(moment.timestamp())}^{{date_short_pretty}} {{time}}|{plain}>"


def _marked(text: str) -> JsonObject:
    marked: dict[str, Any] = {"type": "mrkdwn", "text": text, "verbatim": True}
    return marked


def _escaped(text: str) -> str:
    """Take Slack's three control characters for what they are: no link, mention or channel call is made of a text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
