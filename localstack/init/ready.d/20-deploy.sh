#!/bin/bash
# Deploys the built template. Its custom resource migrates the database before any other function is made.
set -euo pipefail

bucket=energy-market-artifacts
packaged=$(mktemp)
awslocal s3 mb "s3://$bucket" >/dev/null || awslocal s3 ls "s3://$bucket" >/dev/null
awslocal cloudformation package --template-file "$STACK_TEMPLATE" --s3-bucket "$bucket" \
    --output-template-file "$packaged" >/dev/null
mapfile -t parameters <"$STACK_PARAMETERS"
# Asking for it starts the devices' broker; its port is given out then.
broker=$(awslocal iot describe-endpoint --endpoint-type iot:Data-ATS --query endpointAddress --output text)
[[ $broker == *:* ]] || broker=$broker:8883
awslocal cloudformation deploy --stack-name energy-market --template-file "$packaged" --s3-bucket "$bucket" \
    --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND --no-fail-on-empty-changeset \
    --parameter-overrides "${parameters[@]}" "DeviceBroker=$broker"
