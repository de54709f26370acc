"""The connection to Temporal, from Temporal's own standard configuration, and what a namespace must have."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import temporalio.client
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, RPCStatusCode

from perdure import search_attributes
from perdure.codec import data_converter
from perdure.errors import ConfigurationError, ServerUnreachableError
from perdure.settings import Settings

DEFAULT_ADDRESS = "127.0.0.1:7233"


async def connect(
    settings: Settings,
    *,
    address: str | None = None,
    plugins: Sequence[temporalio.client.Plugin] = (),
    lazy: bool = False,
) -> Client:
    """Connect to the Temporal server.

    Args:
        settings: For the payload converter, and the keys it encrypts with.
        address: `host:port`, before `TEMPORAL_ADDRESS` and the profile.
        plugins: Temporal plugins for the client.
        lazy: Connect with the first call instead of now.

    Raises:
        ConfigurationError: Temporal's own configuration, or the address, is wrong.
        ServerUnreachableError: Nothing answers there.
    """
    try:
        config = ClientConfig.load_client_connect_config(override_env_vars=_environment())
    except (RuntimeError, OSError) as error:
        raise ConfigurationError(f"Temporal's client configuration cannot be used: {error}") from error
    if address:
        config["target_host"] = address
    config.setdefault("target_host", DEFAULT_ADDRESS)
    try:
        return await Client.connect(
            **config,
            data_converter=data_converter(compress_above=settings.compress_above_bytes, keyring=settings.keyring()),
            plugins=list(plugins),
            lazy=lazy,
        )
    except (RuntimeError, OSError) as error:
        raise ServerUnreachableError(
            f"no Temporal server answers at {config['target_host']}: {_reason(error)}. Start one with 'perdure dev', "
            "or set TEMPORAL_ADDRESS"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{config['target_host']!r} is no address of a Temporal server: {error}") from error


def _reason(error: Exception) -> str:
    # The SDK wraps what the system says in the debug output of four of its own layers.
    said = re.findall(r'message: "([^"]+)"', str(error))
    return said[-1] if said else str(error)


async def ensure_search_attributes(client: Client) -> None:
    """Register our search attributes with the namespace, where they are missing.

    Raises:
        ConfigurationError: They are missing and this client may not add them (Temporal Cloud has its own way).
    """
    namespace = client.namespace
    try:
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=namespace), timeout=timedelta(seconds=10)
        )
        missing = {
            key.name: _indexed_type(key) for key in search_attributes.ALL if key.name not in listed.custom_attributes
        }
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=namespace, search_attributes=missing),
                timeout=timedelta(seconds=10),
            )
    except RPCError as error:
        if error.status == RPCStatusCode.ALREADY_EXISTS:
            return
        names = ", ".join(key.name for key in search_attributes.ALL)
        raise ConfigurationError(
            f"namespace {namespace!r} may lack search attributes and they cannot be added from here ({error.message}); "
            f"create them with 'temporal operator search-attribute create' or in Temporal Cloud: {names}"
        ) from error


def dev_server_search_attributes() -> list[str]:
    """Return our search attributes as `temporal server start-dev --search-attribute` takes them."""
    return [f"{key.name}={_type_name(key)}" for key in search_attributes.ALL]


def _indexed_type(key: SearchAttributeKey[Any]) -> IndexedValueType.ValueType:
    return IndexedValueType.ValueType(key.indexed_value_type.value)


def _type_name(key: SearchAttributeKey[Any]) -> str:
    return {1: "Text", 2: "Keyword", 3: "Int", 4: "Double", 5: "Bool", 6: "Datetime", 7: "KeywordList"}[
        key.indexed_value_type.value
    ]


def _environment() -> dict[str, str]:
    # An empty TEMPORAL_API_KEY switches TLS on, so that a plain server is unreachable; unset is what is meant.
    return {name: value for name, value in os.environ.items() if not (name == "TEMPORAL_API_KEY" and not value)}
