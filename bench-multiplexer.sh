#!/bin/sh
# What calls through the multiplexer take beyond direct ones, beside Envoy and the published figures
# of the Rust original. Sets up the environment as make does; --help tells the rest.
cd "$(dirname "$0")" || exit 1
VENV=${VENV:-.venv}
make --silent VENV="$VENV" "$VENV/.bench-ready" || exit 1
exec "$VENV/bin/python" -m benchmarks.overhead "$@"
