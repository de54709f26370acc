#!/bin/sh
# Create the namespace if it is not there. Fails, and is restarted by compose, until the server answers.
# The connection comes from TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE.
set -eu

temporal operator cluster health
if ! temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1; then
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$NAMESPACE_RETENTION"
fi
