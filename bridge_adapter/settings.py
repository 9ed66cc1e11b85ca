"""The adapter's settings: a frozen tree of values, structured as the settings file is. Reads no file."""

from typing import Annotated, Any, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

Dialect = Literal["auto", "predict", "text", "openai"]
"""predict: this project's contract. text: a bare JSON string, or raw text pieces. openai: ChatCompletions itself."""

DEPLOYMENT = "path_form"
"""What metrics and logs call a deployment that only the path of a request names."""
BASETEN_URL = "https://model-{model_id}.api.baseten.co/production/predict"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the parts: unknown names in the file are errors."""


class Timeouts(Part, frozen=True):
    """Seconds. `first_byte` covers a cold start: Baseten parks the request until a replica is up."""

    connect: Positive = 10.0
    first_byte: Positive = 1200.0
    idle: Positive = 120.0
    total: Positive = 3600.0


class Retries(Part, frozen=True):
    """Only before the first byte, and only after refused connections, 429, 502 and 503."""

    attempts: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    backoff: NotNegative = 0.25
    longest_wait: NotNegative = 8.0


class Price(Part, frozen=True):
    """US dollars per million tokens; only the metrics use it."""

    input: NotNegative = 0.0
    output: NotNegative = 0.0


FREE = Price()


class Baseten(Part, frozen=True):
    """A hosted deployment: `environment` unless `deployment` or `development` is given.

    endpoint: the Truss's predict, or `openai`, its own /v1/chat/completions.
    """

    model_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{4,32}$")]
    environment: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}$")] = "production"
    deployment: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{4,32}$")] | None = None
    development: bool = False
    regional: bool = False
    endpoint: Literal["predict", "openai"] = "predict"

    def url(self) -> str:
        """The predict URL, or the base URL that OpenAI clients are given."""
        if self.regional:
            return f"https://model-{self.model_id}-{self.environment}.api.baseten.co/predict"
        openai = self.endpoint == "openai"
        target = f"environments/{self.environment}" if openai or self.environment != "production" else "production"
        if self.development:
            target = "development"
        if self.deployment:
            target = f"deployment/{self.deployment}"
        return f"https://model-{self.model_id}.api.baseten.co/{target}/{'sync/v1' if openai else 'predict'}"


class Target(Part, frozen=True):
    """One of several servers of a model. Exactly one of `url` and `baseten`.

    priority: those of the lowest number are asked, the others when none of them can; weight: the share of requests
    among those of one priority; name: what metrics call it, by default its number.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    url: str | None = None
    baseten: Baseten | None = None
    weight: Positive = 1.0
    priority: Annotated[int, msgspec.Meta(ge=0)] = 0
    dialect: Dialect = "auto"
    upstream_model: str | None = None
    key_env: str | None = None
    key_file: str | None = None
    key_scheme: Literal["Api-Key", "Bearer"] = "Api-Key"
    concurrency: Count | None = None


class ModelEntry(Part, frozen=True):
    """One row of the models table. Exactly one of `url`, `baseten` and `upstreams`.

    fallbacks: models of the table that answer, in this order, when no server of this one can.
    max_tokens_over_context: `clamp` has the Truss lower it; only the predict dialect can ask for that.
    """

    url: str | None = None
    baseten: Baseten | None = None
    upstreams: tuple[Target, ...] = ()
    fallbacks: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    dialect: Dialect = "auto"
    upstream_model: str | None = None
    key_env: str | None = None
    key_file: str | None = None
    key_scheme: Literal["Api-Key", "Bearer"] = "Api-Key"
    defaults: dict[str, Any] = {}
    caps: dict[str, Count] = {}
    max_tokens_over_context: Literal["refuse", "clamp"] = "refuse"
    max_stop_strings: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    concurrency: Count | None = None
    price: Price = FREE
    unknown_fields: Literal["refuse", "drop"] = "refuse"


class PathForm(Part, frozen=True):
    """`/{model_id}/v1/...`: the id names a model of the table, or else a Baseten deployment at `url`."""

    enabled: bool = True
    url: str = BASETEN_URL
    key_env: str | None = None
    key_file: str | None = None
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    dialect: Dialect = "auto"


class ClientKey(Part, frozen=True):
    """One caller. `sha256` is the hex digest of the key; the key itself is nowhere."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    models: tuple[str, ...] | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_streams: Count | None = None


class Store(Part, frozen=True):
    """Redis or Valkey, where the limits of keys are counted for all processes. Exactly one of `url` and `url_env`.

    fail: while it gives no answer, `open` goes on with the process's own counts and `closed` answers 503.
    timeout: seconds for an answer; after a late one nobody waits for it until it answers again.
    """

    url: str | None = None
    url_env: str | None = None
    fail: Literal["open", "closed"] = "open"
    timeout: Positive = 0.04


class Keys(Part, frozen=True):
    """open: no check. list: `clients` only. pass_through: upstreams without a key get the caller's."""

    mode: Literal["open", "list", "pass_through"] = "open"
    clients: tuple[ClientKey, ...] = ()
    store: Store | None = None


class Server(Part, frozen=True):
    """How the process serves. Seconds and bytes."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    workers: Count = 1
    max_body: Count = 20 * 1024 * 1024
    body_timeout: Positive = 60.0
    cold_start_after: Positive = 5.0
    keep_alive: Positive = 15.0
    drain: NotNegative = 30.0
    cors_origins: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] | None = None
    web: bool | None = None
    upstream_connections: Annotated[int, msgspec.Meta(ge=0)] = 0
    upstream_keep_alive: Positive = 4.0  # the Truss server closes idle connections after five


class Observe(Part, frozen=True):
    """What operators see. Traces are sent when `otlp_endpoint` is set."""

    access_log: Literal["json", "text", "off"] = "text"
    metrics: bool = True
    otlp_endpoint: str | None = None
    service_name: str = "bridge-adapter"


LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


class AdapterSettings(Part, frozen=True):
    """The whole settings file."""

    models: dict[str, ModelEntry] = {}
    path_form: PathForm = PathForm()
    keys: Keys = Keys()
    server: Server = Server()
    observe: Observe = Observe()

    @property
    def local(self) -> bool:
        """Open to all callers, but bound to an address of this machine only."""
        return self.keys.mode == "open" and self.server.host in LOCAL_HOSTS


class SettingsError(Exception):
    """A setting is wrong; the message names it."""
