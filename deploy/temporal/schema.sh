#!/bin/sh
# Create Temporal's two databases and bring their schema to the version of this image. Repeating it changes nothing.
# The connection comes from SQL_PLUGIN, SQL_HOST, SQL_PORT, SQL_USER and SQL_PASSWORD.
set -eu

for store in temporal visibility; do
    case "$store" in
    temporal) database=temporal ;;
    visibility) database=temporal_visibility ;;
    esac
    temporal-sql-tool --database "$database" create-database
    temporal-sql-tool --database "$database" setup-schema -v 0.0
    temporal-sql-tool --database "$database" update-schema \
        -d "/etc/temporal/schema/postgresql/v12/$store/versioned"
done
