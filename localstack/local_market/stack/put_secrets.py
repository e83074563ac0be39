"""The secrets that the template reads, put into the local AWS."""

import hashlib
import json
import secrets

from local_market.emulators.local_aws import aws_session

DATABASE_SECRET = "energy-market/database-url"  # noqa: S105 - these are names, or begin them
MIGRATIONS_DATABASE_SECRET = "energy-market/migrations-database-url"  # noqa: S105
JWT_KEYS_SECRET = "energy-market/jwt-keys"  # noqa: S105
OPERATOR_KEY_SECRET = "energy-market/operator-key"  # noqa: S105


def put_secrets(
    endpoint_url: str, *, database_url: str, migrations_database_url: str, operator_key: str
) -> dict[str, str]:
    """Create the secrets that the template reads; their names, by the template's parameters.

    A secret is resolved when a function is deployed, and a function is only deployed anew when something about it has
    changed. So another value gets another name: it is the database's address, for one, that may change from one start
    of a kept stack to the next. Keys of access tokens are made once and kept.
    """
    client = aws_session().client("secretsmanager", endpoint_url=endpoint_url)
    present = {
        secret["Name"] for page in client.get_paginator("list_secrets").paginate() for secret in page["SecretList"]
    }
    names = {"JwtKeysSecret": JWT_KEYS_SECRET}
    if JWT_KEYS_SECRET not in present:
        client.create_secret(Name=JWT_KEYS_SECRET, SecretString=json.dumps({"local-1": secrets.token_hex(32)}))
    for parameter, prefix, value in (
        ("DatabaseSecret", DATABASE_SECRET, database_url),
        ("MigrationsDatabaseSecret", MIGRATIONS_DATABASE_SECRET, migrations_database_url),
        ("OperatorKeySecret", OPERATOR_KEY_SECRET, operator_key),
    ):
        names[parameter] = f"{prefix}-{hashlib.sha256(value.encode()).hexdigest()[:12]}"
        if names[parameter] not in present:
            client.create_secret(Name=names[parameter], SecretString=value)
    return names
