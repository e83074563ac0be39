"""What SAM makes of the template, as JSON on standard output: the very resources that CloudFormation is given.

Run by the interpreter of SAM's own environment, whose packages the tests' environment cannot hold.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import boto3
from samtranslator.parser.parser import Parser  # type: ignore[import-not-found]
from samtranslator.translator.translator import Translator  # type: ignore[import-not-found]
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-not-found]

PACKED = {"CodeUri", "ContentUri", "DefinitionUri"}


def main() -> None:
    """Transform the template with its defaults, as if its code were packed."""
    logging.disable()
    template: dict[str, Any] = yaml_parse(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for properties in (
        template["Globals"]["Function"],
        *(resource.get("Properties", {}) for resource in template["Resources"].values()),
    ):
        for name in PACKED & properties.keys():
            properties[name] = "s3://bucket/key"
    parameters = {name: parameter.get("Default", "x") for name, parameter in template["Parameters"].items()}
    session = boto3.Session(region_name="us-east-1")
    made = Translator({}, Parser(), boto_session=session).translate(template, parameters)
    json.dump(made["Resources"], sys.stdout, default=str)


if __name__ == "__main__":
    main()
