"""Requests to servers of this machine."""

import urllib.request
from http.client import HTTPResponse


def open_here(request: urllib.request.Request | str) -> HTTPResponse:
    """Ask a server of this machine, without the machine's proxy, which does not know our loopback."""
    answer: HTTPResponse = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5)
    return answer
