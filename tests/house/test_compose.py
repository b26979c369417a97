"""docker-compose.yml fits the compose specification and names services, settings and commands that exist.

`compose_spec.json` is the compose specification's schema (Apache-2.0, github.com/compose-spec/compose-spec). That the
services' own commands run is shown on a real broker by tests/system/test_compose_runs.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from services.cli import ENTRIES
from services.gateway.limits import PREFIX as LIMITS
from services.gateway.limits import Limits
from services.gateway.names import answered, check_reach
from services.keys.cli import keys
from services.settings import PREFIX, Settings
from services.stream.errors import Misconfigured

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def _ours(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: s for name, s in compose["services"].items() if s["image"] == "tickerloop"}


def test_fits_the_specification(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests/house/compose_spec.json").read_text())
    jsonschema.validate(compose, schema)
    broken = compose | {"services": {"clean": {"comand": ["run"]}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_every_service_of_ours_is_there_and_no_other(compose: dict[str, Any]) -> None:
    ours = _ours(compose)
    assert set(ours) == set(ENTRIES) | {"migrate"}
    for name, service in ours.items():
        assert service["command"] == (["migrate"] if name == "migrate" else ["run", name])


BEHAVIOUR = (
    "auto.create.topics.enable",
    "group.initial.rebalance.delay.ms",
    "offsets.retention.minutes",
    "offset.metadata.max.bytes",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms",
)
"""What the services build on; the other settings say where a broker lies and how small it is."""


def test_its_broker_behaves_as_the_tests_broker_does(compose: dict[str, Any]) -> None:
    lines = (ROOT / "ops/kafka/server.properties").read_text().splitlines()
    tested = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    environment = compose["services"]["kafka"]["environment"]
    for name in BEHAVIOUR:
        assert environment["KAFKA_" + name.upper().replace(".", "_")] == tested[name]


def test_settings_exist(compose: dict[str, Any]) -> None:
    kinds = {PREFIX: Settings, LIMITS: Limits}
    known = {start + field.name.upper() for start, kind in kinds.items() for field in msgspec.structs.fields(kind)}
    for service in _ours(compose).values():
        assert set(service["environment"]) <= known


def test_the_gateway_answers_under_the_names_it_is_published_under(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]
    names = answered(gateway["environment"]["TICKERLOOP_HOST"], gateway["environment"]["TICKERLOOP_GATEWAY_HOSTS"])
    assert names == {"localhost", "127.0.0.1"}
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])


def test_it_says_how_its_gateway_gets_the_first_key(compose: dict[str, Any]) -> None:
    """Without one it doesn't start: it listens on all of its container's addresses."""
    gateway = compose["services"]["gateway"]["environment"]
    with pytest.raises(Misconfigured, match="tickerloop keys create"):
        check_reach(gateway["TICKERLOOP_HOST"], gateway["TICKERLOOP_GATEWAY_HOSTS"], keys=False)
    text = (ROOT / "docker-compose.yml").read_text()
    (words,) = re.findall(r"docker compose run --rm -T gateway keys (.+?)(?:  |$)", text, re.MULTILINE)
    create = keys.commands["create"]
    assert create.make_context("create", words.split()[1:]).params["role"] == "operator"


def test_containers_are_locked_down_and_watched(compose: dict[str, Any]) -> None:
    for name, service in _ours(compose).items():
        assert service["user"] == "10001" and service["cap_drop"] == ["ALL"]
        if name != "migrate":
            assert service["healthcheck"]["test"] == ["CMD", "tickerloop", "health", name]
    assert all("healthcheck" in compose["services"][name] for name in ("kafka", "postgres", "valkey"))


def test_no_secret_is_written_down() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for line in text.splitlines():
        if "PASSWORD:" in line:
            assert "${TICKERLOOP_PASSWORD:?" in line
