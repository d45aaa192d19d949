"""Which official server we pass for, and which official clients we know how to serve."""

from __future__ import annotations

SERVER_VERSION = "1.32.0"
"""The version of the official server whose API this one speaks; clients and the web UI switch features on it."""

SUPPORTED_CLIENTS = {
    "temporal-go": "<2.0.0",
    "temporal-java": "<2.0.0",
    "temporal-php": "<2.0.0",
    "temporal-typescript": "<2.0.0",
    "temporal-cli": "<2.0.0",
    "temporal-server": "<2.0.0",
    "temporal-ui": "<3.0.0",
    "Nexus-go-sdk": "<2.0.0",
}
"""Clients whose version is checked, with the range that passes; others pass whatever they say."""

CLUSTER_NAME = "active"
"""The name that the official server gives to a cluster on its own."""
