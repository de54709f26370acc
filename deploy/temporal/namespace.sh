#!/bin/sh
# Create the namespace if it is not there, and end when it can be used. Fails, and is restarted by compose, until the
# server answers. The connection comes from TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE.
set -eu

temporal operator cluster health
if ! temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1; then
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$NAMESPACE_RETENTION"
fi

# The server learns of a new namespace from its cache some seconds later; until then workers would be refused.
for _ in $(seq 60); do
    if temporal workflow count --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1; then
        exit 0
    fi
    sleep 1
done
echo "namespace $TEMPORAL_NAMESPACE exists, but the server does not serve it after a minute" >&2
exit 1
