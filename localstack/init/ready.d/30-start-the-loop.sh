#!/bin/bash
# The schedule fires for the first time a minute after the deploy; the market need not wait.
set -euo pipefail

machine=$(awslocal cloudformation describe-stacks --stack-name energy-market --output text \
    --query "Stacks[0].Outputs[?OutputKey=='StateMachineArn'].OutputValue")
awslocal stepfunctions start-execution --state-machine-arn "$machine" --input '{}' >/dev/null
