"""The API's contract as a page for people: plain HTML in one file, which loads nothing."""

import json
import re
from html import escape
from typing import Any

METHODS = ("get", "head", "post", "put", "patch", "delete")
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; text-transform: capitalize; }
details { margin: .5rem 0; border: 1px solid #8886; border-radius: .4rem; padding: .4rem .8rem; }
summary { cursor: pointer; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; background: #8882; padding: .6rem; border-radius: .3rem; }
.method { display: inline-block; min-width: 4.2rem; font-weight: 600; text-transform: uppercase; }
.key { opacity: .7; font-size: .85em; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
"""


def page(contract: dict[str, Any]) -> str:
    """Render an OpenAPI 3 document."""
    info = contract["info"]
    groups: dict[str, list[str]] = {}
    for path, item in contract["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                shared = item.get("parameters", [])
                tag = (operation.get("tags") or [path.removeprefix("/api/v1/").split("/")[0]])[0]
                groups.setdefault(tag, []).append(_operation(contract, method, path, operation, shared))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(found)}" for tag, found in groups.items())
    title = f"{info['title']} {info['version']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"{_paragraphs(info.get('description', ''))}"
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{sections}</body></html>"
    )


def _operation(
    contract: dict[str, Any], method: str, path: str, operation: dict[str, Any], shared: list[dict[str, Any]]
) -> str:
    needs_token = bool(operation.get("security", contract.get("security")))
    parts = [_paragraphs(operation.get("description", ""))]
    parameters = [_resolved(contract, parameter) for parameter in [*shared, *operation.get("parameters", [])]]
    if parameters:
        rows = "".join(
            f"<tr><td><code>{escape(p['name'])}</code></td><td>{escape(p['in'])}</td>"
            f"<td>{'required' if p.get('required') else 'optional'}</td>"
            f"<td>{_text(p.get('description', ''))}</td></tr>"
            for p in parameters
        )
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    if "requestBody" in operation:
        parts.append(f"<h4>Body</h4>{_schema(contract, _resolved(contract, operation['requestBody']))}")
    parts.append("<h4>Answers</h4>")
    for status, found in operation.get("responses", {}).items():
        answer = _resolved(contract, found)
        parts.append(f"<p><code>{escape(str(status))}</code> {_text(answer.get('description', ''))}</p>")
        if str(status).startswith("2"):
            parts.append(_schema(contract, answer))
    key = ' <span class="key">needs an access token</span>' if needs_token else ""
    return (
        f'<details><summary><span class="method">{method}</span> <code>{escape(path)}</code> '
        f"{escape(operation.get('summary', ''))}{key}</summary>{''.join(parts)}</details>"
    )


def _schema(contract: dict[str, Any], content_holder: dict[str, Any]) -> str:
    """Render the schema of a body, with its references filled in, and its examples."""
    content = content_holder.get("content", {})
    schemas = [_filled(contract, media["schema"]) for media in content.values() if "schema" in media]
    examples = [
        _resolved(contract, example)["value"]
        for media in content.values()
        for example in media.get("examples", {}).values()
    ]
    return _shown(schemas) + (f"<p>For example:</p>{_shown(examples)}" if examples else "")


def _shown(values: list[Any]) -> str:
    return "".join(f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>" for value in values)


def _filled(contract: dict[str, Any], node: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(node, list):
        return [_filled(contract, part, depth) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        # A schema may contain itself: keep the reference at a certain depth.
        return node if depth > 4 else _filled(contract, _resolved(contract, node), depth + 1)  # noqa: PLR2004
    return {name: _filled(contract, part, depth) for name, part in node.items()}


def _resolved(contract: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference within the document, as "#/components/schemas/Order"."""
    if "$ref" not in node:
        return node
    found: Any = contract
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return _resolved(contract, found)


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.strip().split("\n\n") if part)


def _text(text: str) -> str:
    """Render the Markdown that the contract uses within a line: `code` and **strong**."""
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text)))
