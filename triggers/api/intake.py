"""Creates that come at the same time share a transaction: a commit costs the same for one and for thirty."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from models.database import Database
from triggers import manage
from triggers.definition import TriggerDocument
from triggers.errors import NameInUse
from triggers.manage import Created

MOST = 100  # in one transaction; more than the server has threads

Settle = Callable[[Any, TriggerDocument, datetime], TriggerDocument]


@dataclass(eq=False, slots=True)
class Order:
    """One create that waits. Its thread is woken when it is settled, or when it is to lead."""

    body: Any
    document: TriggerDocument
    settled: tuple[datetime, Created] | Exception | None = None
    # Held while there is nothing to wake up for. An Event would do, and take thirty times as long to make.
    asleep: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.asleep.acquire()


class Intake:
    """The first create leads: it stores all that wait, in one transaction. What comes meanwhile waits for the
    end of that, and the first of these leads next. A create that comes alone waits for nobody.

    `settle` gives a judged body its form at the instant of the transaction.
    """

    def __init__(self, database: Database, settle: Settle) -> None:
        self._database = database
        self._settle = settle
        self._mutex = threading.Lock()
        self._waiting: list[Order] = []
        self._led = False

    def create(self, body: Any, document: TriggerDocument) -> tuple[datetime, Created]:
        """Store a new trigger; it and the instant of its creation.

        Raises NameInUse, InvalidDocument for what became invalid meanwhile, and what the database raises.
        """
        order = Order(body, document)
        with self._mutex:
            self._waiting.append(order)
            follows, self._led = self._led, True
        if follows:
            order.asleep.acquire()
        if order.settled is None:
            self._lead()
        if isinstance(order.settled, Exception):
            raise order.settled
        assert order.settled is not None
        return order.settled

    def _lead(self) -> None:
        """Settle those that wait, then hand the lead on."""
        with self._mutex:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            self._store(batch)
        except SQLAlchemyError as error:  # away, or busy for too long: so it is for those who came meanwhile
            with self._mutex:
                batch, self._waiting = batch + self._waiting, []
            fail(batch, error)
        except Exception as error:
            fail(batch, error)
        finally:
            with self._mutex:
                following = self._waiting[:1]
                self._led = bool(following)
            for order in (*batch, *following):
                order.asleep.release()

    def _store(self, batch: Sequence[Order]) -> None:
        """Store them together; each alone when there is one among them that the database refuses."""
        try:
            self._store_together(batch)
        except (DataError, IntegrityError):
            if len(batch) == 1:
                raise
            for order in batch:
                try:
                    self._store_together([order])
                except (DataError, IntegrityError) as error:
                    order.settled = error

    def _store_together(self, batch: Sequence[Order]) -> None:
        ready: list[tuple[Order, TriggerDocument]] = []
        with self._database.write_once() as connection:
            now = self._database.now(connection)
            for order in batch:
                try:
                    ready.append((order, self._settle(order.body, order.document, now)))
                except Exception as error:
                    order.settled = error
            found = manage.create_free(connection, [document for _, document in ready], now)
        for (order, document), created in zip(ready, found, strict=True):
            order.settled = NameInUse([document.name]) if created is None else (now, created)


def fail(orders: Sequence[Order], error: Exception) -> None:
    """What happened to the transaction happened to each that has no answer yet."""
    for order in orders:
        if order.settled is None:
            order.settled = error
