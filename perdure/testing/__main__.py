"""`python -m perdure.testing`: the scripted model as a process of its own, which outlives the workers that use it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from perdure.errors import ConfigurationError
from perdure.testing.script import Script, load_script
from perdure.testing.server import ScriptedModel


def main() -> int:
    """Serve a script until SIGTERM or SIGINT; print the address first."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing", description=__doc__)
    parser.add_argument("--script", required=True, help="package.module:attribute of a Script, turns or function")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="written with the address once the server listens")
    arguments = parser.parse_args()
    try:
        script = load_script(arguments.script)
        asyncio.run(_serve(script, arguments.port, arguments.ready_file))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"cannot listen on 127.0.0.1:{arguments.port}, or write the ready file: {error}\n")
        return 1
    return 0


async def _serve(script: Script, port: int, ready_file: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ScriptedModel(script, port=port) as model:
        sys.stdout.write(f"{model.url}\n")
        sys.stdout.flush()
        if ready_file is not None:
            unfinished = ready_file.with_name(ready_file.name + ".tmp")
            await asyncio.to_thread(unfinished.write_text, model.url)
            await asyncio.to_thread(unfinished.replace, ready_file)  # a reader never sees half an address
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
