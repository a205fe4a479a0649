"""`prefixkv serve`: a resident model behind OpenAI's API."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.home import find_file
from prefixkv.methods.table import DEFAULT_METHOD, get_method
from prefixkv.models.loading import check_device_name, check_dtype_name, check_model_name
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec
from prefixkv.profiles.config import PrefixConfig
from prefixkv_cli import options, output
from prefixkv_cli.model_loading import loading_shown

if TYPE_CHECKING:
    from prefixkv.server.engine_process import EngineProcess

NEEDED = ("starlette", "uvicorn", "prometheus_client")
DEFAULT_PORT = 8311


def serve(
    model: options.ModelOption = "auto",
    budget: options.BudgetOption = options.DEFAULT_BUDGET,
    method: options.MethodOption = DEFAULT_METHOD,
    codec: options.CodecOption = DEFAULT_CODEC,
    no_profile: options.NoProfileOption = False,
    config: options.ConfigOption = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; others than this machine's need keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 takes a free one.")] = DEFAULT_PORT,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="API keys, one a line; each has conversations of its own."),
    ] = None,
    allow_addresses: Annotated[
        bool,
        # As with --trust-remote-code: said each time.
        typer.Option(
            "--allow-addresses",
            help="Fetch pictures that are given by http(s) address, from public addresses only.",
            allow_from_autoenv=False,
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What the caches of all conversations may take, such as 20GB; or on each GPU: 20GB,10GB.",
            show_default="1GiB, or 60% of the GPU's free memory",
        ),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", help="Most requests that are decoded together.")] = 64,
    queue: Annotated[int, typer.Option("--queue", help="Most requests that wait; further ones get status 429.")] = 256,
    max_new_tokens: options.MaxNewTokensOption = 512,
    max_pixels: options.MaxPixelsOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    device_map: options.DeviceMapOption = None,
    load_in_8bit: options.EightBitOption = False,
    load_in_4bit: options.FourBitOption = False,
    trust_remote_code: options.TrustOption = False,
    own_process: Annotated[
        bool | None,
        typer.Option(
            "--own-process/--one-process",
            help="Give the model a process of its own, beside that of HTTP and pictures; or do not.",
            show_default="its own on a GPU",
        ),
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Keep a model loaded and answer OpenAI's chat completions, each conversation on a compressed cache of its own.

    `prefixkv chat` and `prefixkv chat -p` use it while it runs. Ctrl-C or SIGTERM ends it.

    Example: prefixkv serve --model llava --budget 20% --memory 20GB

    Example: prefixkv serve --host 0.0.0.0 --api-key-file keys.txt
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise PrefixKVError(f"serve needs {', '.join(missing)}: run `pip install 'prefixkv[serve]'`")
    rule = _rule(budget, method, codec, config)
    if rows < 1 or queue < 0 or max_new_tokens < 1:
        raise OptionError(f"rows {rows} and max-new-tokens {max_new_tokens} must be 1 or more, queue {queue} 0 or more")
    sizes = options.memory_sizes(memory, device_map)
    check_device_name(device)
    check_dtype_name(dtype)
    check_model_name(model)
    placement = options.placement(device, device_map, load_in_8bit, load_in_4bit, trust_remote_code)
    from prefixkv.host_memory import share_one_arena
    from prefixkv.profiles.loading import Loading

    # Before there is a second thread.
    share_one_arena()
    # Before it loads anything, the process of the model is there.
    with _engine_process(own_process, device) as process:
        # Here, so that the other commands start without the picture code and the server's libraries.
        from prefixkv.inputs.picture_size import check_max_pixels
        from prefixkv.server.desk import Desk, Manner
        from prefixkv.server.program import Place, serve

        check_max_pixels(max_pixels)
        place = Place(host, port, api_key_file)
        place.check()
        loading = Loading(model, device, dtype, placement, no_profile)
        engine_options: dict[str, Any] = {"method": method, "memory": sizes, "most_rows": rows, "codec": codec}
        manner = Manner(rule, method, codec, max_new_tokens, max_pixels, allow_addresses)
        if process is None:
            from prefixkv.engine.engine import Engine
            from prefixkv.models.frontend import Frontend

            loaded = loading_shown(model, lambda progress: loading.load(output.notice, progress))
            with Engine(loaded, notify=output.notice, **engine_options) as own:
                serve(Desk(Frontend.of(loaded), own, manner, model), None, place, rows + queue, _say_begun)
            return
        from prefixkv.server.remote_engine import open_engine

        frontend, engine = loading_shown(
            model, lambda progress: open_engine(process, loading, engine_options, output.notice, progress)
        )
        with contextlib.closing(engine):
            serve(Desk(frontend, engine, manner, model), engine, place, rows + queue, _say_begun)


def _engine_process(wanted: bool | None, device: str) -> contextlib.AbstractContextManager[EngineProcess | None]:
    """A process for the model, if it is to have one of its own: on a GPU, unless something else is asked for.

    A CPU's cores have to do all the work in any case, and a second process takes more memory.
    """
    if wanted is None:
        from prefixkv.models.loading import find_device

        wanted = find_device(device).type != "cpu"
    if not wanted:
        return contextlib.nullcontext()
    from prefixkv.server.engine_process import EngineProcess

    return EngineProcess()


def _rule(budget: str, method: str, codec: str, config: str | None) -> Budget | PrefixConfig:
    get_method(method)
    get_codec(codec)
    return Budget.parse(budget) if config is None else PrefixConfig.load(find_file("configs", config))


def _say_begun(url: str, is_found: bool) -> None:
    found = "; `prefixkv chat` uses it" if is_found else ""
    output.notice(f"serving at {url}/v1{found}; Ctrl-C ends it")
