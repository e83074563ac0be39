"""Lists of calls: limited, refused, or answered in ways of their own."""

from collections.abc import Callable

from local_market.faulty_node.way import SERVER_ERROR, Json, Reply, Request, Way, error, page, said, way

MOST_CALLS = 3
TOO_MANY = -32600


def _calls(request: Request) -> int:
    """How many calls a request has; 1 if it is no list."""
    body = request.body.lstrip()
    return body.count(b'"method"') if body.startswith(b"[") else 1


class _Limited(Way):
    """Lists of more than three calls are refused, each kind of node in its own way."""

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        if isinstance(message, list) and len(message) > MOST_CALLS:
            return self.refuse(message)
        return go_on(message)

    def refuse(self, calls: list[Json]) -> Json:
        raise NotImplementedError


@way
class ListsOfThreeOneError(_Limited):
    """jsonrpsee (Substrate chains' gateways, reth): one error, whose id is null, for the whole list."""

    def refuse(self, calls: list[Json]) -> Json:
        refusal = error(-32010, "The batch request was too large", data=f"Exceeded max limit of {MOST_CALLS}")
        return {"jsonrpc": "2.0", "id": None, **refusal}


@way
class ListsOfThreeErrorForTheFirst(_Limited):
    """geth: a list with one error, which has the id of the first call (go-ethereum, pull request 26681)."""

    def refuse(self, calls: list[Json]) -> Json:
        return [{"jsonrpc": "2.0", "id": calls[0]["id"], **error(TOO_MANY, "batch too large")}]


@way
class ListsOfThreeErrorEach(_Limited):
    """Nethermind and gateways that count before they answer: the same error for each of the calls."""

    def refuse(self, calls: list[Json]) -> Json:
        refusal = error(-32005, f"batch size limit of {MOST_CALLS} calls exceeded")
        return [{"jsonrpc": "2.0", "id": one["id"], **refusal} for one in calls]


@way
class ListsOfThreeTooLarge(Way):
    """nginx and other proxies before a node: HTTP status 413 and a page for people."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        return page(413, "Request Entity Too Large") if _calls(request) > MOST_CALLS else go_on(request)


@way
class ListsOfThreeDropped(Way):
    """Erigon: the connection is dropped without a word (erigon, issue 18074)."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        return None if _calls(request) > MOST_CALLS else go_on(request)


@way
class NoLists(Way):
    """Subway with lists disabled: HTTP status 400, and an error whose id is null."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        if not request.body.lstrip().startswith(b"["):
            return go_on(request)
        refusal = error(-32005, "Batched requests are not supported by this server")
        return said({"jsonrpc": "2.0", "id": None, **refusal}, status=400)


@way
class NoListsKnown(Way):
    """Small gateways that know one call a request: a list is an invalid request, told with HTTP status 200."""

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        if isinstance(message, list):
            return {"jsonrpc": "2.0", "id": None, **error(TOO_MANY, "Invalid Request")}
        return go_on(message)


@way
class ListsInAnotherOrder(Way):
    """Nodes that work on a list's calls at once; JSON-RPC 2.0 allows any order."""

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        answer = go_on(message)
        return answer[::-1] if isinstance(answer, list) else answer


@way
class ListsAnsweredInPart(Way):
    """Gateways that leave out the calls which failed behind them: the answer is shorter than the list."""

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        answer = go_on(message)
        if isinstance(answer, list) and len(answer) > 1:
            answer.pop(self.chance.randrange(len(answer)))
        return answer


@way
class ListsOfShortAnswers(Way):
    """geth's limit of a list's answer in bytes: what comes after it is refused, call by call."""

    MOST_ANSWERS = 2

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        answer = go_on(message)
        if not isinstance(answer, list):
            return answer
        refused = [
            {"jsonrpc": "2.0", "id": one["id"], **error(-32003, "response too large")}
            for one in answer[self.MOST_ANSWERS :]
        ]
        return answer[: self.MOST_ANSWERS] + refused


@way
class ListsThatTimeOut(Way):
    """geth's deadline for a list: the first calls are answered, the rest is refused by one error each."""

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        answer = go_on(message)
        if not isinstance(answer, list) or len(answer) <= MOST_CALLS:
            return answer
        refused = [
            {"jsonrpc": "2.0", "id": one["id"], **error(SERVER_ERROR - 2, "request timed out")}
            for one in answer[MOST_CALLS:]
        ]
        return answer[:MOST_CALLS] + refused


@way
class IdsAsStrings(Way):
    """QuickNode's edge and gateways in loosely typed languages: the id 7 comes back as "7"."""

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        answer = go_on(message)
        for one in answer if isinstance(answer, list) else [answer]:
            one["id"] = str(one["id"])
        return answer
