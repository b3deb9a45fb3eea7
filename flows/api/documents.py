"""What documents the service: its OpenAPI schema, and a plain page of it that loads nothing.

FastAPI's own /docs has browsers fetch scripts from elsewhere; here nobody asks the network.
"""

from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from flows.api.models import SearchRequest, Trouble

_REF = "#/components/schemas/{model}"
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
SEARCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": _REF.format(model="SearchRequest")}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": _FILES,
                        "not_images": _FILES,
                        "query": {"$ref": _REF.format(model="SearchRequest")},
                    },
                }
            },
        },
    }
}
CLASSIFY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": _FILES,
                        "labels": {
                            "type": "string",
                            "description": "dog,cat,car; without, the store's label set in force",
                        },
                        "template": {
                            "type": "string",
                            "description": "for these labels, such as: a drawing of a {}.",
                        },
                        "top_k": {"type": "integer", "minimum": 1},
                    },
                }
            }
        },
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Trouble, "description": "not to be understood"},
    413: {"model": Trouble, "description": "larger than this service takes"},
    422: {"model": Trouble, "description": "understood, and wrong"},
    503: {"model": Trouble, "description": "too busy: come again after Retry-After seconds"},
}


def schema_of(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI schema of an app, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        _, read = models_json_schema([(SearchRequest, "validation")], ref_template=_REF)
        schema["components"]["schemas"] |= read["$defs"]
        app.openapi_schema = schema
    return app.openapi_schema


def page_of(schema: dict[str, Any]) -> str:
    """Return a schema as a page of HTML."""
    parts = [
        f"<h1>{escape(schema['info']['title'])}</h1>",
        f"<p>{escape(schema['info']['description'])}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(about.get('description', ''))}</p>")
            rows = [
                (p["name"], p["in"], p["schema"], p.get("required", False))
                for p in about.get("parameters", [])
            ]
            parts.append(_table(rows))
            for kind, body in about.get("requestBody", {}).get("content", {}).items():
                parts.append(f"<p>Body, <code>{escape(kind)}</code>: {_type(body['schema'])}</p>")
                parts.append(_fields(body["schema"]))
            for status, reply in about["responses"].items():
                kinds = (
                    _type(kind.get("schema", {})) for kind in reply.get("content", {}).values()
                )
                parts.append(
                    f"<p>{escape(status)}: {escape(reply['description'])} {' '.join(kinds)}</p>"
                )
    for name, model in sorted(schema["components"]["schemas"].items()):
        parts.append(f'<h3 id="{escape(name)}">{escape(name)}</h3>')
        parts.append(f"<p>{escape(model.get('description', ''))}</p>{_fields(model)}")
    return _HEAD + "\n".join(parts) + "</main>"


_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>pseudolabel api</title>
<link rel="stylesheet" href="page.css"><main>
"""


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    fields = schema.get("properties", {}).items()
    return _table([(name, "", about, name in required) for name, about in fields])


def _table(rows: list[tuple[str, str, dict[str, Any], bool]]) -> str:
    told = [
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(place)}</td><td>{_type(about)}</td>"
        f"<td>{'required' if required else _default(about)}</td>"
        f"<td>{escape(about.get('description', ''))}</td></tr>"
        for name, place, about, required in rows
    ]
    return f"<table>{''.join(told)}</table>" if told else ""


def _default(about: dict[str, Any]) -> str:
    default = about.get("default")
    return "" if default in (None, [], {}, "") else f"default {escape(str(default))}"


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        name = escape(about["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in about:
        return " or ".join(_type(each) for each in about["anyOf"])
    if about.get("type") == "array":
        return f"list of {_type(about.get('items', {}))}"
    bounds = [f"{word} {about[key]:g}" for key, word in _BOUNDS.items() if key in about]
    return escape(" ".join([about.get("format") or about.get("type", ""), *bounds]))


_BOUNDS = {"minimum": "≥", "maximum": "≤", "maxLength": "of characters ≤"}
