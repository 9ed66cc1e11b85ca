"""Which Host headers a service answers to: a local one to no name that a web page could have pointed here. No I/O."""

import re
from ipaddress import ip_address

from bridge_adapter.errors import Forbidden
from bridge_adapter.settings import LOCAL_HOSTS, AdapterSettings

# Nobody can register these: one label, what resolvers send to this machine (RFC 6761), and the names that container
# engines give to it, such as host.docker.internal, under the top-level domain that ICANN reserves for private use.
_NO_PUBLIC_NAME = re.compile(r"[a-z0-9_-]+|.+\.localhost|.+\.internal")


class TrustedHosts:
    """`server.trusted_hosts` where it is given; else any name, or, for a service that is open and local, local ones.

    A page that has its own name point here (DNS rebinding) needs a public name, which its browser then sends as Host.
    """

    def __init__(self, settings: AdapterSettings) -> None:
        self._listed = settings.server.trusted_hosts
        self._any = self._listed is None and not settings.local
        self._names = frozenset(LOCAL_HOSTS if self._listed is None else self._listed)

    def check(self, header: str) -> None:
        """Raises Forbidden; `header` is the value of Host, empty when there is none."""
        if self._any or not header:
            return
        name = host_name(header)
        if name in self._names or (self._listed is None and _is_local(name)):
            return
        raise Forbidden(
            f"This service does not answer to the host name '{name[:100]}'; "
            "`server.trusted_hosts` says to which it does."
        )


def host_name(header: str) -> str:
    """Without the port and the brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def _is_local(name: str) -> bool:
    if _NO_PUBLIC_NAME.fullmatch(name):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
