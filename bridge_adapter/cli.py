"""`bridge-adapter serve` and `bridge-adapter check FILE`."""

import argparse
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence

from bridge_adapter import __version__
from bridge_adapter.configuration import SettingsError, load_settings
from bridge_adapter.routing import Router
from bridge_adapter.settings import Settings


class CannotListen(Exception):
    """The address is taken or not ours."""


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
    serve = commands.add_parser("serve", help="serve; with no file, BRIDGE_UPSTREAM_URL and BRIDGE_MODEL say what")
    serve.add_argument("--config", metavar="FILE", default=os.environ.get("BRIDGE_CONFIG"), help="settings file (YAML)")
    serve.add_argument("--host", help="address to bind to (127.0.0.1)")
    serve.add_argument("--port", help="port to bind to (8000)")
    serve.add_argument("--workers", help="worker processes (1)")
    check = commands.add_parser("check", help="check a settings file and say what it means")
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

    def reread() -> Settings:
        return load_settings(options.config, {**os.environ, **overrides})

    settings = reread()
    if not settings.models and not settings.path_form.enabled:
        raise SettingsError("no model to serve: fill `models`, or set BRIDGE_UPSTREAM_URL and BRIDGE_MODEL")
    Router(settings)
    if settings.keys.mode == "open" and not settings.local:
        logging.getLogger("bridge_adapter").warning(
            "keys.mode is `open` and the service listens on %s: everybody who reaches it may use it",
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
    settings: Settings,
    listener: socket.socket,
    path: str | None,
    overrides: dict[str, str],
    reread: Callable[[], Settings],
) -> None:
    if settings.server.workers == 1:
        gc.disable()  # importing makes no garbage worth a tenth of the start; the server turns it on again
        from bridge_adapter.serving import BridgeServer

        BridgeServer(settings, reread).run(sockets=[listener])
    else:
        from bridge_adapter.workers import Workers

        Workers(settings.server.workers, listener, path, overrides).run()


def _check(path: str) -> int:
    settings = load_settings(path)
    router = Router(settings)
    for upstream in router.upstreams:
        names = [name for name in router.names if router.table_name(name) == upstream.name and name != upstream.name]
        aliases = f" (also {', '.join(names)})" if names else ""
        key = "with its own key" if upstream.authorization else "without a key of its own"
        print(f"model {upstream.name}{aliases}: {upstream.url}, dialect {upstream.dialect}, {key}")
    print(f"path form: {settings.path_form.url if settings.path_form.enabled else 'off'}")
    print(f"keys: {settings.keys.mode}" + "".join(f", {client.name}" for client in settings.keys.clients))
    print(f"serves on {settings.server.host}:{settings.server.port}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
