"""Holds every answer of the API against a role table, for one kind of caller.

UNDERPASS_ROLES names a JSON file: `may` lists the operations that the caller may do, and `names` what exists there, so
that generated requests reach objects and not only 404s.
"""

import json
import os
import zlib

import schemathesis

with open(os.environ["UNDERPASS_ROLES"], encoding="utf-8") as file:
    ROLES = json.load(file)

MAY = {tuple(operation.split(" ")) for operation in ROLES["may"]}
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
REFERENCES = {"user", "cluster", "name", "members", "groups", "clusters", "names", "all", "allClusters"}


def chosen(value, among):
    """Two of three values become one that exists: always the same one, so that a seed repeats a run."""
    number = zlib.crc32(repr(value).encode())
    return among[number // 3 % len(among)] if number % 3 else value


@schemathesis.hook
def map_path_parameters(ctx, path_parameters):
    return {key: chosen(value, ROLES["names"]) for key, value in (path_parameters or {}).items()}


def known(value, key=None):
    if isinstance(value, dict):
        return {key: known(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [known(inner, key) for inner in value]
    return chosen(value, ROLES["names"]) if isinstance(value, str) and key in REFERENCES else value


@schemathesis.hook
def map_body(ctx, body):
    return known(body)


@schemathesis.check
def role_table(ctx, response, case):
    method, path = case.method.upper(), case.operation.path
    if method not in METHODS or method != case.operation.method.upper():
        # HEAD is GET without a body (RFC 9110, section 9.3.2).
        denied = (method, path) not in MAY and not (method == "HEAD" and ("GET", path) in MAY)
    else:
        denied = (method, path) not in MAY
    done = 200 <= response.status_code < 400
    assert not (denied and done), f"{method} {path} was done: {response.status_code}"


@schemathesis.check
def no_fault_of_the_server(ctx, response, case):
    # 507 is an answer: there is no room for what was asked for (RFC 4918, section 11.5).
    assert response.status_code < 500 or response.status_code == 507, f"the server failed: {response.status_code}"
