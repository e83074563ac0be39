"""What a client raises."""


class ApiError(Exception):
    """The API refused: its status, its code word and its sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.status = status
        self.code = code


class UnreachableError(Exception):
    """The API could not be reached, or kept failing, through all attempts."""


class EndedError(Exception):
    """The client was told to end, perhaps by another thread while a request was under way."""
