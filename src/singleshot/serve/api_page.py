"""The description of the interface as a page for people, made of the OpenAPI document, without a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{overflow:auto;background:#8881;padding:.6rem}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #8884;padding:.3rem .6rem;text-align:left}
h2{margin-top:2rem}"""


def render_page(document: dict[str, Any]) -> str:
    """HTML of an OpenAPI document."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    parts = [
        f'<!doctype html><html lang="en"><head>{head}</head>',
        f"<body><h1>{title}</h1>",
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(method.upper(), path, operation)
    parts.append("<h2>Forms of answers</h2>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        parts.append(f'<h3 id="{escape(name)}">{escape(name)}</h3>')
        parts.append(f"<p>{escape(schema.get('description', ''))}</p>")
        rows = ((key, _type(value), "") for key, value in schema.get("properties", {}).items())
        parts += _table(("field", "type"), rows)
    return "\n".join([*parts, "</body></html>"])


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{escape(method)} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}</p>"
    parameters = operation.get("parameters", [])
    if parameters:
        rows = ((one["name"], _type(one["schema"]), one.get("description", "")) for one in parameters)
        yield from _table(("option", "type", ""), rows)
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>A body of type <code>{escape(kind)}</code>:</p>"
        yield f"<pre>{escape(json.dumps(body['schema'], indent=1))}</pre>"
    answers = []
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        answers.append((status, _type(schema), answer.get("description", "")))
    yield from _table(("status", "answer", ""), answers)


def _table(heads: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    for name, kind, text in rows:
        cells = [f"<code>{escape(str(name))}</code>", kind, escape(text)][: len(heads)]
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """A schema in few words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_type(schema['items'])}"
    bounds = [f"{key} {schema[key]}" for key in ("minimum", "maximum", "maxLength", "pattern") if key in schema]
    return escape(", ".join([str(schema.get("type", "any")), *bounds]))
