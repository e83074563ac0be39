"""The template: what is deployed agrees with what is written in the functions, the contract and the build rules."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
import yaml

from energy_market import config
from tests.support.api import ENVIRONMENT, load_function
from tests.support.template import (
    FUNCTIONS,
    MAKEFILE,
    ONLY_ON_AWS,
    RESOURCES,
    ROOT,
    TEMPLATE,
    WATCHING,
    Route,
    events_of,
    folder_of,
    function_of,
    given_to_watching,
    of_type,
)

APIS = ["auth_api", "market_api", "iot_api", "network_api", "analytics_api", "admin_api"]
RULE_SQL = (
    "SELECT encode(*, 'base64') AS payload, topic() AS topic, clientid() AS client_id, "
    "principal() AS principal, timestamp() AS received_at_ms FROM '{filter}'"
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an API's module reads as it is loaded; nothing is connected to."""
    for name, value in {**ENVIRONMENT, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}.items():
        monkeypatch.setenv(name, value)


def routes_of(folder: str) -> set[Route]:
    routes = load_function(folder).app.routes
    return {(method, path) for path, methods in routes.items() for method in methods}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("folder", APIS)
def test_every_route_of_a_function_has_an_event_and_every_event_a_route(folder: str) -> None:
    events = events_of(function_of(folder))
    assert {event for event in events if event[0] != "OPTIONS"} == routes_of(folder)


@pytest.mark.parametrize("folder", APIS)
def test_browsers_may_ask_before_they_call_any_path(folder: str) -> None:
    events = events_of(function_of(folder))
    assert {path for method, path in events if method == "OPTIONS"} == {path for _, path in events}


@pytest.mark.usefixtures("environment")
def test_the_contract_has_the_routes_that_are_served() -> None:
    contract = yaml.safe_load((ROOT / "infra" / "openapi.yaml").read_text())
    base = contract.get("servers", [{}])[0].get("url", "").rstrip("/")
    base = base if base.startswith("/") else ""
    methods = {"get", "head", "post", "put", "patch", "delete"}
    written = {
        (method.upper(), path if path.startswith("/api/v1") else f"{base}{path}")
        for path, item in contract["paths"].items()
        for method in methods & item.keys()
    }
    assert written == set().union(*(routes_of(folder) for folder in APIS))


def _schemas(node: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - whatever the contract holds
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _schemas(inner)


def test_every_list_of_the_contract_has_an_end_and_every_route_says_whether_it_is_private() -> None:
    contract = yaml.safe_load((ROOT / "infra" / "openapi.yaml").read_text())
    assert [schema for schema in _schemas(contract) if schema.get("type") == "array" and "maxItems" not in schema] == []
    operations = [operation for item in contract["paths"].values() for operation in item.values()]
    assert [one["operationId"] for one in operations if one.get("security") not in ([], [{"BearerAuth": []}])] == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_built_by_a_rule_of_its_own_from_a_folder_that_has_its_handler(function: str) -> None:
    properties = FUNCTIONS[function]["Properties"]
    module, _, handler = properties["Handler"].partition(".")
    source = ROOT / "functions" / folder_of(function) / f"{module}.py"
    assert FUNCTIONS[function]["Metadata"] == {"BuildMethod": "makefile"}
    names = {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert handler in names | {"app"}


def test_no_build_rule_is_left_over() -> None:
    assert set(re.findall(r"^build-(\w+):", MAKEFILE, re.MULTILINE)) == FUNCTIONS.keys()


def _variables_by_setting() -> dict[str, set[str]]:
    """For each function of config.py, the environment variables that it reads."""
    module = ast.parse((ROOT / "layers" / "energy_market" / "energy_market" / "config.py").read_text())
    settings = [node.name for node in module.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    return {
        setting: {
            ast.literal_eval(call.args[0])
            for statement in _reachable(module, setting)
            for call in ast.walk(statement)
            if isinstance(call, ast.Call) and ast.unparse(call.func) in {"_text", "_number", "_gwei"}
            if isinstance(call.args[0], ast.Constant)
        }
        for setting in settings
    }


def _reachable(module: ast.Module, handler: str) -> Iterator[ast.stmt]:
    """The statements of a module that run when it is loaded and this handler is called."""
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    # Views are called through the app that they register with.
    called = {name for name, node in functions.items() if node.decorator_list and handler == "app"} | {handler}
    yield from (node for node in module.body if not isinstance(node, ast.FunctionDef))
    done: set[str] = set()
    while called - done:
        name = min(called - done)
        done.add(name)
        if name in functions:
            yield functions[name]
            called |= {node.id for node in ast.walk(functions[name]) if isinstance(node, ast.Name)} & functions.keys()


def _statements_of(function: str) -> list[ast.stmt]:
    """The statements that run when a function is loaded and called, without those of the layer."""
    name, _, handler = FUNCTIONS[function]["Properties"]["Handler"].partition(".")
    module = ast.parse((ROOT / "functions" / folder_of(function) / f"{name}.py").read_text())
    return list(_reachable(module, handler))


def _settings_read_by(function: str) -> set[str]:
    """The functions of config.py that a function calls."""
    return {
        node.attr
        for statement in _statements_of(function)
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config"
    }


def _variables_read_by(function: str) -> Iterator[str]:
    settings = _variables_by_setting()
    for setting in _settings_read_by(function):
        yield from settings.get(setting, set())
    for statement in _statements_of(function):
        for node in ast.walk(statement):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                yield ast.literal_eval(node.slice)


READ_BY_LIBRARIES = {"RES_OPTIONS": "glibc's resolver of names"}
NOTHING = {"Ref": "AWS::NoValue"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_given_the_variables_that_it_reads_and_no_others(function: str) -> None:
    shared = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    own = FUNCTIONS[function]["Properties"].get("Environment", {}).get("Variables", {})
    given = {name for name, value in {**shared, **own}.items() if value != NOTHING}
    read = {name for name in _variables_read_by(function) if not name.startswith("AWS_")}
    assert read == given - READ_BY_LIBRARIES.keys()


PASSED_ON = {"http_settings": "to Api", "sign_in_settings": "to the use cases of the sign-in"}
"""Settings that functions hand on as a whole, and to whom."""


def _fields_of(setting: str) -> set[str]:
    """The names of what a function of config.py returns; none for a single value."""
    returned = get_type_hints(getattr(config, setting))["return"]
    return {field.name for field in fields(returned)} if is_dataclass(returned) else set()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_reads_settings_of_which_it_uses_a_part(function: str) -> None:
    attributes = {
        node.attr
        for statement in _statements_of(function)
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute)
    }
    for setting in _settings_read_by(function) - PASSED_ON.keys():
        assert _fields_of(setting) <= attributes, setting


def test_whoever_is_handed_settings_as_a_whole_uses_all_of_them() -> None:
    layer = ROOT / "layers" / "energy_market" / "energy_market"
    attributes = {
        node.attr
        for path in [*layer.rglob("*.py"), *(ROOT / "functions" / "auth_api").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    for setting in PASSED_ON:
        assert _fields_of(setting) <= attributes
        assert _fields_of(setting)


@pytest.mark.parametrize(
    ("variable", "holders"),
    [
        ("OPERATOR_PRIVATE_KEY", {"SettleFunction", "ChainCheckFunction"}),
        ("JWT_KEYS", {"AuthApiFunction", "MarketApiFunction", "IotApiFunction", "NetworkApiFunction",
                      "AnalyticsApiFunction", "AdminApiFunction"}),
    ],
)  # fmt: skip
def test_only_who_needs_a_secret_has_it_and_only_by_reference(variable: str, holders: set[str]) -> None:
    found = {
        name: function["Properties"].get("Environment", {}).get("Variables", {}).get(variable)
        for name, function in FUNCTIONS.items()
    }
    assert {name for name, value in found.items() if value is not None} == holders
    for name in holders:
        assert found[name]["Fn::Sub"].startswith("{{resolve:secretsmanager:")


def test_only_the_migrations_are_told_who_owns_the_schema() -> None:
    shared = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert shared["DATABASE_URL"] == {"Fn::Sub": "{{resolve:secretsmanager:${DatabaseSecret}}}"}
    text = (ROOT / "template.yaml").read_text()
    assert text.count("${MigrationsDatabaseSecret}") == 1
    own = FUNCTIONS["MigrationsFunction"]["Properties"]["Environment"]["Variables"]
    assert own == {"DATABASE_URL": {"Fn::Sub": "{{resolve:secretsmanager:${MigrationsDatabaseSecret}}}"}}


def test_no_function_waits_long_for_a_name() -> None:
    """Libpq and the RPC client resolve names by glibc, outside all deadlines of ours."""
    options = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["RES_OPTIONS"]
    timeout_s, attempts = map(int, re.fullmatch(r"timeout:(\d+) attempts:(\d+)", options).groups())  # type: ignore[union-attr]
    assert timeout_s * attempts <= 2


def test_who_lists_the_functions_on_aws_does_not_see_their_variables() -> None:
    assert TEMPLATE["Globals"]["Function"]["KmsKeyArn"] == {
        "Fn::If": ["IsAws", {"Fn::GetAtt": "SecretsKey.Arn"}, {"Ref": "AWS::NoValue"}]
    }
    assert [name for name, function in FUNCTIONS.items() if "KmsKeyArn" in function["Properties"]] == []
    assert RESOURCES["SecretsKey"]["Properties"]["EnableKeyRotation"] is True


def test_what_the_template_is_given_or_gives_shows_no_secret() -> None:
    assert TEMPLATE["Parameters"]["RpcUrl"]["NoEcho"] is True
    given = {name for name in TEMPLATE["Parameters"] if re.search("key|secret|url|password", name, re.IGNORECASE)}
    assert {name for name in given if not name.endswith("Secret")} == {"RpcUrl", "DeviceCaUrl"}
    assert not re.search(r"RpcUrl|resolve:secretsmanager", str(TEMPLATE["Outputs"]))


def test_nobody_speaks_to_the_api_in_the_clear_or_in_an_old_tls() -> None:
    properties = RESOURCES["Api"]["Properties"]
    assert properties["SecurityPolicy"]["Fn::If"][:2] == ["IsAws", "SecurityPolicy_TLS13_1_2_2021_06"]


@pytest.mark.parametrize("function", sorted(FUNCTIONS.keys() - {"MigrationsFunction", "ChainCheckFunction"}))
def test_no_function_gets_new_code_before_the_schema_is_up_to_date(function: str) -> None:
    assert FUNCTIONS[function]["DependsOn"] == "Schema"
    assert RESOURCES["Schema"]["DependsOn"] == "Chain"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_has_a_role_of_its_own_and_logs_that_end(function: str) -> None:
    properties = FUNCTIONS[function]["Properties"]
    assert properties["Role"] == {"Fn::GetAtt": f"{function.removesuffix('Function')}Role.Arn"}
    logs = RESOURCES[properties["LoggingConfig"]["LogGroup"]["Ref"]]
    assert logs["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


@pytest.mark.parametrize(
    ("topic_filter", "queue"),
    [
        ("energy/donor/+/lock/response", "LockResponsesQueue"),
        ("energy/donor/+/status", "TelemetryQueue"),
        ("energy/recipient/+/status", "TelemetryQueue"),
        ("energy/device/+/alert", "TelemetryQueue"),
        ("energy/transfer/+/status", "TelemetryQueue"),
        ("$aws/events/presence/#", "TelemetryQueue"),
    ],
)
def test_each_topic_of_the_specification_goes_to_its_queue_in_the_one_shape(topic_filter: str, queue: str) -> None:
    rules = [rule["Properties"]["TopicRulePayload"] for rule in of_type("AWS::IoT::TopicRule").values()]
    (rule,) = (rule for rule in rules if rule["Sql"] == RULE_SQL.format(filter=topic_filter))
    assert [action["Sqs"]["QueueUrl"] for action in rule["Actions"]] == [{"Ref": queue}]
    assert rule["ErrorAction"]["Sqs"]["QueueUrl"] == {"Ref": "RuleErrorsQueue"}
    assert len(rules) == 6


@pytest.mark.parametrize(("function", "queue"), [("LockResponsesFunction", "LockResponsesQueue"),
                                                 ("TelemetryFunction", "TelemetryQueue")])  # fmt: skip
def test_a_message_that_fails_comes_again_alone_and_ends_with_the_dead_letters(function: str, queue: str) -> None:
    (source,) = (event["Properties"] for event in FUNCTIONS[function]["Properties"]["Events"].values())
    assert source["Queue"] == {"Fn::GetAtt": f"{queue}.Arn"}
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["BatchSize"] <= 10  # above, AWS wants a window of a second or more
    assert isinstance(source["ScalingConfig"]["MaximumConcurrency"], int)
    properties = RESOURCES[queue]["Properties"]
    assert properties["RedrivePolicy"]["maxReceiveCount"] == 5
    assert properties["VisibilityTimeout"] >= FUNCTIONS[function]["Properties"]["Timeout"]


def test_a_device_may_speak_and_hear_on_its_own_topics_only() -> None:
    (policy,) = of_type("AWS::IoT::Policy").values()
    allowed: dict[str, set[str]] = {}
    for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        topics = {resource["Fn::Sub"].rpartition("${AWS::AccountId}:")[2] for resource in resources}
        allowed |= dict.fromkeys(actions, topics)
    me = "${!iot:Connection.Thing.ThingName}"
    heard = {f"energy/donor/{me}/{command}" for command in ("lock", "unlock", "transfer")}
    assert allowed.pop("iot:RetainPublish") == allowed["iot:Publish"]
    assert allowed == {
        "iot:Connect": {f"client/{me}"},
        "iot:Publish": {
            f"topic/energy/donor/{me}/status",
            f"topic/energy/donor/{me}/lock/response",
            f"topic/energy/recipient/{me}/status",
            f"topic/energy/device/{me}/alert",
            f"topic/energy/transfer/{me}/status",
        },
        "iot:Subscribe": {f"topicfilter/{topic}" for topic in heard},
        "iot:Receive": {f"topic/{topic}" for topic in heard},
    }


def test_what_only_aws_has_is_left_out_elsewhere() -> None:
    for name, resource in RESOURCES.items():
        if resource["Type"].startswith((*ONLY_ON_AWS, "AWS::Serverless::Application")):
            assert resource.get("Condition") == "IsAws", name
    # No emulator has the resources that are nested under the condition.
    for name, resource in WATCHING["Resources"].items():
        assert resource["Type"].startswith(ONLY_ON_AWS), name
    assert not RESOURCES.keys() & WATCHING["Resources"].keys()


def test_the_template_says_what_runs_and_nests_what_watches() -> None:
    assert len((ROOT / "template.yaml").read_text().splitlines()) <= 1_400
    nested = RESOURCES["Watching"]
    assert nested["Type"] == "AWS::Serverless::Application"
    assert nested["Properties"]["Location"] == "infra/watching.yaml"
    assert nested["Properties"]["Parameters"].keys() == WATCHING["Parameters"].keys()
    assert [name for name, one in WATCHING["Parameters"].items() if "Default" in one] == []


def test_whoever_deploys_allows_a_nested_template() -> None:
    config_of_sam = tomllib.loads((ROOT / "samconfig.toml").read_text())
    for name in ("default", "local"):
        capabilities = config_of_sam[name]["deploy"]["parameters"]["capabilities"]
        assert capabilities.split() == ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]


def test_what_watches_is_given_the_names_of_what_runs() -> None:
    for queue in of_type("AWS::SQS::Queue"):
        assert given_to_watching(queue) == {"Fn::GetAtt": f"{queue}.QueueName"}
    for name in ("MatchingLoop", "RateLimitPerMinute", "SignInLimitPerMinute", "AlarmEmail"):
        assert given_to_watching(name) == {"Ref": name}
    assert given_to_watching("TopicKey") == {"Ref": "SecretsKey"}
    assert given_to_watching("StackName") == {"Ref": "AWS::StackName"}
    named = set(re.findall(r"\$\{StackName\}(-[\w-]+)", (ROOT / "infra" / "watching.yaml").read_text()))
    names = {one["Properties"]["FunctionName"]["Fn::Sub"] for one in FUNCTIONS.values()}
    assert named
    assert {f"${{AWS::StackName}}{end}" for end in named} <= names


def test_the_waf_stands_before_the_stage_that_the_api_has() -> None:
    stage = RESOURCES["Api"]["Properties"]["StageName"]
    assert given_to_watching("ApiStage")["Fn::Sub"].endswith(f"::/restapis/${{Api}}/stages/{stage}")
    assert RESOURCES["Watching"]["DependsOn"] == f"Api{stage}Stage"  # SAM's name for it
    (association,) = of_type("AWS::WAFv2::WebACLAssociation").values()
    assert association["Properties"] == {"ResourceArn": {"Ref": "ApiStage"}, "WebACLArn": {"Fn::GetAtt": "WebAcl.Arn"}}


READABLE = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of what a function has no hand in: a page of any origin may read it, for it holds nothing of anybody."""
LATER = {"THROTTLED", "INTEGRATION_TIMEOUT", "INTEGRATION_FAILURE", "DEFAULT_5XX"}
GATEWAY_RESPONSES: dict[str, dict[str, Any]] = RESOURCES["Api"]["Properties"]["GatewayResponses"]


@pytest.mark.parametrize("name", GATEWAY_RESPONSES)
def test_what_the_gateway_answers_by_itself_is_as_the_apis_own_answers_are(name: str) -> None:
    response = GATEWAY_RESPONSES[name]
    template = response["ResponseTemplates"]
    assert template.keys() == {"application/json"}
    body = json.loads(template["application/json"])
    assert body.keys() == {"error", "code"}
    assert body["error"].endswith(".")
    headers = response["ResponseParameters"]["Headers"]
    assert headers == {
        **{name: f"'{value}'" for name, value in READABLE.items()},
        "Access-Control-Expose-Headers": "'Retry-After'",
        **({"Retry-After": "'2'"} if name in LATER else {}),
    }


def test_the_gateway_has_the_apis_words_for_whatever_it_refuses() -> None:
    """A default's status becomes that of all that have none of their own: the contract names these and no others."""
    statuses = {name: response["StatusCode"] for name, response in GATEWAY_RESPONSES.items()}
    codes = {
        name: json.loads(response["ResponseTemplates"]["application/json"])["code"]
        for name, response in GATEWAY_RESPONSES.items()
    }
    assert {name: (statuses[name], codes[name]) for name in statuses} == {
        # No route has an authorizer, or asks for AWS's signatures: the gateway speaks of them where there is no route.
        "MISSING_AUTHENTICATION_TOKEN": ("404", "no_such_route"),
        "INVALID_SIGNATURE": ("404", "no_such_route"),
        "EXPIRED_TOKEN": ("404", "no_such_route"),
        "RESOURCE_NOT_FOUND": ("404", "no_such_route"),
        "REQUEST_TOO_LARGE": ("413", "payload_too_large"),
        "THROTTLED": ("429", "too_many_requests"),
        "WAF_FILTERED": ("403", "refused_at_the_edge"),
        "INTEGRATION_TIMEOUT": ("504", "timed_out"),
        "INTEGRATION_FAILURE": ("500", "internal"),
        "DEFAULT_4XX": ("403", "refused_at_the_edge"),
        "DEFAULT_5XX": ("500", "internal"),
    }
    assert "Auth" not in RESOURCES["Api"]["Properties"]


def test_no_usage_plan_or_method_counts_preflights() -> None:
    assert not of_type("AWS::ApiGateway::UsagePlan")
    assert not {"MethodSettings", "ApiUsagePlan"} & RESOURCES["Api"]["Properties"].keys()


def test_the_waf_limits_what_the_functions_limit_and_has_the_common_rules() -> None:
    (acl,) = of_type("AWS::WAFv2::WebACL").values()
    rules = {rule["Name"]: rule for rule in acl["Properties"]["Rules"]}
    assert [rule["Priority"] for rule in rules.values()] == list(range(len(rules)))
    rates = {name: rules[name]["Statement"]["RateBasedStatement"] for name in ("rate", "sign-in-rate")}
    # By the address that AWS sees, not by a header; the functions' own limits; no more than the WAF can do.
    assert {rate["AggregateKeyType"] for rate in rates.values()} == {"IP"}
    assert {name: rate["Limit"] for name, rate in rates.items()} == {
        "rate": {"Ref": "RateLimitPerMinute"},
        "sign-in-rate": {"Ref": "SignInLimitPerMinute"},
    }
    limits = [given_to_watching(rate["Limit"]["Ref"])["Ref"] for rate in rates.values()]
    assert {TEMPLATE["Parameters"][limit]["MinValue"] for limit in limits} == {10}
    # A browser's preflights count in neither.
    preflights, signing_in = rates["sign-in-rate"]["ScopeDownStatement"]["AndStatement"]["Statements"]
    assert preflights == rates["rate"]["ScopeDownStatement"]
    method = preflights["NotStatement"]["Statement"]["ByteMatchStatement"]
    assert (method["FieldToMatch"], method["PositionalConstraint"], method["SearchString"]) == (
        {"Method": {}},
        "EXACTLY",
        "OPTIONS",
    )
    for name in rates:
        refusal = rules[name]["Action"]["Block"]["CustomResponse"]
        assert refusal["ResponseCode"] == 429
        body = json.loads(acl["Properties"]["CustomResponseBodies"][refusal["CustomResponseBodyKey"]]["Content"])
        assert body["code"] == "too_many_requests"
        assert {header["Name"]: header["Value"] for header in refusal["ResponseHeaders"]} == {
            **READABLE,
            "Access-Control-Expose-Headers": "Retry-After",
            "Retry-After": "60",
        }
    narrowed = signing_in["RegexMatchStatement"]["RegexString"]
    limited = {path for _, path in events_of("AuthApiFunction") if re.search(narrowed, f"/live{path}")}
    source = (ROOT / "functions" / "auth_api" / "app.py").read_text()
    assert limited == set(re.findall(r'@app\.route\("([^"]+)"[^)]*sign_in_limit', source))
    common = rules["common"]["Statement"]["ManagedRuleGroupStatement"]
    assert (common["VendorName"], common["Name"]) == ("AWS", "AWSManagedRulesCommonRuleSet")
    explained = (ROOT / "docs" / "security.md").read_text()
    for override in common["RuleActionOverrides"]:
        assert override["ActionToUse"] == {"Count": {}}
        assert f"`{override['Name']}`" in explained


def test_the_default_runtime_is_one_that_the_build_knows() -> None:
    runtime = TEMPLATE["Parameters"]["PythonRuntime"]
    assert runtime["Default"] == "python3.13"
    assert runtime["AllowedValues"] == ["python3.11", "python3.12", "python3.13", "python3.14"]
