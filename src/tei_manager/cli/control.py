"""The commands' way to a running manager, and how they end when it says no.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 no such instance; 4 no manager is
listening; 5 what was waited for did not happen in time.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tei_manager.cli.trust import trust

if TYPE_CHECKING:
    import httpx

REFUSED, NOT_FOUND, UNREACHABLE, TOO_LATE = 1, 3, 4, 5

ApiUrl = Annotated[
    str,
    typer.Option("--api", envvar="TEI_MANAGER_API", help="Address of the control API."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="TEI_MANAGER_API_TOKEN_FILE",
        help="File with the API's token on its first line.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _names(incomplete: str) -> list[str]:
    """Return the names of instances that begin so, for the shell; none if no manager answers."""
    file = os.environ.get("TEI_MANAGER_API_TOKEN_FILE")
    url = os.environ.get("TEI_MANAGER_API", default_url())
    with contextlib.suppress(typer.Exit), contextlib.redirect_stderr(io.StringIO()):
        rows = Control(url, Path(file) if file else None).call("GET", "/instances")
        return [row["name"] for row in rows if row["name"].startswith(incomplete)]
    return []


Name = Annotated[str, typer.Argument(help="Name of the instance.", autocompletion=_names)]


def default_url() -> str:
    """Return where a manager with the same environment would listen."""
    host = os.environ.get("TEI_MANAGER_API_HOST", "127.0.0.1")
    port = os.environ.get("TEI_MANAGER_API_PORT", "9000")
    scheme = "https" if os.environ.get("TEI_MANAGER_API_TLS_CERT_FILE") else "http"
    return f"{scheme}://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - compared


def fail(sentence: str, code: int = REFUSED) -> NoReturn:
    """Print one sentence to standard error and end with the code."""
    typer.echo(f"Error: {sentence}", err=True)
    raise typer.Exit(code)


class Control:
    """A client of the control API.

    Args:
        url: Of the manager, ``http://127.0.0.1:9000``.
        token_file: Its first line is sent as bearer token.

    Ownership:
        Each call opens and closes its connection.
    """

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {first_token(token_file)}"} if token_file else {}

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        wait: float = 0,
        **query: Any,
    ) -> Any:
        """Return the decoded answer, ``None`` for an empty one.

        Args:
            method: Of HTTP.
            path: From ``/`` on.
            body: Sent as JSON.
            wait: Seconds that the manager may take until the instance has settled.
            query: Further parameters; those that are ``None`` are left out.
        """
        params = {key: value for key, value in query.items() if value is not None}
        params |= {"wait": wait} if wait else {}
        with self._errors(), self._client(wait) as client:
            answer = client.request(method, path, json=body, params=params)
            self._check(answer)
            return answer.json() if answer.content else None

    def text(self, path: str) -> str:
        """Return an answer that is text."""
        with self._errors(), self._client(0) as client:
            answer = client.get(path)
            self._check(answer)
            return answer.text

    def stream(self, path: str, **query: Any) -> Iterator[str]:
        """Yield the text of an answer as it comes, until the manager ends it."""
        with (
            self._errors(),
            self._client(None) as client,
            client.stream("GET", path, params=query) as answer,
        ):
            if answer.is_error:
                answer.read()
            self._check(answer)
            yield from answer.iter_text()

    def _client(self, wait: float | None) -> httpx.Client:
        import httpx

        # Deleting waits for the end of a process: [instances] stop_timeout_secs, 30 s by default.
        read = None if wait is None else wait + 90
        return httpx.Client(
            base_url=self._url,
            headers=self._headers,
            timeout=httpx.Timeout(5, read=read),
            trust_env=False,
            verify=trust().context() if self._url.startswith("https:") else True,
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.ConnectError as error:
            if "CERTIFICATE" in str(error):
                fail(f"{self._url}: {error}; name the server's CA with tei-manager --ca FILE ...")
            sentence = f"No TEI Manager answers at {self._url}; start one with 'tei-manager serve'"
            fail(f"{sentence} or name its address with --api", UNREACHABLE)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            fail(f"{self._url}: {error or type(error).__name__}")

    @staticmethod
    def _check(answer: httpx.Response) -> None:
        if not answer.is_error:
            return
        try:
            sentence = str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            fail(f"HTTP {answer.status_code}; is this a TEI Manager?")
        if answer.status_code == 401:
            sentence += "; name its file with --token-file"
        fail(sentence, NOT_FOUND if answer.status_code == 404 else REFUSED)


def first_token(file: Path) -> str:
    """Return the first line of a token file."""
    try:
        lines = file.read_text("ascii").split()
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}; check --token-file")
    except UnicodeDecodeError:
        lines = []
    return lines[0] if lines else fail(f"{file}: there is no token in it; check --token-file")
