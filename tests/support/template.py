"""template.yaml as tests read it: its resources, its functions and where each is packed from."""

import re
from typing import Any

import yaml

from tests.support.places import CHECKOUT

ROOT = CHECKOUT
Resource = dict[str, Any]
Route = tuple[str, str]  # method, path


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short tags: `!Ref X` becomes {"Ref": "X"}, `!Sub X` {"Fn::Sub": "X"}."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _tagged)


def _read(path: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.load((ROOT / path).read_text(), _Loader)  # noqa: S506 - a SafeLoader
    return read


TEMPLATE = _read("template.yaml")
RESOURCES: dict[str, Resource] = TEMPLATE["Resources"]
"""Resources of the template itself, without those of the template that it nests."""
WATCHING = _read("infra/watching.yaml")
"""The nested template, which has the alarms, the dashboard and the WAF."""
MAKEFILE = (ROOT / "functions" / "Makefile").read_text()
ONLY_ON_AWS = ("AWS::WAFv2::", "AWS::CloudWatch::", "AWS::SNS::", "AWS::RDS::", "AWS::KMS::")


def of_type(type_: str) -> dict[str, Resource]:
    """The resources of a type, in either template."""
    both = [*RESOURCES.items(), *WATCHING["Resources"].items()]
    return {name: resource for name, resource in both if resource["Type"] == type_}


def given_to_watching(parameter: str) -> dict[str, Any]:
    """The value that the template gives to a parameter of the nested one."""
    value: dict[str, Any] = RESOURCES["Watching"]["Properties"]["Parameters"][parameter]
    return value


FUNCTIONS = of_type("AWS::Serverless::Function")


def folder_of(function: str) -> str:
    """The folder that a function is packed from, by the build rules."""
    rule = re.search(rf"^build-{function}: ; \$\(PACK\) (\w+) ", MAKEFILE, re.MULTILINE)
    assert rule is not None, f"functions/Makefile does not build {function}"
    return rule[1]


def function_of(folder: str) -> str:
    (name,) = (name for name in FUNCTIONS if folder_of(name) == folder)
    return name


def events_of(function: str) -> set[Route]:
    events = FUNCTIONS[function]["Properties"]["Events"].values()
    return {(event["Properties"]["Method"].upper(), event["Properties"]["Path"]) for event in events}
