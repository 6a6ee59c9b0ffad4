"""A thin client of the Kubernetes API: paths in, plain dicts out, answers as Kapstan's own exceptions.

One aiohttp session serves the operator's requests, another one all watches, kopf's included. The `kubernetes` package
reads the configuration (kubeconfig with all its ways to log in, or the pod's service account) and refreshes tokens; its
models are left alone, because turning every answer into objects costs more than the rest of the work
(docs/decisions/0005-api-requests.md). Called by the adapters beside it and by `controllers`; knows no kind of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import quote

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from kapstan.errors import (
    AdmissionRefused,
    ClusterRefused,
    ClusterUnavailable,
    ConfigurationError,
    InvalidResource,
    KapstanError,
    NotFound,
    QuotaUsedUp,
    ResourceConflict,
)

Json = dict[str, Any]

APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

REQUEST_SECONDS = 20.0
CONNECT_SECONDS = 5.0
PAGE = 500
THROTTLED_TRIES = 4
CONNECTIONS = 64

_NO_RIGHTS = re.compile(r'User "[^"]*" cannot ')


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as URLs name it."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str = "") -> str:
        """The URL path of the collection (no ``name``), of one object, or of its subresource.

        Raises:
            InvalidResource: a name that would lead elsewhere; an empty one would lead to the whole collection.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = ("namespaces", _segment(namespace)) if namespace else ()
        named = () if name is None else (_segment(name),)
        parts = [root, *within, self.plural, *named, subresource]
        return "/".join(part for part in parts if part)


def _segment(name: str) -> str:
    """``name`` as one segment of a path, whoever wrote it: a reference may hold anything."""
    if name in ("", ".", ".."):
        raise InvalidResource([("metadata.name", f"{name!r} is no name of an object")], kind="resource", name=name)
    return quote(name, safe="")


JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
APP_DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


class Client:
    """Requests to one API server. Not safe to share between event loops.

    Raises (every request):
        ClusterUnavailable: no answer in time, or the server says that it cannot serve now.
        ClusterRefused: credentials or rights do not suffice; QuotaUsedUp, AdmissionRefused: said by their names.
        InvalidResource: the object breaks its schema or rules, with the server's words.
        ResourceConflict: it exists already, or its version is not the one given.
        NotFound: no such object, or no such kind.
    """

    def __init__(
        self,
        server: str,
        session: aiohttp.ClientSession,
        *,
        namespace: str = "default",
        watching: aiohttp.ClientSession | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        self.session = session
        self.watching = watching or session
        """For watches, each of which keeps a connection: as many as there are, and none that a request waits for."""
        self.namespace = namespace

    @classmethod
    async def connect(
        cls, kubeconfig: str = "", *, context: str | None = None, middlewares: tuple[Any, ...] = ()
    ) -> Self:
        """The client that a kubeconfig (or, in a pod without one, the service account) describes.

        ``middlewares`` are aiohttp client middlewares that see every request of the session, kopf's included.

        Raises:
            ConfigurationError: there is no configuration, or it cannot be read.
        """
        configuration, namespace = await _configuration(kubeconfig, context)

        async def authorise(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
            token = await configuration.get_api_key_with_prefix("BearerToken")  # refreshes it where needed
            if token:
                request.headers["Authorization"] = token
            return await handler(request)

        tls = _tls(configuration)

        def session(limit: int) -> aiohttp.ClientSession:
            return aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=limit, ssl=tls),
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS),
                proxy=configuration.proxy,
                middlewares=(authorise, *middlewares),
                headers={"User-Agent": "kapstan"},
            )

        return cls(configuration.host, session(CONNECTIONS), namespace=namespace, watching=session(0))

    async def close(self) -> None:
        await self.session.close()
        await self.watching.close()
        await asyncio.sleep(0.25)  # TLS connections end a moment after their session, and aiohttp does not wait

    # ------------------------------------------------------------------ verbs

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        return await self.request("GET", path, query=query)

    async def list(self, path: str, *, labels: str = "", fields: str = "") -> tuple[list[Json], str]:
        """Every item of a collection, read in pages, and the resourceVersion to watch from."""
        items: list[Json] = []
        version = ""
        async for page in self.pages(path, labels=labels, fields=fields):
            items += page.get("items") or []
            version = page["metadata"].get("resourceVersion", "")
        return items, version

    async def pages(self, path: str, *, labels: str = "", fields: str = "") -> AsyncIterator[Json]:
        """The collection, page by page."""
        query = {"limit": str(PAGE)} | _selectors(labels, fields)
        while True:
            page = await self.get(path, query)
            yield page
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def create(self, path: str, body: Json, *, field_manager: str) -> Json:
        query = {"fieldManager": field_manager, "fieldValidation": "Strict"}
        return await self.request("POST", path, query=query, body=body)

    async def apply(self, path: str, body: Json, *, field_manager: str) -> Json:
        """Server-side apply with force: an upsert."""
        query = {"fieldManager": field_manager, "force": "true"}
        return await self.request("PATCH", path, query=query, body=body, content_type=APPLY)

    async def patch(self, path: str, body: Any, *, field_manager: str, content_type: str = MERGE_PATCH) -> Json:
        query = {"fieldManager": field_manager, "fieldValidation": "Strict"}
        return await self.request("PATCH", path, query=query, body=body, content_type=content_type)

    async def replace(self, path: str, body: Json, *, field_manager: str) -> Json:
        return await self.request("PUT", path, query={"fieldManager": field_manager}, body=body)

    async def delete(self, path: str, *, grace: float | None = None, uid: str = "") -> Json:
        """Delete with everything that it owns, in the background; ``uid`` guards against a namesake."""
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = round(grace)
        if uid:
            body["preconditions"] = {"uid": uid}
        return await self.request("DELETE", path, body=body)

    async def watch(
        self, path: str, resource_version: str, *, labels: str = "", fields: str = "", seconds: int = 300
    ) -> AsyncIterator[Json]:
        """Events (``type``, ``object``) after ``resource_version``, until the server ends the stream.

        An event of type ERROR means that the version is too old: list again.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        } | _selectors(labels, fields)
        timeout = aiohttp.ClientTimeout(total=seconds + 30, sock_connect=CONNECT_SECONDS, sock_read=90)
        try:
            async with self.watching.get(self.server + path, params=query, timeout=timeout) as response:
                if response.status >= 400:
                    raise _refusal(response.status, await response.read(), path)
                buffer = b""
                async for chunk in response.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable(self.server, error) from error

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        seconds: float = REQUEST_SECONDS,
    ) -> Json:
        """One request and its answer. A throttled one (429) was not executed and is repeated when the server says."""
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if data else {})
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        code, content, retry_after = 429, b"", "0"
        for attempt in range(THROTTLED_TRIES):
            if attempt:
                await asyncio.sleep(min(5.0, float(retry_after)) if retry_after.isdigit() else 1.0)
            try:
                async with self.session.request(
                    method, self.server + path, params=query, data=data, headers=headers, timeout=timeout
                ) as response:
                    content = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _unavailable(self.server, error) from error
            code, retry_after = response.status, response.headers.get("Retry-After", "1")
            if code < 400:
                return json.loads(content)
            if code != 429:
                break
        raise _refusal(code, content, path)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def _unavailable(server: str, error: Exception) -> ClusterUnavailable:
    return ClusterUnavailable(f"the API server {server} does not answer: {type(error).__name__} {error}".rstrip())


def _refusal(code: int, content: bytes, path: str) -> KapstanError:
    """The server's Status as an exception of ours."""
    try:
        status = cast("Json", json.loads(content))
    except ValueError:
        status = {}
    message = str(status.get("message") or content[:500].decode(errors="replace") or f"HTTP {code}")
    details = cast("Json", status.get("details") or {})
    kind, name = str(details.get("kind") or "resource"), str(details.get("name") or path.rsplit("/", 1)[-1])
    if code == 404:
        return NotFound(message)
    if code in (409, 410):  # 410: the version to watch from is too old
        return ResourceConflict(message)
    # An apply of what does not fit the schema is answered with 500, although no repetition can help.
    if code in (400, 415, 422) or "failed to create typed patch object" in message:
        causes = cast("list[Json]", details.get("causes") or [])
        problems = [_problem(cause) for cause in causes if cause.get("message") and cause.get("field") != "<nil>"]
        return InvalidResource(problems or [("", message)], kind=kind, name=name)
    if code in (401, 403, 405):
        return _forbidden(code, message)(message)
    return ClusterUnavailable(f"the API server answers {code}: {message}")


def _forbidden(code: int, message: str) -> type[ClusterRefused]:
    """What 403 means: the status has one reason for all of it, so the words must tell."""
    if "exceeded quota" in message:
        return QuotaUsedUp
    # No rights, or a namespace that is going: neither is about the object.
    if code != 403 or _NO_RIGHTS.search(message) or "it is being terminated" in message:
        return ClusterRefused
    return AdmissionRefused


def _problem(cause: Json) -> tuple[str, str]:
    """(field, message) of one cause. A refused patch quotes the whole object before it comes to the point."""
    _, refused, strict = cause["message"].rpartition("strict decoding error: ")
    return ("", strict) if refused else (str(cause.get("field") or ""), cause["message"])


async def _configuration(kubeconfig: str, context: str | None) -> tuple[Any, str]:
    """The `kubernetes` package's Configuration and the namespace that goes with it."""
    loader = cast("Any", config)  # the package has no types
    configuration = cast("Any", Configuration)()
    try:
        if kubeconfig or not _in_pod():
            read = await loader.load_kube_config(
                config_file=kubeconfig or None, context=context, client_configuration=configuration
            )
            return configuration, str(read.current_context["context"].get("namespace") or "default")
        loader.load_incluster_config(client_configuration=configuration)
        return configuration, _pod_namespace()
    except (config.ConfigException, OSError, ValueError, KeyError) as error:
        fix = "set KUBECONFIG or KAPSTAN_KUBECONFIG"
        raise ConfigurationError(f"no Kubernetes API can be reached: {error}; {fix}") from error
    except Exception as error:  # what the package makes of a file of another kind
        raise ConfigurationError(f"{kubeconfig or 'the file'} is no kubeconfig: {error}") from error


_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and os.path.exists(f"{_SERVICE_ACCOUNT}/token")


def _pod_namespace() -> str:
    with open(f"{_SERVICE_ACCOUNT}/namespace", encoding="utf-8") as file:
        return file.read().strip()


def _tls(configuration: Any) -> ssl.SSLContext | bool:
    if configuration.host.startswith("http://"):
        return False
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
