"""The settings file and its overrides: what is read, and what every mistake is told as."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from bridge_adapter.cli import main
from bridge_adapter.settings import AdapterSettings, Baseten, SettingsError
from bridge_adapter.settings_file import load_settings
from bridge_adapter.upstream.routing import Router, request_url

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "deploy/settings.example.yaml"


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(tree: Any) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        return str(path)

    return write


def model(**fields: Any) -> dict[str, Any]:
    return {"models": {"m": {"url": "http://127.0.0.1:1", **fields}}}


def test_the_smallest_file(written: Any) -> None:
    settings = load_settings(written({"models": {"m": {"url": "http://127.0.0.1:9"}}}), {})
    assert settings.models["m"].url == "http://127.0.0.1:9"
    assert (settings.server.host, settings.server.port, settings.keys.mode) == ("127.0.0.1", 8000, "open")


def test_the_environment_overrides(written: Any) -> None:
    environment = {
        "BRIDGE_SERVER_PORT": "9000",
        "BRIDGE_OBSERVE_ACCESS_LOG": "json",
        "BRIDGE_PATH_FORM_ENABLED": "false",
    }
    settings = load_settings(written(model()), environment | {"BRIDGE_SERVER_CORS_ORIGINS": "https://a,https://b"})
    assert settings.server.port == 9000
    assert settings.observe.access_log == "json"
    assert settings.path_form.enabled is False
    assert settings.server.cors_origins == ("https://a", "https://b")


def test_a_model_out_of_the_environment_alone() -> None:
    settings = load_settings(None, {"BRIDGE_UPSTREAM_URL": "http://127.0.0.1:1", "BRIDGE_MODEL": "mistral-7b"})
    assert list(settings.models) == ["mistral-7b"]
    assert load_settings(None, {}).models == {}


MISTAKES: list[tuple[Any, str]] = [
    ("a: [", "is not YAML"),
    ("- a", "must hold a mapping"),
    ({"models": {"m": {}}}, "models.m: give exactly one of `url`, `baseten` and `upstreams`"),
    ({"modles": {}}, "unknown field `modles`"),
    (model(urll=1), "unknown field `urll` - at `$.models[...]`"),
    (model(dialect="x"), "Invalid enum value 'x' - at `$.models[...].dialect`"),
    (model(url="ftp://x"), "models.m.url: `ftp://x` is not an http or https URL"),
    (model(url="http://user:secret@x"), "a URL must not hold keys"),
    (model(timeouts={"idle": 0}), "Expected `float` > 0.0 - at `$.models[...].timeouts.idle`"),
    (model(caps={"temperature": 1}), "models.m.caps.temperature: only max_tokens and n can be capped"),
    (model(defaults={"temperature": 9}), "models.m.defaults.temperature: Invalid 'temperature': decimal above"),
    (model(defaults={"messages": []}), "models.m.defaults.messages: not a parameter that can have a default"),
    (model(defaults={"n": 2}), "models.m.defaults.n: not a parameter that can have a default"),
    (
        model(defaults={"max_new_tokens": 9}, caps={"max_tokens": 8}),
        "models.m.defaults: the default of max_tokens is above its cap",
    ),
    ({"models": {"path_form": {"url": "http://x"}}}, "models.path_form: this name stands for the deployments"),
    (
        model(max_tokens_over_context="clamp"),
        "models.m.max_tokens_over_context: only a Truss of this project can lower max_tokens, so that `clamp` needs",
    ),
    (model(max_tokens_over_context="clamp", dialect="openai"), "models.m.max_tokens_over_context: only a Truss"),
    (
        {
            "models": {
                "m": {
                    "max_tokens_over_context": "clamp",
                    "upstreams": [{"url": "http://a", "dialect": "predict"}, {"url": "http://b", "dialect": "text"}],
                }
            }
        },
        "models.m.max_tokens_over_context: only a Truss",
    ),
    (model(aliases=["m"]), "models.m: the name `m` is taken by models.m"),
    (model(key_env="A", key_file="B"), "models.m: give at most one of `key_env` and `key_file`"),
    (model() | {"keys": {"mode": "list"}}, "keys.mode is `list` but keys.clients is empty"),
    (model() | {"keys": {"clients": [{"name": "a", "sha256": "0" * 64}]}}, "only read when keys.mode is `list`"),
    (
        model() | {"keys": {"mode": "list", "clients": [{"name": "a", "sha256": "0" * 64, "models": ["x"]}]}},
        "keys.clients.a.models: `x` is not in the models table",
    ),
    (
        model() | {"keys": {"mode": "list", "clients": [{"name": "a", "sha256": "0" * 64}] * 2}},
        "two clients have the same name",
    ),
    (model() | {"path_form": {"url": "https://x"}}, "path_form.url must contain {model_id}"),
    (model() | {"server": {"port": 99999}}, "Expected `int` <= 65535 - at `$.server.port`"),
    ({"models": {"m": {"baseten": {"model_id": "evil.com"}}}}, "$.models[...].baseten.model_id"),
    (
        {"models": {"m": {"baseten": {"model_id": "abcd1234", "regional": True, "endpoint": "openai"}}}},
        "models.m.baseten: for the `openai` endpoint of a regional host give its `url`",
    ),
]


@pytest.mark.parametrize(("tree", "said"), MISTAKES)
def test_mistakes_name_the_setting(written: Any, tree: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tree)
    with pytest.raises(SettingsError) as mistake:
        load_settings(path, {})
    assert said in str(mistake.value)
    assert "secret" not in str(mistake.value)
    assert main(["check", path]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_file_and_a_missing_key(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        load_settings("/nowhere/settings.yaml", {})
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(SettingsError, match=r"models\.m: the key is empty: environment variable NO_SUCH_KEY"):
        Router(load_settings(written(model(key_env="NO_SUCH_KEY")), {}))


def test_a_key_out_of_a_file(written: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-1\n")
    router = Router(load_settings(written(model(key_file=str(tmp_path / "key"))), {}))
    assert router.upstreams[0].authorization == "Api-Key k-1"


def test_the_example_file_is_right(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BASETEN_API_KEY", "planted-secret")
    assert main(["check", str(EXAMPLE)]) == 0
    said = capsys.readouterr().out
    assert "model mistral-7b (also gpt-3.5-turbo): http://127.0.0.1:8080/v1/models/model:predict" in said
    assert "https://model-abcd1234.api.baseten.co/production/predict, dialect auto, with its own key" in said
    assert "planted-secret" not in said


def test_serving_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BRIDGE_PATH_FORM_ENABLED", "false")
    monkeypatch.delenv("BRIDGE_UPSTREAM_URL", raising=False)
    monkeypatch.delenv("BRIDGE_CONFIG", raising=False)
    assert main(["serve"]) == 2
    assert "no model to serve" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("baseten", "url"),
    [
        ({}, "https://model-abcd1234.api.baseten.co/production/predict"),
        ({"environment": "staging"}, "https://model-abcd1234.api.baseten.co/environments/staging/predict"),
        ({"deployment": "d1234"}, "https://model-abcd1234.api.baseten.co/deployment/d1234/predict"),
        ({"development": True}, "https://model-abcd1234.api.baseten.co/development/predict"),
        (
            {"environment": "eu", "regional": True},
            "https://model-abcd1234-eu.api.baseten.co/predict",
        ),
        ({"endpoint": "openai"}, "https://model-abcd1234.api.baseten.co/environments/production/sync/v1"),
        (
            {"endpoint": "openai", "deployment": "d1234"},
            "https://model-abcd1234.api.baseten.co/deployment/d1234/sync/v1",
        ),
    ],
)
def test_hosted_urls(baseten: dict[str, Any], url: str) -> None:
    assert Baseten(model_id="abcd1234", **baseten).url() == url


def test_request_urls() -> None:
    assert request_url("http://h:1") == request_url("http://h:1/") == "http://h:1/v1/models/model:predict"
    assert request_url("http://h/x/predict") == "http://h/x/predict"
    assert (
        request_url("http://h/x/sync/v1") == request_url("http://h/x/sync/v1/") == "http://h/x/sync/v1/chat/completions"
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"url": "http://h/environments/production/sync/v1"},
        {"url": "http://h:8080/v1"},
        {"baseten": {"model_id": "abcd1234", "endpoint": "openai"}},
    ],
)
def test_openais_base_urls_are_upstreams_of_that_dialect(entry: dict[str, Any]) -> None:
    (upstream,) = Router(msgspec.convert({"models": {"m": entry}}, AdapterSettings)).upstreams
    assert upstream.dialect == "openai"
    assert upstream.url.endswith("/v1/chat/completions")
