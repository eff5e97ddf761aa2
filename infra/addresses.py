"""What an address that a server listens on, or that a client names, stands for."""

from ipaddress import ip_address

__all__ = ["is_loopback", "join_address"]


def join_address(host: str, port: int) -> str:
    """Return a host and a port as a URL has them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Return whether only this machine can connect to an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
