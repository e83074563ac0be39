#!/bin/bash
# The secrets that the template reads, before it is deployed: one file each, named as its parameter in the template.
set -euo pipefail

for file in "${STACK_SECRETS:-/opt/energy-market/secrets}"/*; do
    name="energy-market/$(basename "$file")"
    awslocal secretsmanager create-secret --name "$name" --secret-string "file://$file" >/dev/null ||
        awslocal secretsmanager put-secret-value --secret-id "$name" --secret-string "file://$file" >/dev/null
done
