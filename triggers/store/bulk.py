"""Many rows through one statement: arrays on PostgreSQL, one JSON document on SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, CursorResult, TextClause, column, text
from sqlalchemy.sql.expression import TextualSelect

from models.base import Instant, instant_text

INSTANT = Instant()
ID_LENGTH = 36
LARGE_GROUP = 4  # rows, on average

# PostgreSQL's types of the columns that travel in bulk.
TYPES = {
    "id": "uuid",
    "trigger_id": "uuid",
    "attempt": "int",
    "dispatches": "int",
    "coalesced": "bigint",
    "counted": "bigint",
    "planned_count": "bigint",
    "exhausted": "boolean",
    "month": "date",
    "events": "bigint",
    "occurrences": "bigint",
    "planned": "bigint",
    "instants": "bigint",
    "result": "json",
    "error": "json",
    "progress": "json",
}


def type_of(column: str) -> str:
    """PostgreSQL's type of a column: instants end in _at, _until, _for or _from."""
    if column in TYPES:
        return TYPES[column]
    return "timestamptz" if column.endswith(("_at", "_until", "_for", "_from")) else "text"


def is_postgres(connection: Connection) -> bool:
    """Whether this is PostgreSQL."""
    return connection.dialect.name == "postgresql"


def rows_of(connection: Connection, columns: Sequence[str]) -> str:
    """A derived table `r` with these columns, read from what `bind` makes of the rows."""
    if is_postgres(connection):
        arrays = ", ".join(f"CAST(:{column} AS {type_of(column)}[])" for column in columns)
        return f"unnest({arrays}) AS r({', '.join(columns)})"
    members = ", ".join(
        f"json_extract(value, '$[{index}]') AS {column}" for index, column in enumerate(columns)
    )
    return f"(SELECT {members} FROM json_each(:rows)) AS r"


def groups_of(connection: Connection, own: Sequence[str], shared: Sequence[str]) -> str:
    """A derived table `r` with the columns `own`, of each row, and `shared`, of each group of rows, read from
    what `bind_groups` makes of them.
    """
    if not is_postgres(connection):
        # All ids are of one length: one text for a row's, since JSON is parsed for each of them.
        members = [f"substr(value, {i * ID_LENGTH + 1}, {ID_LENGTH}) AS {c}" for i, c in enumerate(own)]
        values = [f":{column} AS {column}" for column in shared]
        return f"(SELECT {', '.join(members + values)} FROM json_each(:members)) AS r"
    arrays = [f"CAST(:{column} AS text[])" for column in own]
    arrays += [f"CAST(:{column} AS {type_of(column)}[])" for column in shared]
    members = [f"CAST(g.{column} AS {type_of(column)}[])" for column in own]
    return (
        f"unnest({', '.join(arrays)}) AS g({', '.join([*own, *shared])}),"
        f" unnest({', '.join(members)}) AS m({', '.join(own)}),"
        f" LATERAL (SELECT {', '.join([f'm.{c}' for c in own] + [f'g.{c}' for c in shared])}) AS r"
    )


def bind(connection: Connection, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The parameters that belong to `rows_of`."""
    if is_postgres(connection):
        lists = zip(columns, zip(*rows, strict=True), strict=True)
        return {column: array(column, values) for column, values in lists}
    return {"rows": json.dumps(rows, default=plain)}


def array(column: str, values: Sequence[Any]) -> Any:
    """An array for PostgreSQL. Ids and instants as text, which is many times cheaper than psycopg's lists."""
    kind = type_of(column)
    if kind == "uuid":
        return "{" + ",".join(values) + "}"
    if kind == "timestamptz":
        texts = {value: "NULL" if value is None else value.isoformat() for value in set(values)}
        return "{" + ",".join([texts[value] for value in values]) + "}"
    return list(values)


# The ids in the rows of a group, row by row, by the values that they share.
Groups = Mapping[Sequence[Any], Sequence[Sequence[str]]]


def bind_groups(
    connection: Connection, own: Sequence[str], shared: Sequence[str], groups: Groups
) -> dict[str, Any] | list[dict[str, Any]]:
    """The parameters that belong to `groups_of`: of SQLite for each group. The columns `own` are ids."""
    if not is_postgres(connection):
        return [
            dict(zip(shared, map(sqlite_form, values), strict=True))
            | {"members": json.dumps(["".join(ids) for ids in rows])}
            for values, rows in groups.items()
        ]
    parameters = bind(connection, shared, list(groups))
    columns = [list(zip(*rows, strict=True)) for rows in groups.values()]
    for index, name in enumerate(own):
        parameters[name] = [array(name, ids[index]) for ids in columns]
    return parameters


def run_groups(
    connection: Connection, statement: str, own: Sequence[str], shared: Sequence[str], groups: Groups
) -> None:
    """Execute `statement`, in which `{rows}` stands for the derived table of rows in groups: once on
    PostgreSQL, for each group on SQLite, unless they are small.
    """
    if not groups:
        return
    if is_postgres(connection) or are_large(groups):
        made = clause(statement.format(rows=groups_of(connection, own, shared)))
        connection.execute(made, bind_groups(connection, own, shared, groups))
    else:
        rows = [(*ids, *values) for values, members in groups.items() for ids in members]
        run(connection, statement, (*own, *shared), rows)


def are_large(groups: Groups) -> bool:
    """Whether SQLite had better execute a statement for each group than read all values with each row."""
    return sum(map(len, groups.values())) >= LARGE_GROUP * len(groups)


def sqlite_form(value: Any) -> Any:
    """A value as SQLite keeps it."""
    return instant_text(value) if isinstance(value, datetime) else value


def plain(value: object) -> str:
    """SQLite's form of what JSON does not know: an instant, a date."""
    assert isinstance(value, date)
    return instant_text(value) if isinstance(value, datetime) else value.isoformat()


def run(
    connection: Connection, statement: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any
) -> CursorResult[Any]:
    """Execute `statement`, in which `{rows}` stands for the derived table."""
    return connection.execute(
        clause(statement.format(rows=rows_of(connection, columns))),
        bind(connection, columns, rows) | instants(connection, more),
    )


def ids(connection: Connection, values: Iterable[str]) -> Any:
    """The parameter that belongs to `{ids}`."""
    chosen = list(values)
    return "{" + ",".join(chosen) + "}" if is_postgres(connection) else json.dumps(chosen)


def among(connection: Connection) -> str:
    """The SQL for "is one of :ids"."""
    if is_postgres(connection):
        return "= ANY(CAST(:ids AS uuid[]))"
    return "IN (SELECT value FROM json_each(:ids))"


def instants(connection: Connection, values: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a textual statement with instants in the database's form."""
    if is_postgres(connection):
        return values
    return {k: sqlite_form(v) for k, v in values.items()}


def instant(connection: Connection, value: Any) -> datetime:
    """An instant out of a textual statement."""
    found = INSTANT.process_result_value(value, connection.dialect)
    assert found is not None
    return found


def plan_anew(connection: Connection) -> None:
    """For statements over a range of instants, in this transaction: PostgreSQL's plan for any range reads too
    much for the few rows that are due. Statements by id go on with plans that are made once.
    """
    if is_postgres(connection):
        connection.execute(text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)"))


def sql(connection: Connection, statement: str) -> TextClause:
    """A textual statement in which `{ids}` and `{lock}` are filled in for this database."""
    lock = "FOR NO KEY UPDATE" if is_postgres(connection) else ""
    return clause(statement.format(ids=among(connection), lock=lock))


def typed(connection: Connection, statement: str, **types: Any) -> TextualSelect:
    """As `sql`, with all the columns that it returns, in their order, and their types (None: the driver's).

    In their order, because matching them by name takes SQLAlchemy as long as the statement.
    """
    return select_of(sql(connection, statement), tuple(types.items()))


@lru_cache(maxsize=500)
def clause(statement: str) -> TextClause:
    """A textual statement, made once: SQLAlchemy takes as long to make one as to execute it."""
    return text(statement)


@lru_cache(maxsize=500)
def select_of(made: TextClause, types: tuple[tuple[str, Any], ...]) -> TextualSelect:
    """A textual statement with its columns, made once."""
    return made.columns(*[column(name, type_) for name, type_ in types])
