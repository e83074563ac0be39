"""The custom resource `Schema`: migrates the database on every deploy that changes the migrations.

CloudFormation waits until its ResponseURL is answered, so every path through `handle` ends with an answer. A failure
fails the deploy, which then rolls back.
"""

import json
import time
from pathlib import Path
from typing import Final

import psycopg

from energy_market import config
from energy_market.aws.custom_resources import failed, respond, succeeded
from energy_market.database import connect
from energy_market.postgres.migrations import migrate, schema_version

MIGRATIONS = Path(__file__).with_name("migrations")
CONNECT_TIMEOUT_S = 15  # a paused serverless database needs some seconds to wake
DATABASE_S: Final = 260.0  # of the function's 300: the deploy waits for an answer, whatever the database does
PHYSICAL_ID = "schema"


def handle(event: dict[str, object], context: object) -> None:
    """Serve one request of CloudFormation: Create and Update migrate, Delete keeps the data."""
    del context
    try:
        answer = succeeded(event, physical_id=PHYSICAL_ID, Version=serve(event))
    except psycopg.ProgrammingError as error:
        # libpq's error quotes parts of a connection string that it cannot read.
        sqlstate = error.sqlstate
        reason = str(error) if sqlstate else "The database's URL is not one that PostgreSQL understands."
        answer = failed(event, f"Migrations failed: {reason}", physical_id=PHYSICAL_ID)
    except Exception as error:  # noqa: BLE001 - unanswered, the deploy would hang
        answer = failed(event, f"Migrations failed: {type(error).__name__}: {error}", physical_id=PHYSICAL_ID)
    print(json.dumps({"event": "schema", "request": event["RequestType"], **answer}))  # noqa: T201 - the log line
    respond(str(event["ResponseURL"]), answer)


def serve(event: dict[str, object]) -> int:
    """Migrate if the request asks for it; return the schema's version."""
    if event["RequestType"] == "Delete":
        return 0
    deadline = time.monotonic() + DATABASE_S
    url = config.database_url()
    with connect(url, statement_s=None, deadline=deadline, connect_timeout_s=CONNECT_TIMEOUT_S) as conn:
        if not is_rollback(event):
            migrate(conn, MIGRATIONS)
        return schema_version(conn)


def is_rollback(event: dict[str, object]) -> bool:
    """Whether CloudFormation is rolling an update back: the function's version decreases.

    The newer schema then stays, since migrations cannot be undone. Refusing it, as for a deploy of old software, would
    only make the rollback fail too.
    """
    return published_version(event.get("ResourceProperties")) < published_version(event.get("OldResourceProperties"))


def published_version(properties: object) -> int:
    """Return the number at the end of the function version's ARN, the property `Code`; 0 if there is none."""
    code = properties.get("Code") if isinstance(properties, dict) else None
    number = str(code).rpartition(":")[2]
    return int(number) if number.isdecimal() else 0
