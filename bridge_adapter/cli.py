"""`bridge-adapter serve` and `bridge-adapter check FILE`."""

import argparse
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence

from bridge_adapter import __version__
from bridge_adapter.settings import AdapterSettings, SettingsError
from bridge_adapter.settings_file import load_settings
from bridge_adapter.upstream.routing import Router


class CannotListen(Exception):
    """The address is in use or not of this machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return _check(options.file) if options.command == "check" else _serve(options)
    except SettingsError as error:
        print(f"bridge-adapter: {error}", file=sys.stderr)
        return 2
    except CannotListen as error:
        print(f"bridge-adapter: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bridge-adapter", description="OpenAI's API in front of any Truss.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve; without a file, BRIDGE_UPSTREAM_URL is the Truss")
    serve.add_argument("--config", metavar="FILE", default=os.environ.get("BRIDGE_CONFIG"), help="settings file (YAML)")
    serve.add_argument("--host", help="address to bind to (127.0.0.1)")
    serve.add_argument("--port", help="port to bind to (8000)")
    serve.add_argument("--workers", help="worker processes (1)")
    check = commands.add_parser("check", help="check a settings file and print what it sets up")
    check.add_argument("file", metavar="FILE")
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, str]:
    return {
        f"BRIDGE_SERVER_{name.upper()}": value
        for name in ("host", "port", "workers")
        if (value := getattr(options, name)) is not None
    }


def _serve(options: argparse.Namespace) -> int:
    overrides = _overrides(options)

    def reread() -> AdapterSettings:
        return load_settings(options.config, {**os.environ, **overrides})

    settings = reread()
    if not settings.models and not settings.path_form.enabled:
        raise SettingsError("no model to serve: fill `models`, or set BRIDGE_UPSTREAM_URL and BRIDGE_MODEL")
    Router(settings)
    _store_address(settings)
    if settings.keys.mode == "open" and not settings.local:
        logging.getLogger("bridge_adapter").warning(
            "keys.mode is `open` and the service listens on %s: anybody who can reach it can use it",
            settings.server.host,
        )
    with _listen(settings.server.host, settings.server.port) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"bridge-adapter listens on http://{shown}:{port}", file=sys.stderr, flush=True)
        _run(settings, listener, options.config, overrides, reread)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _run(
    settings: AdapterSettings,
    listener: socket.socket,
    path: str | None,
    overrides: dict[str, str],
    reread: Callable[[], AdapterSettings],
) -> None:
    if settings.server.workers == 1:
        gc.disable()  # imports leave little garbage, and collecting takes a tenth of the start; the server enables it
        from bridge_adapter.server.process import BridgeServer

        BridgeServer(settings, reread).run(sockets=[listener])
    else:
        from bridge_adapter.server.workers import Workers

        Workers(settings.server.workers, listener, path, overrides).run()


def _check(path: str) -> int:
    settings = load_settings(path)
    router = Router(settings)
    for pool in router.pools:
        names = [name for name in router.names if router.table_name(name) == pool.name and name != pool.name]
        aliases = f" (also {', '.join(names)})" if names else ""
        for upstream in pool.upstreams:
            key = "with its own key" if upstream.authorization else "without a key of its own"
            share = f", priority {upstream.priority}, weight {upstream.weight:g}" if upstream.target else ""
            print(f"model {pool.name}{aliases}: {upstream.url}, dialect {upstream.dialect}, {key}{share}")
        if pool.fallbacks:
            print(f"model {pool.name}: falls back to {', '.join(pool.fallbacks)}")
    print(f"path form: {settings.path_form.url if settings.path_form.enabled else 'off'}")
    print(f"keys: {settings.keys.mode}" + "".join(f", {client.name}" for client in settings.keys.clients))
    if settings.keys.store is not None:
        print(f"limits: counted at {_store_address(settings)}, fail {settings.keys.store.fail}")
    print(f"serves on {settings.server.host}:{settings.server.port}")
    return 0


def _store_address(settings: AdapterSettings) -> str:
    """Where limits are counted, without the password; empty for this process. Raises SettingsError."""
    if settings.keys.store is None:
        return ""
    from bridge_adapter.server.store_url import store_address

    return store_address(settings.keys.store)


if __name__ == "__main__":
    sys.exit(main())
