"""What an operator can tell a running service, and the status of everything that goes wrong."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from admin_port import Admin, Router, Scaler, endpoint_status

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "admin_port.md"


def test_a_policy_is_promoted_step_by_step_and_taken_back(admin: Admin, router: Router) -> None:
    answer = admin.command("POST", "/guard/promote", {"reason": "looks good"})
    assert (answer.status, answer.json["mode"], answer.json["percentage"]) == (200, "gradual", 10.0)
    assert admin.command("POST", "/guard/promote").json["percentage"] == 20.0

    answer = admin.command("POST", "/guard/shadow", {"reason": "a deploy"})
    assert (answer.json["mode"], router.guard.mode) == ("shadow", "shadow")
    assert [
        (each["by"], each["to_mode"], each["reason"]) for each in answer.json["transitions"]
    ] == [
        ("operator", "gradual", "looks good"),
        ("operator", "gradual", "by the admin port"),
        ("operator", "shadow", "a deploy"),
    ]
    assert admin.get("/guard").json == answer.json


def test_rollback_is_for_those_who_look_for_that_word(admin: Admin, router: Router) -> None:
    router.guard.set_mode("full")
    assert admin.command("POST", "/guard/rollback").json["mode"] == "shadow"
    assert router.guard.mode == "shadow"
    # What already holds is no error: an alarm may fire twice.
    assert admin.command("POST", "/guard/rollback").status == 200


def test_what_the_guard_does_not_allow_is_a_conflict(admin: Admin, router: Router) -> None:
    router.guard.set_mode("full")
    answer = admin.command("POST", "/guard/promote")
    assert answer.status == 409
    assert answer.json == {
        "error": "promote needs mode 'shadow' or 'gradual', it is 'full' already"
    }


def test_a_policy_is_swapped_or_the_old_one_stays(admin: Admin, router: Router) -> None:
    answer = admin.command("POST", "/policy", {"policy": "least_connections"})
    assert (answer.status, answer.json) == (200, {"policy": "least_connections"})

    answer = admin.command("POST", "/policy", {"policy": "cartpole.ckpt"})
    assert (answer.status, answer.json["error"]) == (400, "policy must fit, got 'cartpole.ckpt'")
    assert router.policy == "least_connections"


def test_a_policy_that_raises_anything_leaves_the_port_open(admin: Admin) -> None:
    answer = admin.command("POST", "/policy", {"policy": "explodes"})
    assert (answer.status, answer.json["error"]) == (500, "RuntimeError: a user's policy")
    assert admin.get("/status").status == 200


def test_endpoints_come_and_go(admin: Admin, router: Router) -> None:
    body = {"url": "http://127.0.0.1:9003/", "weight": 2, "workers": 4, "max_in_flight": 8}
    answer = admin.command("POST", "/endpoints", body)
    assert answer.status == 200
    assert answer.json["endpoints"] == ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"]
    assert router.endpoints["127.0.0.1:9003"].weight == 2.0
    assert admin.command("POST", "/endpoints", body).status == 409

    assert admin.command("DELETE", "/endpoints/127.0.0.1:9001").json == {
        "endpoints": ["127.0.0.1:9002", "127.0.0.1:9003"]
    }
    answer = admin.command("DELETE", "/endpoints/127.0.0.1:9001")
    assert answer.status == 404
    assert answer.json["error"] == (
        "there is no endpoint '127.0.0.1:9001', only 127.0.0.1:9002, 127.0.0.1:9003"
    )


@pytest.mark.parametrize("name", ["[::1]:80", "a b/c?d#e", "größe:80"])
def test_any_name_can_be_removed(admin: Admin, router: Router, name: str) -> None:
    del router.endpoints["127.0.0.1:9001"]
    router.endpoints[name] = endpoint_status(name)
    assert admin.command("DELETE", f"/endpoints/{quote(name, safe='')}").status == 200
    assert list(router.endpoints) == ["127.0.0.1:9002"]


def test_a_scaler_has_no_endpoints_and_keeps_its_policy(open_admin: Callable[..., Admin]) -> None:
    admin = open_admin(Scaler())
    added = admin.command("POST", "/endpoints", {"url": "http://127.0.0.1:1"})
    removed = admin.command("DELETE", "/endpoints/x")
    assert (added.status, removed.status) == (404, 404)
    assert added.json == removed.json == {"error": "this service has no endpoints"}
    assert admin.command("POST", "/policy", {"policy": "other.ckpt"}).status == 404
    assert admin.command("POST", "/guard/promote").json["percentage"] == 10.0


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/policy", {}, "body: policy is required"),
        ("/policy", {"policy": 3}, "body: policy must be a string, got 3: put it in quotes"),
        (
            "/policy",
            {"polcy": "x", "policy": "y"},
            "body: 'polcy' is not a setting of NewPolicy. Did you mean 'policy'?",
        ),
        ("/endpoints", {"url": "ftp://x"}, "backend must be http://HOST[:PORT], got 'ftp://x'"),
        ("/endpoints", {"url": "http://x", "weight": -1}, "body: weight must be > 0, got -1"),
        ("/endpoints", {"url": "http://x", "workers": 0}, "body: workers must be >= 1, got 0"),
        ("/guard/promote", {"reason": "x" * 201}, "body: reason: String should have at most 200"),
        ("/guard/shadow", {"reason": ""}, "body: reason: String should have at least 1"),
    ],
)
def test_bad_values_are_named(admin: Admin, path: str, body: object, error: str) -> None:
    answer = admin.command("POST", path, body)
    assert answer.status == 400
    assert answer.json["error"].startswith(error)
    assert "\n" not in answer.json["error"]


@pytest.mark.parametrize(
    "body", ["", "{", "nan", "[" * 10_000, "[]", '"x"', "3", "\xff", '{"policy": "\ud800"}']
)
def test_a_body_that_is_no_object_is_refused(admin: Admin, body: str) -> None:
    headers = {"X-Grpo-Gym": "1", "Content-Type": "application/json"}
    content = body.encode("latin-1") if body == "\xff" else body.encode("utf-8", "surrogatepass")
    answer = admin.request("POST", "/policy", content, headers)
    assert answer.status == 400
    assert "error" in answer.json
    assert admin.get("/status").json["policy"] == "pretrained:router"


def test_a_body_must_say_that_it_is_json(admin: Admin, router: Router) -> None:
    body = json.dumps({"policy": "least_connections"})
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        headers = {"X-Grpo-Gym": "1", "Content-Type": content_type}
        answer = admin.request("POST", "/policy", body, headers)
        assert (answer.status, answer.json["error"]) == (
            415,
            f"Content-Type must be application/json, got {content_type}",
        )
    assert router.policy == "pretrained:router"


def test_bodies_are_bounded_however_they_come(admin: Admin) -> None:
    large = {"policy": "x" * 20_000}
    answer = admin.command("POST", "/policy", large)
    assert (answer.status, "16384" in answer.json["error"]) == (413, True)
    # In chunks, without a length:
    headers = {"X-Grpo-Gym": "1", "Content-Type": "application/json"}
    chunks = (b" " * 1000 for _ in range(50))
    assert admin.request("POST", "/policy", chunks, headers).status == 413


def test_routes_and_methods_that_do_not_exist(admin: Admin) -> None:
    answer = admin.get("/nothing")
    assert (answer.status, answer.json) == (404, {"error": "404: Not Found"})
    for method, path, allowed in (
        ("GET", "/guard/promote", "POST"),
        ("POST", "/metrics", "GET,HEAD"),
        ("PUT", "/policy", "POST"),
        ("GET", "/endpoints/127.0.0.1:9001", "DELETE"),
    ):
        answer = admin.command(method, path)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)
        assert answer.json == {"error": "405: Method Not Allowed"}


def test_the_command_lines_on_the_page(admin: Admin, router: Router) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (block,) = re.findall(r"```bash\n(curl .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    modes = []
    for line in block.splitlines():
        arguments = shlex.split(line.replace("http://127.0.0.1:9901", admin.url))
        subprocess.run([*arguments, "--fail", "--silent"], check=True, capture_output=True)
        modes.append((router.guard.percentage, list(router.endpoints)))
    old = ["127.0.0.1:9001", "127.0.0.1:9002"]
    assert modes == [(10.0, old), (10.0, [*old, "10.0.0.7:8080"]), (10.0, old)]
