"""What fixtures give to tests: the types by which tests name them."""

from collections.abc import Callable

from tests.support.api import Client
from tests.support.trouble.pooler import Pooler

LoadApi = Callable[[str], Client]
MakePooler = Callable[..., Pooler]
