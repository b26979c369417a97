"""Where the servers are and how this process differs from the defaults: read once from the environment, passed on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from services.score.base import LongTexts, default_cache
from services.stream.bus import Bus
from services.stream.database import Connect, connector
from services.stream.errors import Misconfigured
from services.stream.topics import DAY_MS, Topic, catalogue

PREFIX: Final = "TICKERLOOP_"

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Method = Literal["head", "lora", "full"]
"""What of the champion a training run changes; see `Settings.method`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, named `TICKERLOOP_<NAME>` in the environment; the gateway's limits are in `gateway.limits`."""

    database: str
    """postgresql://… of the application's database."""
    bus: str = "embedded"
    """`embedded` (the log in `database`) or kafka://host:port[,host:port…]."""
    redis: str = ""
    """redis://… of Valkey or Redis."""
    data: str = "var"
    """Folder for logs and caches."""
    log_level: LogLevel = "INFO"
    """DEBUG, INFO, WARNING or ERROR; DEBUG shows what the libraries say, too."""
    models: str = ""
    """Cache of model files and of the exported encoder, shared by all data folders: the encoder is exported once per
    machine. When empty, `tickerloop` in the user's cache folder."""
    deployment: str = "tickerloop"
    """Prefix of every name in servers that may be shared: consumer groups, transactional ids, connections."""
    partitions: int = 4
    """Of each topic that is created, and so the most replicas of a service that have work."""
    text_retention_s: int = 3 * DAY_MS // 1000
    """How long the topics with texts keep them."""
    retention_s: int = 30 * DAY_MS // 1000
    """How long the topics of predictions and mentions keep them, and the id of a text is remembered as seen."""
    languages: str = "en,zh"
    """ISO 639-1 codes that are scored; others go to `texts.rejected`."""
    companies: str = ""
    """CSV file with the columns `ticker` and `names` by which companies are found in texts, instead of ours
    (`services/clean/entities.py` describes it); empty takes ours."""
    long_texts: LongTexts = "truncate"
    """Of a text longer than the encoder takes: `truncate` reads its start and marks the prediction, `windows` reads up
    to 16 windows of it and takes their mean."""
    device: str = "auto"
    """auto, cpu or cuda; `tickerloop doctor` says what that comes to here, and why."""
    threads: int = 0
    """Threads of the model on the CPU; 0 takes all cores."""
    prepare_s: int = 60
    """Longest wait for the scorers to prepare a model before it is promoted."""
    shadow_share: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """Most of a scorer's time that a shadow is at work, 0 to 1, and so the most by which it slows the champion. What it
    can't score in that time it leaves out."""
    shadow_texts: Annotated[int, Meta(ge=0)] = 200
    """Texts that a challenger which passed the gate answers as a shadow before it is promoted; 0 promotes at once."""
    shadow_s: Annotated[int, Meta(ge=0)] = 600
    """How long its shadow waits for live texts; then the newest stored ones make up the number."""
    approve: bool = False
    """Whether a person has to approve of a challenger that passed the gate and did well as a shadow."""
    cooldown_s: Annotated[int, Meta(ge=0)] = DAY_MS // 1000
    """How long no challenger is promoted by the gate after a champion proved worse and was rolled back."""
    retrain_after: int = 200
    """New training examples that trigger a retraining. A quarter of it is enough where the stream has drifted or the
    champion does badly."""
    retrain_every_s: Annotated[int, Meta(gt=0)] = DAY_MS // 1000
    """Longest time from one training to the next, where there is anything new to learn from."""
    retrain_cooldown_s: Annotated[int, Meta(ge=0)] = 300
    """Least time from the end of a training to the next that isn't asked for by a person."""
    retrain_below: Annotated[float, Meta(ge=0, le=1)] = 0.65
    """Share of right answers, among those reviewed at random, below which (with 95 % confidence) the champion is
    trained anew; 0 never."""
    method: Method = "head"
    """What a training run changes: `head` only the head, in seconds; `lora` the encoder too, by a small change to each
    matrix; `full` all of its weights. Minutes for these two, at low priority."""
    checkpoint_s: Annotated[float, Meta(gt=0)] = 10.0
    """Seconds between two checkpoints of a run that tunes the encoder: most of what it loses when it is killed."""
    host: str = "127.0.0.1"
    """Address that the gateway, the score worker and the metrics listen on. Beyond loopback the gateway starts only
    where there is an API key (`tickerloop keys`)."""
    port: int = 8080
    """Port of the gateway; 0 takes a free one."""
    score_port: int = 0
    """Port of the score worker's own HTTP; 0 takes a free one and announces it."""
    feeds: str = ""
    """File with one RSS or Atom address per line; empty polls none."""
    allow_private: bool = False
    """Whether feeds may lie at private addresses."""
    metrics_port: int = 0
    """Port for Prometheus of a service that has no HTTP of its own; 0 opens none."""

    @property
    def data_folder(self) -> Path:
        """`data` as a path."""
        return Path(self.data)

    @property
    def model_cache(self) -> Path:
        """Where model files are cached by hash."""
        return Path(self.models) if self.models else default_cache()

    def topics(self) -> tuple[Topic, ...]:
        """The catalogue under this deployment's retention."""
        return catalogue(self.text_retention_s * 1000, self.retention_s * 1000)

    def connector(self, application: str) -> Connect:
        """A function that opens connections to the database."""
        return connector(self.database, f"{self.deployment}.{application}")

    def open_bus(self, application: str, slot: int | None = None) -> Bus:
        """The bus that `bus` names; `slot` where the application is a service, whose slot one process has at a time.

        Raises:
            Misconfigured: an unknown scheme.
        """
        connect = self.connector(application)
        if self.bus == "embedded":
            from services.stream.postgres import PostgresBus

            return PostgresBus(connect, self.partitions, self.topics())
        if self.bus.startswith("kafka://"):
            from services.stream.kafka import KafkaBus

            servers = urlsplit(self.bus).netloc
            return KafkaBus(
                servers,
                connect,
                deployment=self.deployment,
                partitions=self.partitions,
                topics=self.topics(),
                publisher="" if slot is None else f"{application}.{slot}",
            )
        raise Misconfigured(f"TICKERLOOP_BUS is {self.bus!r}; it takes `embedded` or kafka://host:port")

    def environment(self) -> dict[str, str]:
        """The variables that make a child read these same settings."""
        return {PREFIX + name.upper(): str(value) for name, value in msgspec.structs.asdict(self).items()}


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Raises:
        Misconfigured: a value is of the wrong type, or the database is not named; the message names the variable.
    """
    named = given(environment)
    if not named.get("database"):
        raise Misconfigured(
            "no database is named: start everything with `tickerloop up`, or set TICKERLOOP_DATABASE=postgresql://…"
        )
    return settings_of(named)


def given(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The settings that the environment names, as texts by name."""
    names = (field.name for field in msgspec.structs.fields(Settings))
    return {name: environment[key] for name in names if (key := PREFIX + name.upper()) in environment}


def settings_of(named: Mapping[str, str]) -> Settings:
    """The settings from texts by name.

    Raises:
        Misconfigured: a value is of the wrong type; the message names the variable.
    """
    try:
        return msgspec.convert(named, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"a TICKERLOOP_ variable has a bad value: {error}") from None
