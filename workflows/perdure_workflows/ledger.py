"""The ledger of an organisation as a workflow: it hears runs by signal, lets the book decide, and answers.

It lives as long as the organisation has runs, as a chain of executions. Answers leave it in batches, by an activity: a
burst of runs costs it a few events each, and no run that does not answer holds it up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RawValue, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from perdure.ledger.book import Book
    from perdure.ledger.contracts import (
        LEDGER_NAME,
        PAGE_NAME,
        Answers,
        CalendarRequest,
        Enter,
        HolderReference,
        Inspection,
        LedgerView,
        PageRecord,
        Reserve,
        Settle,
        deliver_answers,
        inspect_holders,
        page_id,
        read_calendar,
    )
    from perdure.ledger.state import BookState, LedgerInput
    from perdure.search_attributes import ALL, MEMO_DAY, ORG
    from perdure_workflows.alarm import Alarm
    from perdure_workflows.options import answers_options, calendar_options, inspection_options
    from perdure_workflows.signals import NO_PAYLOAD, read_signal

USAGE_KEPT = timedelta(days=400)
"""How long a page of usage can be read; after that Temporal ends it."""
MAX_DELIVERED = 200
"""Answers in one activity."""
REST = timedelta(seconds=1)
"""After an answer that Temporal did not take."""

M = TypeVar("M", Enter, Reserve, Settle)


@workflow.defn(name=LEDGER_NAME)
class Ledger:
    """What an organisation's runs have spent, reserved and used."""

    @workflow.init
    def __init__(self, arguments: LedgerInput) -> None:
        ledger = workflow.info().first_execution_run_id
        self._book = Book(arguments.state or BookState(org=arguments.org, ledger=ledger))
        self._inbox: deque[Enter | Reserve | Settle] = deque()
        self._alarm = Alarm("the ledger's next duty")
        self._delivering: asyncio.Task[None] | None = None
        self._inspecting: asyncio.Task[None] | None = None
        self._suspects: dict[str, HolderReference] = {}
        """Holders whose run did not take its answer."""

    @workflow.run
    async def run(self, arguments: LedgerInput) -> None:
        """Serve, until the history is full and another execution goes on."""
        del arguments  # taken by __init__, so that signals and queries find a complete ledger
        while True:
            await self._keep_calendar(news=bool(self._inbox))
            while self._inbox:
                self._book.take(self._inbox.popleft(), now=workflow.now())
            self._book.serve(now=workflow.now())
            await self._write_pages()
            if workflow.info().is_continue_as_new_suggested():
                self._continue_as_new_if_idle()
            else:
                self._deliver()
                self._inspect()
            self._alarm.set(self._book.next_due(inspecting=self._inspecting is not None))
            await workflow.wait_condition(self._has_something_to_do)

    @workflow.signal(description="a run wants a place among the open ones")
    def enter(self, message: RawValue = NO_PAYLOAD) -> None:
        """Admit a run, now or when others have ended."""
        self._hear(message, Enter)

    @workflow.signal(description="a run states what it used, and reserves for its next calls")
    def reserve(self, message: RawValue = NO_PAYLOAD) -> None:
        """Reserve money for a run, now or when others have settled."""
        self._hear(message, Reserve)

    @workflow.signal(description="a run states what it used, and gives back what it holds")
    def settle(self, message: RawValue = NO_PAYLOAD) -> None:
        """Put what a run used to its budgets, and free the rest."""
        self._hear(message, Settle)

    @workflow.query
    def view(self) -> LedgerView:
        """Return the usage that is in no page yet, and how budgets stand."""
        return self._book.view()

    def _hear(self, payload: RawValue, model: type[M]) -> None:
        try:
            message = read_signal(payload, model)
        except ValueError as error:
            workflow.logger.warning("ignored a signal: %s", error)
            return
        if message.holder and message.run_id:
            self._inbox.append(message)

    async def _keep_calendar(self, *, news: bool) -> None:
        """Know which day it is before anything is put to it; an idle ledger need not."""
        while (news or self._book.awaits_another_day) and self._day_is_over():
            zone = self._inbox[0].time_zone if self._inbox else self._book.state.time_zone
            request = CalendarRequest(time_zone=zone, now=workflow.now())
            self._book.turn(await workflow.execute_activity(read_calendar, request, **calendar_options()))

    def _day_is_over(self) -> bool:
        calendar = self._book.state.calendar
        return calendar is None or workflow.now() >= calendar.day_ends

    async def _write_pages(self) -> None:
        """Have complete pages live as workflows of their own, which are read without us."""
        for page in self._book.pages.unwritten:
            await _write(page)
            self._book.pages.written(page, now=workflow.now())
        self._book.pages.forget(now=workflow.now())

    def _deliver(self) -> None:
        if self._book.state.outbox and self._delivering is None:
            outbox = self._book.state.outbox
            batch, self._book.state.outbox = tuple(outbox[:MAX_DELIVERED]), outbox[MAX_DELIVERED:]
            self._delivering = asyncio.create_task(self._deliver_batch(Answers(answers=batch)))

    async def _deliver_batch(self, batch: Answers) -> None:
        report = await workflow.execute_activity(deliver_answers, batch, **answers_options(count=len(batch.answers)))
        if report.failed:
            self._book.state.outbox[:0] = report.failed
            await workflow.sleep(REST, summary="before answers are sent again")
        for name in report.gone:
            if holder := self._book.state.holders.get(name):
                self._suspects[name] = HolderReference(
                    holder=name, run_id=holder.run_id, execution_id=holder.execution_id
                )
        self._delivering = None

    def _inspect(self) -> None:
        if self._inspecting is None:
            silent = {one.holder: one for one in self._book.silent(now=workflow.now())} | self._suspects
            if silent:
                self._suspects = {}
                inspection = Inspection(holders=tuple(silent.values()))
                self._inspecting = asyncio.create_task(self._inspect_holders(inspection))

    async def _inspect_holders(self, inspection: Inspection) -> None:
        report = await workflow.execute_activity(inspect_holders, inspection, **inspection_options())
        await self._keep_calendar(news=True)
        for one in report.holders:
            self._book.find(one, now=workflow.now())
        self._book.serve(now=workflow.now())  # what the dead held is for whoever waits
        self._inspecting = None

    def _has_something_to_do(self) -> bool:
        if self._inbox or self._is_due():
            return True
        if workflow.info().is_continue_as_new_suggested():
            return self._delivering is None and self._inspecting is None
        may_send = bool(self._book.state.outbox) and self._delivering is None
        return may_send or (bool(self._suspects) and self._inspecting is None)

    def _is_due(self) -> bool:
        """Whether it is time for a duty, or the alarm is to be set anew for a later one."""
        due = self._book.next_due(inspecting=self._inspecting is not None)
        return due is not None and (due <= workflow.now() or self._alarm.rang)

    def _continue_as_new_if_idle(self) -> None:
        """Hand over to another execution, once no activity is under way whose result would be lost."""
        if self._delivering is None and self._inspecting is None and not self._inbox:
            state, attributes = self._book.state, workflow.info().typed_search_attributes
            workflow.continue_as_new(
                LedgerInput(org=state.org, state=state),
                search_attributes=TypedSearchAttributes([pair for pair in attributes if pair.key in ALL]),
            )


async def _write(page: PageRecord) -> None:
    attributes = [] if page.org is None else [SearchAttributePair(ORG, page.org)]
    try:
        await workflow.start_child_workflow(
            PAGE_NAME,
            page,
            id=page_id(page),
            parent_close_policy=ParentClosePolicy.ABANDON,
            execution_timeout=USAGE_KEPT,
            search_attributes=TypedSearchAttributes(attributes),
            memo={MEMO_DAY: page.day},
            static_summary=f"usage of {page.org or 'no organisation'} on {page.day}",
        )
    except WorkflowAlreadyStartedError:
        workflow.logger.warning("the page %s of %s is written already", page.number, page.day)
