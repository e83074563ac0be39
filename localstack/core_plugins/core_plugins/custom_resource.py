"""`AWS::CloudFormation::CustomResource`: asks a function, and waits for what it puts to the address that it gets."""

import json
import logging
import uuid
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, ClassVar

from localstack.services.cloudformation.resource_provider import (
    CloudFormationResourceProviderPlugin,
    OperationStatus,
    ProgressEvent,
    ResourceProvider,
    ResourceRequest,
)

LOG = logging.getLogger(__name__)
TIMEOUT_S = 3600  # CloudFormation's, where the resource has no ServiceTimeout


class CustomResourcePlugin(CloudFormationResourceProviderPlugin):
    """What the entry point names."""

    name = "AWS::CloudFormation::CustomResource"

    def load(self) -> None:
        """Give LocalStack the provider."""
        self.factory = CustomResource


class CustomResource(ResourceProvider[dict[str, Any]]):
    """The three requests of https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref.html."""

    TYPE = "AWS::CloudFormation::CustomResource"
    SCHEMA: ClassVar = {
        "typeName": TYPE,
        "properties": {"ServiceToken": {"type": "string"}, "Id": {"type": "string"}},
        "primaryIdentifier": ["/properties/Id"],
        "readOnlyProperties": ["/properties/Id"],
    }

    def create(self, request: ResourceRequest[dict[str, Any]]) -> ProgressEvent[dict[str, Any]]:
        """Ask the function to create it."""
        return _ask(request, "Create")

    def update(self, request: ResourceRequest[dict[str, Any]]) -> ProgressEvent[dict[str, Any]]:
        """Ask the function to change it."""
        return _ask(request, "Update")

    def delete(self, request: ResourceRequest[dict[str, Any]]) -> ProgressEvent[dict[str, Any]]:
        """Ask the function to delete it."""
        return _ask(request, "Delete")


def _ask(request: ResourceRequest[dict[str, Any]], kind: str) -> ProgressEvent[dict[str, Any]]:
    properties = request.desired_state
    before = request.previous_state or {}
    answered: Future[dict[str, Any]] = Future()

    class AnswerHere(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            answered.set_result(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), AnswerHere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            event = {
                "RequestType": kind,
                "ResponseURL": f"http://127.0.0.1:{server.server_address[1]}/",
                "StackId": request.stack_id,
                "RequestId": str(uuid.uuid4()),
                "ResourceType": CustomResource.TYPE,
                "LogicalResourceId": request.logical_resource_id,
                "ResourceProperties": properties,
            }
            if kind != "Create":
                event["PhysicalResourceId"] = before.get("Id") or properties.get("Id")
            if kind == "Update":
                event["OldResourceProperties"] = before
            request.aws_client_factory.lambda_.invoke(
                FunctionName=properties["ServiceToken"], InvocationType="Event", Payload=json.dumps(event).encode()
            )
            answer = answered.result(float(properties.get("ServiceTimeout", TIMEOUT_S)))
        except NoAnswer:
            answer = {"Status": "FAILED", "Reason": "The function did not answer in time."}
        finally:
            server.shutdown()
    LOG.info("%s of %s: %s", kind, request.logical_resource_id, answer)
    if answer["Status"] != "SUCCESS":
        return ProgressEvent(OperationStatus.FAILED, resource_model=properties, message=answer.get("Reason", ""))
    # `Fn::GetAtt` gives texts, whatever the function answered.
    data = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in answer.get("Data", {}).items()
    }
    model = {**properties, **data, "Id": answer["PhysicalResourceId"]}
    return ProgressEvent(OperationStatus.SUCCESS, resource_model=model)
